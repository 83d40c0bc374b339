"""Two models on the same traces: the paired difference, its interval, its p value."""

from dataclasses import dataclass

import numpy as np

from hf_proxy.intervals import LEAST_FOR_INTERVAL, bootstrap_interval, sign_flip_p
from hf_proxy.records.errors import InputError
from hf_proxy.records.scores import ProxyScore


@dataclass(frozen=True)
class Comparison:
    """Two models on the same traces.

    Attributes:
        metric: what was compared.
        difference: a minus b, in the metric's unit; negative where a is better.
        low, high: 90 % interval, percentile bootstrap over traces.
        p_value: two-sided, sign-flip permutation over traces.
        num_traces: traces compared.
        note: what to keep in mind, or an empty text.
    """

    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    num_traces: int
    note: str


def compare(score_a: ProxyScore, score_b: ProxyScore, *, metric: str = "value") -> Comparison:
    """Paired difference of two scores of the same setting, trace by trace.

    `"bits_per_byte"` asks only that traces and context be equal, so it compares across tokenizers;
    its difference is of the pooled numbers, resampled by trace.

    Raises:
        ValueError: the settings differ (the parts are named), or there are fewer than three traces.
    """
    delta, weight, note = paired_terms(score_a, score_b, metric)
    low, high = bootstrap_interval(delta, weight)
    assert low is not None and high is not None
    return Comparison(
        metric=metric,
        difference=float(delta.sum() / weight.sum()),
        low=low,
        high=high,
        p_value=sign_flip_p(delta),
        num_traces=len(delta),
        note=note,
    )


def paired_terms(
    score_a: ProxyScore, score_b: ProxyScore, metric: str
) -> tuple[np.ndarray, np.ndarray, str]:
    """What `compare` resamples: the difference is the sum of one array over that of the other.

    Returns:
        difference of the numerators and weight of each trace, float64, and `Comparison.note`.

    Raises:
        ValueError: as in `compare`.
    """
    differing, note = score_a.setting.incomparable(score_b.setting, metric)
    if differing:
        raise InputError(
            f"these scores cannot be compared, their settings differ in {'; '.join(differing)}"
            + (
                ""
                if metric == "bits_per_byte"
                else "; across tokenizers use metric='bits_per_byte'"
            )
        )
    num_traces = min(score_a.num_traces, len(score_a.rows), len(score_b.rows))
    if num_traces < LEAST_FOR_INTERVAL:
        raise InputError(f"a comparison needs at least three traces, these have {num_traces}")
    numerator_a, weight = score_terms(score_a, metric)
    return numerator_a - score_terms(score_b, metric)[0], weight, note


def score_terms(score: ProxyScore, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and weight of each trace; the metric is the sum of one over that of the other.

    Args:
        score: its rows come sorted by `example_id`.
        metric: `"value"`, `"trace_nll"` or `"bits_per_byte"`.

    Returns:
        two float64 arrays, [number of traces].
    """
    rows = {name: np.array(column) for name, column in score.rows.to_dict().items()}
    if metric == "bits_per_byte":
        return rows["nll_sum"], rows["num_bytes"] * np.log(2)
    one = np.ones(score.num_traces)
    if metric == "trace_nll":
        return rows["nll_sum"] / rows["num_labels"], one
    name = {"tokens": "num_labels", "weights": "weight_sum"}[score.setting.parts["divisor"]]
    return rows["weighted_nll_sum"] / rows[name], one
