"""What a run was forecast to reach at its last step, as the callback wrote it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_proxy.records.scores import METRIC_LABELS
from hf_proxy.report.blocks import (
    Figure,
    Table,
    alt_text,
    counted,
    is_line,
    percent,
    percent_interval,
)
from hf_proxy.report.figures.pages import Series, draw_steps
from hf_proxy.report.step_figures import step_figure

_LAW_POINTS = 80  # of a smooth line


def forecast_parts(
    target: str, lines: Sequence[dict[str, Any]]
) -> tuple[list[Figure | str], list[Table]]:
    """Figures and tables of one target; nothing where no line forecasts it."""
    found = [
        (line["step"], line["forecasts"][target])
        for line in lines
        if target in line.get("forecasts", {}) and line["forecasts"][target]["accuracy"] is not None
    ]
    if not found:
        return [], []
    step, last = found[-1]
    figures: list[Figure | str] = [forecast_sentence(target, last)]
    if last.get("metric") is not None and last["horizon"] > last["last"]:
        figures.append(_law_figure(last, lines))
    columns = [[100 * one["accuracy"][key] for _, one in found] for key in ("value", "low", "high")]
    label = f"accuracy at step {last['horizon']:g}, %"
    figures.append(
        step_figure(
            label,
            [at for at, _ in found],
            columns[0],
            caption=f"{target}: {label}, as it was forecast at each step",
            note=f", {_level(last)} interval",
            low=columns[1],
            high=columns[2],
            digits=1,
            best=max,
        )
    )
    head = ["step", f"forecast for step {last['horizon']:g}", f"{_level(last)} interval"]
    rows = [
        [str(at), percent(one["accuracy"]["value"])]
        + [percent_interval(one["accuracy"]["low"], one["accuracy"]["high"])]
        for at, one in found
    ]
    return figures, [Table(f"Accuracy of {target} at the last step, as forecast", head, rows)]


def forecast_sentence(target: str, found: dict[str, Any]) -> str:
    """The newest forecast, what it rests on, and what is weak about it."""
    own = found["accuracy"]
    notes = "".join(f"; {note}" for note in found.get("notes", []))
    return (
        f"Forecast of {target} for step {found['horizon']:g}, from "
        f"{counted(found['num_points'], 'score')} up to step {found['last']:g}: "
        f"{percent(own['value'])} ({_level(found)} interval "
        f"{percent_interval(own['low'], own['high'])}){notes}."
    )


def law(found: dict[str, Any], steps: np.ndarray) -> np.ndarray:
    """`a - b t^-c` at steps above 0, in the proxy's unit."""
    return found["limit"] - found["factor"] * (steps / found["last"]) ** -found["exponent"]


def _law_figure(found: dict[str, Any], lines: Sequence[dict[str, Any]]) -> Figure | str:
    metric, last, horizon = found["metric"], found["last"], found["horizon"]
    seen = [line for line in lines if 0 < line["step"] <= last]
    steps, values = [line["step"] for line in seen], [line[metric] for line in seen]
    label, own = METRIC_LABELS[metric], found["proxy"]
    if not is_line(steps, values):
        return f"{label}: it has not moved, so nothing is drawn ahead."
    ahead = np.linspace(last, horizon, _LAW_POINTS)
    series = [
        Series("scored", steps, values),
        Series("forecast", ahead.tolist(), law(found, ahead).tolist()),
        # known at the horizon alone, so there is no band on the way
        Series("interval there", [horizon, horizon], [own["low"], own["high"]]),
    ]
    level = f"{own['level']:.0%}".replace("%", " %")
    alt = (
        f"{alt_text(label, steps, values)}; forecast {own['value']:.4f} at step {horizon:g}, "
        f"{level} interval {own['low']:.4f} to {own['high']:.4f}"
    )
    caption = f"{label}: along the run and on to step {horizon:g}, {level} interval there"
    return Figure(caption, alt, draw_steps(series, y_label=label))


def _level(found: dict[str, Any]) -> str:
    return f"{found['accuracy']['level']:.0%}".replace("%", " %")
