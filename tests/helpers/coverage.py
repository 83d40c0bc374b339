"""How often intervals hold what they say, by simulation."""

from typing import NamedTuple
from unittest import mock

import numpy as np

from helpers.published import ARC_X, ARC_Y
from hf_proxy.prediction import averaging, correlation
from hf_proxy.prediction.averaging import fit_forms, predict
from hf_proxy.prediction.forms import fit_form
from hf_proxy.records.defaults import FORMS

LEVEL = 0.90
WAYS = ("averaged", "told", "beyond")


class Coverage(NamedTuple):
    """Share of new observations inside, mean width and interval score, in points of a percent."""

    share: float
    width: float
    score: float


def autocorrelated(rng, num_points, rho):
    """AR(1) noise of standard deviation 1."""
    noise = rng.normal(size=num_points)
    for i in range(1, num_points):
        noise[i] = rho * noise[i - 1] + np.sqrt(1 - rho**2) * noise[i]
    return noise


def simulate(form, num_points, rho, draws, **changes):
    """`simulate_all` of the fit as it is, inside the points."""
    return simulate_all(form, num_points, rho, draws, ways=("averaged",), **changes)["averaged"]


def simulate_all(form, num_points, rho, draws, *, ways=WAYS, runs=1, run_sd=0.0, seed=11):
    """Each draw: new noise of one point on the form fitted to published points, the form chosen
    anew, and one new observation with noise of its own; with several runs, of a new one.

    Returns:
        `Coverage` of each way: `averaged`, the product inside the points; `told`, the same where it
        is told rho; `beyond`, the product up to a quarter of the points' range beyond them.
    """
    truth = fit_form(form, ARC_X, ARC_Y)
    own_x = np.interp(np.linspace(0, 14, num_points), np.arange(15), ARC_X)
    x, groups = np.tile(own_x, runs), np.repeat(np.arange(runs), num_points)
    low_x, high_x = own_x.min(), own_x.max()
    own_seed = [seed, FORMS.index(form), num_points, round(10 * rho), runs]
    rng, found = np.random.default_rng(own_seed), {way: [] for way in ways}
    for _ in range(draws):
        runs_noise = [
            autocorrelated(rng, num_points, rho) + run_sd * rng.normal() for _ in range(runs)
        ]
        y = truth(x) + np.concatenate(runs_noise)
        inside, shift = rng.uniform(low_x, high_x), rng.uniform(0, 0.25) * (high_x - low_x)
        beyond = rng.choice([low_x - shift, high_x + shift])
        noise = rng.normal() + run_sd * rng.normal()
        # least squares, nearly all of the time, is the same for all ways
        with mock.patch.object(averaging, "fit_form", remembering(fit_form)):
            fits, _ = fit_forms(FORMS, x, y, (0.0, 100.0), groups)
            told = fits
            if "told" in ways:  # nothing is left to average over
                with mock.patch.object(correlation, "CORRELATIONS", np.array([rho])):
                    told, _ = fit_forms(FORMS, x, y, (0.0, 100.0), groups)
        own = {"averaged": (fits, inside), "told": (told, inside), "beyond": (fits, beyond)}
        for way in ways:
            at = np.array([own[way][1]])
            new = truth(at)[0] + noise
            _, (low,), (high,), _ = predict(own[way][0], at, LEVEL)
            missed = max(low - new, new - high, 0.0)
            found[way].append((missed == 0, high - low, high - low + 2 / (1 - LEVEL) * missed))
    return {way: Coverage(*map(float, np.mean(own, axis=0))) for way, own in found.items()}


def remembering(fit):
    """The same function of a form and points, which works once for each form; errors too."""
    known = {}

    def remembered(form, *points):
        if form not in known:
            try:
                known[form] = fit(form, *points)
            except ValueError as error:
                known[form] = error
        if isinstance(known[form], ValueError):
            raise known[form]
        return known[form]

    return remembered
