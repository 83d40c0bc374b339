"""Frontier confidence onto the tokens of another tokenizer: one weight per label.

Everything here depends on traces and tokenizer only, never on a model: align once, score many
checkpoints. Source: arXiv 2509.21013, equation 1 and algorithm 1.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from jaxtyping import Float64, Int64
from transformers import PreTrainedTokenizerBase

from hf_proxy.records.errors import InputError, check_unique_ids
from hf_proxy.records.rows import ALIGNED_FEATURES
from hf_proxy.records.storage import cached_dataset, fingerprint
from hf_proxy.tokens.prompts import read_context
from hf_proxy.tokens.tokenizers import (
    encode_contexts,
    encode_traces,
    tokenizer_fingerprint,
    tokenizer_of,
)
from hf_proxy.traces.checks import check_trace, traces_fingerprint
from hf_proxy.traces.settings import TRACE_CONTEXT, AlignmentSettings

logger = logging.getLogger(__name__)
_ENCODED_FEATURES = Features(
    {
        "input_ids": List(Value("int32")),  # [T], context then trace
        "label_start": Value("int32"),
        "label_end": List(Value("int32")),  # [n], bytes of the trace; each begins where one ended
    }
)
_CHUNK = 1000  # rows tokenized together
_ROUNDING = 1e-12  # weights no further apart than this are one weight, summed in different orders


def align_traces(
    traces: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    context: str | Callable[[Mapping], str] = TRACE_CONTEXT,
    context_name: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    unit: str = AlignmentSettings.unit,
    minmax_over: str | None = AlignmentSettings.minmax_over,
    max_length: int | None = None,
    too_long: str = AlignmentSettings.too_long,
) -> Dataset:
    """Tokenize context and trace and give each trace token (label) its weight.

    Per label i with letters l: `w_i = sum share(l) p(l) / sum share(l)`, p(letter) the mean of its
    bytes' frontier probabilities, share the part of the letter that the token covers; then
    `(w_i - min) / (max - min)`, or 1 where max = min.

    Args:
        traces: `Trace` rows.
        tokenizer: the proxy's, or a processor that holds it.
        context: text in which `{prompt}` is replaced; or `"chat"`, the tokenizer's chat template
            with the prompt as user turn and the generation prompt; or a function of the row.
            Context and trace are tokenized apart, special tokens on the context only.
        context_name: required with a function: what the setting calls it.
        chat_template_kwargs: with `"chat"`: what its template reads beside the turns, as
            `{"enable_thinking": False}`. The setting holds what was rendered.
        unit: `"letter"` (published), or `"byte"`: every byte counts alike.
        minmax_over: `"trace"` (published), `"dataset"` (over all labels of all rows), or None.
        max_length: most tokens of context and trace together. None: no limit here; scoring
            refuses what is beyond the model's window.
        too_long: what to do with longer rows: `"error"`, or `"drop"` with a logged count.

    Returns:
        `Dataset` with `ALIGNED_FEATURES`, in the order of `traces`, cached on disk by content.

    Raises:
        InputError: a row whose trace the tokens do not spell, and every row `check_trace` refuses.
    """
    settings = AlignmentSettings(
        context=context,
        context_name=context_name,
        chat_template_kwargs=chat_template_kwargs,
        unit=unit,
        minmax_over=minmax_over,
        max_length=max_length,
        too_long=too_long,
    )
    return align_rows(traces, tokenizer_of(tokenizer), settings)


def align_rows(
    traces: Dataset, tokenizer: PreTrainedTokenizerBase, settings: AlignmentSettings
) -> Dataset:
    """`align_traces` under settings that are there already.

    Each text is tokenized once, into a cached set of its own; rows are then dropped and weighed
    from there, also under other settings of the same context.
    """
    traces = traces.with_format(None)
    check_unique_ids(traces["example_id"])
    context = read_context(
        settings.context,
        tokenizer,
        name=settings.context_name,
        chat_template_kwargs=settings.chat_template_kwargs,
    )
    contexts = []
    for index, row in enumerate(traces):
        check_trace(row, index=index)
        contexts.append(context.render(row))

    encoded = None
    if settings.max_length is not None:
        encoded = _encoded(traces, contexts, tokenizer, chat=context.is_chat)
        fits = _fitting(encoded, traces, settings.max_length, settings.too_long)
        traces, encoded = traces.select(fits), encoded.select(fits)
        contexts = [contexts[index] for index in fits]

    parts = {
        "traces": traces_fingerprint(traces),
        "num_traces": len(traces),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "context": context.setting_of(traces, contexts),
        "unit": settings.unit,
        "minmax_over": settings.minmax_over,
        "max_length": settings.max_length,
    }
    setting_parts = json.dumps(parts, sort_keys=True)

    def aligned() -> Iterator[dict[str, Any]]:
        own = encoded
        if own is None:
            own = _encoded(traces, contexts, tokenizer, chat=context.is_chat)
        for trace, (input_ids, start, spans), weights in _weighted(traces, own, settings):
            yield {
                "example_id": trace["example_id"],
                "input_ids": input_ids,
                "label_start": start,
                "label_weight": np.concatenate([np.zeros(start), weights]),
                "label_spans": spans.tolist(),
                "num_bytes": len(trace["trace"].encode()),
                "setting_parts": setting_parts,
            }

    # rows and rendered contexts in their order: a function may render another text under one name
    # and a pad token, which the setting leaves out, may stand in a text
    added = tokenizer.get_added_vocab()
    key = fingerprint([setting_parts, list(traces["example_id"]), contexts, added])
    return cached_dataset(f"aligned-{key}", ALIGNED_FEATURES, aligned)


def min_max(
    weights: Float64[np.ndarray, " N"], low: float, high: float
) -> Float64[np.ndarray, " N"]:
    """`(weights - low) / (high - low)`; all 1 where high = low (paper silent, chosen here)."""
    if high - low <= _ROUNDING:
        return np.ones_like(weights)
    return (weights - low) / (high - low)


def token_weights(
    row: Mapping, spans: Int64[np.ndarray, "N 2"], *, unit: str
) -> Float64[np.ndarray, " N"]:
    """Weight of each label before min-max, in [0, 1].

    Args:
        row: a `Trace`.
        spans: bytes of the trace that each label covers, tiling it in order. A label
            that covers no byte takes the weight of the byte that follows it (of the last byte at
            the end): a dummy space stands for no letter of its own, a piece of a letter that a
            normaliser made several, inside it, for that one.
    """
    trace = row["trace"]
    frontier = np.asarray(row.get("frontier_spans") or [], dtype=np.int64).reshape(-1, 2)
    if row["weighting"] == "none" or (row["weighting"] == "mask" and not len(frontier)):
        return np.ones(len(spans))
    if row["weighting"] == "mask":
        # a label is touched when some masked span starts before its end and ends after its start;
        # one without a byte only inside a letter, of which it is a piece
        data = np.frombuffer(trace.encode() + b"\0", dtype=np.uint8)
        is_piece = (spans[:, 1] > spans[:, 0]) | (data[spans[:, 0]] & 0xC0 == 0x80)
        before = np.searchsorted(frontier[:, 0], spans[:, 1], side="left")
        ended = np.searchsorted(frontier[:, 1], spans[:, 0], side="right")
        return ((before > ended) & is_piece).astype(np.float64)
    probability = np.exp(np.asarray(row["frontier_logprobs"], dtype=np.float64))
    byte_probability = np.repeat(probability, frontier[:, 1] - frontier[:, 0])
    share = np.ones(len(byte_probability))
    if unit == "letter" and not trace.isascii():
        size = np.array([len(letter.encode()) for letter in trace])
        start = np.cumsum(size) - size
        letter_probability = np.add.reduceat(byte_probability, start) / size
        byte_probability = np.repeat(letter_probability, size)
        share = np.repeat(1.0 / size, size)
    # an empty span gives the one byte at its start, see above
    first = np.minimum(spans[:, 0], len(share) - 1)
    weights = np.empty(len(spans))
    covering = spans[:, 1] > spans[:, 0]
    weights[~covering] = byte_probability[first[~covering]]
    weighted = np.add.reduceat(byte_probability * share, first[covering])
    weights[covering] = weighted / np.add.reduceat(share, first[covering])
    return weights


class _Encoded(NamedTuple):
    """One row's context and trace as ids."""

    input_ids: np.ndarray
    label_start: int
    spans: np.ndarray  # [n, 2], bytes of the trace


