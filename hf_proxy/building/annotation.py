"""A frontier's confidence for text that is there already, by teacher forcing."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from hf_proxy.models.parallel import Processes
from hf_proxy.records.defaults import TOKENS_PER_BATCH
from hf_proxy.records.rows import TRACE_FEATURES, ZERO_PROBABILITY_LOGPROB
from hf_proxy.scoring.scoring import token_logprobs
from hf_proxy.traces.alignment import align_traces
from hf_proxy.traces.settings import TRACE_CONTEXT, AlignmentSettings


def annotate_traces(
    traces: Dataset,
    frontier: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    *,
    accelerator: Processes = None,
    context: str | Callable[[Mapping], str] = TRACE_CONTEXT,
    context_name: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    max_length: int | None = None,
    too_long: str = AlignmentSettings.too_long,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> Dataset:
    """Give existing text a frontier's confidence: one teacher-forced pass of a local model.

    Unlike a trace that the frontier wrote itself, such text holds tokens that it would not have
    chosen.

    Args:
        traces: `Trace` rows of weighting `"none"`; other weightings are replaced.
        frontier, tokenizer: the model whose probabilities are taken, and its tokenizer.
        context, context_name, chat_template_kwargs, max_length, too_long: as in `align_traces`, for
            the frontier.

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
        spans = np.asarray(token_row["label_spans"])
        covering = spans[:, 1] > spans[:, 0]  # a dummy leading space spells nothing
        logprob = np.maximum(token_row["label_logprobs"], ZERO_PROBABILITY_LOGPROB)
        annotated["frontier_spans"].append(spans[covering])
        annotated["frontier_logprobs"].append(logprob[covering])
        annotated["weighting"].append("logprob")
        for name in ("example_id", "prompt", "trace"):
            annotated[name].append(row[name])
    return Dataset.from_dict(annotated, features=TRACE_FEATURES)
