"""How well a curve predicts points that it was not fitted to, beside controls that know less.

Two protocols. `"paper"` repeats arXiv 2509.21013, section 4, as it can be recovered from its
figures. `"sound"` is ours: the form is chosen inside each training part, whole runs are held out (a
single run is cut into blocks, each predicted from what came before), and every figure stands beside
that of the controls, because within one run the number of tokens seen predicts nearly as well.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import optimize, stats
from sklearn.model_selection import GroupKFold, KFold, TimeSeriesSplit

from hf_proxy.intervals import LEVEL, NUM_RESAMPLES
from hf_proxy.prediction.averaging import fit_forms, predict
from hf_proxy.prediction.points import LEAST_POINTS, Points, check_forms, check_points
from hf_proxy.records.defaults import FORMS
from hf_proxy.records.errors import InputError

PROTOCOLS = ("sound", "paper")
MEAN = "mean"  # the control that knows nothing: the mean of the training part


@dataclass(frozen=True)
class Difference:
    """Absolute error of the proxy minus that of a control, on the same held-out points.

    Attributes:
        test_mae: mean, in y's unit; negative where the proxy is better.
        per_fold: mean within each fold.
        low, high: 90 % interval, moving-block bootstrap inside runs; None for a single block.
    """

    test_mae: float
    per_fold: tuple[float, ...]
    low: float | None
    high: float | None


@dataclass(frozen=True)
class CrossValidation:
    """How well a curve predicts points that it was not fitted to.

    Attributes:
        protocol: `"sound"` or `"paper"`.
        train_r2: mean over folds of 1 - SSE / SST over the training part.
        test_r2: 1 - SSE / SST over all held-out points together, around their own mean; None where
            those are all alike.
        test_mae: mean over folds of the mean absolute error, in y's own unit.
        forms: the form of each fold.
        fold_mae: the mean absolute error of each fold.
        test_points: held-out indices of each fold.
        predicted: the value for each of them, in the same order.
        coverage: share of held-out points inside their 90 % interval; None under `"paper"`.
        num_points, num_runs: points, and runs they come from.
        notes: what was left out, guarded or is weak, in words.
        controls: the same for each control.
        against: the proxy's error minus each control's.
    """

    protocol: str
    train_r2: float
    test_r2: float | None
    test_mae: float
    forms: tuple[str, ...]
    fold_mae: tuple[float, ...]
    test_points: tuple[tuple[int, ...], ...]
    predicted: tuple[tuple[float, ...], ...]
    coverage: float | None
    num_points: int
    num_runs: int
    notes: tuple[str, ...]
    controls: dict[str, "CrossValidation"] = field(default_factory=dict)
    against: dict[str, Difference] = field(default_factory=dict)


def cross_validate(
    x: Sequence[float],
    y: Sequence[float],
    *,
    protocol: str = "sound",
    groups: Sequence[str] | None = None,
    controls: Mapping[str, Sequence[float]] | None = None,
    folds: int = 5,
    seed: int = 42,
    forms: Sequence[str] = FORMS,
    bounds: tuple[float, float] | None = None,
) -> CrossValidation:
    """Errors of a curve on points that it was not fitted to, beside those of its controls.

    `"paper"`: shuffled `KFold`; in each fold the one of linear, quadratic, exponential (`curve_fit`
    from (1, 0.1, 0), left out where it fails) and logarithmic with the best training R2; arrays are
    used as they are. `"sound"`: form by AICc inside each training part; runs held out whole, a
    single run cut into blocks that are predicted from what came before. A form whose value at a
    held-out point lies more than one spread of the training y outside of it is passed over for the
    next by AICc, and that is noted.

    Args:
        x: [n], in the order of training within each run.
        y: [n], in any unit; errors come in it.
        protocol: `"sound"` or `"paper"`.
        groups: [n], the run of each point; None: one run.
        controls: name to [n]: tokens seen (in billions), NLL of the gold answer, R_phi. The mean
            of the training part always stands among them.
        folds: most folds.
        seed: of the shuffle, and of the bootstrap.
        forms: forms to choose from under `"sound"`.
        bounds: least and most that a fitted mean can be under `"sound"`, in y's unit, as chance and
            1; intervals then lie between 0 and the most. None: any.

    Raises:
        InputError: as in `fit_curve`; and too few points for one fold.

    Source: arXiv 2509.21013, section 4; details recovered from its figures.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {PROTOCOLS}, not {protocol!r}")
    if MEAN in (controls or {}):
        raise ValueError(f"the control {MEAN!r} is always there; name yours otherwise")
    check_forms(forms)
    arrays = check_points(x, y, controls, groups)
    splits, notes = _splits(protocol, arrays, folds, seed)
    runs = len(set(arrays.groups))

    def validated(values: np.ndarray) -> CrossValidation:
        return _validate(protocol, values, arrays, splits, notes, runs, forms, bounds)

    proxy = validated(arrays.x)
    found = {name: validated(values) for name, values in arrays.controls.items()}
    found[MEAN] = _validate("mean", arrays.x, arrays, splits, notes, runs, forms, bounds)
    against = {name: _difference(proxy, control, arrays, seed) for name, control in found.items()}
    weak = ("one run only: a training clock and a good proxy cannot be told apart",) * (runs == 1)
    return CrossValidation(
        **{
            **{name: getattr(proxy, name) for name in CrossValidation.__dataclass_fields__},
            "notes": proxy.notes + weak,
            "controls": found,
            "against": against,
        }
    )