def _weighted(
    traces: Dataset, encoded: Dataset, settings: AlignmentSettings
) -> Iterator[tuple[dict[str, Any], _Encoded, np.ndarray]]:
    """Each trace with its ids, and its weights after min-max, row by row."""

    def raw() -> Iterator[tuple[dict[str, Any], _Encoded, np.ndarray]]:
        for trace, own in zip(traces, _read_encoded(encoded), strict=True):
            yield trace, own, token_weights(trace, own.spans, unit=settings.unit)

    low, high = np.inf, -np.inf
    if settings.minmax_over == "dataset":
        for trace, _, weights in raw():
            if trace["weighting"] == "logprob":
                low, high = min(low, weights.min()), max(high, weights.max())
    for trace, own, weights in raw():
        if trace["weighting"] == "logprob" and settings.minmax_over is not None:
            if settings.minmax_over == "trace":
                low, high = weights.min(), weights.max()
            weights = min_max(weights, low, high)
        yield trace, own, weights


def _read_encoded(encoded: Dataset) -> Iterator[_Encoded]:
    """Rows of `_encoded`, as arrays: lists of numbers would take as long as the tokenizer."""
    for table in encoded.with_format("arrow").iter(batch_size=_CHUNK):
        columns = (table[name] for name in ("input_ids", "label_start", "label_end"))
        for input_ids, start, end in zip(*columns, strict=True):
            ends = end.values.to_numpy().astype(np.int64)
            spans = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)
            yield _Encoded(input_ids.values.to_numpy(), start.as_py(), spans)


