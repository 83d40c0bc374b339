"""Intervals and tests that scores, answers and predictions share; one level, one seed."""

import numpy as np
import scipy  # its parts load when they are asked for

LEVEL = 0.90
NUM_RESAMPLES = 2000  # bootstrap and permutation; chosen here
LEAST_FOR_INTERVAL = 3  # two traces have three resamples, so their interval is the two values


def bootstrap_interval(
    numerator: np.ndarray, weight: np.ndarray | None = None, *, level: float = LEVEL
) -> tuple[float | None, float | None]:
    """Percentile bootstrap interval of `sum(numerator) / sum(weight)` over traces.

    The seed is fixed, and rows come sorted by `example_id`: equal rows give equal intervals. Of
    fewer than `LEAST_FOR_INTERVAL` traces there is none.
    """
    if len(numerator) < LEAST_FOR_INTERVAL:
        return None, None
    weight = np.ones(len(numerator)) if weight is None else weight
    result = scipy.stats.bootstrap(
        (numerator, weight),
        lambda x, w, axis: x.sum(axis=axis) / w.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=NUM_RESAMPLES,
        batch=resamples_together(len(numerator)),
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def sign_flip_p(delta: np.ndarray) -> float:
    """Two-sided p of paired differences whose signs could as well have fallen the other way.

    Permutation test over traces, exact where there are few; the seed is fixed.
    """
    result = scipy.stats.permutation_test(
        (delta,),
        lambda x, axis: x.sum(axis=axis),
        permutation_type="samples",
        n_resamples=NUM_RESAMPLES,
        batch=resamples_together(len(delta)),
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def mcnemar_p(only_a: int, only_b: int) -> float:
    """McNemar's exact test, two-sided, of the pairs that one alone got right."""
    differing = only_a + only_b
    return float(scipy.stats.binomtest(only_a, differing).pvalue) if differing else 1.0


def resamples_together(num_traces: int) -> int:
    """Resamples drawn together: about 80 MB, however many traces there are."""
    return max(1, 10_000_000 // num_traces)


def wilson_interval(num_correct: int, num_problems: int) -> tuple[float, float]:
    """Accuracy's interval at `LEVEL` (Wilson)."""
    found = scipy.stats.binomtest(num_correct, num_problems).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def points_interval(low: float, high: float) -> str:
    """The interval of a paired difference of accuracies, fractions, in points.

    Where no answer differs its bootstrap has no width. That is no certainty, and no interval.
    """
    return "-" if low == high else f"{100 * low:+.1f} .. {100 * high:+.1f}"
