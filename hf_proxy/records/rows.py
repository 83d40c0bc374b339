"""Columns of every set, and the conventions that all rooms share.

Positions. A position is the index of the token being predicted; the logits of position p are read
at p - 1.

Shapes. A tensor's name ends in its axes: B rows, T tokens in a row, N labels, C labels in one
chunk, D hidden, V vocabulary. Counts are `num_`, sums end in `_sum`; `nll` is positive and
`logprob` negative, both in nats.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from datasets import Features, List, Value

from hf_proxy.records.errors import InputError, names

ZERO_PROBABILITY_LOGPROB = -9999.0  # p = 0 as OpenAI writes it; exp of it is exactly 0.0
WEIGHTINGS = ("logprob", "none", "mask")
REMEDY = "pass the rows of token_logprobs as they are"  # for predictions that are no such rows
TRACE_FEATURES = Features(
    {
        "example_id": Value("string"),
        "prompt": Value("string"),
        "trace": Value("string"),
        "weighting": Value("string"),
        "frontier_spans": List(List(Value("int32"), length=2)),  # [F, 2], UTF-8 bytes of `trace`
        "frontier_logprobs": List(Value("float64")),  # [F], nats
    }
)
ALIGNED_FEATURES = Features(
    {
        "example_id": Value("string"),
        "input_ids": List(Value("int32")),  # [T], context then trace
        "label_start": Value("int32"),  # every position from here on is a label
        "label_weight": List(Value("float64")),  # [T], 0 before label_start
        "label_spans": List(List(Value("int32"), length=2)),  # [n, 2], UTF-8 bytes of the trace
        "num_bytes": Value("int32"),
        "setting_parts": Value("string"),  # JSON, the same in every row
    }
)
LABEL_LOGPROB_FEATURES = Features(
    {
        "example_id": Value("string"),
        "label_logprobs": List(Value("float64")),  # [n], nats
        "label_spans": List(List(Value("int32"), length=2)),  # [n, 2], UTF-8 bytes of the trace
    }
)
# what any statistic of a label is made of; see `LabelLogprobs`
LABEL_SCALAR_FEATURES = Features(
    {
        **LABEL_LOGPROB_FEATURES,
        "label_ids": List(Value("int32")),  # [n], token
        "greater": List(Value("int32")),  # [n], tokens whose logit is greater
        "equal": List(Value("int32")),  # [n], other tokens with the same logit
        "entropies": List(Value("float64")),  # [n], nats
        "max_logprobs": List(Value("float64")),  # [n], nats, of the likeliest token
        "other_logprobs": List(Value("float64")),  # [n], nats, of the likeliest but the label
        "vocab_size": Value("int32"),  # tokens of the distribution
    }
)
SOFT_TARGET_FEATURES = Features(
    {
        "example_id": Value("string"),
        "input_ids": List(Value("int32")),  # [T], prompt then trajectory
        "prompt_length": Value("int32"),
        # for each of the G = T - prompt_length generated steps; nats
        "kl": List(Value("float32")),
        "top1_agree": List(Value("bool")),
        "expert_entropy": List(Value("float32")),
        "amateur_entropy": List(Value("float32")),
        "support_size": List(Value("int32")),  # plausible tokens
        # the M kept steps, targets in CSR form; the generated token is input_ids[position]
        "position": List(Value("int32")),  # [M]
        "offset": List(Value("int32")),  # [M + 1]
        "token_id": List(Value("int32")),  # [S], ascending within a step
        "prob": List(Value("float32")),
        "expert_logprob": List(Value("float32")),
        "amateur_logprob": List(Value("float32")),
    }
)


def own_columns(
    predictions: Iterable[Mapping[str, Any]], features: Features
) -> list[dict[str, Any]]:
    """A metric's predictions with its columns alone; `evaluate` takes no others.

    Raises:
        InputError: one is missing.
    """
    predictions = list(predictions)
    for index, row in enumerate(predictions):
        if missing := set(features) - set(row):
            raise InputError.at(
                f"{names(missing)} missing", remedy=REMEDY, source="predictions", row=index
            )
    return [{name: row[name] for name in features} for row in predictions]
