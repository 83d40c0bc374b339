"""Sums of every trace into the numbers of a score."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hf_proxy.intervals import bootstrap_interval
from hf_proxy.records.errors import InputError

DIVISORS = ("tokens", "weights")


class TraceSums(NamedTuple):
    """What is summed over the labels of each trace, one array [number of traces] each."""

    weighted_nll: np.ndarray  # nats
    nll: np.ndarray  # nats
    weight: np.ndarray
    num_labels: np.ndarray
    num_bytes: np.ndarray


def expected_top(k: int, greater_N: np.ndarray, equal_N: np.ndarray) -> np.ndarray:
    """How likely each label is among the first k when ties are broken at random, float64.

    Low-precision logits tie. Counted as wins they overstate a model, as losses they understate it.

    Args:
        greater_N, equal_N: tokens that outrank each label, and others that tie with it.
    """
    return np.clip((k - greater_N) / (equal_N + 1), 0.0, 1.0)


def expected_rank(greater_N: np.ndarray, equal_N: np.ndarray) -> np.ndarray:
    """The rank of each label, from 1, in the mean over ties broken at random, float64."""
    return 1 + greater_N + equal_N / 2


def summarise(example_ids: Sequence[str], sums: TraceSums, *, divisor: str) -> dict[str, Any]:
    """Sums per trace, sorted by `example_id`, into the numbers of a score; divides once.

    Returns:
        `value, low, high, pooled, trace_nll, bits_per_byte`, as `ProxyScore` has them.
    """
    if divisor == "weights" and not sums.weight.all():
        raise InputError.at(
            "its weights sum to 0, so they cannot be the divisor",
            remedy="score with divisor='tokens', or drop the trace",
            row=example_ids[int(np.argmin(sums.weight))],
        )
    denominator = sums.weight if divisor == "weights" else sums.num_labels
    per_trace = sums.weighted_nll / denominator
    low, high = bootstrap_interval(per_trace)
    return {
        "value": float(per_trace.mean()),
        "low": low,
        "high": high,
        "pooled": float(sums.weighted_nll.sum() / denominator.sum()),
        "trace_nll": float((sums.nll / sums.num_labels).mean()),
        "bits_per_byte": float(sums.nll.sum() / (sums.num_bytes.sum() * np.log(2))),
    }
