"""All forms of a curve together: in the order of AICc, and averaged where an interval is read."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from hf_proxy.prediction.correlation import with_correlated_noise
from hf_proxy.prediction.forms import AT_A_LIMIT, MOST_RATE, Fit, fit_form

MOST_ALIKE_AICC = 4.0  # forms this close to the best are not told apart by the data


def fit_forms(
    forms: Sequence[str],
    x: np.ndarray,
    y: np.ndarray,
    bounds: tuple[float, float] | None = None,
    groups: np.ndarray | None = None,
) -> tuple[list[Fit], dict[str, str]]:
    """All forms that these points give, by AICc, and the reason for each that is left out.

    Args:
        x, y: [n], in the order of training within each run.
        bounds: of `fit_form`.
        groups: [n], the run of each point; None: one run.

    Returns:
        fits with the errors of `with_correlated_noise`, and form to reason.
    """
    fits, left_out = [], {}
    for form in forms:
        try:
            fit = fit_form(form, x, y, bounds)
        except ValueError as reason:
            left_out[form] = str(reason)
        else:
            fits.append(with_correlated_noise(fit, x, y, groups))
    steps = [fit for fit in fits if fit.form == "sigmoid" and fit.parameters[1] >= MOST_RATE]
    if steps and len(fits) > 1:  # nothing to choose where a simpler form does
        fits.remove(steps[0])
        left_out["sigmoid"] = AT_A_LIMIT
    return sorted(fits, key=lambda fit: fit.aicc), left_out


def predict(
    fits: Sequence[Fit], x: np.ndarray, level: float, *, new_run: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The best form's value at each x, with an interval for a new observation there.

    Inside the fitted range the width is Student's, with residual variance and standard error
    averaged over the forms by their Akaike weights, each form's distance from the best one added to
    its own error (Buckland, Burnham and Augustin 1997): having chosen the form from the same points
    costs coverage, and this gives it back. Outside, the interval is the envelope of those of all
    forms within `MOST_ALIKE_AICC` of the best.

    Args:
        fits: as `fit_forms` gives them.
        x: [N].
        level: nominal coverage, as 0.90.
        new_run: whether the observation is of another run than the points, so that the variance
            of runs is added; degrees of freedom are then Satterthwaite's. With points of several
            runs it always is.

    Returns:
        value, low, high, in y's unit, and extrapolated, each [N]; not finite where the best form
        has no value. With bounds the interval lies between 0 and the upper one and holds the value;
        one that would lie outside as a whole says nothing, and is all between.
    """
    best = fits[0]
    with np.errstate(all="ignore"):
        value_FN = np.array([fit.unbounded(x) for fit in fits])
        error_FN = np.array([fit.standard_error(x) for fit in fits])
    noise = [_noise(fit, new_run) for fit in fits]
    sd_F, freedom_F = (np.array(column) for column in zip(*noise, strict=True))
    distance_F = np.array([fit.aicc - best.aicc for fit in fits])
    # a form without a value somewhere (the logarithm at and below 0) has no say there
    has_FN = np.isfinite(value_FN) & np.isfinite(error_FN)
    value_FN, error_FN = np.where(has_FN, value_FN, value_FN[0]), np.where(has_FN, error_FN, 0.0)
    weight_FN = np.exp(-distance_F / 2)[:, None] * has_FN
    weight_FN /= np.maximum(weight_FN.sum(axis=0), np.finfo(float).tiny)

    error_N = (weight_FN * np.hypot(error_FN, value_FN - value_FN[0])).sum(axis=0)
    width_N = np.hypot(np.sqrt(sd_F**2 @ weight_FN), error_N)
    width_N = width_N * stats.t.ppf((1 + level) / 2, np.maximum(freedom_F @ weight_FN, 1))
    low_N, high_N = value_FN[0] - width_N, value_FN[0] + width_N

    extrapolated_N = (x < best.scale.x_min) | (x > best.scale.x_max)
    alike_FN = (distance_F <= MOST_ALIKE_AICC)[:, None] & has_FN
    width_FN = np.hypot(sd_F[:, None], error_FN)
    width_FN *= stats.t.ppf((1 + level) / 2, freedom_F)[:, None]
    lowest_N = np.where(alike_FN, value_FN - width_FN, np.inf).min(axis=0)
    highest_N = np.where(alike_FN, value_FN + width_FN, -np.inf).max(axis=0)
    low_N = np.where(extrapolated_N, lowest_N, low_N)
    high_N = np.where(extrapolated_N, highest_N, high_N)
    if best.bounds is None:
        return value_FN[0], low_N, high_N, extrapolated_N
    value_N, most = np.clip(value_FN[0], *best.bounds), best.bounds[1]
    nothing_N = (high_N < 0) | (low_N > most)
    low_N = np.where(nothing_N, 0.0, np.clip(np.minimum(low_N, value_N), 0.0, most))
    high_N = np.where(nothing_N, most, np.clip(np.maximum(high_N, value_N), 0.0, most))
    return value_N, low_N, high_N, extrapolated_N


def _noise(fit: Fit, new_run: bool) -> tuple[float, float]:
    """Standard deviation of one observation about the curve, and its degrees of freedom."""
    if fit.run_sd == 0 or not (new_run or fit.run_freedom):
        return fit.residual_sd, fit.degrees_of_freedom
    within, between = fit.residual_sd**2, fit.run_sd**2
    if fit.run_freedom == 0:
        return float(np.sqrt(within + between)), fit.degrees_of_freedom
    uncertain = within**2 / fit.degrees_of_freedom + between**2 / fit.run_freedom
    return float(np.sqrt(within + between)), (within + between) ** 2 / uncertain
