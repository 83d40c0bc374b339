"""Curves: the paper's numbers, intervals that cover what they say, and no silent fit."""

import dataclasses
import importlib.util
import json
import logging
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers.coverage import simulate
from helpers.published import ARC_X, ARC_Y, CQA_X, CQA_Y, LADDERS, TOKENS
from helpers.scores import make_score
from scipy import optimize, stats

from hf_proxy import Curve, InputError, Setting, cross_validate, fit_curve, fit_ladder
from hf_proxy.prediction import averaging, forms
from hf_proxy.prediction.averaging import fit_forms, predict
from hf_proxy.prediction.correlation import with_correlated_noise
from hf_proxy.prediction.forms import NUM_PARAMETERS, Scale, fit_form
from hf_proxy.prediction.points import LEAST_POINTS
from hf_proxy.records.defaults import FORMS

SHAPES = {
    "linear": lambda u, a, b: a + b * u,
    "quadratic": lambda u, a, b, c: a + b * u + c * u**2,
    "exponential": lambda u, a, b, c: a * np.exp(b * u) + c,
    "sigmoid": lambda u, a, b, m, c: a / (1 + np.exp(-b * (u - m))) + c,
}


# one form


@pytest.mark.parametrize("form", FORMS)
def test_a_form_finds_the_parameters_it_was_drawn_from(form):
    x = np.linspace(0.6, 1.4, 15)
    u = (x - x.mean()) / x.std()
    truth = {
        "linear": 2 - 3 * u,
        "quadratic": 2 - 3 * u + 0.5 * u**2,
        "exponential": 4 * np.exp(-0.7 * u) + 1,
        "logarithmic": 3 - 5 * np.log(x),
        "sigmoid": 40 / (1 + np.exp(2 * (u - 0.3))) + 25,
    }[form]
    fit = fit_form(form, x, truth)
    assert fit(x) == pytest.approx(truth, abs=1e-6)
    between = np.array([0.77, 1.13])
    expected = {"logarithmic": 3 - 5 * np.log(between)}.get(form)
    if expected is not None:
        assert fit(between) == pytest.approx(expected, abs=1e-9)
    assert fit.r2 == pytest.approx(1)
    assert fit.degrees_of_freedom == 15 - NUM_PARAMETERS[form]


def test_aicc_and_errors_against_the_textbook():
    """A straight line by hand: slope, its standard error, AICc."""
    x, y = np.array([0.0, 1, 2, 3, 4, 5]), np.array([1.0, 2.2, 2.8, 4.1, 5.2, 5.9])
    fit = fit_form("linear", x, y)
    slope, intercept = np.polyfit(x, y, 1)
    residual = y - slope * x - intercept
    sse = residual @ residual
    assert fit(x) == pytest.approx(slope * x + intercept, rel=1e-12)
    assert fit.residual_sd == pytest.approx(math.sqrt(sse / 4), rel=1e-12)
    assert fit.aicc == pytest.approx(6 * math.log(sse / 6) + 6 + 24 / 2, rel=1e-12)
    at = np.array([2.5, 7.0])
    spread = ((x - x.mean()) ** 2).sum()
    textbook = fit.residual_sd * np.sqrt(1 / 6 + (at - x.mean()) ** 2 / spread)
    assert fit.standard_error(at) == pytest.approx(textbook, rel=1e-12)


@pytest.mark.parametrize("form", SHAPES)
def test_slopes_and_errors_against_curve_fit(form):
    """Covariance through the delta method equals scipy's own, with numerical derivatives."""
    fit = fit_form(form, ARC_X, ARC_Y)
    scale = Scale.of(ARC_X, ARC_Y)
    u, v = (ARC_X - scale.x_mean) / scale.x_sd, (ARC_Y - scale.y_mean) / scale.y_sd
    found, covariance = optimize.curve_fit(SHAPES[form], u, v, p0=np.array(fit.parameters) + 0.1)
    assert np.array(fit.parameters) == pytest.approx(found, rel=1e-3, abs=1e-5)
    assert np.array(fit.covariance) == pytest.approx(covariance, rel=5e-2, abs=5e-4)


