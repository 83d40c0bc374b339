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
EARLY = 0.25  # share of what was seen whose points the law is not fitted to
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
        first, last: the points it rests on; how far it goes is `horizon / last`.
        proxy: the proxy metric there, by `a - b t^-c`.
        limit, factor, exponent: a, b, c, with t in units of `last`.
        accuracy: by the curve at `proxy`, as fractions; its interval adds, side by side, the
            squares of the curve's own width and of what the proxy's width moves it. None without
            a curve.
        extrapolated: the proxy there lies beyond the curve's points.
        controls: the same accuracy from less: `"accuracy alone"` by the same law, `"compute alone"`
            by a line in the logarithm of t. None without accuracies.
        num_points: how many there were from `first` on.
        notes: what is weak, in words.
    """

    horizon: float
    first: float
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

    The law is fitted by least squares to the points from a quarter of the last one on, or to the
    last six where those are fewer: a run falls otherwise at its beginning than later, and a law
    that has to hold both goes astray at the end with an interval that is too sure. The interval is
    averaged over exponents and over the correlation of neighbours, each weighted by its restricted
    likelihood. What it does not know: a change of the learning rate, the data or the batch after
    the last point.

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

    Source: arXiv 2605.18607 (the law; interval and default of c > 0 chosen here, the quarter on the
    ladder's runs up to 1B, see tests/benchmarks/README.md).
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
    kept = min(int(np.searchsorted(t, EARLY * t[-1])), len(t) - LEAST_FORECAST_POINTS)
    t, series = t[kept:], {name: array[kept:] for name, array in series.items()}
    for name, array in series.items():
        if np.ptp(array) == 0:
            raise InputError.at("it is constant", remedy="give points that differ", field=name)
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
        first=float(t[0]),
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
    scale, (num_shapes, num_points) = y.std(), shape_EN.shape
    freedom = num_points - 2 - (num_shapes > 1)
    columns_NQ = np.column_stack([(y - y.mean()) / scale, np.ones(num_points), shape_EN.T])
    at_E2 = np.stack([np.ones(num_shapes), shape_E], axis=-1)
    spread_E = np.linalg.norm(shape_EN - shape_EN.mean(axis=1, keepdims=True), axis=1)
    log_weight, variance, middle = [], [], []  # of each correlation, [E]
    plain: list[np.ndarray] = []
    for rho in CORRELATIONS:
        v_N, one_N, *white_EN = whiten(columns_NQ, np.array([rho]))[0].T
        design_EN2 = np.stack([np.broadcast_to(one_N, shape_EN.shape), white_EN], axis=-1)
        base_EN2, triangle_E22 = np.linalg.qr(design_EN2)
        coefficients_E2 = np.linalg.solve(triangle_E22, (base_EN2.mT @ v_N)[:, :, None])[:, :, 0]
        residual_EN = v_N - np.einsum("enk,ek->en", design_EN2, coefficients_E2)
        sse_E = np.maximum((residual_EN**2).sum(axis=1), num_points * np.finfo(float).eps)
        if rho == 0:
            plain = [sse_E, coefficients_E2]
        # of a base that spans the same plane for every shape's scale
        size_E = np.abs(triangle_E22[:, 0, 0] * triangle_E22[:, 1, 1]) / spread_E
        log_det_E = (num_points - 1) * np.log(1 - rho**2) + 2 * np.log(size_E)
        log_weight.append(-0.5 * (log_det_E + freedom * np.log(sse_E)))
        lever_E2 = np.linalg.solve(triangle_E22.mT, at_E2[:, :, None])[:, :, 0]
        variance.append(sse_E / freedom * (1 + (lever_E2**2).sum(axis=1)))
        middle.append((at_E2 * coefficients_E2).sum(axis=1))
    weight = np.exp(np.array(log_weight) - np.max(log_weight))
    weight /= weight.sum()
    best = int(np.argmin(plain[0]))
    a, b = plain[1][best]
    value = a + b * shape_E[best]
    spread = (weight * (np.array(variance) + (np.array(middle) - value) ** 2)).sum()
    half = scale * np.sqrt(spread) * stats.t.ppf((1 + level) / 2, freedom)
    value = float(y.mean() + scale * value)
    found = Extrapolation(value, float(value - half), float(value + half), level)
    return found, best, (float(y.mean() + scale * a), float(scale * b))


def _through(curve: Curve, proxy: Extrapolation, run) -> tuple[Extrapolation, bool]:
    """The curve at the proxy; the sides of the interval add in squares."""
    # a law may fall below what a score can be, where a logarithm has no value
    least = np.finfo(float).tiny if curve.x_range[0] > 0 else -np.inf
    x, *edges = np.maximum([proxy.value, proxy.low, proxy.high], least).tolist()
    at = curve.predict(x, proxy.level, run=run)
    ends = [curve.predict(edge, proxy.level, run=run).value for edge in edges]
    below = np.hypot(at.value - at.low, max(at.value - min(ends), 0.0))
    above = np.hypot(at.high - at.value, max(max(ends) - at.value, 0.0))
    own = Extrapolation(at.value, float(at.value - below), float(at.value + above), proxy.level)
    return _within(own, 0.0, 1.0), at.extrapolated


def _within(found: Extrapolation, least: float, most: float) -> Extrapolation:
    value, low, high = np.clip([found.value, found.low, found.high], least, most).tolist()
    return Extrapolation(value, low, high, found.level)
