"""What `hf-proxy rank --select` chose, and what chance and controls reach beside it."""

import json
from collections.abc import Sequence
from typing import Any

from hf_proxy.report.blocks import (
    Block,
    Download,
    Figure,
    Table,
    counted,
    download_name,
    heading,
    interval,
    number,
)
from hf_proxy.report.contents import RunContents
from hf_proxy.report.figures.pages import draw_intervals

_SIDES = {"tasks_out": "tasks held out", "models_out": "models held out"}
_MOST_COLUMNS = 15
_SCORERS = {"single": "the best column", "sparse": "the best three", "ranksvm": "a linear RankSVM"}


def selection_block(contents: RunContents, downloads: list[Download]) -> Block:
    """Spearman with accuracies on what was held out, beside the noise floor and the controls."""
    found = contents.ranking["selection"]
    block = Block(heading(contents.name, "which statistic foretells the accuracies"))
    block.sentences.append(selection_sentence(found))
    block.sentences += [f"Note: {note}." for note in found["notes"]]
    sides = {name: found[name] for name in _SIDES if found[name] is not None}
    for name, side in sides.items():
        block.figures.append(_side_figure(found["scorer"], _SIDES[name], side))
    if found.get("correlations"):
        _show_columns(found, block)
    rows = []
    for name, side in sides.items():
        where = _SIDES[name]
        rows.append(
            [_scorer(found), where, number(side["value"], 3)]
            + [interval(side["low"], side["high"], 3), f"{side['p_value']:.3f}"]
        )
        by_chance = f"up to {side['floor_high']:.3f} (95 %)"
        rows.append(["accuracies shuffled", where, number(side["floor_mean"], 3), by_chance, "-"])
        rows += [[c, where, number(rho, 3), "-", "-"] for c, rho in side["controls"].items()]
    head = ("from", "judged on", "Spearman", "90 % interval", "p")
    block.tables.append(Table("Order foretold against accuracies", head, rows))
    if choices := found["tasks_out"]["choices"]:
        num = found["tasks_out"]["num_folds"]
        cells = [[name, f"{count} of {num}"] for name, count in choices.items()]
        block.tables.append(Table("What the folds chose", ("column", "folds"), cells))
    name = download_name(contents.name, "selection.json")
    downloads.append(Download(name, json.dumps(found, indent=2)))
    return block


def selection_sentence(found: dict[str, Any]) -> str:
    """The choice and what it is worth on tasks that did not choose it, beside chance."""
    side = found["tasks_out"]
    value = number(side["value"], 3)
    if side["low"] is not None:
        value += f" [{side['low']:.3f}, {side['high']:.3f}]"
    is_clear = side["value"] > side["floor_high"]
    best = max(side["controls"].items(), key=lambda item: item[1], default=None)
    control = ""
    if best is not None:
        words = "below" if best[1] < side["value"] else "above it"
        control = f"; {words} stands the best control, {best[0]}, at {best[1]:.3f}"
    largest = sorted(found["chosen"].items(), key=lambda item: -abs(item[1]))
    chosen = ", ".join(name if weight > 0 else f"-{name}" for name, weight in largest[:3])
    more = f" and {len(largest) - 3} more" if len(largest) > 3 else ""
    return (
        f"Chosen from {counted(found['num_columns'], 'column')} by {_scorer(found)}: {chosen}"
        f"{more}. On tasks held out it orders {found['num_models']} models with Spearman {value} "
        f"(90 %), {'above' if is_clear else 'not above'} the {side['floor_high']:.3f} that the "
        f"same choice reaches by chance (95 %; p {side['p_value']:.3f}){control}."
    )


def top_columns(found: dict[str, Any]) -> list[tuple[str, float, float, float]]:
    """Columns by mean Spearman over tasks, the best first: name, mean, lowest, highest task."""
    rows = []
    for name, by_task in found["correlations"].items():
        own = list(by_task.values())
        rows.append((name, sum(own) / len(own), min(own), max(own)))
    return sorted(rows, key=lambda row: -row[1])


def _scorer(found: dict[str, Any]) -> str:
    return _SCORERS.get(found["scorer"], found["scorer"])


def _side_figure(scorer: str, where: str, side: dict[str, Any]) -> Figure:
    names = [_SCORERS.get(scorer, scorer), *side["controls"]]
    empty: Sequence[None] = [None] * len(side["controls"])
    value = [side["value"], *side["controls"].values()]
    low, high = [side["low"], *empty], [side["high"], *empty]
    chance = (side["floor_mean"], side["floor_high"])
    drawing = draw_intervals(
        names,
        value,
        low,
        high,
        x_label=f"Spearman with accuracy, {where}",
        hollow=[False] + [True] * len(empty),
        chance=chance,
    )
    alt = "; ".join(f"{n} {v:.3f}" for n, v in zip(names, value, strict=True))
    alt += f"; by chance {chance[0]:.3f} on average, {chance[1]:.3f} at the 95 % point"
    caption = f"{where}, beside the controls; shaded: what chance reaches, mean to 95 % point"
    return Figure(caption, alt, drawing)


def _show_columns(found: dict[str, Any], block: Block) -> None:
    """Each column alone, on all tasks and models: so the floor is that of the best of all."""
    rows = top_columns(found)
    shown = rows[:_MOST_COLUMNS]
    floor = found.get("column_floor")
    names, mean, low, high = (list(column) for column in zip(*shown, strict=True))
    drawing = draw_intervals(
        names,
        mean,
        low,
        high,
        x_label="Spearman with accuracy, mean over tasks",
        chance=None if floor is None else (0.0, floor),
    )
    alt = "; ".join(f"{name} {value:.3f}" for name, value, *_ in shown)
    caption = f"each column alone, the best {len(shown)} of {len(rows)}: mean, and lowest to "
    caption += "highest task"
    if floor is not None:
        alt += f"; the best of all reaches {floor:.3f} by chance (95 % point)"
        above = sum(value > floor for _, value, *_ in rows)
        caption += "; shaded: what the best of all reaches by chance, up to the 95 % point"
        block.sentences.append(
            f"{above} of {len(rows)} columns alone stand above {floor:.3f}, which the best of them "
            "all reaches by chance (95 % point)."
        )
    block.figures.append(Figure(caption, alt, drawing))
    tasks = list(dict.fromkeys(task for own in found["correlations"].values() for task in own))
    cells = [
        [name, number(mean_value, 3)]
        + [number(found["correlations"][name].get(task), 3) for task in tasks]
        for name, mean_value, *_ in rows
    ]
    caption = "Which statistic foretells what: Spearman of each column with each task's accuracies"
    block.tables.append(Table(caption, ("column", "mean", *tasks), cells))