def _fitting(encoded: Dataset, traces: Dataset, max_length: int, too_long: str) -> list[int]:
    """Rows of at most `max_length` tokens, context and trace together."""
    lengths = pc.list_value_length(encoded.data.column("input_ids")).to_numpy()
    fits = np.flatnonzero(lengths <= max_length).tolist()
    if len(fits) == len(lengths):
        return fits
    if too_long == "error":
        index = int(np.argmax(lengths > max_length))
        raise InputError.at(
            f"context and trace have {lengths[index]} tokens, max_length is {max_length}",
            remedy="raise max_length, or pass too_long='drop'",
            row=f"{index} (example_id {traces[index]['example_id']!r})",
        )
    logger.warning("dropped %d traces longer than %d", len(lengths) - len(fits), max_length)
    if not fits:
        raise InputError.at("every trace is longer than max_length", remedy="raise it")
    return fits


def _encoded(
    traces: Dataset, contexts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, chat: bool
) -> Dataset:
    """Ids of context and trace together, where the trace begins, and where each of its ids ends.

    Cached by everything that decides them, so memory does not grow with the set.
    """
    texts = zip(contexts, traces["trace"], strict=True)
    decided_by = [
        tokenizer_fingerprint(tokenizer),
        tokenizer.get_added_vocab(),
        chat,
        [fingerprint(pair) for pair in texts],
    ]
    return cached_dataset(
        f"encoded-{fingerprint(decided_by)}",
        _ENCODED_FEATURES,
        lambda: _encode(traces, contexts, tokenizer, chat=chat),
    )


def _encode(
    traces: Dataset, contexts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, chat: bool
) -> Iterator[dict[str, Any]]:
    """Rows of `_encoded`, in chunks that are tokenized together."""
    for start in range(0, len(traces), _CHUNK):
        rows = traces[start : start + _CHUNK]
        context_ids = encode_contexts(tokenizer, contexts[start : start + _CHUNK], chat=chat)
        encoded = encode_traces(tokenizer, rows["trace"])
        for place, (ids, trace_tokens) in enumerate(zip(context_ids, encoded, strict=True)):
            row = f"{start + place} (example_id {rows['example_id'][place]!r})"
            if isinstance(trace_tokens, str):
                raise InputError.at(
                    trace_tokens,
                    remedy="drop the row, or use a tokenizer that keeps every byte",
                    row=row,
                    field="trace",
                )
            if not ids:
                raise InputError.at(
                    "the context is empty and the tokenizer puts no token before it, so nothing "
                    "predicts the first label",
                    remedy="use a context with text in it",
                    row=row,
                    field="prompt",
                )
            trace_ids, spans = trace_tokens
            yield {
                "input_ids": np.array(ids + trace_ids, dtype=np.int32),
                "label_start": len(ids),
                "label_end": spans[:, 1],
            }
