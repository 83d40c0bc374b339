"""Frontier confidence onto the tokens of another tokenizer: one weight per label.

Everything here depends on traces and tokenizer only, never on a model: align once, score many
checkpoints. Source: arXiv 2509.21013, equation 1 and algorithm 1.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_proxy.records.errors import InputError, check_unique_ids
from hf_proxy.records.rows import ALIGNED_FEATURES
from hf_proxy.records.storage import cached_dataset, fingerprint
from hf_proxy.tokens.tokenizers import encode_contexts, encode_traces, tokenizer_fingerprint
from hf_proxy.traces.checks import check_trace, traces_fingerprint

logger = logging.getLogger(__name__)
UNITS = ("letter", "byte")
_CHUNK = 1000  # rows tokenized together
_ROUNDING = 1e-12  # weights no further apart than this are one weight, summed in different orders


def align_traces(
    traces: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    context: str | Callable[[Mapping], str] = "{prompt}\n",
    context_name: str | None = None,
    unit: str = "letter",
    minmax_over: str | None = "trace",
    max_length: int | None = None,
    too_long: str = "error",
) -> Dataset:
    """Tokenize context and trace and give each trace token (label) its weight.

    Per label i with letters l: `w_i = sum share(l) p(l) / sum share(l)`, p(letter) the mean of its
    bytes' frontier probabilities, share the part of the letter that the token covers; then
    `(w_i - min) / (max - min)`, or 1 where max = min.

    Args:
        traces: `Trace` rows.
        tokenizer: the proxy's.
        context: text in which `{prompt}` is replaced; or `"chat"`, the tokenizer's chat template
            with the prompt as user turn and the generation prompt; or a function of the row.
            Context and trace are tokenized apart, special tokens on the context only.
        context_name: required with a function: what the setting calls it.
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
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {UNITS}, not {unit!r}")
    if minmax_over not in ("trace", "dataset", None):
        raise ValueError(f"minmax_over must be 'trace', 'dataset' or None, not {minmax_over!r}")
    if too_long not in ("error", "drop"):
        raise ValueError(f"too_long must be 'error' or 'drop', not {too_long!r}")
    traces = traces.with_format(None)
    check_unique_ids(traces["example_id"])
    for index, row in enumerate(traces):
        check_trace(row, index=index)
    context_part, context_of = _context(context, context_name, tokenizer)

    chat = context == "chat"
    kept = traces
    contexts = [context_of(row) for row in traces]
    if max_length is not None:
        fits = []
        for index, encoded in enumerate(_encoded(traces, contexts, tokenizer, chat=chat)):
            num_tokens = len(encoded[0]) + len(encoded[1])
            if num_tokens <= max_length:
                fits.append(index)
            elif too_long == "error":
                raise InputError.at(
                    f"context and trace have {num_tokens} tokens, max_length is {max_length}",
                    remedy="raise max_length, or pass too_long='drop'",
                    row=f"{index} (example_id {traces[index]['example_id']!r})",
                )
        if len(fits) < len(traces):
            logger.warning("dropped %d traces longer than %d", len(traces) - len(fits), max_length)
        if not fits:
            raise InputError.at("every trace is longer than max_length", remedy="raise it")
        kept = traces.select(fits)
        contexts = [contexts[index] for index in fits]

    parts = {
        "traces": traces_fingerprint(kept),
        "num_traces": len(kept),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "context": context_part,
        "unit": unit,
        "minmax_over": minmax_over,
        "max_length": max_length,
    }
    setting_parts = json.dumps(parts, sort_keys=True)

    def weighted() -> Iterator[tuple[Mapping, list[int], list[int], np.ndarray, np.ndarray]]:
        for row, encoded in zip(kept, _encoded(kept, contexts, tokenizer, chat=chat), strict=True):
            context_ids, ids, spans = encoded
            yield row, context_ids, ids, spans, token_weights(row, spans, unit=unit)

    def aligned() -> Iterator[dict[str, Any]]:
        low, high = np.inf, -np.inf
        if minmax_over == "dataset":
            for row, _, _, _, weights in weighted():
                if row["weighting"] == "logprob":
                    low, high = min(low, weights.min()), max(high, weights.max())
        for row, context_ids, ids, spans, weights in weighted():
            if row["weighting"] == "logprob" and minmax_over == "trace":
                weights = min_max(weights, weights.min(), weights.max())
            elif row["weighting"] == "logprob" and minmax_over == "dataset":
                weights = min_max(weights, low, high)
            yield {
                "example_id": row["example_id"],
                "input_ids": context_ids + ids,
                "label_start": len(context_ids),
                "label_weight": [0.0] * len(context_ids) + weights.tolist(),
                "label_spans": spans.tolist(),
                "num_bytes": len(row["trace"].encode()),
                "setting_parts": setting_parts,
            }

    # rows and rendered contexts in their order: a chat template may print today's date
    # and a pad token, which the setting leaves out, may stand in a text
    added = tokenizer.get_added_vocab()
    key = fingerprint([setting_parts, list(kept["example_id"]), contexts, added])
    return cached_dataset(f"aligned-{key}", ALIGNED_FEATURES, aligned)