def test_forms_that_the_points_do_not_give_are_left_out_with_a_reason():
    fits, left_out = fit_forms(FORMS, ARC_X - 0.8, ARC_Y)
    assert left_out["logarithmic"] == "x is not positive everywhere"
    _, left_out = fit_forms(FORMS, ARC_X[:5], ARC_Y[:5])
    assert left_out["quadratic"] == "5 points are too few, it needs 6"
    assert "sigmoid" in left_out and "linear" not in left_out
    line = np.linspace(1, 2, 12)
    wave = 1e-3 * np.sin(40 * line)
    _, left_out = fit_forms(FORMS, line, 3 * line + wave)
    assert "limit" in left_out["exponential"] or "converge" in left_out["exponential"]
    with pytest.raises(ValueError, match="x is constant"):
        fit_form("linear", np.ones(9), line[:9])


def test_no_start_finds_a_better_sigmoid_than_three_that_agree(monkeypatch):
    """Noise, steps and bumps, where starts end in different places, against all six of them."""
    rng, found = np.random.default_rng(2), []
    for num in (9, 14):
        x = np.sort(rng.uniform(0, 1, num))
        noise = 0.03 * rng.normal(size=num)
        found += [(x, rng.uniform(0.2, 0.8, num)), (x, np.where(x > 0.4, 0.7, 0.3) + noise)]
        found.append((x, 0.5 + 0.3 * np.exp(-(((x - 0.5) / 0.1) ** 2)) + noise))
    few = [fit_form("sigmoid", *points, (0.0, 1.0)).r2 for points in found]
    monkeypatch.setattr(forms, "_ALIKE", -2.0)  # nothing is alike
    assert few == pytest.approx([fit_form("sigmoid", *p, (0.0, 1.0)).r2 for p in found], abs=1e-6)


# intervals


@pytest.mark.parametrize("num_draws", [4, pytest.param(100, marks=pytest.mark.long)])
def test_ninety_percent_covers_ninety_percent(num_draws):
    """Noise that lasts from one checkpoint into the next or not; the bar of the benchmark."""
    cells = [(n, rho) for n in (10, 20, 30) for rho in (0.0, 0.3, 0.5, 0.7)]
    shares = {form: [simulate(form, *cell, num_draws).share for cell in cells] for form in FORMS}
    assert 0.86 <= np.mean(list(shares.values())) <= 0.95
    assert all(0.8 <= np.mean(own) <= 0.98 for own in shares.values())


def test_without_it_intervals_are_too_sure(monkeypatch):
    """The same simulation sees that least squares alone takes AR(1) noise for independent."""
    monkeypatch.setattr(averaging, "with_correlated_noise", lambda fit, *_: fit)
    assert simulate("linear", 20, 0.7, 60).share < 0.78


def test_a_new_run_is_covered_where_runs_differ():
    """Points of two runs, three, five; beside it the same intervals without the runs' names."""
    shares = [simulate("linear", 8, 0.5, 25, runs=n, run_sd=2.0).share for n in (2, 3, 5)]
    assert 0.84 <= np.mean(shares) <= 0.99


def test_errors_under_correlation_against_dense_matrices():
    """Weights, variances and covariance by the textbook, with V written out in full."""
    rng = np.random.default_rng(5)
    groups = np.repeat(["a", "b", "c"], [7, 6, 5])[rng.permutation(18)]
    x = np.linspace(0.5, 2, 18)
    y = 3 - x + 0.3 * x**2 + rng.normal(size=18) + np.array([ord(g) - 97 for g in groups])
    for given in (None, groups):
        for form in ("quadratic", "logarithmic"):
            fit = fit_form(form, x, y)
            found = with_correlated_noise(fit, x, y, given)
            own = np.array(["run"] * 18) if given is None else given
            u = np.log(x) if form == "logarithmic" else (x - x.mean()) / x.std()
            X = np.vander(u, NUM_PARAMETERS[form], increasing=True)
            v, freedom = (y - y.mean()) / y.std(), 18 - X.shape[1]
            place = np.array([sum(own[:i] == own[i]) for i in range(18)])
            same = own[:, None] == own
            inverse, rows = np.linalg.inv(X.T @ X), []
            for rho in np.arange(10) / 10:
                for ratio in (0,) if given is None else (0, 0.5, 1, 2, 4):
                    V = same * rho ** np.abs(place[:, None] - place) + ratio**2 * same
                    W = np.linalg.inv(V)
                    beta = np.linalg.solve(X.T @ W @ X, X.T @ W @ v)
                    sse = (v - X @ beta) @ W @ (v - X @ beta)
                    log = np.linalg.slogdet(V)[1] + np.linalg.slogdet(X.T @ W @ X)[1]
                    weight = np.exp(-(log + freedom * np.log(sse)) / 2)
                    s2 = sse / freedom
                    cov = s2 * inverse @ X.T @ V @ X @ inverse
                    rows.append([weight, s2, ratio**2 * s2, *cov.ravel()])
            weight, *columns = np.array(rows).T
            mean = [weight @ column / weight.sum() for column in columns]
            assert found.residual_sd == pytest.approx(y.std() * np.sqrt(mean[0]), rel=1e-9)
            assert np.ravel(found.covariance) == pytest.approx(np.array(mean[2:]), rel=1e-7)
            between = 2 * found.residual_sd if given is None else y.std() * np.sqrt(mean[1])
            assert found.run_sd == pytest.approx(between, rel=1e-9)
            assert found.run_freedom == (0 if given is None else 2)
            assert (found.parameters, found.aicc) == (fit.parameters, fit.aicc)


