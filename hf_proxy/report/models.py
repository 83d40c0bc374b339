"""Section of a report on models that were scored, and on the order that was made of them."""

import json
from collections.abc import Sequence
from typing import Any

from hf_proxy.records.errors import InputError
from hf_proxy.records.scores import METRIC_LABELS, ProxyScore
from hf_proxy.report.blocks import (
    Block,
    Download,
    Figure,
    Section,
    Table,
    as_csv,
    download_name,
    heading,
    interval,
    number,
    p_text,
    short_names,
)
from hf_proxy.report.contents import RunContents
from hf_proxy.report.figures.pages import draw_intervals
from hf_proxy.report.selected import selection_block
from hf_proxy.scoring.comparison import compare

_MOST_COMPARED = 20  # models held against the first: each takes a bootstrap


def ranking_section(folders: Sequence[RunContents], downloads: list[Download]) -> Section:
    """Models as `hf-proxy score` scored them, and the order that `hf-proxy rank` gave."""
    blocks = []
    for contents in folders:
        if contents.model_scores:
            blocks.append(_models_block(contents, downloads))
        if {"ranking", "compute_saving"} & set(contents.ranking):
            blocks.append(_ranking_block(contents, downloads))
        if contents.ranking.get("selection"):
            blocks.append(selection_block(contents, downloads))
    return Section("ranking", "Models and their ranking", blocks)


def _models_block(contents: RunContents, downloads: list[Download]) -> Block:
    scores = contents.model_scores
    names = model_names(scores)
    block = Block(heading(contents.name, "scores"))
    block.sentences.append(
        "rBridge in nats per token, lower is better; 90 % intervals over traces."
    )
    settings = {score.setting.hash for score in scores}
    if len(settings) == 1 and len(scores) > 1:
        columns = [[getattr(s, name) for s in scores] for name in ("value", "low", "high")]
        drawing = draw_intervals(names, *columns, x_label=METRIC_LABELS["value"])
        alt = "; ".join(f"{n} {number(s.value)}" for n, s in zip(names, scores, strict=True))
        block.figures.append(Figure(METRIC_LABELS["value"], alt, drawing))
    if len(settings) > 1:
        block.sentences.append(
            "These are of different settings (traces, tokenizer or context): their rBridge does "
            "not compare, only bits per byte may."
        )
    head = ["model", METRIC_LABELS["value"], "90 % interval", METRIC_LABELS["trace_nll"]]
    head += [METRIC_LABELS["bits_per_byte"], "traces", "setting"]
    rows = [
        [name, number(s.value), interval(s.low, s.high), number(s.trace_nll)]
        + [number(s.bits_per_byte), number(s.num_traces), s.setting.hash]
        for name, s in zip(names, scores, strict=True)
    ]
    block.tables.append(Table("Scores of models", head, rows))
    compared = []
    for name, score in zip(names[1:_MOST_COMPARED], scores[1:_MOST_COMPARED], strict=True):
        same = not scores[0].setting.differing(score.setting)
        try:
            found = compare(scores[0], score, metric="value" if same else "bits_per_byte")
        except ValueError as reason:
            block.sentences.append(f"{names[0]} and {name}: {reason}.")
            continue
        between = f"{found.low:+.4f} .. {found.high:+.4f}"
        cells = [f"{names[0]} minus {name}", METRIC_LABELS[found.metric]]
        compared.append([*cells, f"{found.difference:+.4f}", between, p_text(found.p_value)])
    if compared:
        head = ["pair", "metric", "difference", "90 % interval", "p, permutation"]
        block.tables.append(Table("Each model against the first, trace by trace", head, compared))
    flat = [{k: v for k, v in s.scalars().items() if k != "setting_parts"} for s in scores]
    downloads.append(Download(download_name(contents.name, "models.csv"), as_csv(flat)))
    return block


def _ranking_block(contents: RunContents, downloads: list[Download]) -> Block:
    block = Block(heading(contents.name, "ranking"))
    try:
        if found := contents.ranking.get("ranking"):
            _show_ranking(found, block)
        if savings := contents.ranking.get("compute_saving"):
            head = ("compute of the proxy, FLOPs", "decision accuracy", "compute saved")
            rows = [
                [f"{s['flops']:.3e}", number(s["decision_accuracy"])]
                + [s["note"] if s["factor"] is None else f"{s['factor']:.1f} times"]
                for s in savings
            ]
            block.tables.append(Table("Compute saved against the baseline", head, rows))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise InputError.at(
            f"this is no ranking of ours ({type(error).__name__}: {error})",
            remedy="rank again, or take it away",
            source=heading(contents.name, "ranking.json"),
        ) from error
    downloads.append(
        Download(
            download_name(contents.name, "ranking.json"), json.dumps(contents.ranking, indent=2)
        )
    )
    return block


def _show_ranking(found: dict[str, Any], block: Block) -> None:
    label, names = METRIC_LABELS[found["metric"]], short_names(found["order"])
    columns = [found[name] for name in ("value", "low", "high")]
    drawing = draw_intervals(names, *columns, x_label=label)
    alt = f"{label}, best first: " + "; ".join(
        f"{name} {number(value)}" for name, value in zip(names, found["value"], strict=True)
    )
    block.figures.append(Figure(f"{label}, best on top, 90 % intervals", alt, drawing))
    head = ("name", "place", label, "90 % interval", "places, 90 % interval")
    rows = [
        [name, str(i + 1), number(found["value"][i])]
        + [interval(found["low"][i], found["high"][i])]
        + [f"{found['best_rank'][i]} to {found['worst_rank'][i]}"]
        for i, name in enumerate(names)
    ]
    block.tables.append(Table("Best first; lower is better", head, rows))
    block.sentences.append(
        f"{found['num_traces']:,} traces tell differences of "
        f"{number(found['smallest_difference'])} apart (90 %, two-sided, power 80 %)."
    )
    if decisions := found["decisions"]:
        low, high = decisions["low"], decisions["high"]
        between = "" if low is None else f" [{low:.3f}, {high:.3f}] (90 % interval)"
        block.sentences.append(
            f"Decision accuracy {decisions['value']:.4f}{between} over {decisions['num_pairs']} "
            f"pairs, Kendall's tau {found['kendall_tau']:.3f}."
        )
    block.sentences += [f"Note: {note}." for note in found["notes"]]


def model_names(scores: Sequence[ProxyScore]) -> list[str]:
    """As short as they can be told apart, with their steps."""
    steps = ["" if score.step is None else f"step {score.step}" for score in scores]
    short = short_names(score.model_id for score in scores)
    return [heading(name, step) for name, step in zip(short, steps, strict=True)]
