"""What so many corpora and seeds can tell: power of `corpora.py`, by simulation.

Corpora have a quality, normally distributed. A seed of the target sees it through noise; a proxy
through an error of its own kind for each corpus, which two predictors of one proxy share in part,
and through the noise of its seeds. Error is set so that the proxy's expected decision accuracy is
the one named: of correlation r it is 1/2 + asin(r) / pi. Judged as `corpora.py` judges: paired
bootstrap over corpora and seeds, 90 % interval of the difference without 0.

    python tests/benchmarks/corpora_power.py --output outputs/benchmarks/corpora_power.json
"""

import argparse
from pathlib import Path

import numpy as np
import results
from corpora_decisions import EDGES, share_drawn
from scipy import optimize

NUM_CORPORA = (13, 18, 22)
DIFFERENCES = (0.0, 0.05, 0.10, 0.15, 0.20, 0.25)
SHARED = (0.0, 0.7)  # of the variance of two predictors' errors
NUM_SEEDS, WORSE = 3, 0.65
FLOOR = 0.85  # one seed of the target against the mean of the others
SEED_SHARE = 0.2  # of the variance of a proxy's error: its seeds


def noise_of_target(floor: float) -> float:
    """Standard deviation of one seed, in that of quality, for this noise floor."""

    def miss(sd: float) -> float:
        r = 1 / np.sqrt((1 + sd**2) * (1 + sd**2 / (NUM_SEEDS - 1)))
        return 0.5 + np.arcsin(r) / np.pi - floor

    return optimize.brentq(miss, 1e-6, 100)


def error_of_proxy(share: float, target_sd: float) -> float:
    """Standard deviation of the proxy's error for this decision accuracy of one attempt."""
    r = np.sin(np.pi * (share - 0.5)) * np.sqrt(1 + target_sd**2 / NUM_SEEDS)
    if r >= 1:
        raise ValueError(f"the target's own noise allows no decision accuracy of {share}")
    return float(np.sqrt(1 / r**2 - 1))


def world(num, share_a, share_b, shared, rng):
    """`[2, C, S]` of two predictors, lower is better, and `[C, S]` of the target."""
    target_sd = noise_of_target(FLOOR)
    quality_C = rng.normal(size=num)
    target_CS = quality_C[:, None] + target_sd * rng.normal(size=(num, NUM_SEEDS))
    common_CS = _errors(num, rng)
    value = []
    for share in (share_a, share_b):
        mixed = np.sqrt(shared) * common_CS + np.sqrt(1 - shared) * _errors(num, rng)
        value.append(-(quality_C[:, None] + error_of_proxy(share, target_sd) * mixed))
    return np.array(value), target_CS


def _errors(num, rng):
    own = np.sqrt(1 - SEED_SHARE) * rng.normal(size=(num, 1))
    return own + np.sqrt(SEED_SHARE) * rng.normal(size=(num, NUM_SEEDS))


def power_rows(num_worlds, num_draws, rng):
    """Of each number of corpora and difference, how often it is told, and how wide the interval."""
    rows = []
    for num in NUM_CORPORA:
        for shared in SHARED:
            told, wide, off = {}, [], []
            for difference in DIFFERENCES:
                found = []
                for _ in range(num_worlds):
                    value, target = world(num, WORSE + difference, WORSE, shared, rng)
                    drawn = share_drawn(value, target, rng, num_draws)
                    low, high = np.quantile(drawn[:, 0] - drawn[:, 1], EDGES)
                    found.append((low > 0, high < 0))
                    wide.append(high - low)
                    off.append(np.ptp(np.quantile(drawn[:, 1], EDGES)) / 2)
                right, wrong = np.mean(found, axis=0)
                told[f"+{difference:.2f} told"] = right + (wrong if difference == 0 else 0)
            line = {"corpora": num, "shared error": shared, **told}
            line |= {"half interval of a difference": float(np.mean(wide)) / 2}
            rows.append(line | {"half interval of one": float(np.mean(off))})
    return rows


def main():
    """One table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_worlds", type=int, default=100)
    parser.add_argument("--num_draws", type=int, default=300, help="of each bootstrap")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmarks/corpora_power.json")
    )
    args = parser.parse_args()
    content = results.begin("corpora_power", args, dtype="float64")
    rows = power_rows(args.num_worlds, args.num_draws, np.random.default_rng(args.seed))
    caption = f"Share of {args.num_worlds} simulated runs in which a difference from "
    caption += f"{WORSE} is told, {NUM_SEEDS} seeds, noise floor {FLOOR}"
    results.add(content, [results.table(caption, rows)], [], args.output)


if __name__ == "__main__":
    main()
