"""The forms of a curve from proxy metric to target accuracy, each fitted by least squares.

x and y are standardised before a fit, so that start values and guards mean the same for nats, bits
and tokens; the logarithm alone reads x as it is, because its zero matters. Where bounds are given,
as chance and 1 for an accuracy, the fitted mean lies within them in every form: the asymptotes of a
sigmoid do, the others stop there. Single observations may lie outside.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import linalg, optimize

NUM_PARAMETERS = {
    "linear": 2,
    "quadratic": 3,
    "exponential": 3,
    "logarithmic": 2,
    "sigmoid": 4,
}
_RATES = np.array([-4.0, -2.5, -1.5, -1.0, -0.6, -0.3, 0.3, 0.6, 1.0, 1.5, 2.5, 4.0])
_SLOPES, _MIDDLES = (g.ravel() for g in np.meshgrid([0.7, 1.5, 3.0, 6.0], np.linspace(-2, 2, 9)))
_MOST_AMPLITUDE = 50.0  # standard deviations of y; beyond, a form is a limit of a simpler one
MOST_RATE = 20.0  # per standard deviation of x; beyond, a form is a step between two points
_ALIKE = 1e-9  # relative, of sums of squares: the same optimum
AT_A_LIMIT = "the fit ran to a limit of the form, where a simpler one is the same"


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
        residual_sd: of one observation about the curve of its run, in y's unit; sqrt(SSE / (n - p))
            where noise is independent.
        degrees_of_freedom: n - p.
        aicc: n ln(SSE / n) + 2 k + 2 k (k + 1) / (n - k - 1), with k = p + 1.
        r2: 1 - SSE / SST over the points of the fit.
        bounds: the least and the most that its value can be, in y's unit; None: any.
        run_sd: of a whole run about the curve, in y's unit; see `with_correlated_noise`.
        run_freedom: runs it was found from, less one; 0 where it is assumed.
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
    run_sd: float = 0.0
    run_freedom: int = 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """y at each x, in y's unit."""
        value = self.unbounded(x)
        return value if self.bounds is None else np.clip(value, *self.bounds)

    def unbounded(self, x: np.ndarray) -> np.ndarray:
        """The same without a stop at the bounds."""
        value = _value(self.form, _argument(self.form, x, self.scale), self.parameters)
        return self.scale.y_mean + self.scale.y_sd * value

    def slopes(self, x: np.ndarray) -> np.ndarray:
        """Derivative of the standardised value by each parameter at each x, `[N, p]`."""
        return _slopes(self.form, _argument(self.form, x, self.scale), self.parameters)

    def standard_error(self, x: np.ndarray) -> np.ndarray:
        """Of the curve at each x, by the delta method, in y's unit."""
        slope_NP = self.slopes(x)
        variance = np.einsum("np,pq,nq->n", slope_NP, np.array(self.covariance), slope_NP)
        return self.scale.y_sd * np.sqrt(np.maximum(variance, 0))


def fit_form(
    form: str, x: np.ndarray, y: np.ndarray, bounds: tuple[float, float] | None = None
) -> Fit:
    """Least squares of one form, from the best of a grid of starts; errors as of independent noise.

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
    # by QR: the normal equations would square the condition number
    triangle = linalg.qr(slope_NP, mode="r")[0][:num_parameters]
    alike = np.abs(np.diag(triangle)).min() < 1e-8 * np.abs(triangle).max()
    if form == "sigmoid" and limits is not None and (alike or freed is not None):
        freed = np.eye(num_parameters) if freed is None else freed
        inverse = freed @ linalg.pinv(slope_NP @ freed, rtol=1e-8)
    elif alike:
        raise ValueError("its parameters cannot be told apart by these points")
    else:
        inverse = linalg.solve_triangular(triangle, np.eye(num_parameters))
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
    high = np.array([limits[1], limits[1], MOST_RATE, u.max() + 2])
    rising = np.corrcoef(u, v)[0, 1] > 0
    own, near = (start[3], start[3] + start[0]), (v.min(), v.max())[:: 1 if rising else -1]
    starts = ((own, 0.5), (near, start[1]), (own, start[1]), (near, 0.5), (own, 3.0), (near, 3.0))
    tried: list[Any] = []
    for (left, right), rate in starts:
        inside = np.clip([left, right, rate, start[2]], low, high)
        with np.errstate(all="ignore"):
            found_here = optimize.least_squares(
                lambda q: _value("sigmoid", u, of_ends @ q) - v,
                inside,
                jac=lambda q: _slopes("sigmoid", u, of_ends @ q) @ of_ends,
                bounds=(low, high),
                max_nfev=500,
            )
        tried = sorted([*tried, found_here], key=lambda one: one.cost)
        if len(tried) >= 3 and tried[2].cost <= tried[0].cost * (1 + _ALIKE):
            break  # smooth points have one optimum, which every start finds
    best = tried[0]
    at_low, at_high = (np.abs(best.x - limit) < 1e-6 for limit in (low, high))
    q = np.select([at_low, at_high], [low, high], best.x)
    return of_ends @ q, of_ends[:, ~(at_low | at_high)]


def _check_identified(form: str, u: np.ndarray, parameters: np.ndarray) -> None:
    if not np.isfinite(parameters).all():
        raise ValueError("the fit is not finite")
    if form not in ("exponential", "sigmoid"):
        return
    if abs(parameters[0]) > _MOST_AMPLITUDE or abs(parameters[1]) > MOST_RATE:
        raise ValueError(AT_A_LIMIT)
    if form == "sigmoid" and not u.min() - 2 < parameters[2] < u.max() + 2:
        raise ValueError("the middle of the fitted sigmoid lies far beyond the points")
