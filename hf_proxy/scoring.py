"""One model on one trace set: rBridge and its companions, from one forward pass over every trace.

Source: arXiv 2509.21013, equation 1. Where the paper is silent the choice is named in the
docstrings.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from hf_proxy import logprobs
from hf_proxy.alignment import align_traces
from hf_proxy.batching import group_by_tokens, token_batch
from hf_proxy.comparison import bootstrap_interval
from hf_proxy.parallel import (
    Processes,
    balanced_shards,
    is_main,
    num_processes,
    require_equal,
    stop_together,
    sum_over_ranks,
)
from hf_proxy.schemas import (
    LABEL_LOGPROB_FEATURES,
    TRACE_FEATURES,
    ZERO_PROBABILITY_LOGPROB,
    InputError,
    ProxyScore,
    Setting,
    fingerprint,
)
from hf_proxy.traces import check_unique_ids

logger = logging.getLogger(__name__)

TOKENS_PER_BATCH = 4096  # chosen here, not tuned
DIVISORS = ("tokens", "weights")


class _Rows(NamedTuple):
    """What every rank knows of all rows before the first forward, sorted by `example_id`."""

    example_id: list[str]
    number: np.ndarray  # row of the aligned dataset
    length: np.ndarray  # tokens
    num_labels: np.ndarray
    num_bytes: np.ndarray
    parts: dict[str, Any]


class _Scored(NamedTuple):
    """One row after its forward pass."""

    place: int  # in `_Rows`
    weight_N: np.ndarray
    logprob_N: np.ndarray
    rank_N: np.ndarray


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
        padding_free: all rows of a batch in one line. None: where the model has flash attention.
        step, model_id: recorded; `model_id` defaults to the name the model was loaded by.

    Returns:
        `ProxyScore`, the same on every rank.

    Raises:
        InputError: rows of different settings, repeated ids, a row longer than the model's window,
        a
            token beyond its vocabulary, a label of probability 0 or NaN, ranks that hold different
            rows. All ranks raise.
    """
    if divisor not in DIVISORS:
        raise ValueError(f"divisor must be one of {DIVISORS}, not {divisor!r}")
    with stop_together(accelerator):
        rows = _read_rows(aligned)
    num_rows = len(rows.example_id)
    sums = np.zeros((num_rows, 5))
    with stop_together(accelerator):
        for place, weight_N, logprob_N, rank_N in _forwards(
            model, aligned, rows, accelerator, tokens_per_batch, padding_free
        ):
            sums[place] = (
                (-logprob_N * weight_N).sum(),
                -logprob_N.sum(),
                weight_N.sum(),
                (rank_N == 1).sum(),
                rank_N.sum(),
            )
    sums = sum_over_ranks(sums, accelerator)
    weighted_nll_sum, nll_sum, weight_sum, top1_sum, rank_sum = sums.T
    bare = logprobs.unwrapped(model)
    return ProxyScore(
        **summarise(
            rows.example_id,
            weighted_nll_sum,
            nll_sum,
            weight_sum,
            rows.num_labels,
            rows.num_bytes,
            divisor=divisor,
        ),
        top1_agreement=float(top1_sum.sum() / rows.num_labels.sum()),
        mean_rank=float(rank_sum.sum() / rows.num_labels.sum()),
        num_traces=num_rows,
        num_labels=int(rows.num_labels.sum()),
        setting=Setting(rows.parts | {"divisor": divisor}),
        model_id=model_id or getattr(bare.config, "_name_or_path", None) or None,
        num_parameters=sum(getattr(p, "ds_numel", p.numel()) for p in bare.parameters()),
        step=step,
        rows=Dataset.from_dict(
            {
                "example_id": rows.example_id,
                "weighted_nll_sum": weighted_nll_sum,
                "nll_sum": nll_sum,
                "weight_sum": weight_sum,
                "top1_sum": top1_sum.astype(np.int64),
                "rank_sum": rank_sum.astype(np.int64),
                "num_labels": rows.num_labels,
                "num_bytes": rows.num_bytes,
            }
        ),
    )


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


def setting_of(aligned: Dataset, *, divisor: str = "tokens") -> Setting:
    """The setting that `score_traces` would give these rows."""
    return Setting(_read_rows(aligned).parts | {"divisor": divisor})


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
        rows = _read_rows(aligned)
    end = np.cumsum(rows.num_labels)
    start = end - rows.num_labels
    flat = np.zeros(end[-1])
    with stop_together(accelerator):
        for place, _, logprob_N, _ in _forwards(
            model, aligned, rows, accelerator, tokens_per_batch, padding_free
        ):
            flat[start[place] : end[place]] = logprob_N
    flat = sum_over_ranks(flat, accelerator)

    content: dict[str, list] = {"example_id": [], "label_logprobs": [], "label_spans": []}
    for place in np.argsort(rows.number):
        row = aligned[int(rows.number[place])]
        content["example_id"].append(row["example_id"])
        content["label_logprobs"].append(flat[start[place] : end[place]])
        content["label_spans"].append(row["label_spans"])
    return Dataset.from_dict(content, features=LABEL_LOGPROB_FEATURES)


