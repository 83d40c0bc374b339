"""The forms of a curve from proxy metric to target accuracy, each fitted by least squares.

x and y are standardised before a fit, so that start values and guards mean the same for nats, bits
and tokens; the logarithm alone reads x as it is, because its zero matters. Where bounds are given,
as chance and 1 for an accuracy, the fitted mean lies within them in every form: the asymptotes of a
sigmoid do, the others stop there. Single observations may lie outside.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg, optimize, stats

NUM_PARAMETERS = {
    "linear": 2,
    "quadratic": 3,
    "exponential": 3,
    "logarithmic": 2,
    "sigmoid": 4,
}
MOST_ALIKE_AICC = 4.0  # forms this close to the best are not told apart by the data
_RATES = np.array([-4.0, -2.5, -1.5, -1.0, -0.6, -0.3, 0.3, 0.6, 1.0, 1.5, 2.5, 4.0])
_SLOPES, _MIDDLES = (g.ravel() for g in np.meshgrid([0.7, 1.5, 3.0, 6.0], np.linspace(-2, 2, 9)))
_MOST_AMPLITUDE = 50.0  # standard deviations of y; beyond, a form is a limit of a simpler one
_MOST_RATE = 20.0  # per standard deviation of x; beyond, a form is a step between two points
_AT_A_LIMIT = "the fit ran to a limit of the form, where a simpler one is the same"


@dataclass(frozen=True)
class Scale:
    """`(value - mean) / sd` of x and of y, and where x lay."""

    x_mean: float
    x_sd: float
    x_min: float
    x_max: float
    y_mean: float
    y_sd: float

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> "Scale":
        for name, values in (("x", x), ("y", y)):
            if np.ptp(values) <= 1e-12 * np.abs(values).max():
                raise ValueError(f"{name} is constant")
        return cls(*map(float, (x.mean(), x.std(), x.min(), x.max(), y.mean(), y.std())))


@dataclass(frozen=True)
class Fit:
    """One form fitted to n points.

    Attributes:
        form: one of `FORMS`.
        parameters: p of them, of the standardised variables (raw x under the logarithm).
        covariance: `[p, p]`, of the parameters.
        scale: what x and y were standardised by.
        residual_sd: sqrt(SSE / (n - p)), in y's unit.
        degrees_of_freedom: n - p.
        aicc: n ln(SSE / n) + 2 k + 2 k (k + 1) / (n - k - 1), with k = p + 1.
        r2: 1 - SSE / SST over the points of the fit.
        bounds: the least and the most that its value can be, in y's unit; None: any.
    """

    form: str
    parameters: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    scale: Scale
    residual_sd: float
    degrees_of_freedom: int
    aicc: float
    r2: float
    bounds: tuple[float, float] | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """y at each x, in y's unit."""
        value = self.unbounded(x)
        return value if self.bounds is None else np.clip(value, *self.bounds)

    def unbounded(self, x: np.ndarray) -> np.ndarray:
        """The same without a stop at the bounds."""
        value = _value(self.form, _argument(self.form, x, self.scale), self.parameters)
        return self.scale.y_mean + self.scale.y_sd * value

    def standard_error(self, x: np.ndarray) -> np.ndarray:
        """Of the curve at each x, by the delta method, in y's unit."""
        slope_NP = _slopes(self.form, _argument(self.form, x, self.scale), self.parameters)
        variance = np.einsum("np,pq,nq->n", slope_NP, np.array(self.covariance), slope_NP)
        return self.scale.y_sd * np.sqrt(np.maximum(variance, 0))


