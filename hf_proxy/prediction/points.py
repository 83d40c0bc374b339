"""The columns that a curve is fitted to, checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hf_proxy.prediction.forms import NUM_PARAMETERS, Scale
from hf_proxy.records.defaults import FORMS
from hf_proxy.records.errors import InputError

LEAST_POINTS = min(NUM_PARAMETERS.values()) + 3  # below, AICc of the simplest form is undefined
FEW_POINTS = 10  # below, an interval says more about the form than about the data


@dataclass(frozen=True)
class Points:
    """Checked columns of one length, float64; groups name the run of each point."""

    x: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    controls: dict[str, np.ndarray]


def check_points(
    x: Sequence[float],
    y: Sequence[float],
    controls: Mapping[str, Sequence[float]] | None = None,
    groups: Sequence[str] | None = None,
) -> Points:
    """All columns as arrays; refuse what no curve can be fitted to.

    Raises:
        InputError: unequal lengths, a number that is not finite, constant x or y, too few points.
    """
    columns = {"x": x, "y": y, **(controls or {})}
    arrays = {}
    for name, values in columns.items():
        arrays[name] = np.asarray(values, dtype=np.float64)
        if arrays[name].ndim != 1 or len(arrays[name]) != len(arrays["x"]):
            raise InputError.at(
                f"shape {arrays[name].shape} where x has {arrays['x'].shape}",
                remedy="give one number for each point",
                field=name,
            )
        if not np.isfinite(arrays[name]).all():
            row = int(np.flatnonzero(~np.isfinite(arrays[name]))[0])
            raise InputError.at(
                f"{arrays[name][row]} is no number", remedy="drop that point", row=row, field=name
            )
    num_points = len(arrays["x"])
    if num_points < LEAST_POINTS:
        raise InputError.at(
            f"{num_points} points are too few for a curve",
            remedy=f"give at least {LEAST_POINTS}; about {FEW_POINTS} make a prediction",
        )
    for name in ("x", "y"):
        try:
            Scale.of(arrays[name], arrays[name])
        except ValueError as error:
            raise InputError.at(
                "it is constant, so there is nothing to fit",
                remedy="give points that differ",
                field=name,
            ) from error
    runs = np.array(["run"] * num_points if groups is None else list(map(str, groups)))
    if len(runs) != num_points:
        raise InputError.at(
            f"{len(runs)} names for {num_points} points", remedy="name each", field="groups"
        )
    return Points(arrays.pop("x"), arrays.pop("y"), runs, arrays)


def check_forms(forms: Sequence[str]) -> None:
    """Refuse forms that do not exist."""
    if not forms or set(forms) - set(FORMS):
        raise InputError(f"forms must be some of {FORMS}, not {tuple(forms)}")