def test_the_interval_of_another_run_than_the_curves_only_one():
    """One linear form by hand; what one run does not say is assumed, and said."""
    x = np.linspace(1, 2, 12)
    y = 0.2 + 0.2 * x + 0.01 * np.sin(9 * x)
    curve = fit_curve(x, y, forms=("linear",), groups=["a"] * 12)
    (fit,) = curve.fits
    own, other = curve.predict(1.3, run="a"), curve.predict(1.3, run="b")
    assert own.low == curve.predict(1.3).low and own.transfer is None and "'b'" in other.transfer
    factor = stats.t.ppf(0.95, 10)
    error = fit.standard_error(np.array([1.3]))[0]
    for found, noise in ((own, fit.residual_sd), (other, fit.residual_sd * np.sqrt(5))):
        assert found.high - found.value == pytest.approx(factor * np.hypot(noise, error), rel=1e-9)


def test_with_several_runs_the_interval_is_that_of_a_new_one(caplog):
    x = np.tile(np.linspace(1, 2, 12), 3)
    y = 0.2 + 0.2 * x + 0.01 * np.sin(29 * x) + np.repeat([0, 0.03, 0.05], 12)
    with caplog.at_level(logging.WARNING):
        curve = fit_curve(x, y, forms=("linear",), groups=np.repeat(list("abc"), 12))
        assert "one run" not in caplog.text
        alone = fit_curve(x, y, forms=("linear",), target="arc")
    assert "arc: points of one run say nothing of how runs differ" in caplog.text
    (fit,) = curve.fits
    assert fit.run_freedom == 2 and fit.run_sd > fit.residual_sd
    within, between = fit.residual_sd**2, fit.run_sd**2
    freedom = (within + between) ** 2 / (within**2 / 34 + between**2 / 2)
    half = stats.t.ppf(0.95, freedom) * np.hypot(
        np.sqrt(within + between), fit.standard_error(np.array([1.5]))[0]
    )
    for run in (None, "a", "new"):
        found = curve.predict(1.5, run=run)
        assert found.high - found.value == pytest.approx(half, rel=1e-9)
    assert found.value == pytest.approx(alone.predict(1.5).value, rel=1e-9)


def test_outside_the_points_the_interval_is_an_envelope():
    fits, _ = fit_forms(FORMS, CQA_X, CQA_Y)
    alike = [fit for fit in fits if fit.aicc - fits[0].aicc <= 4]
    assert len(alike) > 2
    at = np.array([0.85, 0.95, 1.05])
    _, low, high, extrapolated = predict(fits, at, 0.90)
    assert extrapolated.tolist() == [True, False, True]
    for fit in alike:
        _, own_low, own_high, _ = predict([fit], at, 0.90)
        assert (low <= own_low + 1e-12)[[0, 2]].all() and (high >= own_high - 1e-12)[[0, 2]].all()


# cross-validation


