"""Where curves come from: tables of points, and runs joined with evaluation results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_proxy.prediction.frames import CONTROLS
from hf_proxy.recipes.library.tables import number_of, table_rows, text_of
from hf_proxy.records.errors import InputError, shown
from hf_proxy.records.scores import METRICS

NEEDED = ("run", "tokens", "score", "target", "target_accuracy")
ALIKE = ("metric", "setting", "proxy", "num_parameters")  # one value for all points of a curve
NUMBERS = ("tokens", "score", "target_accuracy", "num_parameters", *CONTROLS)
MOST_PARAMETERS = 2**53


@dataclass(frozen=True)
class Point:
    """One checkpoint of the proxy with the target's accuracy at the same place.

    Attributes:
        row: where it stood, for messages.
        run: name of the proxy's training run.
        tokens: tokens seen; steps, where only those are known.
        score: the proxy metric.
        target: what is predicted.
        target_accuracy: in the file's unit.
        controls: of `CONTROLS`, those that the row has.
        alike: of `ALIKE`, those that the row has; `setting` is a hash, or a `Setting`.
        axis: what `tokens` counts, `"tokens"` or `"steps"`.
    """

    row: int
    run: str
    tokens: float
    score: float
    target: str
    target_accuracy: float
    controls: dict[str, float]
    alike: dict[str, Any]
    axis: str = "tokens"


def read_points(path: str | Path) -> list[Point]:
    """Points of a CSV or JSONL file with the columns of `NEEDED`, `CONTROLS` and `ALIKE`.

    Raises:
        InputError: a column is missing or unknown, or a field is empty or no number, by row.
    """
    path = Path(path)
    points = []
    for number, row in table_rows(path):
        if missing := [name for name in NEEDED if row.get(name) in (None, "")]:
            raise InputError.at(
                f"{', '.join(missing)} missing",
                remedy=f"give the columns {', '.join(NEEDED)}",
                source=path,
                row=number,
            )
        if unknown := sorted(set(row) - {*NEEDED, *CONTROLS, *ALIKE}):
            raise InputError.at(
                f"unknown columns {[name[:40] for name in unknown[:9]]}",
                remedy=f"columns beside the needed ones are {', '.join((*CONTROLS, *ALIKE))}",
                source=path,
                row=number,
            )
        given = {name: value for name, value in row.items() if value not in (None, "")}
        for name in NUMBERS:
            if name in given:
                given[name] = number_of(given[name], path, number, name)
        for name in set(given) - set(NUMBERS):  # a whole number may name one
            given[name] = text_of(given[name], path, number, name)
        if not 0 <= given.get("num_parameters", 0) <= MOST_PARAMETERS:
            raise InputError.at(
                f"{given['num_parameters']:g} is no number of parameters",
                remedy="mend it",
                source=path,
                row=number,
                field="num_parameters",
            )
        points.append(
            Point(
                row=number,
                **{name: given[name] for name in NEEDED},
                controls={name: given[name] for name in CONTROLS if name in given},
                alike={name: given[name] for name in ALIKE if name in given},
            )
        )
    return points


def one_metric(points: list[Point]) -> str:
    """The metric all points name; rBridge where none does."""
    metric = points[0].alike.get("metric", "value")
    if metric not in METRICS:
        raise InputError.at(
            f"{shown(metric)} is no metric", remedy=f"use one of {METRICS}", row=points[0].row
        )
    return metric
