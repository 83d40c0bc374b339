"""What a run will reach at its end: a power law along the run, then the curve to accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hf_proxy.intervals import LEVEL
from hf_proxy.prediction.correlation import CORRELATIONS, whiten
from hf_proxy.prediction.curve import Curve
from hf_proxy.records.errors import InputError

LEAST_FORECAST_POINTS = 6  # three parameters and as many points to judge them by
FAR = 20.0  # times the last point; the paper went 18 times as far
_EXPONENTS = np.geomspace(0.03, 3.0, 60)
UNDECIDED = "these two runs cannot be told apart yet"


@dataclass(frozen=True)
class Extrapolation:
    """A series at the horizon, in its own unit.

    Attributes:
        value: of the law with the least squares.
        low, high: central interval for one observation there, of nominal coverage `level`.
    """

    value: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Forecast:
    """Where a run will stand at the horizon.

    Attributes:
        horizon: step or tokens, as the points were given in.
        last: the last point's, how far it goes is `horizon / last`.
        proxy: the proxy metric there, by `a - b t^-c`.
        limit, factor, exponent: a, b, c, with t in units of `last`.
        accuracy: by the curve at `proxy`, as fractions; its interval adds, side by side, the
            squares of the curve's own width and of what the proxy's width moves it. None without
            a curve.
        extrapolated: the proxy there lies beyond the curve's points.
        controls: the same accuracy from less: `"accuracy alone"` by the same law, `"compute alone"`
            by a line in the logarithm of t. None without accuracies.
        num_points: how many there were.
        notes: what is weak, in words.
    """

    horizon: float
    last: float
    proxy: Extrapolation
    limit: float
    factor: float
    exponent: float
    accuracy: Extrapolation | None
    extrapolated: bool | None
    controls: dict[str, Extrapolation]
    num_points: int
    notes: tuple[str, ...]

    def compare(self, other: "Forecast") -> "ForecastComparison":
        """This run against another on the proxy, which is what was measured; noise independent.

        Raises:
            InputError: the horizons or levels differ.
        """
        if (self.horizon, self.proxy.level) != (other.horizon, other.proxy.level):
            raise InputError.at(
                f"forecasts of {self.horizon:g} at {self.proxy.level:g} and of {other.horizon:g} "
                f"at {other.proxy.level:g} do not compare",
                remedy="give both one horizon and level",
                field="horizon",
            )
        mine, theirs = self.proxy, other.proxy
        difference = mine.value - theirs.value
        low = difference - np.hypot(mine.value - mine.low, theirs.high - theirs.value)
        high = difference + np.hypot(mine.high - mine.value, theirs.value - theirs.low)
        verdict = UNDECIDED
        if not low <= 0 <= high:
            verdict = f"the {'second' if difference > 0 else 'first'} run ends lower on the proxy"
        return ForecastComparison(difference, float(low), float(high), verdict)


@dataclass(frozen=True)
class ForecastComparison:
    """The proxy of a run at the horizon minus that of another, with its interval, in words too."""

    difference: float
    low: float
    high: float
    verdict: str


def forecast(
    steps_or_tokens: Sequence[float],
    values: Sequence[float],
    horizon: float,
    *,
    curve: Curve | None = None,
    accuracies: Sequence[float] | None = None,
    run: str | None = None,
    level: float = LEVEL,
) -> Forecast:
    """Extrapolate a run's proxy by `a - b t^-c`, then read the accuracy off the curve.

    The law is fitted by least squares. Its interval is averaged over exponents and over the
    correlation of neighbours, each weighted by its restricted likelihood. What it does not know:
    a change of the learning rate, the data or the batch after the last point.

    Args:
        steps_or_tokens: [n], positive and rising, where the run was scored.
        values: [n], the proxy metric there, in the curve's metric.
        horizon: step or tokens to look at, in the same unit, not before the last point.
        curve: from that metric to accuracy.
        accuracies: [n], the accuracy measured there, as fractions, for the controls.
        run: of `Curve.predict`.
        level: nominal coverage.

    Raises:
        InputError: fewer than six points, unequal lengths, numbers that are not finite, t that does
            not rise from above 0, a horizon that lies before the last point, constant values.

    Source: arXiv 2605.18607 (the law; interval and default of c > 0 chosen here).
    """
    if not 0 < level < 1:
        raise InputError(f"level is a share between 0 and 1, not {level}")
    t = np.asarray(steps_or_tokens, dtype=np.float64)
    series = {"values": np.asarray(values, dtype=np.float64)}
    if accuracies is not None:
        series["accuracies"] = np.asarray(accuracies, dtype=np.float64)
    for name, array in {"steps_or_tokens": t, **series}.items():
        if array.ndim != 1 or array.shape != t.shape or not np.isfinite(array).all():
            raise InputError.at(
                "not one finite number for each point", remedy="mend it", field=name
            )
        if len(t) < LEAST_FORECAST_POINTS:
            raise InputError.at(
                f"{len(t)} points are too few to go on from",
                remedy=f"give at least {LEAST_FORECAST_POINTS}",
            )
        if np.ptp(array) == 0:
            raise InputError.at("it is constant", remedy="give points that differ", field=name)
    if t[0] <= 0 or (np.diff(t) <= 0).any():
        raise InputError.at(
            "it must rise from above 0", remedy="sort it, leave out step 0", field="steps_or_tokens"
        )
    if not np.isfinite(horizon) or horizon < t[-1]:
        raise InputError.at(
            f"{horizon:g} lies before the last point, {t[-1]:g}",
            remedy="name a later one",
            field="horizon",
        )
    last, ahead = float(t[-1]), horizon / t[-1]
    u = t / last
    proxy, (limit, factor, exponent) = _power_law(u, series["values"], ahead, level)
    notes = []
    if ahead > FAR:
        notes.append(f"the horizon lies {ahead:.0f} times as far as the points")
    if exponent in (_EXPONENTS[0], _EXPONENTS[-1]):
        notes.append("the exponent ran to its limit: the points do not show how it levels off")
    accuracy = extrapolated = None
    if curve is not None:
        accuracy, extrapolated = _through(curve, proxy, run)
        if extrapolated:
            notes.append("the proxy at the horizon lies beyond the curve's points")
    controls = {}
    if accuracies is not None:
        own = series["accuracies"]
        compute = _mixture(np.log(u)[None], own, np.log([ahead]), level)[0]
        ways = {"accuracy alone": _power_law(u, own, ahead, level)[0], "compute alone": compute}
        controls = {name: _within(way, 0.0, 1.0) for name, way in ways.items()}
    return Forecast(
        horizon=float(horizon),
        last=last,
        proxy=proxy,
        limit=limit,
        factor=factor,
        exponent=exponent,
        accuracy=accuracy,
        extrapolated=extrapolated,
        controls=controls,
        num_points=len(t),
        notes=tuple(notes),
    )


def _power_law(u, y, ahead, level) -> tuple[Extrapolation, tuple[float, float, float]]:
    shape_EN = -(u ** -_EXPONENTS[:, None])
    found, best, (limit, factor) = _mixture(shape_EN, y, -(ahead**-_EXPONENTS), level)
    return found, (limit, factor, float(_EXPONENTS[best]))


def _mixture(shape_EN, y, shape_E, level) -> tuple[Extrapolation, int, tuple[float, float]]:
    """Lines in each of E shapes, at one new value of each; the best, and an interval over all.

    Variance of the average over shapes and correlations: within each, and of each around the best.
    """
    scale = y.std()
    v, num_points = (y - y.mean()) / scale, len(y)
    freedom = num_points - 2 - (len(shape_EN) > 1)
    log_weight, variance, middle, plain = [], [], [], []
    for shape_N, new in zip(shape_EN, shape_E, strict=True):
        design = np.column_stack([np.ones(num_points), shape_N])
        at = np.array([1.0, new])
        for rho in CORRELATIONS:
            white = whiten(np.column_stack([design, v]), rho)
            base, triangle = np.linalg.qr(white[:, :2])
            coefficients = np.linalg.solve(triangle, base.T @ white[:, 2])
            residual = white[:, 2] - white[:, :2] @ coefficients
            sse = max(float(residual @ residual), num_points * np.finfo(float).eps)
            if rho == 0:
                plain.append((sse, coefficients))
            # of a base that spans the same plane for every shape's scale
            log_det = (num_points - 1) * np.log(1 - rho**2) + 2 * np.log(
                np.abs(np.diag(triangle)).prod() / np.linalg.norm(shape_N - shape_N.mean())
            )
            log_weight.append(-0.5 * (log_det + freedom * np.log(sse)))
            lever = np.linalg.solve(triangle.T, at)
            variance.append(sse / freedom * (1 + lever @ lever))
            middle.append(at @ coefficients)
    weight = np.exp(np.array(log_weight) - max(log_weight))
    weight /= weight.sum()
    best = int(np.argmin([sse for sse, _ in plain]))
    a, b = plain[best][1]
    value = a + b * shape_E[best]
    spread = weight @ (np.array(variance) + (np.array(middle) - value) ** 2)
    half = scale * np.sqrt(spread) * stats.t.ppf((1 + level) / 2, freedom)
    value = float(y.mean() + scale * value)
    found = Extrapolation(value, float(value - half), float(value + half), level)
    return found, best, (float(y.mean() + scale * a), float(scale * b))


def _through(curve: Curve, proxy: Extrapolation, run) -> tuple[Extrapolation, bool]:
    """The curve at the proxy; the sides of the interval add in squares."""
    at = curve.predict(proxy.value, proxy.level, run=run)
    ends = [curve.predict(x, proxy.level, run=run).value for x in (proxy.low, proxy.high)]
    below = np.hypot(at.value - at.low, max(at.value - min(ends), 0.0))
    above = np.hypot(at.high - at.value, max(max(ends) - at.value, 0.0))
    own = Extrapolation(at.value, float(at.value - below), float(at.value + above), proxy.level)
    return _within(own, 0.0, 1.0), at.extrapolated


def _within(found: Extrapolation, least: float, most: float) -> Extrapolation:
    value, low, high = np.clip([found.value, found.low, found.high], least, most).tolist()
    return Extrapolation(value, low, high, found.level)
