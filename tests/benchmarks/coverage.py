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
from helpers.published import ARC_X, ARC_Y
from results import add, begin, table  # beside this one

from hf_proxy.prediction.forms import fit_form, fit_forms, predict
from hf_proxy.records.defaults import FORMS


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
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmarks/coverage.json"), help="JSON file"
    )
    args = parser.parse_args()
    content = begin("coverage", args, dtype="float64")
    cases = {
        "inside": {},
        "beyond the points": {"outside": True},
        "inside, AR(1) 0.5": {"correlation": 0.5},
    }
    rows = []
    for form in FORMS:
        row = {"true form": form}
        for name, case in cases.items():
            share, width = coverage(form, args.draws, **case)
            row |= {f"{name}, share": share, f"{name}, half-width in points": width}
        rows.append(row)
        print(f"{form} done", file=sys.stderr)
    caption = f"Nominal 0.90, 15 points, {args.draws} draws each; median half-widths"
    add(content, [table(caption, rows)], [], args.output)


if __name__ == "__main__":
    main()