def _splits(
    protocol: str, arrays: Points, folds: int, seed: int
) -> tuple[list[tuple[np.ndarray, np.ndarray]], tuple[str, ...]]:
    """Training and held-out indices of each fold, and what to say about them."""
    num_points, runs = len(arrays.x), len(set(arrays.groups))
    if folds < 2:
        raise ValueError(f"folds must be at least 2, not {folds}")
    if protocol == "paper":
        if num_points < folds:
            raise InputError.at(
                f"{num_points} points do not make {folds} folds", remedy="set fewer folds"
            )
        return list(KFold(folds, shuffle=True, random_state=seed).split(arrays.x)), ()
    if runs > 1:
        split = GroupKFold(min(folds, runs), shuffle=True, random_state=seed)
        splits = list(split.split(arrays.x, groups=arrays.groups))
        if (smallest := min(len(train) for train, _ in splits)) < LEAST_POINTS:
            raise InputError.at(
                f"without one fold only {smallest} points are left to fit",
                remedy=f"give runs of at least {LEAST_POINTS} points in all",
            )
        return splits, ()
    room = num_points - LEAST_POINTS
    if room < 1:
        raise InputError.at(
            f"{num_points} points of one run leave none to predict",
            remedy=f"give at least {LEAST_POINTS + 1}",
        )
    size = max(1, room // folds)
    number = min(folds, room // size)
    if number < 2:
        notes: tuple[str, ...] = ("one fold: the last point from those before",)
        every = np.arange(num_points)
        return [(every[:-1], every[-1:])], notes
    notes = (f"{number} folds: the points give no more",) if number < folds else ()
    return list(TimeSeriesSplit(number, test_size=size).split(arrays.x)), notes


def _validate(
    protocol: str,
    x: np.ndarray,
    arrays: Points,
    splits: list[tuple[np.ndarray, np.ndarray]],
    notes: tuple[str, ...],
    num_runs: int,
    forms: Sequence[str],
    bounds: tuple[float, float] | None,
) -> CrossValidation:
    """One x, all folds."""
    y, said = arrays.y, list(notes)
    where: dict[str, list[int]] = {}  # what there is to say, and the folds it is said of
    names, train_r2, fold_mae, predicted, inside = [], [], [], [], []
    for number, (train, test) in enumerate(splits):
        if protocol == "paper":
            name, r2, value, why = _paper_fold(x[train], y[train], x[test])
        else:
            usable = () if protocol == "mean" else forms
            name, r2, value, low, high, why = _sound_fold(
                x[train], y[train], x[test], usable, bounds, arrays.groups[train], num_runs > 1
            )
            inside += list((low <= y[test]) & (y[test] <= high))
        for reason in why:
            where.setdefault(reason, []).append(number)
        names.append(name)
        train_r2.append(r2)
        predicted.append(value)
        fold_mae.append(float(np.abs(value - y[test]).mean()))
    for reason, numbers in where.items():
        said.append(f"fold {', '.join(map(str, numbers))}: {reason}")
    held_out = np.concatenate([y[test] for _, test in splits])
    error = np.concatenate(predicted) - held_out
    spread = held_out - held_out.mean()
    return CrossValidation(
        protocol=protocol,
        train_r2=float(np.mean(train_r2)),
        test_r2=float(1 - error @ error / (spread @ spread)) if np.ptp(held_out) > 0 else None,
        test_mae=float(np.mean(fold_mae)),
        forms=tuple(names),
        fold_mae=tuple(fold_mae),
        test_points=tuple(tuple(map(int, test)) for _, test in splits),
        predicted=tuple(tuple(map(float, value)) for value in predicted),
        coverage=float(np.mean(inside)) if inside else None,
        num_points=len(y),
        num_runs=num_runs,
        notes=tuple(said),
    )


def _sound_fold(x, y, x_test, forms, bounds, groups, new_run):
    """Form by AICc; one that explodes at a held-out point is passed over, and said."""
    fits, left_out = fit_forms(forms, x, y, bounds, groups)
    low, high = y.min() - np.ptp(y), y.max() + np.ptp(y)
    said = [f"{form} left out: {reason}" for form, reason in left_out.items()]
    if x_test.min() <= 0 and any(fit.form == "logarithmic" for fit in fits):
        said.append("logarithmic left out: a held-out x is not positive")
        fits = [fit for fit in fits if fit.form != "logarithmic"]
    for number, fit in enumerate(fits):
        value = fit.unbounded(x_test)
        if np.isfinite(value).all() and low <= value.min() and value.max() <= high:
            value, least, most, _ = predict(fits[number:], x_test, LEVEL, new_run=new_run)
            return fit.form, fit.r2, value, least, most, said
        said.append(f"{fit.form} explodes at a held-out point, the next by AICc is taken")
    if forms:
        said.append("no form is left, the mean of the training part is taken")
    value = np.full(len(x_test), y.mean())
    # an interval for one new observation around a mean, as the constant form would have it
    scale = y.std(ddof=1) * np.sqrt(1 + 1 / len(y))
    width = scale * stats.t.ppf((1 + LEVEL) / 2, len(y) - 1)
    return MEAN, 0.0, value, value - width, value + width, said


def _paper_fold(x, y, x_test) -> tuple[str, float, np.ndarray, list[str]]:
    """The form with the best training R2, arrays as they are; what is left out is said."""
    for name, values in (("x", x), ("y", y)):
        if not np.ptp(values) > 0:
            why = [f"{name} is constant in the training part, the mean of y is taken"]
            return MEAN, 0.0, np.full(len(x_test), y.mean()), why
    candidates: dict[str, Any] = {"linear": np.polynomial.Polynomial.fit(x, y, 1)}
    distinct, said = len(np.unique(x)), []
    if distinct > 2:
        candidates["quadratic"] = np.polynomial.Polynomial.fit(x, y, 2)
    else:
        said = [f"quadratic and exponential left out: {distinct} points are too few"]
    exponential = _paper_exponential(x, y) if distinct > 2 else None
    if exponential is not None:
        candidates["exponential"] = exponential
    if min(x.min(), x_test.min()) > 0:
        line = np.polynomial.Polynomial.fit(np.log(x), y, 1)
        candidates["logarithmic"] = lambda at: line(np.log(at))
    r2 = {
        form: 1 - ((y - curve(x)) ** 2).sum() / ((y - y.mean()) ** 2).sum()
        for form, curve in candidates.items()
    }
    best = max(r2, key=r2.__getitem__)
    return best, float(r2[best]), candidates[best](x_test), said


def _paper_exponential(x, y):
    """The paper's a exp(bx) + c from its start values; None where the search fails."""

    def curve(x, a, b, c):
        return a * np.exp(b * x) + c

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", optimize.OptimizeWarning)
        try:
            found, _ = optimize.curve_fit(curve, x, y, p0=(1, 0.1, 0), maxfev=5000)
        except RuntimeError:
            return None
    return lambda at: curve(at, *found)


def _difference(
    proxy: CrossValidation, control: CrossValidation, arrays: Points, seed: int
) -> Difference:
    """Errors point by point; neighbours in a run go together in the bootstrap."""
    place = np.concatenate([np.array(test) for test in proxy.test_points])
    y = arrays.y[place]
    error = [np.abs(np.concatenate(cv.predicted) - y) for cv in (proxy, control)]
    delta = error[0] - error[1]
    order = np.lexsort((place, arrays.groups[place]))
    delta, runs = delta[order], arrays.groups[place][order]
    blocks = []
    for run in np.unique(runs):
        own = delta[runs == run]
        size = max(1, round(len(own) ** (1 / 3)))
        blocks += [own[start : start + size] for start in range(len(own) - size + 1)]
    sums = np.array([block.sum() for block in blocks])
    sizes = np.array([len(block) for block in blocks])
    draws = max(1, round(len(delta) / sizes.mean()))
    chosen = np.random.default_rng(seed).integers(len(blocks), size=(NUM_RESAMPLES, draws))
    means = sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    per_fold = [
        mine - theirs for mine, theirs in zip(proxy.fold_mae, control.fold_mae, strict=True)
    ]
    bounds = (float(low), float(high)) if len(blocks) > 1 else (None, None)
    return Difference(float(delta.mean()), tuple(per_fold), *bounds)