def fit_form(
    form: str, x: np.ndarray, y: np.ndarray, bounds: tuple[float, float] | None = None
) -> Fit:
    """Least squares of one form, from the best of a grid of starts.

    Args:
        bounds: of the fitted mean, in y's unit. A sigmoid that would leave them, or run to a limit
            of its own, is fitted again within them, and so always exists.

    Raises:
        ValueError: with the reason why these points do not give this form.
    """
    num_points, num_parameters = len(x), NUM_PARAMETERS[form]
    if num_points < num_parameters + 3:  # AICc divides by n - p - 2
        raise ValueError(f"{num_points} points are too few, it needs {num_parameters + 3}")
    if form == "logarithmic" and x.min() <= 0:
        raise ValueError("x is not positive everywhere")
    scale = Scale.of(x, y)
    u, v = _argument(form, x, scale), (y - scale.y_mean) / scale.y_sd
    limits = None if bounds is None else (np.array(bounds) - scale.y_mean) / scale.y_sd
    freed = None  # directions in which the parameters are free
    if form == "sigmoid" and limits is not None:
        parameters, freed = _sigmoid_within(u, v, limits)
    elif form in ("exponential", "sigmoid"):
        parameters = _refine(form, u, v, _start(form, u, v))
    else:
        parameters = linalg.lstsq(_slopes(form, u, ()), v)[0]
    if freed is None:
        _check_identified(form, u, parameters)
    value = _value(form, u, parameters)
    residual = v - (value if limits is None else np.clip(value, *limits))
    sse = max(float(residual @ residual), num_points * np.finfo(float).eps)
    freedom, k = num_points - num_parameters, num_parameters + 1
    slope_NP = _slopes(form, u, parameters)
    if freed is None:
        # by QR: the normal equations would square the condition number
        triangle = linalg.qr(slope_NP, mode="r")[0][:num_parameters]
        if np.abs(np.diag(triangle)).min() < 1e-8 * np.abs(triangle).max():
            raise ValueError("its parameters cannot be told apart by these points")
        inverse = linalg.solve_triangular(triangle, np.eye(num_parameters))
    else:
        inverse = freed @ linalg.pinv(slope_NP @ freed, rtol=1e-8)
    covariance = inverse @ inverse.T * sse / freedom
    penalty = 2 * k + 2 * k * (k + 1) / (num_points - k - 1)
    return Fit(
        form=form,
        parameters=tuple(map(float, parameters)),
        covariance=tuple(tuple(map(float, row)) for row in covariance),
        scale=scale,
        residual_sd=scale.y_sd * float(np.sqrt(sse / freedom)),
        degrees_of_freedom=freedom,
        aicc=num_points * float(np.log(sse / num_points * scale.y_sd**2)) + penalty,
        r2=1 - sse / num_points,  # v has variance 1
        bounds=bounds,
    )


def fit_forms(
    forms: Sequence[str],
    x: np.ndarray,
    y: np.ndarray,
    bounds: tuple[float, float] | None = None,
) -> tuple[list[Fit], dict[str, str]]:
    """All forms that these points give, by AICc, and the reason for each that is left out."""
    fits, left_out = [], {}
    for form in forms:
        try:
            fits.append(fit_form(form, x, y, bounds))
        except ValueError as reason:
            left_out[form] = str(reason)
    steps = [fit for fit in fits if fit.form == "sigmoid" and fit.parameters[1] >= _MOST_RATE]
    if steps and len(fits) > 1:  # nothing to choose where a simpler form does
        fits.remove(steps[0])
        left_out["sigmoid"] = _AT_A_LIMIT
    return sorted(fits, key=lambda fit: fit.aicc), left_out


