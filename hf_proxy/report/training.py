"""Sections of a report on what happens along a training: scores, predictions, losses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_proxy.records.scores import METRIC_LABELS, METRIC_NAMES
from hf_proxy.report.blocks import (
    Block,
    Download,
    Section,
    Table,
    as_csv,
    cell_text,
    download_name,
    heading,
    interval,
    is_number,
    number,
    percent,
    percent_interval,
    short_name,
)
from hf_proxy.report.changes import change_sentence, changes_of
from hf_proxy.report.contents import RunContents
from hf_proxy.report.figures.pages import Series
from hf_proxy.report.forecasts import forecast_parts
from hf_proxy.report.step_figures import several_lines, step_figure
from hf_proxy.report.tuned import tuned_block


def score_sections(folders: Sequence[RunContents], downloads: list[Download]) -> list[Section]:
    """Scores and predictions over steps, and the best of them."""
    blocks: list[Block] = []
    best = Block()
    bests: list[tuple[str, ...]] = []
    for contents in folders:
        for (name, _), lines in by_setting(contents.scores).items():
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
        Section("scores", "Scores and predictions over steps", blocks),
        Section("best", "Best checkpoint", [best] if bests or best.sentences else []),
    ]


def by_setting(lines: list[dict[str, Any]]) -> dict[tuple[str, Any], list[dict[str, Any]]]:
    """Scores of different settings are never compared, so they never share a line."""
    found: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for line in sorted(lines, key=lambda line: line["step"]):
        found.setdefault((line["name"], str(line.get("setting"))), []).append(line)
    return found


def _score_block(title: str, lines: list[dict[str, Any]]) -> Block:
    last, steps = lines[-1], [line["step"] for line in lines]
    block = Block(title)
    facts = [f"{short_name(last.get('model_id') or 'the model in training')} on "]
    facts[0] += f"{number(last.get('num_traces'))} traces"
    facts += [f"{number(last.get('num_labels'))} tokens to predict, setting {last.get('setting')}"]
    block.sentences.append(f"{', '.join(facts)}. Lower is better.")
    if len(lines) > 1:
        _show_changes(lines, block)
    head, rows = _score_cells(lines)
    for target in dict.fromkeys(target for line in lines for target in line["predictions"]):
        found = [line["predictions"].get(target) for line in lines]
        there = [(step, one) for step, one in zip(steps, found, strict=True) if one is not None]
        level = f"{there[-1][1]['level']:.0%}".replace("%", " %")
        label = "predicted accuracy, %"
        values, low, high = (
            [100 * one[key] for _, one in there] for key in ("value", "low", "high")
        )
        own_steps, beyond = [s for s, _ in there], [one["extrapolated"] for _, one in there]
        note = f", {level} interval of a new run"
        if any(beyond):
            note += "; hollow: beyond the fitted points"
        block.show(
            step_figure(
                label,
                own_steps,
                values,
                caption=f"{target}: {label}",
                note=note,
                low=low,
                high=high,
                hollow=beyond,
                digits=1,
                best=max,
            )
        )
        what_beyond = "; beyond: the curve's points" if any(beyond) else ""
        head += [f"{target}, accuracy", f"{level} interval{what_beyond}"]
        for row, one in zip(rows, found, strict=True):
            if one is None:
                row += ["-", "-"]
            else:
                mark = ", beyond" if one["extrapolated"] else ""
                row += [percent(one["value"]), percent_interval(one["low"], one["high"]) + mark]
    block.tables.append(Table(f"Scores of {title} by step", head, rows))
    for target in dict.fromkeys(target for line in lines for target in line.get("forecasts", {})):
        figures, tables = forecast_parts(target, lines)
        for figure in figures:
            block.show(figure)
        block.tables += tables
    return block


def _show_changes(lines: list[dict[str, Any]], block: Block) -> None:
    """Each metric since the first step; all with intervals, or all without."""
    changes = changes_of(lines)
    block.sentences.append(change_sentence(changes))
    steps = [line["step"] for line in lines]
    if changes.why_not:
        block.sentences.append(changes.why_not)
    for metric, label in METRIC_LABELS.items():
        name = METRIC_NAMES[metric]
        if changes.why_not:
            block.show(step_figure(label, steps, [line[metric] for line in lines]))
            continue
        block.show(
            step_figure(
                f"change, {label.rpartition(', ')[2]}",
                changes.steps,
                changes.value[metric],
                caption=f"{name}: change since step {steps[0]}",
                note=", 90 % interval paired by trace",
                low=changes.low[metric],
                high=changes.high[metric],
                zero=True,
            )
        )


def _score_cells(lines: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    counted = any(line.get("tokens_seen") is not None for line in lines)
    head = ["step", *["tokens seen"] * counted, METRIC_LABELS["value"], "90 % interval, traces"]
    head += [METRIC_LABELS["trace_nll"], METRIC_LABELS["bits_per_byte"]]
    rows = [
        [str(line["step"]), *[number(line.get("tokens_seen"))] * counted, number(line["value"])]
        + [interval(line["low"], line["high"])]
        + [number(line["trace_nll"]), number(line["bits_per_byte"])]
        for line in lines
    ]
    return head, rows


def _flat_line(line: dict[str, Any]) -> dict[str, Any]:
    """A line without what is nested, its predictions as columns."""
    row = {key: value for key, value in line.items() if not isinstance(value, dict | list)}
    for target, found in line["predictions"].items():
        row |= {f"{target}.{key}": value for key, value in found.items()}
    return row


def training_section(folders: Sequence[RunContents], downloads: list[Download]) -> Section:
    """What was tuned on what, losses and learning rate as Trainer logged them."""
    tuned = {one.name: one.tuned for one in folders if one.tuned is not None}
    blocks = [tuned_block(tuned)] if tuned else []
    for contents in folders:
        block = Block(contents.name)
        rows = [row for row in contents.state.get("log_history", []) if "step" in row]
        keys = list(dict.fromkeys(key for row in rows for key in row))
        losses = [k for k in keys if k == "loss" or (k.startswith("eval_") and k.endswith("_loss"))]
        if losses:
            losses.sort(key=lambda name: name != "loss")  # the solid line is the denser one
            _show_log(contents, rows, losses, block)
            name = download_name(contents.name, "training.csv")
            downloads.append(Download(name, as_csv(rows)))
        block.is_detail = len(folders) > 1
        if block.sentences or block.tables:
            blocks.append(block)
    return Section("training", "Training", blocks)


# what Trainer calls it: how its axis is named, in which unit, and how many digits it has
_LOGGED: dict[str, tuple[str, float, int]] = {
    "kept_accuracy": ("kept accuracy, %", 100, 1),
    "learning_rate": ("learning rate", 1, 8),
}


def _show_log(
    contents: RunContents, rows: list[dict[str, Any]], losses: list[str], block: Block
) -> None:
    at, most = contents.state.get("global_step"), contents.state.get("max_steps")
    block.sentences.append(
        f"From {contents.state['at']}: step {at} of {most}. Losses are means as Trainer logs them, "
        "in nats per token that is learnt; lower is better."
    )
    charts = {"loss, nats": (losses, 1.0, 4)}
    for key, (label, unit, digits) in _LOGGED.items():
        charts[label] = ([key, f"eval_{key}"], unit, digits)
    for label, (names, unit, digits) in charts.items():
        series = []
        for name in names:
            points = [(row["step"], row[name]) for row in rows if is_number(row.get(name))]
            values = [unit * value for _, value in points]
            shown = f"{name}, %" if unit == 100 else name
            series.append(Series(shown, [step for step, _ in points], values))
        for figure in several_lines(label, series, digits=digits):
            block.show(figure)
    head = ["step", *(name for name in losses if name != "loss")]
    if any("eval_kept_accuracy" in row for row in rows):
        head.append("eval_kept_accuracy")
    cells = [
        [number(row["step"]), *(cell_text(row.get(name)) for name in head[1:])]
        for row in rows
        if any(name in row for name in head[1:])
    ]
    if cells:
        block.tables.append(Table("Evaluations by step", head, cells))
