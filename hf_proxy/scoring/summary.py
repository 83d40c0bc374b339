"""Sums of every trace into the numbers of a score."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_proxy.intervals import bootstrap_interval
from hf_proxy.records.errors import InputError

DIVISORS = ("tokens", "weights")


def summarise(
    example_ids: Sequence[str],
    weighted_nll_sum: np.ndarray,
    nll_sum: np.ndarray,
    weight_sum: np.ndarray,
    num_labels: np.ndarray,
    num_bytes: np.ndarray,
    *,
    divisor: str,
) -> dict[str, Any]:
    """Sums per trace, sorted by `example_id`, into the numbers of a score; divides once.

    Returns:
        `value, low, high, pooled, trace_nll, bits_per_byte`, as `ProxyScore` has them.
    """
    if divisor == "weights" and not weight_sum.all():
        raise InputError.at(
            "its weights sum to 0, so they cannot be the divisor",
            remedy="score with divisor='tokens', or drop the trace",
            row=example_ids[int(np.argmin(weight_sum))],
        )
    denominator = weight_sum if divisor == "weights" else num_labels
    per_trace = weighted_nll_sum / denominator
    low, high = bootstrap_interval(per_trace)
    return {
        "value": float(per_trace.mean()),
        "low": low,
        "high": high,
        "pooled": float(weighted_nll_sum.sum() / denominator.sum()),
        "trace_nll": float((nll_sum / num_labels).mean()),
        "bits_per_byte": float(nll_sum.sum() / (num_bytes.sum() * np.log(2))),
    }
