"""Sections of a report on what happens along a training: scores, predictions, losses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_proxy.records.scores import METRIC_LABELS
from hf_proxy.report.blocks import (
    Block,
    Download,
    Figure,
    Section,
    Table,
    alt_text,
    as_csv,
    cell_text,
    download_name,
    heading,
    interval,
    is_number,
    number,
    percent,
    percent_interval,
)
from hf_proxy.report.contents import RunContents
from hf_proxy.report.figures.pages import Series, draw_steps


def score_sections(folders: Sequence[RunContents], downloads: list[Download]) -> list[Section]:
    """Scores and predictions over steps, and the best of them."""
    blocks: list[Block] = []
    best = Block()
    bests: list[tuple[str, ...]] = []
    for contents in folders:
        for (name, _), lines in _by_setting(contents.scores).items():
            title = heading(contents.name, name)
            if any(other.title == title for other in blocks):
                title += f", setting {lines[0].get('setting')}"
            blocks.append(_score_block(title, lines))
            lowest = min(lines, key=lambda line: line["value"])
            saved = f"checkpoint-{lowest['step']}"
            is_there = lowest["step"] in contents.steps_saved
            cells = [title, str(lowest["step"]), number(lowest["value"])]
            cells += [interval(lowest["low"], lowest["high"])]
            bests.append((*cells, saved if is_there else "no checkpoint of this step is here"))
        if contents.scores:
            downloads.append(
                Download(
                    download_name(contents.name, "scores.csv"),
                    as_csv(map(_flat_line, contents.scores)),
                )
            )
        if chosen := contents.state.get("best_model_checkpoint"):
            metric = contents.state.get("best_metric")
            value = number(metric) if isinstance(metric, float | int) else "unknown"
            best.sentences.append(
                f"{heading(contents.name, 'Trainer')}'s own choice (metric_for_best_model) is "
                f"{Path(str(chosen)).name}, at {value}."
            )
    if bests:
        head = ("trace set", "step", f"lowest {METRIC_LABELS['value']}", "90 % interval", "weights")
        best.tables.append(Table("The step with the lowest score of each trace set", head, bests))
    return [
        Section(
            "scores",
            "Scores and predictions over steps",
            "Scores and predictions over steps: no predictions.jsonl with a whole line "
            "(ProxyScoreCallback writes it).",
            blocks,
        ),
        Section(
            "best",
            "Best checkpoint",
            "Best checkpoint: no scores over steps, and no choice of Trainer's.",
            [best] if bests or best.sentences else [],
        ),
    ]


def _by_setting(lines: list[dict[str, Any]]) -> dict[tuple[str, Any], list[dict[str, Any]]]:
    """Scores of different settings are never compared, so they never share a line."""
    found: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for line in sorted(lines, key=lambda line: line["step"]):
        found.setdefault((line["name"], str(line.get("setting"))), []).append(line)
    return found


def _score_block(title: str, lines: list[dict[str, Any]]) -> Block:
    last, steps = lines[-1], [line["step"] for line in lines]
    block = Block(title)
    model = last.get("model_id") or "the model in training"
    facts = [f"{model} on {number(last.get('num_traces'))} traces"]
    facts += [f"{number(last.get('num_labels'))} tokens to predict, setting {last.get('setting')}"]
    block.sentences.append(
        f"{', '.join(facts)}. Lower is better; bands are 90 % intervals over traces."
    )
    for metric, label in METRIC_LABELS.items():
        values = [line[metric] for line in lines]
        band = [[line[end] for line in lines] for end in ("low", "high")]
        own = band if metric == "value" else ([], [])
        drawing = draw_steps([Series(label, steps, values, *own)], y_label=label)
        block.figures.append(Figure(label, alt_text(label, steps, values), drawing))
    counted = any(line.get("tokens_seen") is not None for line in lines)
    head = ["step", *["tokens seen"] * counted, METRIC_LABELS["value"], "90 % interval"]
    head += [METRIC_LABELS["trace_nll"], METRIC_LABELS["bits_per_byte"]]
    rows = [
        [str(line["step"]), *[number(line.get("tokens_seen"))] * counted, number(line["value"])]
        + [interval(line["low"], line["high"])]
        + [number(line["trace_nll"]), number(line["bits_per_byte"])]
        for line in lines
    ]
    for target in dict.fromkeys(target for line in lines for target in line["predictions"]):
        found = [line["predictions"].get(target) for line in lines]
        there = [(step, one) for step, one in zip(steps, found, strict=True) if one is not None]
        level = f"{there[-1][1]['level']:.0%}".replace("%", " %")
        label = "predicted accuracy, %"
        values, low, high = (
            [100 * one[key] for _, one in there] for key in ("value", "low", "high")
        )
        own_steps, beyond = [s for s, _ in there], [one["extrapolated"] for _, one in there]
        series = Series(label, own_steps, values, low, high, beyond)
        caption = f"{target}: {label}, {level} interval; hollow where beyond the fitted points"
        alt = alt_text(f"{label} of {target}", own_steps, values, digits=1, best=max)
        block.figures.append(Figure(caption, alt, draw_steps([series], y_label=label)))
        head += [f"{target}, accuracy", f"{level} interval"]
        for row, one in zip(rows, found, strict=True):
            if one is None:
                row += ["-", "-"]
            else:
                mark = " (beyond the fitted points)" if one["extrapolated"] else ""
                row += [percent(one["value"]), percent_interval(one["low"], one["high"]) + mark]
    block.tables.append(Table(f"Scores of {title} by step", head, rows))
    return block


def _flat_line(line: dict[str, Any]) -> dict[str, Any]:
    """A line without what is nested, its predictions as columns."""
    row = {key: value for key, value in line.items() if not isinstance(value, dict | list)}
    for target, found in line["predictions"].items():
        row |= {f"{target}.{key}": value for key, value in found.items()}
    return row


def training_section(folders: Sequence[RunContents], downloads: list[Download]) -> Section:
    """Losses and learning rate, as Trainer logged them."""
    blocks = []
    for contents in folders:
        rows = [row for row in contents.state.get("log_history", []) if "step" in row]
        keys = list(dict.fromkeys(key for row in rows for key in row))
        losses = [k for k in keys if k == "loss" or (k.startswith("eval_") and k.endswith("_loss"))]
        if not losses:
            continue
        losses.sort(key=lambda name: name != "loss")  # the solid line is the denser one
        block = Block(contents.name)
        at, most = contents.state.get("global_step"), contents.state.get("max_steps")
        block.sentences.append(
            f"From {contents.state['at']}, the newest checkpoint that is whole: step {at} of "
            f"{most}. Losses are means as Trainer logs them, in nats per token that is learnt; "
            "lower is better."
        )
        for label, names in (("loss, nats", losses), ("learning rate", ["learning_rate"])):
            series, alts = [], []
            for name in names:
                points = [(row["step"], row[name]) for row in rows if is_number(row.get(name))]
                if points:
                    series.append(Series(name, *map(list, zip(*points, strict=True))))
                    digits = 4 if name != "learning_rate" else 8
                    alts.append(alt_text(name, *zip(*points, strict=True), digits=digits))
            if series:
                drawing = draw_steps(series, y_label=label)
                block.figures.append(Figure(label, "; ".join(alts), drawing))
        evaluations = [row for row in rows if any(name in row for name in losses if name != "loss")]
        if evaluations:
            head = ["step", *(name for name in losses if name != "loss")]
            cells = [
                [number(row["step"]), *(cell_text(row.get(name)) for name in head[1:])]
                for row in evaluations
            ]
            block.tables.append(Table("Evaluations by step", [head[0], *head[1:]], cells))
        blocks.append(block)
        downloads.append(Download(download_name(contents.name, "training.csv"), as_csv(rows)))
    absent = "Training curves: no checkpoint that is whole, or no loss in its log."
    return Section("training", "Training curves", absent, blocks)
