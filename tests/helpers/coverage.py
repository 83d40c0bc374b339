"""How often intervals hold what they say, by simulation."""

from typing import NamedTuple

import numpy as np

from helpers.published import ARC_X, ARC_Y
from hf_proxy.prediction.averaging import fit_forms, predict
from hf_proxy.prediction.forms import fit_form
from hf_proxy.records.defaults import FORMS

LEVEL = 0.90


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


def simulate(form, num_points, rho, draws, *, runs=1, run_sd=0.0, outside=False, seed=11):
    """Each draw: new noise of one point on the form fitted to published points, the form chosen
    anew, and one new observation with noise of its own, inside the points or up to a quarter of
    their range beyond; with several runs, of a new one."""
    truth = fit_form(form, ARC_X, ARC_Y)
    own_x = np.interp(np.linspace(0, 14, num_points), np.arange(15), ARC_X)
    x, groups = np.tile(own_x, runs), np.repeat(np.arange(runs), num_points)
    low_x, high_x = own_x.min(), own_x.max()
    own_seed = [seed, FORMS.index(form), num_points, round(10 * rho), runs]
    rng, found = np.random.default_rng(own_seed), []
    for _ in range(draws):
        runs_noise = [
            autocorrelated(rng, num_points, rho) + run_sd * rng.normal() for _ in range(runs)
        ]
        shift = rng.uniform(0, 0.25) * (high_x - low_x)
        at = rng.choice([low_x - shift, high_x + shift]) if outside else rng.uniform(low_x, high_x)
        at = np.array([at])
        new = truth(at)[0] + rng.normal() + run_sd * rng.normal()
        fits, _ = fit_forms(FORMS, x, truth(x) + np.concatenate(runs_noise), (0.0, 100.0), groups)
        _, (low,), (high,), _ = predict(fits, at, LEVEL)
        missed = max(low - new, new - high, 0.0)
        found.append((missed == 0, high - low, high - low + 2 / (1 - LEVEL) * missed))
    return Coverage(*map(float, np.mean(found, axis=0)))