def min_max(weights: np.ndarray, low: float, high: float) -> np.ndarray:
    """`(weights - low) / (high - low)`; all 1 where high = low (paper silent, chosen here)."""
    if high - low <= _ROUNDING:
        return np.ones_like(weights)
    return (weights - low) / (high - low)


def token_weights(row: Mapping, spans: np.ndarray, *, unit: str) -> np.ndarray:
    """Weight of each label before min-max, float64 in [0, 1].

    Args:
        row: a `Trace`.
        spans: int `[n, 2]`, bytes of the trace that each label covers, tiling it in order. A label
            that covers no byte takes the weight of the byte that follows it (of the last byte at
            the end): it stands for no letter of its own.
    """
    trace = row["trace"]
    frontier = np.asarray(row.get("frontier_spans") or [], dtype=np.int64).reshape(-1, 2)
    if row["weighting"] == "none" or (row["weighting"] == "mask" and not len(frontier)):
        return np.ones(len(spans))
    if row["weighting"] == "mask":
        # a label is touched when some masked span starts before its end and ends after its start
        before = np.searchsorted(frontier[:, 0], spans[:, 1], side="left")
        ended = np.searchsorted(frontier[:, 1], spans[:, 0], side="right")
        return ((before > ended) & (spans[:, 1] > spans[:, 0])).astype(np.float64)
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


def _context(
    context: str | Callable[[Mapping], str], name: str | None, tokenizer: PreTrainedTokenizerBase
) -> tuple[str, Callable[[Mapping], str]]:
    """What the setting says of the context, and the function from row to context text."""
    if callable(context):
        if not name:
            raise ValueError("a context function needs context_name=, which the setting records")
        return f"function {name}", context
    if context == "chat":
        if not tokenizer.chat_template:
            raise InputError.at(
                "the tokenizer has no chat template",
                remedy="pass a context in text, as '{prompt}\\n'",
                field="context",
            )
        template = fingerprint(tokenizer.chat_template)

        def chat(row: Mapping) -> str:
            turn = [{"role": "user", "content": row["prompt"]}]
            text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
            return str(text)

        return f"chat {template}", chat
    if "{prompt}" not in context:
        raise ValueError(f"context {context!r} has no {{prompt}}; write it where the prompt goes")
    return f"text {context}", lambda row: context.replace("{prompt}", row["prompt"])


def _encoded(
    traces: Dataset, contexts: list[str], tokenizer: PreTrainedTokenizerBase, *, chat: bool
) -> Iterator[tuple[list[int], list[int], np.ndarray]]:
    """Context ids, trace ids and the trace ids' byte spans, for each row."""
    for start in range(0, len(traces), _CHUNK):
        rows = traces[start : start + _CHUNK]
        texts = contexts[start : start + _CHUNK]
        context_ids = encode_contexts(tokenizer, texts, chat=chat)
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
            yield ids, *trace_tokens
