"""Where a run will stand at its end: the law, its interval, the curve behind it, its refusals."""

import numpy as np
import pytest
from helpers.coverage import autocorrelated
from scipy import stats

from hf_proxy import InputError, fit_curve, forecast
from hf_proxy.prediction.forecast import UNDECIDED

T = np.arange(1.0, 13)


def run_of(limit=0.8, factor=1.0, exponent=0.5, noise=0.0, seed=0, rho=0.0):
    own = noise * autocorrelated(np.random.default_rng(seed), len(T), rho)
    return limit + factor * T**-exponent + own


@pytest.mark.parametrize("scale", [1.0, 1e9])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_law_is_found_again(scale, sign):
    """In steps or in tokens, falling or rising; the grid's nearest exponent is off by a little."""
    found = forecast(scale * T, sign * run_of(), scale * 60)
    assert found.proxy.value == pytest.approx(sign * (0.8 + 60**-0.5), abs=2e-3)
    assert found.exponent == pytest.approx(0.5, rel=0.08)
    at = found.limit - found.factor * (60 / 12) ** -found.exponent
    assert found.proxy.value == pytest.approx(at, rel=1e-12)
    assert (found.horizon, found.first, found.last) == (scale * 60, scale * 3, scale * 12)
    assert found.num_points == 10  # from a quarter of the last on
    assert found.accuracy is None and found.controls == {} and found.notes == ()


def test_its_interval_covers_what_comes():
    hits = []
    for seed in range(36):
        rho, exponent = [(0.0, 0.3), (0.5, 0.5), (0.7, 1.0)][seed % 3]
        found = forecast(T, run_of(exponent=exponent, noise=0.01, seed=seed, rho=rho), 40).proxy
        new = 0.8 + 40**-exponent + 0.01 * np.random.default_rng([seed, 1]).normal()
        hits.append(found.low <= new <= found.high)
    assert np.mean(hits) >= 0.86
    near, far = (forecast(T, run_of(noise=0.01), h).proxy for h in (13, 200))
    assert far.high - far.low > 1.5 * (near.high - near.low)


def test_its_interval_against_dense_matrices():
    """The average over exponents and correlations, written out with the whole of V."""
    y, freedom, at = run_of(noise=0.02, rho=0.5)[2:], 10 - 3, 40 / 12
    found = forecast(T, run_of(noise=0.02, rho=0.5), 40).proxy
    u, place = T[2:] / 12, np.arange(10)
    rows, best = [], (np.inf, 0.0)
    for c in np.geomspace(0.03, 3, 60):
        X = np.column_stack([np.ones(10), -(u**-c)])
        new = np.array([1, -(at**-c)])
        line = np.linalg.lstsq(X, y)[0]
        best = min(best, (((y - X @ line) ** 2).sum(), new @ line))
        for rho in np.arange(10) / 10:
            V = rho ** np.abs(place[:, None] - place)
            inner = X.T @ np.linalg.solve(V, X)
            own = np.linalg.solve(inner, X.T @ np.linalg.solve(V, y))
            sse = (y - X @ own) @ np.linalg.solve(V, y - X @ own)
            det = np.linalg.det(V) * np.linalg.det(inner) / np.var(X[:, 1])
            variance = sse / freedom * (1 + new @ np.linalg.solve(inner, new))
            rows.append((-0.5 * (np.log(det) + freedom * np.log(sse)), variance, new @ own))
    log_weight, variance, middle = np.array(rows).T
    weight = np.exp(log_weight - log_weight.max())
    spread = np.average(variance + (middle - best[1]) ** 2, weights=weight)
    assert found.value == pytest.approx(best[1], rel=1e-9)
    half = np.sqrt(spread) * stats.t.ppf(0.95, freedom)
    assert found.high - found.value == pytest.approx(half, rel=1e-6)


def test_a_start_of_another_kind_has_no_say():
    """Points before a quarter of what was seen are left out, while six remain."""
    started = run_of(noise=0.003) + 5 * (T < 3)
    assert forecast(T, started, 40) == forecast(T, run_of(noise=0.003), 40)
    few = forecast(T[:7], started[:7], 40)
    assert (few.first, few.num_points) == (2, 6)
    with pytest.raises(InputError, match="field values: it is constant"):
        forecast(T, np.where(T < 3, 2.0, 1.0), 40)


