"""Points of a curve in a pandas table, as people have them."""

from collections.abc import Sequence
from typing import Any

from hf_proxy.records.errors import InputError, names

# what a proxy has to beat, and what stands beside it in a table of points
PROGRESS = ("tokens", "step")
CONTROLS = ("trace_nll", "gold_nll", "proxy_accuracy")


def is_frame(x: Any) -> bool:
    """Whether this is a pandas `DataFrame`; pandas itself need not be there."""
    return hasattr(x, "columns") and hasattr(x, "sort_values")


def columns_of(frame: Any, metric: str) -> dict[str, Any]:
    """The arguments of `fit_curve` that a table holds.

    Args:
        frame: a row for each checkpoint: `accuracy`; the score, as `score` or under the metric's
            name; where they are there `run`, `tokens` or `step`, and the controls `trace_nll`,
            `gold_nll`, `proxy_accuracy`. Other columns are left alone.
        metric: of the score.

    Returns:
        `x`, `y`, `groups` and `controls`, in the order of training.

    Raises:
        InputError: there is no score or no accuracy, or a cell of a column that is read is empty.
    """
    score = next((name for name in ("score", metric) if name in frame.columns), None)
    absent = [name for name, there in ((f"score or {metric}", score),) if there is None]
    absent += [name for name in ("accuracy",) if name not in frame.columns]
    if score is None or absent:
        raise InputError.at(
            f"no column {' and no '.join(absent)}, only {names(frame.columns)}",
            remedy="rename those that are meant",
            source="the table",
        )
    order = [name for name in ("run", *PROGRESS) if name in frame.columns]
    controls = [name for name in (*PROGRESS, *CONTROLS) if name in frame.columns and name != score]
    read = [score, "accuracy", *dict.fromkeys([*order, *controls])]
    empty = frame[read].isna()
    if empty.any(axis=None):
        row, column = next((r, c) for r in range(len(frame)) for c in read if empty[c].iloc[r])
        raise InputError.at(
            "it is empty", remedy="drop the row", source="the table", row=row, field=column
        )
    frame = frame.sort_values(order, kind="stable") if order else frame
    return {
        "x": frame[score].tolist(),
        "y": frame["accuracy"].tolist(),
        "groups": _texts(frame["run"].tolist()) if "run" in order else None,
        "controls": {name: frame[name].tolist() for name in controls} or None,
    }


def _texts(values: Sequence[Any]) -> list[str]:
    return [str(value) for value in values]
