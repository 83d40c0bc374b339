"""A model's score on a trace set, and the log-probabilities behind it: one forward pass for either.

Source: arXiv 2509.21013, equation 1. Where the paper is silent the choice is named in the
docstrings.
"""

from typing import NamedTuple

import numpy as np
from datasets import Dataset
from torch import nn

from hf_proxy.models.access import unwrapped
from hf_proxy.models.parallel import Processes, stop_together, sum_over_ranks
from hf_proxy.records.defaults import TOKENS_PER_BATCH
from hf_proxy.records.rows import LABEL_LOGPROB_FEATURES
from hf_proxy.records.scores import ProxyScore, Setting
from hf_proxy.scoring.forwards import forwards, read_rows
from hf_proxy.scoring.summary import (
    DIVISORS,
    TraceSums,
    expected_rank,
    expected_top,
    summarise,
)


class LabelSums(NamedTuple):
    """What one forward pass sums over the labels of each trace, one array [num traces] each."""

    weighted_nll: np.ndarray  # nats
    nll: np.ndarray  # nats
    weight: np.ndarray
    top1: np.ndarray  # labels that come first, in the mean over ties broken at random
    rank: np.ndarray  # the same of their ranks
    tied: np.ndarray  # labels that another token ties with


def score_traces(
    model: nn.Module,
    aligned: Dataset,
    *,
    accelerator: Processes = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    divisor: str = "tokens",
    padding_free: bool | None = None,
    step: int | None = None,
    model_id: str | None = None,
) -> ProxyScore:
    """rBridge of `model` on aligned traces: mean over traces of `sum_i(nll_i * w_i) / divisor`.

    Any number of processes, batch size and row order give the same score. The model is left as it
    was: training flags, RNG streams, hooks.

    Args:
        model: a causal LM, bare or wrapped (DDP, FSDP2, PEFT, compiled), on the device to run on.
        aligned: rows of `align_traces`, the same on every rank; a selection of them is a set of its
            own.
        accelerator: shares the traces among its processes; every one of them must call. None: this
            process alone scores all of them.
        tokens_per_batch: tokens, padding included, of one forward pass.
        divisor: `"tokens"` (published: number of labels) or `"weights"` (sum of weights).
        padding_free: all rows of a batch in one line. None: where the model has flash attention
            and rows were seen to stay apart on it, see `why_not_packed`.
        step, model_id: recorded; `model_id` defaults to the name the model was loaded by.

    Returns:
        `ProxyScore`, the same on every rank.

    Raises:
        InputError: rows of different settings, repeated ids, a row longer than the model's window,
            a token beyond its vocabulary, a label of probability 0 or NaN, ranks that hold
            different rows, a model that looks ahead, `padding_free=True` where packed rows see
            each other. All ranks raise.
    """
    if divisor not in DIVISORS:
        raise ValueError(f"divisor must be one of {DIVISORS}, not {divisor!r}")
    with stop_together(accelerator):
        rows = read_rows(aligned)
    num_rows = len(rows.example_id)
    table = np.zeros((num_rows, len(LabelSums._fields)))
    own = LabelSums(*table.T)  # views
    with stop_together(accelerator):
        for row in forwards(model, aligned, rows, accelerator, tokens_per_batch, padding_free):
            own.weighted_nll[row.place] = (-row.logprob_N * row.weight_N).sum()
            own.nll[row.place] = -row.logprob_N.sum()
            own.weight[row.place] = row.weight_N.sum()
            own.top1[row.place] = expected_top(1, row.greater_N, row.equal_N).sum()
            own.rank[row.place] = expected_rank(row.greater_N, row.equal_N).sum()
            own.tied[row.place] = (row.equal_N > 0).sum()
    sums = LabelSums(*sum_over_ranks(table, accelerator).T)
    traces = TraceSums(
        weighted_nll=sums.weighted_nll,
        nll=sums.nll,
        weight=sums.weight,
        num_labels=rows.num_labels,
        num_bytes=rows.num_bytes,
    )
    bare = unwrapped(model)
    return ProxyScore(
        **summarise(rows.example_id, traces, divisor=divisor),
        top1_agreement=float(sums.top1.sum() / rows.num_labels.sum()),
        mean_rank=float(sums.rank.sum() / rows.num_labels.sum()),
        num_traces=num_rows,
        num_labels=int(rows.num_labels.sum()),
        setting=rows.setting(divisor),
        model_id=model_id or getattr(bare.config, "_name_or_path", None) or None,
        num_parameters=sum(getattr(p, "ds_numel", p.numel()) for p in bare.parameters()),
        step=step,
        rows=Dataset.from_dict(
            {
                "example_id": rows.example_id,
                "weighted_nll_sum": sums.weighted_nll,
                "nll_sum": sums.nll,
                "weight_sum": sums.weight,
                "top1_sum": sums.top1,
                "rank_sum": sums.rank,
                "tied_sum": sums.tied.astype(np.int64),
                "num_labels": rows.num_labels,
                "num_bytes": rows.num_bytes,
            }
        ),
        tied_share=float(sums.tied.sum() / rows.num_labels.sum()),
    )


def setting_of(aligned: Dataset, *, divisor: str = "tokens") -> Setting:
    """The setting that `score_traces` would give these rows."""
    return read_rows(aligned).setting(divisor)


def token_logprobs(
    model: nn.Module,
    aligned: Dataset,
    *,
    accelerator: Processes = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    padding_free: bool | None = None,
) -> Dataset:
    """The log-probability of every label, by the same forward pass as `score_traces`.

    Returns:
        `Dataset` with `LABEL_LOGPROB_FEATURES`, in the order of `aligned`, the same on every rank.
        Logprobs are float64, in nats.
    """
    with stop_together(accelerator):
        rows = read_rows(aligned)
    end = np.cumsum(rows.num_labels)
    start = end - rows.num_labels
    flat = np.zeros(end[-1])
    with stop_together(accelerator):
        for row in forwards(model, aligned, rows, accelerator, tokens_per_batch, padding_free):
            flat[start[row.place] : end[row.place]] = row.logprob_N
    flat = sum_over_ranks(flat, accelerator)

    content: dict[str, list] = {"example_id": [], "label_logprobs": [], "label_spans": []}
    for place in np.argsort(rows.number):
        row = aligned[int(rows.number[place])]
        content["example_id"].append(row["example_id"])
        content["label_logprobs"].append(flat[start[place] : end[place]])
        content["label_spans"].append(row["label_spans"])
    return Dataset.from_dict(content, features=LABEL_LOGPROB_FEATURES)