def test_a_law_that_falls_below_zero_is_read_at_the_least_a_score_can_be():
    x = 2 - 0.15 * T + 0.01 * np.sin(5 * T)
    curve = fit_curve(x, 0.3 - 0.1 * np.log(x), forms=("logarithmic",), groups=["a"] * 12)
    found = forecast(T, x, 120, curve=curve, run="a")
    assert found.proxy.low < found.proxy.value < 0 and found.extrapolated
    assert (found.accuracy.value, found.accuracy.high) == (1.0, 1.0)
    falling = fit_curve(-x, 0.3 + 0.1 * x, forms=("linear",), groups=["a"] * 12)  # no score's range
    end = forecast(T, -x, 14, curve=falling, run="a")
    assert end.accuracy.value == falling.predict(end.proxy.value, run="a").value


def test_accuracy_stands_beside_what_knows_less():
    x = run_of(noise=0.003)
    accuracy = 0.9 - 0.4 * x + 0.002 * np.sin(9 * T)
    curve = fit_curve(x, accuracy, forms=("linear",), groups=["a"] * 12)
    found = forecast(T, x, 24, curve=curve, accuracies=accuracy, run="a")
    at = curve.predict(found.proxy.value)
    assert found.accuracy.value == at.value and found.extrapolated and "beyond" in found.notes[0]
    moved = at.value - curve.predict(found.proxy.high).value
    expected = at.value - np.hypot(at.value - at.low, moved)
    assert found.accuracy.low == pytest.approx(expected, rel=1e-12)
    other = forecast(T, x, 24, curve=curve, run="b").accuracy
    assert other.low < found.accuracy.low < found.accuracy.high < other.high
    alone = forecast(T, accuracy, 24).proxy
    assert found.controls["accuracy alone"] == alone
    line = np.polynomial.Polynomial.fit(np.log(T[2:]), accuracy[2:], 1)
    assert found.controls["compute alone"].value == pytest.approx(line(np.log(24)), rel=1e-9)
    high = forecast(T, x, 24, accuracies=np.linspace(0.5, 0.99, 12)).controls["accuracy alone"]
    assert high.high <= 1


def test_two_runs_are_told_apart_or_not():
    a = forecast(T, run_of(noise=0.003), 30)
    alike = a.compare(forecast(T, run_of(noise=0.003, seed=1), 30))
    assert alike.verdict == UNDECIDED and alike.low < alike.difference < alike.high
    lower = forecast(T, run_of(limit=0.3, noise=0.003, seed=1), 30)
    assert a.compare(lower).verdict == "the second run ends lower on the proxy"
    assert lower.compare(a).verdict == "the first run ends lower on the proxy"
    back = lower.compare(a)
    assert (back.low, back.high) == pytest.approx((-a.compare(lower).high, -a.compare(lower).low))
    with pytest.raises(InputError, match="do not compare"):
        a.compare(forecast(T, run_of(), 31))


def test_weak_forecasts_say_so():
    notes = forecast(T, 1 - 0.01 * T + 0.001 * np.sin(T), 12 * 21).notes
    assert "21 times as far" in notes[0] and "exponent ran to its limit" in notes[1]


BAD = {
    "few": (T[:5], T[:5], 9, "5 points are too few"),
    "lengths": (T, T[:-1], 20, "field values: not one finite"),
    "nan": (T, np.where(T == 3, np.nan, T), 20, "field values: not one finite"),
    "constant": (T, 0 * T, 20, "field values: it is constant"),
    "zero": (T - 1, T, 20, "field steps_or_tokens: it must rise"),
    "order": (T[::-1], T, 20, "it must rise from above 0"),
    "past": (T, T, 11, "field horizon: 11 lies before the last point, 12"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_gives_no_forecast_is_refused(name):
    t, values, horizon, message = BAD[name]
    with pytest.raises(InputError, match=message):
        forecast(t, values, horizon)


def test_levels_and_accuracies_are_checked():
    with pytest.raises(ValueError, match="between 0 and 1"):
        forecast(T, run_of(), 20, level=90)
    with pytest.raises(InputError, match="field accuracies"):
        forecast(T, run_of(), 20, accuracies=[0.1])
