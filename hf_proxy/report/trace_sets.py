"""Section of a report on a set of traces: what is in it, and how sure its frontier was."""

import json
from collections.abc import Sequence
from typing import Any

from hf_proxy.report.blocks import (
    Block,
    Download,
    Figure,
    Section,
    Table,
    counted,
    download_name,
    number,
    percent,
    short_name,
)
from hf_proxy.report.contents import RunContents, TraceSet
from hf_proxy.report.figures.pages import draw_bars
from hf_proxy.traces.health import TraceHealth


def trace_section(folders: Sequence[RunContents], downloads: list[Download]) -> Section:
    """Counts and histogram of each trace set."""
    blocks = []
    for contents in folders:
        if contents.traces is None:
            continue
        health, block = contents.traces.health, Block(contents.name)
        block.sentences.append(trace_sentence(contents.traces))
        block.sentences += [f"Worth a look: {remark}." for remark in health.remarks()]
        block.show(_histogram(health))
        rows = [
            ["traces", number(health.rows)],
            ["frontier tokens with probability", number(health.tokens)],
            ["letters", number(health.letters)],
            ["letters without probability", number(health.letters_without_probability)],
            ["probabilities exactly 0", number(health.zeros)],
            ["probabilities exactly 1", number(health.ones)],
            ["traces that stand twice", number(health.duplicates)],
            ["longest prompt and trace, bytes", number(health.longest)],
            ["dropped", counts_text(health.dropped)],
        ]
        told = {
            "parts scored": counts_text(health.parts),
            "temperatures told": counts_text(health.temperatures),
            "answers known to be right": number(health.right) if health.right else "none",
            "answers known to be wrong": number(health.wrong) if health.wrong else "none",
        }
        rows += [[name, text] for name, text in told.items() if text != "none"]
        rows.append(["fingerprint", contents.traces.fingerprint])
        block.tables.append(Table("Counts over the set", ("what", "of this set"), rows))
        name = download_name(contents.name, "traces.json")
        downloads.append(Download(name, json.dumps(health.model_dump(), indent=2)))
        blocks.append(block)
    return Section("traces", "Traces and their probabilities", blocks)


def trace_sentence(traces: TraceSet) -> str:
    """The set in a sentence, with the source that it was made of."""
    health, source = traces.health, source_of(traces)
    said = [f"{counted(health.rows, 'trace')}{f' of {source}' if source else ''}"]
    if health.tokens:
        said.append(f"{counted(health.tokens, 'frontier token')}")
        said.append(f"{percent(health.exact_share)} of their probabilities exactly 0 or 1")
    else:
        said.append("without probabilities, so every token weighs the same")
    if dropped := sum(health.dropped.values()):
        said.append(f"{counted(dropped, 'row')} dropped")
    return f"{', '.join(said)}."


def source_of(traces: TraceSet) -> str:
    """The file, set or questions that it was made of; empty where none is told."""
    for key in ("source", "traces", "questions"):
        if isinstance(name := traces.parameters.get(key), str):
            return short_name(name)
    return ""


def _histogram(health: TraceHealth) -> Figure | str:
    if not health.tokens:
        return "No histogram: the set holds no probabilities of a frontier."
    labels = [f"{i / 10:.1f}" for i in range(len(health.histogram))]
    drawing = draw_bars(
        labels, health.histogram, x_label="frontier's probability, from", y_label="tokens"
    )
    last = health.histogram[-1]
    alt = "; ".join(
        f"{count:,} from {label}"
        for label, count in zip(labels, health.histogram, strict=True)
        if count
    )
    caption = f"tokens by tenths of probability; {percent(last / health.tokens)} at 0.9 and above"
    return Figure(caption, f"tokens by tenths of probability: {alt}", drawing)


def counts_text(named: dict[str, Any]) -> str:
    """`what x count`, or none."""
    return ", ".join(f"{name} x {count}" for name, count in sorted(named.items())) or "none"
