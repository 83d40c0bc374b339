"""From points to a curve: units checked, the form chosen, its errors beside its controls'."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_proxy.prediction.averaging import fit_forms
from hf_proxy.prediction.cross_validation import cross_validate
from hf_proxy.prediction.curve import Y_UNITS, Curve
from hf_proxy.prediction.frames import columns_of, is_frame
from hf_proxy.prediction.points import LEAST_POINTS, check_forms, check_points
from hf_proxy.records.defaults import FORMS
from hf_proxy.records.errors import InputError
from hf_proxy.records.scores import METRICS, Setting

logger = logging.getLogger(__name__)


def fit_curve(
    x: Any,
    y: Sequence[float] | None = None,
    *,
    forms: Sequence[str] = FORMS,
    metric: str = "value",
    setting: Setting | str | None = None,
    proxy: str | None = None,
    num_parameters: int | None = None,
    target: str | None = None,
    y_unit: str = "fraction",
    chance: float = 0.0,
    groups: Sequence[str] | None = None,
    controls: Mapping[str, Sequence[float]] | None = None,
) -> Curve:
    """Fit the curve from a proxy metric to the target's accuracy; the form is chosen by AICc.

    Intervals allow for noise that lasts from one checkpoint into the next, see
    `with_correlated_noise`; for that, points stand in the order of training.

    Args:
        x: [n], the proxy metric at each checkpoint, in the order of training. Or a pandas
            `DataFrame` of all the points, see `columns_of`; it holds y, groups and controls then.
        y: [n], the target's accuracy there, in `y_unit`.
        forms: forms to choose from.
        metric: which number of a `ProxyScore` x is.
        setting: of the scores, for `Curve.predict` to check.
        proxy, num_parameters, target: names and size, for the record.
        y_unit: `"fraction"` or `"percent"`.
        chance: accuracy of guessing, a fraction, as 0.25 for four choices. The fitted mean lies in
            [chance, 1] in every form; observations below are kept as they are.
        groups: [n], the run of each point; None: one run. With several, intervals are those of a
            new run.
        controls: name to [n], what the proxy has to beat, as tokens seen; see `cross_validate`.

    Raises:
        InputError: unequal lengths, numbers that are not finite, constant x or y, fewer points than
            the simplest form needs, y outside its unit.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {METRICS}, not {metric!r}")
    if y_unit not in Y_UNITS:
        raise ValueError(f"y_unit must be one of {tuple(Y_UNITS)}, not {y_unit!r}")
    if not 0 <= chance < 1:
        raise ValueError(f"chance must be a fraction from 0 to below 1, not {chance}")
    if is_frame(x):
        if not (y is None and groups is None and controls is None):
            raise ValueError("a table holds y, groups and controls itself: leave them out")
        found = columns_of(x, metric)
        x, y, groups, controls = (found[name] for name in ("x", "y", "groups", "controls"))
    if y is None:
        raise ValueError("y is missing: give the target's accuracies, or one table of all points")
    check_forms(forms)
    arrays = check_points(x, y, controls, groups)
    _check_unit(arrays.y, y_unit)
    unit = Y_UNITS[y_unit]
    fits, left_out = fit_forms(forms, arrays.x, arrays.y / unit, (chance, 1.0), arrays.groups)
    if not fits:
        raise InputError.at(
            f"no form fits these points: {left_out}", remedy="give more points or other forms"
        )
    statistics = None
    if len(arrays.x) > LEAST_POINTS:
        statistics = cross_validate(
            x,
            y,
            groups=groups,
            controls=controls,
            forms=forms,
            bounds=(chance * unit, unit),
        )
    curve = Curve(
        fits=tuple(fits),
        left_out=left_out,
        metric=metric,
        setting=setting,
        proxy=proxy,
        num_parameters=num_parameters,
        target=target,
        y_unit=y_unit,
        runs=tuple(sorted(set(map(str, arrays.groups)))) if groups is not None else (),
        num_points=len(arrays.x),
        points=tuple(zip(arrays.x.tolist(), (arrays.y / unit).tolist(), strict=True)),
        statistics=statistics,
        chance=chance,
    )
    for warning in curve.warnings:
        logger.warning("%s: %s", target, warning)
    return curve


def _check_unit(y: np.ndarray, y_unit: str) -> None:
    most = Y_UNITS[y_unit]
    if y.min() < 0 or y.max() > most:
        row = int(np.argmax((y < 0) | (y > most)))
        raise InputError.at(
            f"{y[row]} is no accuracy in {y_unit}",
            remedy="mend points that mix percent and fractions"
            + (", or set y_unit='percent'" if y_unit == "fraction" else ""),
            row=row,
            field="y",
        )
    if y_unit == "percent" and y.max() <= 1:
        raise InputError.at(
            f"the largest accuracy is {y.max()} %", remedy="set y_unit='fraction'", field="y"
        )
    if y_unit == "percent" and (small := int(((y > 0) & (y <= 1)).sum())):
        logger.warning("%d accuracies of at most 1 stand among larger ones, read as percent", small)