def predict(
    fits: Sequence[Fit], x: np.ndarray, level: float
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

    Returns:
        value, low, high, in y's unit, and extrapolated, each [N]; not finite where the best form
        has no value. With bounds the interval lies between 0 and the upper one and holds the value;
        one that would lie outside as a whole says nothing, and is all between.
    """
    best = fits[0]
    with np.errstate(all="ignore"):
        value_FN = np.array([fit.unbounded(x) for fit in fits])
        error_FN = np.array([fit.standard_error(x) for fit in fits])
    sd_F = np.array([fit.residual_sd for fit in fits])
    freedom_F = np.array([fit.degrees_of_freedom for fit in fits])
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


def _argument(form: str, x: np.ndarray, scale: Scale) -> np.ndarray:
    return np.log(x) if form == "logarithmic" else (x - scale.x_mean) / scale.x_sd


def _value(form: str, u: np.ndarray, parameters) -> np.ndarray:
    if form == "exponential":
        a, b, c = parameters
        return a * np.exp(b * u) + c
    if form == "sigmoid":
        a, b, m, c = parameters
        return a / (1 + np.exp(-b * (u - m))) + c
    return _slopes(form, u, ()) @ np.asarray(parameters)


def _slopes(form: str, u: np.ndarray, parameters) -> np.ndarray:
    """Derivative of the value by each parameter, `[n, p]`."""
    one = np.ones_like(u)
    if form == "quadratic":
        return np.stack([one, u, u**2], axis=-1)
    if form == "exponential":
        a, b, _ = parameters
        power = np.exp(b * u)
        return np.stack([power, a * u * power, one], axis=-1)
    if form == "sigmoid":
        a, b, m, _ = parameters
        share = 1 / (1 + np.exp(-b * (u - m)))
        steep = a * share * (1 - share)
        return np.stack([share, steep * (u - m), -steep * b, one], axis=-1)
    return np.stack([one, u], axis=-1)


def _start(form: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The point of the grid whose best line through (shape, v) leaves least."""
    if form == "exponential":
        shape_GN = np.exp(_RATES[:, None] * u)
    else:
        shape_GN = 1 / (1 + np.exp(-_SLOPES[:, None] * (u - _MIDDLES[:, None])))
    centred = shape_GN - shape_GN.mean(axis=1, keepdims=True)
    variance = (centred**2).sum(axis=1)
    product = centred @ v
    best = int(np.argmax(product**2 / np.maximum(variance, 1e-12)))
    a = product[best] / variance[best]
    c = v.mean() - a * shape_GN[best].mean()
    if form == "exponential":
        return np.array([a, _RATES[best], c])
    return np.array([a, _SLOPES[best], _MIDDLES[best], c])


def _refine(form: str, u: np.ndarray, v: np.ndarray, start: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", optimize.OptimizeWarning)  # singular: checked below
        try:
            found, _ = optimize.curve_fit(
                lambda u, *p: _value(form, u, p),
                u,
                v,
                p0=start,
                jac=lambda u, *p: _slopes(form, u, p),
                maxfev=200,
            )
        except RuntimeError as error:
            raise ValueError("the fit did not converge") from error
    return found


def _sigmoid_within(
    u: np.ndarray, v: np.ndarray, limits: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Parameters of the best sigmoid whose asymptotes lie within `limits`.

    Returns:
        parameters, and the directions `[4, f]` in which they are free; None where the fit without
        limits lies within them, and all are.
    """
    start = _start("sigmoid", u, v)
    try:
        found = _refine("sigmoid", u, v, start)
        _check_identified("sigmoid", u, found)
        ends = np.array([found[3], found[3] + found[0]])
        if limits[0] <= ends.min() and ends.max() <= limits[1]:
            return found, None
    except ValueError:
        pass

    # as asymptotes left and right, rate and middle, of which each has limits of its own
    of_ends = np.array([[-1.0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
    low = np.array([limits[0], limits[0], 0.0, u.min() - 2])
    high = np.array([limits[1], limits[1], _MOST_RATE, u.max() + 2])
    best = None
    rising = np.corrcoef(u, v)[0, 1] > 0
    near = np.array([v.min(), v.max()])[:: 1 if rising else -1]
    for ends in ((start[3], start[3] + start[0]), near):
        for rate in (0.5, start[1], 3.0):
            for middle in (start[2], u.mean()):
                inside = np.clip([*ends, rate, middle], low, high)
                with np.errstate(all="ignore"):
                    found = optimize.least_squares(
                        lambda q: _value("sigmoid", u, of_ends @ q) - v,
                        inside,
                        jac=lambda q: _slopes("sigmoid", u, of_ends @ q) @ of_ends,
                        bounds=(low, high),
                        max_nfev=500,
                    )
                if best is None or found.cost < best.cost:
                    best = found
    assert best is not None
    at_rest = np.isclose(best.x, low, rtol=0, atol=1e-6) | np.isclose(
        best.x, high, rtol=0, atol=1e-6
    )
    q = np.where(np.isclose(best.x, low, rtol=0, atol=1e-6), low, best.x)
    q = np.where(np.isclose(q, high, rtol=0, atol=1e-6), high, q)
    return of_ends @ q, of_ends[:, ~at_rest]


def _check_identified(form: str, u: np.ndarray, parameters: np.ndarray) -> None:
    if not np.isfinite(parameters).all():
        raise ValueError("the fit is not finite")
    if form not in ("exponential", "sigmoid"):
        return
    if abs(parameters[0]) > _MOST_AMPLITUDE or abs(parameters[1]) > _MOST_RATE:
        raise ValueError(_AT_A_LIMIT)
    if form == "sigmoid" and not u.min() - 2 < parameters[2] < u.max() + 2:
        raise ValueError("the middle of the fitted sigmoid lies far beyond the points")
