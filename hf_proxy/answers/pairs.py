"""What two models' right answers to the same problems tell."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from hf_proxy.intervals import LEAST_FOR_INTERVAL, LEVEL, bootstrap_interval, mcnemar_p

POWER, ALPHA = 0.8, 0.05  # of the detectable difference: the usual ones


@dataclass(frozen=True)
class AccuracyComparison:
    """Two models on the same problems.

    Attributes:
        difference: accuracy of b minus that of a, a fraction.
        low, high: its bootstrap interval over problems (90 % unless told otherwise).
        only_a, only_b: problems that one alone got right.
        p_value: McNemar's exact test, two-sided.
        detectable: the difference that this many problems with this many such pairs would show in
            80 % of comparisons at p < 0.05; None where no possible one would.
        num_problems: of both.
    """

    difference: float
    low: float
    high: float
    only_a: int
    only_b: int
    p_value: float
    detectable: float | None
    num_problems: int


def compare_accuracy(
    correct_a: Sequence[bool], correct_b: Sequence[bool], *, level: float = LEVEL
) -> AccuracyComparison:
    """Paired comparison, problem by problem; `level` is that of the interval.

    Raises:
        ValueError: other lengths, or fewer than three problems.
    """
    a, b = (np.asarray(correct, dtype=bool) for correct in (correct_a, correct_b))
    if len(a) != len(b) or len(a) < LEAST_FOR_INTERVAL:
        raise ValueError(
            f"a paired comparison needs the same three or more problems, not {len(a)} and {len(b)}"
        )
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    delta = b.astype(float) - a
    low, high = bootstrap_interval(delta, level=level)
    assert low is not None and high is not None
    return AccuracyComparison(
        difference=float(delta.mean()),
        low=low,
        high=high,
        only_a=only_a,
        only_b=only_b,
        p_value=mcnemar_p(only_a, only_b),
        detectable=detectable_difference(len(a), (only_a + only_b) / len(a)),
        num_problems=len(a),
    )


def detectable_difference(num_problems: int, differing_share: float) -> float | None:
    """Smallest difference of accuracy that McNemar's test finds with 80 % power at p < 0.05.

    Args:
        num_problems: n.
        differing_share: share of problems that one model alone gets right; the difference cannot be
            more than that.

    Returns:
        a fraction; None where n is too small for any.

    Exact: over the number of differing problems, then over how they fall, with the exact test.
    """
    if differing_share <= 0:
        return None
    number = np.arange(num_problems + 1)
    weight = stats.binom.pmf(number, num_problems, differing_share)
    # the exact test rejects where the smaller count is at most `edge`
    edge = stats.binom.ppf(ALPHA / 2, number, 0.5)
    edge = np.where(stats.binom.cdf(edge, number, 0.5) <= ALPHA / 2, edge, edge - 1)

    def missing(difference: float) -> float:
        share = min((1 + difference / differing_share) / 2, 1.0)  # of the differing ones, b's
        low = stats.binom.cdf(edge, number, share)
        high = stats.binom.sf(number - edge - 1, number, share)
        return POWER - float((weight * (low + high)).sum())

    if missing(differing_share) > 0:
        return None
    return float(optimize.brentq(missing, 0.0, differing_share))