@pytest.mark.parametrize(
    ("x", "y", "train_r2", "test_mae"),
    [(ARC_X, ARC_Y, 0.969, 1.245), (CQA_X, CQA_Y, 0.890, 2.182)],
    ids=["ARC-C", "CQA"],
)
def test_the_papers_numbers(x, y, train_r2, test_mae):
    found = cross_validate(x, y, protocol="paper")
    assert round(found.train_r2, 3) == train_r2
    assert round(found.test_mae, 3) == test_mae
    assert found.forms == ("quadratic",) * 5
    assert [set(test) for test in found.test_points] == [
        {0, 9, 11},
        {5, 8, 13},
        {1, 2, 14},
        {4, 7, 10},
        {3, 6, 12},
    ]
    assert found.coverage is None
    mirrored = cross_validate(-x, y, protocol="paper")  # the sign does not matter
    assert mirrored.test_mae == pytest.approx(found.test_mae, rel=1e-9)


def test_the_paper_leaves_out_an_exponential_that_fails():
    """After 5,000 evaluations from (1, 0.1, 0) the search gives up on tokens in the thousands."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = cross_validate(TOKENS, ARC_Y, protocol="paper")
    assert "exponential" not in found.forms


def test_a_single_run_is_predicted_from_what_came_before():
    found = cross_validate(ARC_X, ARC_Y, controls={"tokens": TOKENS})
    assert found.test_points == ((5, 6), (7, 8), (9, 10), (11, 12), (13, 14))
    assert any("one run only" in note for note in found.notes)
    # the first fold by hand: the form of the first five points, at the next two
    fits, _ = fit_forms(FORMS, ARC_X[:5], ARC_Y[:5])
    expected = fits[0](ARC_X[5:7])
    assert found.predicted[0] == pytest.approx(expected, rel=1e-12)
    assert found.fold_mae[0] == pytest.approx(np.abs(expected - ARC_Y[5:7]).mean(), rel=1e-12)
    flat = np.concatenate(found.predicted)
    assert found.test_mae == pytest.approx(np.abs(flat - ARC_Y[5:]).mean(), rel=1e-12)
    spread = ((ARC_Y[5:] - ARC_Y[5:].mean()) ** 2).sum()
    assert found.test_r2 == pytest.approx(1 - ((flat - ARC_Y[5:]) ** 2).sum() / spread, rel=1e-12)


def test_controls_stand_beside_the_proxy():
    found = cross_validate(ARC_X, ARC_Y, controls={"tokens": TOKENS})
    assert set(found.controls) == set(found.against) == {"tokens", "mean"}
    alone = cross_validate(TOKENS, ARC_Y)
    assert found.controls["tokens"].predicted == alone.predicted
    before = [ARC_Y[: min(test)].mean() for test in found.test_points]
    assert [p[0] for p in found.controls["mean"].predicted] == pytest.approx(before)
    difference = found.against["tokens"]
    per_fold = np.array(found.fold_mae) - np.array(alone.fold_mae)
    assert difference.per_fold == pytest.approx(per_fold)
    assert difference.test_mae == pytest.approx(found.test_mae - alone.test_mae)
    assert difference.low < difference.test_mae < difference.high
    again = cross_validate(ARC_X, ARC_Y, controls={"tokens": TOKENS})
    assert again == found  # seeded


def test_a_proxy_equal_to_its_control_differs_by_nothing():
    difference = cross_validate(ARC_X, ARC_Y, controls={"same": ARC_X}).against["same"]
    assert (difference.low, difference.test_mae, difference.high) == (0, 0, 0)


def test_runs_are_held_out_whole():
    x, y = np.concatenate([ARC_X, ARC_X + 0.001]), np.concatenate([ARC_Y, ARC_Y + 1])
    groups = ["a"] * 15 + ["b"] * 15
    found = cross_validate(x, y, groups=groups)
    assert {frozenset(test) for test in found.test_points} == {
        frozenset(range(15)),
        frozenset(range(15, 30)),
    }
    assert found.num_runs == 2 and not any("one run" in note for note in found.notes)


def test_an_exploding_form_is_passed_over_and_said():
    """Points that bend up steeply at the end of the training part send a parabola far away."""
    x = np.array([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 9.0])
    y = np.array([0.1, 0.11, 0.13, 0.16, 0.2, 0.25, 0.31, 0.4])
    found = cross_validate(x, y, folds=2)
    assert any("explodes at a held-out point" in note for note in found.notes)
    reach = 2 * np.ptp(y)
    assert all(abs(p) < reach for fold in found.predicted for p in fold)


# the curve


def arc_curve(**changes):
    settings = {
        "y_unit": "percent",
        "target": "arc-13b",
        "proxy": "1B",
        "num_parameters": 1_000_000_000,
        "controls": {"tokens": TOKENS},
    }
    return fit_curve(ARC_X, ARC_Y, **settings | changes)


def test_a_curve_predicts_fractions_and_marks_what_it_guesses():
    curve = arc_curve()
    assert curve.form == "quadratic"
    inside = curve.predict(0.80)
    parabola = np.poly1d(np.polyfit(ARC_X, ARC_Y / 100, 2))
    assert inside.value == pytest.approx(parabola(0.80), rel=1e-9)
    assert inside.low < inside.value < inside.high
    assert (inside.extrapolated, inside.clipped, inside.transfer) == (False, False, None)
    assert curve.predict(0.80, level=0.5).low > inside.low
    outside = curve.predict(0.95)
    assert outside.extrapolated and outside.clipped and outside.low == 0.0
    for level in (0, 1, 90):
        with pytest.raises(ValueError, match="between 0 and 1"):
            curve.predict(0.8, level=level)
    with pytest.raises(InputError, match="the score is nan"):
        curve.predict(float("nan"))


def test_percent_and_fractions_are_one_curve():
    fraction = fit_curve(ARC_X, ARC_Y / 100)
    assert arc_curve().predict(0.83).high == pytest.approx(fraction.predict(0.83).high, rel=1e-12)


def test_a_curve_read_back_is_equal_to_the_last_bit(tmp_path):
    setting = Setting({"traces": "t", "context": "c", "divisor": "tokens"})
    for number, curve in enumerate(
        (
            arc_curve(setting=setting),
            arc_curve(setting=setting.hash, groups=["run-a"] * 15),
            fit_curve(ARC_X[:5], ARC_Y[:5] / 100),
        )
    ):
        path = tmp_path / f"{number}.json"
        curve.save(path)
        again = Curve.load(path)
        assert again == curve
        assert again.predict(0.85) == curve.predict(0.85)
    assert json.loads((tmp_path / "0.json").read_text())["form"] == "quadratic"
    assert fit_curve(ARC_X[:5], ARC_Y[:5] / 100).statistics is None  # nothing left to hold out
    assert curve.points == tuple(zip(ARC_X[:5], ARC_Y[:5] / 100, strict=True))
    content = json.loads(path.read_text())
    del content["points"]  # as files were written before
    path.write_text(json.dumps(content))
    assert Curve.load(path) == dataclasses.replace(curve, points=())


def test_files_that_are_no_curves_are_named(tmp_path):
    with pytest.raises(
        InputError, match=r"missing.json: cannot be read \(No such file.*hf-proxy fit"
    ):
        Curve.load(tmp_path / "missing.json")
    path = tmp_path / "other.json"
    path.write_text('{"form": "linear"}')
    with pytest.raises(InputError, match=r"other.json: fits, left_out, .*missing; .*hf-proxy fit"):
        Curve.load(path)


def test_few_points_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        fit_curve(ARC_X[:9], ARC_Y[:9] / 100, target="arc")
    assert "arc: with 9 points the interval rests on the form" in caplog.text


GOOD = {"x": ARC_X, "y": ARC_Y / 100}
BAD = {
    "too few": ({"x": ARC_X[:4], "y": ARC_Y[:4] / 100}, "4 points are too few for a curve"),
    "constant x": ({"x": np.ones(15)}, "field x: it is constant"),
    "constant y": ({"y": np.full(15, 0.5)}, "field y: it is constant"),
    "nan": ({"x": np.where(np.arange(15) == 3, np.nan, ARC_X)}, "row 3, field x: nan is no"),
    "lengths": ({"y": ARC_Y[:-1] / 100}, r"field y: shape \(14,\) where x has \(15,\)"),
    "groups": ({"groups": ["a"]}, "1 names for 15 points"),
    "percent": ({"y": ARC_Y}, r"row 0, field y: 41.041 is no accuracy in fraction.*percent"),
    "mixed": ({"y": np.where(np.arange(15) < 7, ARC_Y, ARC_Y / 100)}, "mix percent and fractions"),
    "fractions as percent": ({"y_unit": "percent"}, "largest accuracy is 0.72.* y_unit='fraction'"),
    "negative": ({"y": ARC_Y / 100 - 0.5}, "is no accuracy"),
    "unit": ({"y_unit": "points"}, "y_unit must be one of"),
    "forms": ({"forms": ["cubic"]}, "forms must be some of"),
    "metric": ({"metric": "loss"}, "metric must be one of"),
    "no form": ({"x": ARC_X - 1, "forms": ["logarithmic"]}, "no form fits.*not positive"),
    "control": ({"controls": {"tokens": TOKENS[:3]}}, "field tokens: shape"),
}


@pytest.mark.parametrize("name", BAD)
def test_points_that_give_no_curve_are_refused(name):
    changes, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        fit_curve(**GOOD | changes)


def test_cross_validation_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="protocol must be one of"):
        cross_validate(ARC_X, ARC_Y, protocol="loo")
    with pytest.raises(ValueError, match="'mean' is always there"):
        cross_validate(ARC_X, ARC_Y, controls={"mean": TOKENS})
    with pytest.raises(ValueError, match="folds must be at least 2"):
        cross_validate(ARC_X, ARC_Y, folds=1)
    with pytest.raises(InputError, match="5 points of one run leave none to predict"):
        cross_validate(ARC_X[:5], ARC_Y[:5])
    with pytest.raises(InputError, match="20 folds"):
        cross_validate(ARC_X, ARC_Y, protocol="paper", folds=20)
    with pytest.raises(InputError, match="without one fold only 3 points"):
        cross_validate(ARC_X[:6], ARC_Y[:6], groups=list("aaabbb"))
    six = cross_validate(ARC_X[:6], ARC_Y[:6])
    assert six.test_points == ((5,),) and "one fold" in six.notes[0]
    assert "2 folds" in cross_validate(ARC_X[:7], ARC_Y[:7]).notes[0]
    assert LEAST_POINTS == 5


# ladder


def test_the_ladder_finds_its_parameters():
    size = np.repeat([190e6, 370e6, 760e6, 1e9, 3e9], 4)
    tokens = size * np.tile([20, 40, 100, 200], 5)
    ladder = fit_ladder(size, tokens, 0.5 + 300 / size**0.3 + 900 / tokens**0.33)
    found = (ladder.irreducible, ladder.size_exponent, ladder.data_exponent)
    assert found == pytest.approx((0.5, 0.3, 0.33), rel=1e-6)
    expected = 0.5 + 300 / 7e9**0.3 + 900 / 4e12**0.33
    assert ladder.predict(7e9, 4e12) == pytest.approx(expected, rel=1e-6)
    assert ladder.relative_error < 1e-9


def test_the_ladder_refuses_what_it_cannot_fit():
    size, tokens, bits = [1e8, 2e8] * 4, [1e9, 1e9, 2e9, 2e9] * 2, [1.0, 0.9, 0.8, 0.7] * 2
    with pytest.raises(InputError, match="6 points are too few for five parameters"):
        fit_ladder(size[:6], tokens[:6], bits[:6])
    with pytest.raises(InputError, match="field num_parameters: it is constant"):
        fit_ladder([1e8] * 8, tokens, bits)
    with pytest.raises(InputError, match="field bits_per_byte: it must be positive"):
        fit_ladder(size, tokens, [*bits[:-1], float("nan")])
    with pytest.raises(InputError, match="num_parameters: the columns differ"):
        fit_ladder(size[:-1], tokens, bits[:-1])


def test_a_ladder_of_one_ratio_is_refused():
    size = np.array([1e8, 2e8, 4e8, 8e8, 1.6e9, 3e9, 6e9, 1e10])
    with pytest.raises(InputError, match="field tokens: size and tokens grow together"):
        fit_ladder(size, 20 * size, 0.5 + 20 / size**0.2)


def test_forms_left_out_of_a_fold_are_said():
    found = cross_validate(ARC_X - 0.85, ARC_Y, controls={"clock": np.arange(15)})
    assert any("logarithmic left out: x is not positive" in note for note in found.notes)
    assert any("logarithmic left out" in note for note in found.controls["clock"].notes)
    single = cross_validate(ARC_X[:6], ARC_Y[:6]).against["mean"]
    assert single.low is single.high is None  # one block shows no spread


@pytest.mark.filterwarnings("error")
def test_a_logarithm_is_no_form_of_a_fold_that_holds_out_0():
    """Its value there would be -inf, in the middle of an average too."""
    x = np.array([0.0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48])
    y = 0.3 + 0.1 * np.log(np.maximum(x, 0.3)) + 0.002 * np.cos(7 * x)
    found = cross_validate(x, y, groups=np.arange(12) // 4)
    assert any("fold 0: logarithmic left out: a held-out x" in note for note in found.notes)
    assert found.forms[0] != "logarithmic"
    assert np.isfinite(np.concatenate(found.predicted)).all() and np.isfinite(found.test_mae)


def test_where_a_curve_has_no_value_it_says_so():
    x = np.linspace(0.5, 2, 15)
    y = 0.3 + 0.2 * np.log(x) + 0.001 * np.sin(9 * x)
    curve = fit_curve(x, y)
    assert curve.form == "logarithmic"
    with pytest.raises(InputError, match="the logarithmic curve of .* has no value at -0.1"):
        curve.predict(-0.1)
    far = curve.predict(0.01)
    assert (far.low, far.high, far.clipped, far.extrapolated) == (0.0, 1.0, True, True)
    mixed = fit_curve(x, 0.3 + 0.2 * x + 0.001 * np.sin(9 * x))
    assert mixed.form == "linear" and "logarithmic" in [fit.form for fit in mixed.fits]
    assert np.isfinite([mixed.predict(-0.1).low, mixed.predict(-0.1).high]).all()


def test_small_percentages_beside_large_ones_are_warned_of(caplog):
    fit_curve(ARC_X, np.where(np.arange(15) == 0, 0.4, ARC_Y), y_unit="percent")
    assert "1 accuracies of at most 1 stand among larger ones" in caplog.text


def test_another_proxy_by_name_is_marked():
    score = make_score([8.0, 8.2, 8.4], model_id="B")
    curve = fit_curve(ARC_X, ARC_Y / 100, setting=score.setting, proxy="A")
    assert curve.predict(score).transfer == "this proxy is 'B', the curve's 'A'"


# within what an accuracy can be


@pytest.mark.parametrize("task", LADDERS)
@pytest.mark.parametrize("chance", [0.0, 0.25])
def test_a_sigmoid_exists_within_chance_and_one(task, chance):
    """Real ladders on which the free fit runs away, or to an asymptote above 1."""
    x, y = LADDERS[task]
    with pytest.raises(ValueError, match="did not converge|middle of the fitted sigmoid"):
        fit_form("sigmoid", x, y)
    curve = fit_curve(x, y, forms=("sigmoid",), chance=chance, metric="bits_per_byte")
    far = np.linspace(x.min() - 5, x.max() + 5, 300)
    value = curve.fits[0](far)
    assert chance <= value.min() and value.max() <= 1
    assert curve.fits[0].r2 > 0.85
    # a grid of sigmoids within the bounds finds none that is better
    low, high = np.meshgrid(np.linspace(chance, y.min() + 0.05, 12), np.linspace(y.max(), 1, 15))
    for rate in np.linspace(1, 40, 40):
        for middle in np.linspace(0.3, 1.3, 21):
            shape = 1 / (1 + np.exp(rate * (x - middle)))
            values = low[..., None] + (high - low)[..., None] * shape
            least = ((values - y) ** 2).sum(-1).min()
            assert least >= (1 - 1e-6) * ((curve.fits[0](x) - y) ** 2).sum()


@pytest.mark.parametrize("form", FORMS)
def test_the_mean_lies_within_chance_and_one_and_intervals_within_zero_and_one(form, tmp_path):
    x = np.linspace(0.4, 2, 20)
    noise = 0.02 * np.sin(17 * x)
    y = 0.26 + 0.55 / (1 + np.exp(6 * (x - 0.9))) + noise
    assert y.min() < 0.25 < 1  # observations below chance are kept
    curve = fit_curve(x, y, forms=(form,), chance=0.25)
    assert curve.points == tuple(zip(x.tolist(), y.tolist(), strict=True))
    for at in np.linspace(0.01, 8, 60):
        found = curve.predict(at)
        assert 0.25 <= found.value <= 1
        assert 0 <= found.low <= found.value <= found.high <= 1
    assert curve.predict(1.9).low < 0.25  # one observation may lie there
    curve.save(tmp_path / "curve.json")
    again = Curve.load(tmp_path / "curve.json")
    assert again == curve and again.chance == 0.25
    content = json.loads((tmp_path / "curve.json").read_text())
    del content["chance"]  # as an older version wrote it
    (tmp_path / "old.json").write_text(json.dumps(content))
    old = Curve.load(tmp_path / "old.json")
    assert old.chance == 0.0 and old.predict(1.0).value == pytest.approx(curve.predict(1.0).value)


def test_percent_is_bounded_as_fractions_are():
    x, y = LADDERS["piqa"]
    settings = {"forms": ("sigmoid",), "chance": 0.5}
    fraction = fit_curve(x, y, **settings)
    percent = fit_curve(x, 100 * y, y_unit="percent", **settings)
    assert percent.predict(0.9).value == pytest.approx(fraction.predict(0.9).value, rel=1e-9)
    held_out = percent.statistics.test_mae, 100 * fraction.statistics.test_mae
    assert held_out[0] == pytest.approx(held_out[1], rel=1e-6)


def test_a_fit_that_lies_within_is_the_free_one():
    truth = 0.3 + 0.4 / (1 + np.exp(-3 * (np.linspace(-2, 2, 20))))
    y = truth + 0.005 * np.sin(np.arange(20))
    free, within = (fit_form("sigmoid", np.arange(20.0), y, b) for b in (None, (0.0, 1.0)))
    assert free.parameters == within.parameters and free.covariance == within.covariance


def test_a_chance_that_is_none_is_refused():
    for chance in (-0.1, 1.0, 25):
        with pytest.raises(ValueError, match="chance must be a fraction"):
            fit_curve(*LADDERS["piqa"], chance=chance)


def test_a_step_leaves_the_choice_to_simpler_forms():
    x = np.arange(20.0)
    y = np.where(x < 9.5, 0.3, 0.5) + 0.004 * np.sin(3 * x)
    fits, left_out = fit_forms(FORMS, x, y, (0.0, 1.0))
    assert (
        "sigmoid" not in [fit.form for fit in fits] and "limit of the form" in left_out["sigmoid"]
    )
    alone, _ = fit_forms(("sigmoid",), x, y, (0.0, 1.0))
    assert alone[0].r2 > 0.99 and np.isfinite(alone[0].standard_error(x)).all()


def test_the_papers_protocol_says_what_few_or_constant_points_leave_out():
    x, y = [1, 0.9, 0.8, 0.75, 0.7], [0.1, 0.2, 0.3, 0.32, 0.4]
    found = cross_validate(x, y, protocol="paper", folds=2)
    assert np.isfinite(found.test_mae) and "quadratic and exponential left out" in found.notes[0]
    flat = cross_validate(np.linspace(2, 1, 15), [0.0] * 14 + [10.0], protocol="paper")
    assert flat.train_r2 == flat.train_r2 and "y is constant in the training part" in flat.notes[0]
    assert flat.forms.count("mean") == 1
    still = cross_validate([1.0] * 14 + [2.0], np.arange(15.0), protocol="paper")
    assert any("x is constant in the training part" in note for note in still.notes)
    assert np.isfinite([still.train_r2, still.test_mae]).all()


def test_the_ladder_benchmark_goes_on_where_a_task_fails(tmp_path, monkeypatch):
    folder = Path(__file__).parent / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    spec = importlib.util.spec_from_file_location("olmo_ladder", folder / "olmo_ladder.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    sizes, multiples = ("190M", "370M", "760M", "1B", "3B"), ("1", "2", "5", "10")
    small = [(f"{s}-{m}xC", 20 * float(m) * benchmark.size_of(s)) for s in sizes for m in multiples]
    x, y = LADDERS["piqa"]

    def runs(accuracy):
        rows = {
            run: np.array([[tokens, bits, own]])
            for (run, tokens), bits, own in zip(small, x, accuracy, strict=True)
        }
        return rows | {target: np.array([[4e12, 0.8, 0.82]]) for target in benchmark.TARGETS}

    steps, _, targets = benchmark.ladder({"flat": runs(np.full(20, 0.5)), "piqa": runs(y)})
    failed, whole = steps["rows"]
    assert failed["task"] == "flat" and "it is constant" in failed["failed"]
    assert whole["task"] == "piqa" and whole["R2"] > 0.9
    assert {row["task, target"] for row in targets["rows"]} == {"piqa, 7B", "piqa, 13B"}
