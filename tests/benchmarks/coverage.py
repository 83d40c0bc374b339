"""How often the intervals of a curve hold what they should, by simulation.

Truth is each form fitted to the published ARC-C points; every draw makes 15 new accuracies with
noise of one point, chooses the form anew and asks for one new observation: inside the points, up to
a quarter of their range beyond them, and inside under autocorrelated noise.

    python tests/benchmarks/coverage.py --draws 2000
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from published import ARC_X, ARC_Y

from hf_proxy.curves import FORMS, fit_form, fit_forms, predict


def noise(rng, correlation):
    """15 points of standard deviation 1, neighbours correlated, and one on its own."""
    values = rng.normal(size=16)
    for i in range(1, 15):
        values[i] = correlation * values[i - 1] + np.sqrt(1 - correlation**2) * values[i]
    return values


def coverage(form, draws, *, outside=False, correlation=0.0, seed=11):
    truth = fit_form(form, ARC_X, ARC_Y)
    rng = np.random.default_rng(seed)
    span, hits, widths = np.ptp(ARC_X), 0, []
    for _ in range(draws):
        shift = rng.uniform(0, 0.25) * span
        at = np.array([rng.uniform(ARC_X.min(), ARC_X.max())])
        if outside:
            at = np.array([rng.choice([ARC_X.min() - shift, ARC_X.max() + shift])])
        values = noise(rng, correlation)
        fits, _ = fit_forms(FORMS, ARC_X, truth(ARC_X) + values[:15])
        _, low, high, _ = predict(fits, at, 0.90)
        hits += bool(low[0] <= truth(at)[0] + values[15] <= high[0])
        widths.append(high[0] - low[0])
    return hits / draws, float(np.median(widths)) / 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000)
    draws = parser.parse_args().draws
    print(f"nominal 90 %, n = 15, {draws} draws each; coverage (median half-width, points)")
    print(f"{'true form':<14}{'inside':>18}{'beyond the points':>22}{'inside, AR(1) 0.5':>22}")
    for form in FORMS:
        cells = (
            coverage(form, draws),
            coverage(form, draws, outside=True),
            coverage(form, draws, correlation=0.5),
        )
        texts = [f"{100 * share:.1f} % ({width:.2f})" for share, width in cells]
        print(f"{form:<14}{texts[0]:>18}{texts[1]:>22}{texts[2]:>22}", flush=True)


if __name__ == "__main__":
    main()