def annotate_traces(
    traces: Dataset,
    frontier: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    *,
    accelerator: Processes = None,
    context: Any = "{prompt}\n",
    context_name: str | None = None,
    max_length: int | None = None,
    too_long: str = "error",
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> Dataset:
    """Give existing text a frontier's confidence: one teacher-forced pass of a local model.

    Unlike a trace that the frontier wrote itself, such text holds tokens that it would not have
    chosen.

    Args:
        traces: `Trace` rows of weighting `"none"`; other weightings are replaced.
        frontier, tokenizer: the model whose probabilities are taken, and its tokenizer.
        context, context_name, max_length, too_long: as in `align_traces`, for the frontier.

    Returns:
        `Dataset` of `Trace` rows of weighting `"logprob"`, spans being the frontier's tokens.
    """
    blank = traces.map(
        lambda row: {"weighting": "none", "frontier_spans": [], "frontier_logprobs": []},
        features=TRACE_FEATURES,
        load_from_cache_file=False,
        desc="Reading traces",
    )
    aligned = align_traces(
        blank,
        tokenizer,
        context=context,
        context_name=context_name,
        max_length=max_length,
        too_long=too_long,
    )
    tokens = token_logprobs(
        frontier, aligned, accelerator=accelerator, tokens_per_batch=tokens_per_batch
    )
    text_of = {row["example_id"]: row for row in blank}
    annotated: dict[str, list] = {name: [] for name in TRACE_FEATURES}
    for token_row in tokens:
        row = text_of[token_row["example_id"]]
        spans = np.asarray(token_row["label_spans"])
        covering = spans[:, 1] > spans[:, 0]  # a dummy leading space spells nothing
        logprob = np.maximum(token_row["label_logprobs"], ZERO_PROBABILITY_LOGPROB)
        annotated["frontier_spans"].append(spans[covering])
        annotated["frontier_logprobs"].append(logprob[covering])
        annotated["weighting"].append("logprob")
        for name in ("example_id", "prompt", "trace"):
            annotated[name].append(row[name])
    return Dataset.from_dict(annotated, features=TRACE_FEATURES)


def _read_rows(aligned: Dataset) -> _Rows:
    """Sizes of all rows, without reading their ids into Python."""
    if not len(aligned):
        raise InputError.at("there are no aligned traces", remedy="score at least one")
    example_ids: list[str] = []
    settings: set[str] = set()
    lengths, starts, num_bytes = [], [], []
    columns = ["example_id", "input_ids", "label_start", "num_bytes", "setting_parts"]
    for table in aligned.select_columns(columns).with_format("arrow").iter(batch_size=1000):
        example_ids += table["example_id"].to_pylist()
        settings |= set(table["setting_parts"].to_pylist())
        lengths.append(pc.list_value_length(table["input_ids"]).to_numpy())
        starts.append(table["label_start"].to_numpy())
        num_bytes.append(table["num_bytes"].to_numpy())
    check_unique_ids(example_ids)
    if len(settings) > 1:
        first, second = sorted(settings)[:2]
        differing = Setting(json.loads(first)).differing(Setting(json.loads(second)))
        raise InputError.at(
            f"rows of different settings stand together: {'; '.join(differing)}",
            remedy="align all of them in one call",
            field="setting_parts",
        )
    (setting,) = settings
    parts = json.loads(setting)
    if parts["num_traces"] != len(example_ids):
        # a selection is a trace set of its own, named by what it was selected from
        parts["traces"] = fingerprint([parts["traces"], sorted(example_ids)])
        parts["num_traces"] = len(example_ids)
    order = np.array(sorted(range(len(example_ids)), key=example_ids.__getitem__))
    length = np.concatenate(lengths)[order].astype(np.int64)
    return _Rows(
        example_id=[example_ids[i] for i in order],
        number=order,
        length=length,
        num_labels=length - np.concatenate(starts)[order],
        num_bytes=np.concatenate(num_bytes)[order].astype(np.int64),
        parts=parts,
    )


def _forwards(
    model: nn.Module,
    aligned: Dataset,
    rows: _Rows,
    accelerator: Processes,
    tokens_per_batch: int,
    padding_free: bool | None,
) -> Iterator[_Scored]:
    """This rank's share of the rows, scored.

    Every rank runs the same number of forwards, because under FSDP2 and ZeRO-3 each is a
    collective; who has fewer batches repeats the shortest row.
    """
    require_equal(
        fingerprint([rows.example_id, rows.length.tolist(), rows.parts]),
        accelerator,
        what="the aligned traces",
        remedy="give every rank the same file and settings",
    )
    lengths = rows.length.tolist()
    with logprobs.scoring_mode(model) as bare:
        if padding_free is None:
            padding_free = logprobs.prefers_padding_free(bare)
        elif padding_free and not logprobs.supports_padding_free(bare):
            raise ValueError(
                f"{type(bare).__name__} with attention "
                f"{getattr(bare.config, '_attn_implementation', None)!r} cannot tell packed rows "
                "apart; score it with padding_free=False"
            )
        _check_window(bare, rows)
        shards = [
            [[shard[i] for i in group] for group in groups]
            for shard in balanced_shards(lengths, num_processes(accelerator))
            for groups in [
                group_by_tokens(
                    [lengths[i] for i in shard], tokens_per_batch, padding_free=padding_free
                )
            ]
        ]
        num_forwards = max(map(len, shards))
        shard = shards[0 if accelerator is None else accelerator.process_index]
        device = bare.device if accelerator is None else accelerator.device
        transform = logprobs.measure_logit_transform(bare, device=device)
        progress = tqdm(
            total=sum(lengths[i] for group in shard for i in group),
            desc="Scoring",
            unit=" tokens",
            unit_scale=True,
            leave=False,
            disable=None if is_main(accelerator) else True,
        )
        # Arrow, because the numpy format of datasets rounds float64 weights to float32
        tables = aligned.with_format("arrow")
        with progress:
            for number in range(num_forwards):
                idle = number >= len(shard)
                group = [int(np.argmin(rows.length))] if idle else shard[number]
                content = [_arrays(tables[int(rows.number[place])]) for place in group]
                batch = token_batch(
                    group,
                    [input_ids for input_ids, _ in content],
                    [int(rows.length[place] - rows.num_labels[place]) for place in group],
                    padding_free=padding_free,
                )
                _check_vocabulary(bare, batch, rows)
                logprob_N, rank_N = logprobs.label_logprobs(bare, batch, transform, device=device)
                if idle:
                    continue
                logprobs_of = logprob_N.split(batch.num_labels)
                ranks_of = rank_N.split(batch.num_labels)
                for i, place in enumerate(group):
                    _check_finite(logprobs_of[i], rows.example_id[place])
                    weight_N = content[i][1][-batch.num_labels[i] :]
                    yield _Scored(place, weight_N, logprobs_of[i].numpy(), ranks_of[i].numpy())
                progress.update(sum(lengths[i] for i in group))


def _arrays(table: pa.Table) -> tuple[np.ndarray, ...]:
    """`input_ids` and `label_weight` of a table of one row."""
    return tuple(table[name][0].values.to_numpy() for name in ("input_ids", "label_weight"))


def _check_window(model: Any, rows: _Rows) -> None:
    config = model.config.get_text_config()
    window = getattr(config, "max_position_embeddings", None)
    longest = int(np.argmax(rows.length))
    # the last token is only ever predicted, so the window holds one token less than the row
    if window is not None and rows.length[longest] - 1 > window:
        raise InputError.at(
            f"context and trace have {rows.length[longest]} tokens, the model's window is {window}",
            remedy=f"align with max_length={window + 1}, too_long='drop'",
            row=rows.example_id[longest],
        )


def _check_vocabulary(model: Any, batch: Any, rows: _Rows) -> None:
    size = model.config.get_text_config().vocab_size
    size = getattr(model.get_input_embeddings(), "num_embeddings", size)
    largest = max(int(batch.input_ids_BT.max()), int(batch.label_N.max()))
    if largest >= size:
        raise InputError.at(
            f"token id {largest} is beyond the model's vocabulary of {size}",
            remedy="align with this model's own tokenizer",
            row=rows.example_id[batch.rows[0]],
            field="input_ids",
        )


def _check_finite(logprob_N: torch.Tensor, example_id: str) -> None:
    if not torch.isfinite(logprob_N).all():
        place = int((~torch.isfinite(logprob_N)).nonzero()[0])
        raise InputError.at(
            f"the model's logprob of label {place} is {logprob_N[place].item()}",
            remedy="its weights or its precision are broken: try float32, or look for NaN in them",
            row=example_id,
        )
