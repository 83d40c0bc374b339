"""A frontier's confidence for text that is there already: a local model's, or a served one's."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from hf_proxy.building.served_annotation import annotate_by_server
from hf_proxy.building.servers import Server
from hf_proxy.building.settings import ServerSettings
from hf_proxy.models.parallel import Processes, from_main
from hf_proxy.records.defaults import TOKENS_PER_BATCH
from hf_proxy.records.errors import InputError
from hf_proxy.records.rows import TRACE_FEATURES, ZERO_PROBABILITY_LOGPROB
from hf_proxy.scoring.scoring import token_logprobs
from hf_proxy.traces.alignment import align_traces
from hf_proxy.traces.settings import TRACE_CONTEXT, AlignmentSettings


def annotate_traces(
    traces: Dataset,
    frontier: nn.Module | str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    base_url: str | None = None,
    server: ServerSettings | None = None,
    how: str | None = None,
    echo_shift: int = 0,
    responses_dir: str | Path | None = None,
    accelerator: Processes = None,
    context: str | Callable[[Mapping], str] = TRACE_CONTEXT,
    context_name: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    max_length: int | None = None,
    too_long: str = AlignmentSettings.too_long,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> Dataset:
    """Give existing text a frontier's confidence: one teacher-forced pass, local or on a server.

    Unlike a trace that the frontier wrote itself, such text holds tokens that it would not have
    chosen.

    Args:
        traces: `Trace` rows of weighting `"none"`; other weightings are replaced.
        frontier, tokenizer: the model whose probabilities are taken, and its tokenizer. With
            `base_url` the model's name at the server; its tokenizer then serves `context="chat"`.
        base_url: of a server that gives probabilities of text that it is sent, by vLLM's
            `prompt_logprobs` or by `echo` of the completions API. It is proved first: it writes a
            few tokens, and must say the same of them when it is given them. The main process asks.
        server: how it is asked.
        how: `"prompt_logprobs"` or `"echo"`; None: the first that the server knows.
        echo_shift: places by which the values of its echo are known to stand late.
        responses_dir: where raw replies stay, so that nothing is asked twice; None: nowhere.
        context, context_name, chat_template_kwargs, max_length, too_long: as in `align_traces`, for
            a local frontier; a server cuts texts by itself, and refuses those beyond its window.

    Returns:
        `Dataset` of `Trace` rows of weighting `"logprob"`, spans being the frontier's tokens. Rows
        that a server did not give are dropped, with a warning that counts them by reason.

    Raises:
        InputError: as `align_traces`; a server that scores no text or other text than it writes.
    """
    if base_url is not None:
        return from_main(
            accelerator,
            lambda: _by_server(
                traces, frontier, base_url, server, max_length,
                context=context,
                context_name=context_name,
                chat_template_kwargs=chat_template_kwargs,
                tokenizer=tokenizer,
                how=how,
                echo_shift=echo_shift,
                responses_dir=responses_dir,
            ),
        )  # fmt: skip
    if isinstance(frontier, str) or tokenizer is None or server is not None:
        raise InputError.at(
            "a local frontier is a model and its tokenizer",
            remedy="load both, or give base_url",
            field="frontier",
        )
    blank = traces.select_columns(list(TRACE_FEATURES)).map(
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
        chat_template_kwargs=chat_template_kwargs,
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
        spans, logprobs = whole_letters(
            row["trace"].encode(),
            np.asarray(token_row["label_spans"]),
            np.maximum(token_row["label_logprobs"], ZERO_PROBABILITY_LOGPROB),
        )
        annotated["frontier_spans"].append(spans)
        annotated["frontier_logprobs"].append(logprobs)
        annotated["weighting"].append("logprob")
        for name in ("example_id", "prompt", "trace"):
            annotated[name].append(row[name])
    return Dataset.from_dict(annotated, features=TRACE_FEATURES)


def whole_letters(
    trace: bytes, spans: np.ndarray, logprobs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Spans `[F, 2]` and log-probabilities `[F]` (nats) of tokens, none of which is empty.

    A normaliser makes more pieces of a letter than it has bytes (NFKC: one half is "1", "/" and
    "2"), so that some cover none: the letter becomes a span of its own, whose p is the mean of its
    pieces' p. An empty piece between letters is a dummy leading space, and spells nothing.
    """
    empty = spans[:, 0] == spans[:, 1]
    inside = [at for at in spans[empty, 0] if at < len(trace) and trace[at] & 0xC0 == 0x80]
    if not inside:
        return spans[~empty], logprobs[~empty]
    starts = np.asarray([place for place, byte in enumerate(trace) if byte & 0xC0 != 0x80])
    borders = np.append(starts, len(trace))
    letters = np.unique(np.searchsorted(borders, inside) - 1)
    found = [(*span, p) for span, p in zip(spans[~empty], logprobs[~empty], strict=True)]
    for low, high in zip(borders[letters], borders[letters + 1], strict=True):
        touching = (spans[:, 0] < high) & (spans[:, 1] > low)  # empty pieces inside touch it too
        mean = np.logaddexp.reduce(logprobs[touching]) - np.log(touching.sum())
        outside = [(start, min(end, low), p) for start, end, p in found]
        outside += [(max(start, high), end, p) for start, end, p in found]
        found = [span for span in outside if span[0] < span[1]]
        found.append((low, high, max(mean, ZERO_PROBABILITY_LOGPROB)))
    found.sort()
    return np.reshape([span[:2] for span in found], (-1, 2)), np.asarray([p for *_, p in found])


def _by_server(
    traces: Dataset,
    frontier: nn.Module | str,
    base_url: str,
    server: ServerSettings | None,
    max_length: int | None,
    **how: Any,
) -> Dataset:
    if not isinstance(frontier, str) or max_length is not None:
        raise InputError.at(
            "with base_url the model has a name there, and a window of its own",
            remedy="give its name as frontier, and no max_length",
            field="frontier",
        )
    asked = Server(base_url, frontier, server or ServerSettings())
    found = annotate_by_server(traces, asked, **how)
    if found.health.dropped:
        warnings.warn(f"{base_url}: {found.health.line()}", stacklevel=2)
    return found.traces
