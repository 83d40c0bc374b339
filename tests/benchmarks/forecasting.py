"""How often the interval of a forecast holds the end, on real pre-training runs and simulated ones.

Reads the table of `olmo_ladder.py`. Each run is cut at an eighth, a quarter and half, and foretold
at twice and four times what was seen (at the nearest checkpoint), and from a tenth to its end; at
most 20 checkpoints, evenly. `curve`: bits per byte by the law, then a curve fitted to the same
early checkpoints; beside it accuracy alone and compute alone. Runs up to 1B are those on which the
share of early points that is left out was chosen; the larger ones judge it. `from all points` is
the law without that. Simulated: the law with AR(1) noise, without and with a start that falls
faster.

    python tests/benchmarks/forecasting.py --data olmo_ladder.csv
"""

import argparse
import logging
import sys
from collections import defaultdict
from pathlib import Path
from unittest import mock

import numpy as np
from olmo_ladder import read, size_of
from results import add, begin, table  # beside this one

sys.path.insert(0, str(Path(__file__).parent.parent))
from helpers.coverage import autocorrelated

from hf_proxy import fit_curve, forecast
from hf_proxy.intervals import LEVEL
from hf_proxy.prediction import fitting
from hf_proxy.prediction import forecast as module
from hf_proxy.prediction.forecast import LEAST_FORECAST_POINTS

MOST_POINTS = 20
CUTS = ((1 / 8, 2), (1 / 4, 2), (1 / 2, 2), (1 / 8, 4), (1 / 4, 4), (1 / 10, 10))
SMALL = 1e9  # parameters of the largest run on which the rule was chosen
RULES = {"from all points": 0.0, "as it is": module.EARLY}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--draws", type=int, default=300, help="simulated runs of each cell")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmarks/forecasting.json"), help="JSON file"
    )
    args = parser.parse_args()
    content = begin("forecasting", args, dtype="float64")
    tables = real(read(args.data)) + [simulated(args.draws)]
    add(content, tables, [], args.output)


def real(everything):
    """Tables of the small runs and of the large ones."""
    found = {"up to 1B": defaultdict(list), "3B, 7B, 13B": defaultdict(list)}
    for runs in everything.values():
        for name, rows in runs.items():
            part = found["up to 1B" if size_of(name) <= SMALL else "3B, 7B, 13B"]
            for cut, ahead in CUTS:
                num = int((rows[:, 0] <= cut * rows[-1, 0] * 1.0001).sum())
                if num <= LEAST_FORECAST_POINTS:
                    continue
                early = rows[np.unique(np.linspace(0, num - 1, MOST_POINTS).astype(int))]
                at = np.argmin(np.abs(rows[:, 0] - ahead * early[-1, 0]))
                for key, own in foretold(name, early, rows[at]).items():
                    part[f"{ahead} times", *key].append(own)
    tables = []
    for part, own in found.items():
        rows = []
        for (ahead, what), by_rule in grouped(own).items():
            row = {"as far as": ahead, "what": what, "forecasts": len(by_rule["as it is"])}
            rows.append(row | summary(by_rule))
        caption = f"forecasts along runs of the ladder, {part}, three tasks; nominal {LEVEL:.2f}"
        tables.append(table(f"{caption}; bits in bits per byte, the others in points", rows))
    return tables


def foretold(name, early, end):
    """(What, rule) to (error, inside, width, interval score) of one cut run."""
    tokens, bits, accuracy = early.T
    horizon, true_bits, true_accuracy = end
    groups = [name] * len(bits)
    with mock.patch.object(fitting, "cross_validate", lambda *args, **kwargs: None):
        curve = fit_curve(bits, accuracy, metric="bits_per_byte", groups=groups)
    found = {}
    for rule, share in RULES.items():
        with mock.patch.object(module, "EARLY", share):
            own = forecast(tokens, bits, horizon, curve=curve, accuracies=accuracy, run=name)
        ways = {"curve": own.accuracy, **own.controls}
        found["bits", rule] = judged(own.proxy, true_bits, 1)
        found |= {(way, rule): judged(one, true_accuracy, 100) for way, one in ways.items()}
    return found


def judged(found, true, unit):
    missed = max(found.low - true, true - found.high, 0.0)
    width = found.high - found.low
    score = width + 2 / (1 - LEVEL) * missed
    return unit * abs(found.value - true), missed == 0, unit * width, unit * score


def grouped(found):
    """`(..., rule)` to numbers, as `...` to rule to numbers."""
    by_key = defaultdict(dict)
    for (*key, rule), own in found.items():
        by_key[tuple(key)][rule] = own
    return by_key


def summary(by_rule):
    """Means of each rule."""
    names = ("error", "covers", "width", "score")
    means = {rule: np.mean(own, axis=0).tolist() for rule, own in by_rule.items()}
    return {
        f"{name}, {rule}": means[rule][place] for place, name in enumerate(names) for rule in means
    }


def simulated(draws):
    """Means over exponents of 0.3, 0.5 and 1, sixteen points, noise of 1 % of what is gained."""
    t, rows = np.arange(1.0, 17), []
    for start, ahead, rho in (
        (s, a, r) for s in (0.0, 1.0) for a in (2, 4) for r in (0.0, 0.5, 0.8)
    ):
        found = defaultdict(list)
        for draw in range(draws):
            rng = np.random.default_rng([7, draw, ahead, round(10 * rho), round(start)])
            exponent = (0.3, 0.5, 1.0)[draw % 3]
            law = t**-exponent + start * np.exp(-t)
            y = law + 0.01 * autocorrelated(rng, len(t), rho)
            true = (16 * ahead) ** -exponent + 0.01 * rng.normal()
            for rule, share in RULES.items():
                with mock.patch.object(module, "EARLY", share):
                    own = forecast(t, y, 16 * ahead).proxy
                found[rule].append(judged(own, true, 100))
        kind = "the law alone" if start == 0 else "and a start that falls faster"
        row = {"run": kind, "as far as": f"{ahead} times", "AR(1)": rho}
        rows.append(row | summary(found))
    return table(f"forecasts of simulated runs, {draws} each, in hundredths; nominal 0.90", rows)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)  # each curve here is of one run and says so
    main()
