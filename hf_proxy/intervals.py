"""Intervals and tests that scores, answers and predictions share; one level, one seed."""

import numpy as np
from scipy import stats

LEVEL = 0.90
NUM_RESAMPLES = 2000  # bootstrap and permutation; chosen here


def bootstrap_interval(
    numerator: np.ndarray, weight: np.ndarray | None = None
) -> tuple[float | None, float | None]:
    """90 % percentile bootstrap interval of `sum(numerator) / sum(weight)` over traces.

    The seed is fixed, and rows come sorted by `example_id`: equal rows give equal intervals.
    """
    if len(numerator) < 2:
        return None, None
    weight = np.ones(len(numerator)) if weight is None else weight
    result = stats.bootstrap(
        (numerator, weight),
        lambda x, w, axis: x.sum(axis=axis) / w.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=NUM_RESAMPLES,
        batch=resamples_together(len(numerator)),
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def resamples_together(num_traces: int) -> int:
    """Resamples drawn together: about 80 MB, however many traces there are."""
    return max(1, 10_000_000 // num_traces)


def wilson_interval(num_correct: int, num_problems: int) -> tuple[float, float]:
    """Accuracy's 90 % interval (Wilson)."""
    found = stats.binomtest(num_correct, num_problems).proportion_ci(0.90, method="wilson")
    return float(found.low), float(found.high)
