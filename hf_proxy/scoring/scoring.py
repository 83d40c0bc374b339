"""A model's score on a trace set, and the log-probabilities behind it: one forward pass for either.

Source: arXiv 2509.21013, equation 1. Where the paper is silent the choice is named in the
docstrings.
"""

import numpy as np
from datasets import Dataset
from torch import nn

from hf_proxy.models.access import num_parameters, unwrapped
from hf_proxy.models.parallel import Processes, stop_together
from hf_proxy.records.defaults import LAST_TOKENS, TOKENS_PER_BATCH
from hf_proxy.records.rows import LABEL_SCALAR_FEATURES
from hf_proxy.records.scores import ProxyScore, Setting
from hf_proxy.scoring.forwards import read_labels, read_rows
from hf_proxy.scoring.statistics import LABEL_COLUMNS, statistics_of, statistics_parts
from hf_proxy.scoring.summary import (
    DIVISORS,
    TraceSums,
    expected_rank,
    expected_top,
    summarise,
)


def score_traces(
    model: nn.Module,
    aligned: Dataset,
    *,
    accelerator: Processes = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    divisor: str = "tokens",
    padding_free: bool | None = None,
    last_tokens: int | None = LAST_TOKENS,
    step: int | None = None,
    model_id: str | None = None,
) -> ProxyScore:
    """rBridge of `model` on aligned traces: mean over traces of `sum_i(nll_i * w_i) / divisor`.

    Any number of processes, batch size and row order give the same score. The model is left as it
    was: training flags, RNG streams, hooks.

    Args:
        model: a causal LM, bare or wrapped (DDP, FSDP, DeepSpeed, PEFT, compiled), on the device to
            run on; under tensor parallelism the ranks of a group read the same rows.
        aligned: rows of `align_traces`, the same on every rank; a selection of them is a set of its
            own.
        accelerator: shares the traces among its processes; every one of them must call. None: this
            process alone scores all of them.
        tokens_per_batch: tokens, padding included, of one forward pass.
        divisor: `"tokens"` (published: number of labels) or `"weights"` (sum of weights).
        padding_free: all rows of a batch in one line. None: where the model has flash attention
            and rows were seen to stay apart on it, see `why_not_packed`.
        last_tokens: labels of each trace, from its end, that the statistics are of; None: all.
        step, model_id: recorded; `model_id` defaults to the name the model was loaded by.

    Returns:
        `ProxyScore`, the same on every rank.

    Raises:
        InputError: rows of different settings, repeated ids, a row longer than the model's window,
            a token beyond its vocabulary, a label of probability 0 or NaN, ranks that hold
            different rows, a model that looks ahead, `padding_free=True` where packed rows see
            each other, processes that share a row's tokens (context, sequence, pipeline
            parallelism). All ranks raise.
    """
    if divisor not in DIVISORS:
        raise ValueError(f"divisor must be one of {DIVISORS}, not {divisor!r}")
    with stop_together(accelerator):
        parts = statistics_parts(last_tokens)
        rows = read_rows(aligned)
    labels = read_labels(model, aligned, rows, accelerator, tokens_per_batch, padding_free)
    start, _ = rows.blocks()
    traces = TraceSums(
        weighted_nll=np.add.reduceat(-labels.logprob * labels.weight, start),
        nll=np.add.reduceat(-labels.logprob, start),
        weight=np.add.reduceat(labels.weight, start),
        num_labels=rows.num_labels,
        num_bytes=rows.num_bytes,
    )
    # in the mean over ties broken at random
    top1 = np.add.reduceat(expected_top(1, labels.greater, labels.equal), start)
    rank = np.add.reduceat(expected_rank(labels.greater, labels.equal), start)
    tied = np.add.reduceat((labels.equal > 0).astype(np.int64), start)
    statistics = statistics_of(labels, rows.num_labels, last_tokens=last_tokens)
    bare = unwrapped(model)
    return ProxyScore(
        **summarise(rows.example_id, traces, divisor=divisor),
        top1_agreement=float(top1.sum() / rows.num_labels.sum()),
        mean_rank=float(rank.sum() / rows.num_labels.sum()),
        num_traces=len(rows.example_id),
        num_labels=int(rows.num_labels.sum()),
        setting=rows.setting(divisor),
        model_id=model_id or getattr(bare.config, "_name_or_path", None) or None,
        num_parameters=num_parameters(bare),
        step=step,
        rows=Dataset.from_dict(
            {
                "example_id": rows.example_id,
                "weighted_nll_sum": traces.weighted_nll,
                "nll_sum": traces.nll,
                "weight_sum": traces.weight,
                "top1_sum": top1,
                "rank_sum": rank,
                "tied_sum": tied,
                "num_labels": rows.num_labels,
                "num_bytes": rows.num_bytes,
            }
        ),
        tied_share=float(tied.sum() / rows.num_labels.sum()),
        statistics=statistics.macro,
        statistics_pooled=statistics.pooled,
        zero_weight_traces=statistics.zero_weight_traces,
        statistics_parts=parts,
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

    And the numbers that every statistic is made of, so that a new one needs no model:
    `load_metric("trace_statistics")` reads these rows.

    Returns:
        `Dataset` with `LABEL_SCALAR_FEATURES`, in the order of `aligned`, the same on every rank.
        Logprobs are float64, in nats.
    """
    with stop_together(accelerator):
        rows = read_rows(aligned)
    labels = read_labels(model, aligned, rows, accelerator, tokens_per_batch, padding_free)
    columns = {name: getattr(labels, field) for name, field in LABEL_COLUMNS.items()}
    start, end = rows.blocks()
    content: dict[str, list] = {name: [] for name in LABEL_SCALAR_FEATURES}
    for place in np.argsort(rows.number):
        row = aligned[int(rows.number[place])]
        content["example_id"].append(row["example_id"])
        content["label_spans"].append(row["label_spans"])
        content["vocab_size"].append(labels.vocab_size)
        for name, column in columns.items():
            own = column[start[place] : end[place]]
            is_count = name in ("label_ids", "greater", "equal")
            content[name].append(own.astype(np.int32) if is_count else own)
    return Dataset.from_dict(content, features=LABEL_SCALAR_FEATURES)
