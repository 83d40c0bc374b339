"""Statistics of traces as an `evaluate` metric: from what a model gave each label before."""

import datasets
import evaluate
import numpy as np

from hf_proxy.records.defaults import LAST_TOKENS
from hf_proxy.records.errors import InputError, check_unique_ids
from hf_proxy.records.rows import LABEL_SCALAR_FEATURES, REMEDY, own_columns
from hf_proxy.scoring.statistics import LABEL_COLUMNS, Labels, statistics_of

_DESCRIPTION = """
How a model reads reasoning traces: ten statistics of each label under eight weightings (mean of
each trace, then over traces; and over all labels at once). Gather the rows of all processes first
and compute on the main process.
"""
_CITATION = """
@article{patel2026proxy,
    title={arXiv 2605.18607},
    author={Patel and Reddy and Mosbach and Bahdanau},
    journal={arXiv preprint arXiv:2605.18607},
    year={2026}
}
"""
_KWARGS = """
Args:
    predictions: rows of `hf_proxy.token_logprobs`.
    last_tokens (`int`, *optional*): labels of each trace, from its end, that count; default 1000,
        None: all.
Returns:
    statistics, statistics_pooled (name to value), zero_weight_traces (weighting to number of
    traces), num_traces, num_labels: what `hf_proxy.score_traces` gives on the same data.
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS)
class TraceStatistics(evaluate.Metric):
    """The metric; `hf_proxy.load_metric("trace_statistics")` or `evaluate.load(folder)`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS,
            features=datasets.Features({"predictions": dict(LABEL_SCALAR_FEATURES)}),
            reference_urls=["https://arxiv.org/abs/2605.18607"],
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Take the metric's own columns of the rows."""
        own = own_columns(predictions or [], LABEL_SCALAR_FEATURES)
        super().add_batch(predictions=own, references=references, **kwargs)

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Take the metric's own columns of the row."""
        (own,) = own_columns([prediction or {}], LABEL_SCALAR_FEATURES)
        super().add(prediction=own, reference=reference, **kwargs)

    def _compute(self, predictions, last_tokens=LAST_TOKENS):
        if not predictions:
            raise InputError.at("there are no rows", remedy="give those of token_logprobs")
        check_unique_ids([row["example_id"] for row in predictions], source="predictions")
        rows = sorted(predictions, key=lambda row: row["example_id"])
        for row in rows:
            _check_row(row, rows[0]["vocab_size"])
        columns = {
            field: np.concatenate([np.asarray(row[name], dtype=np.float64) for row in rows])
            for name, field in LABEL_COLUMNS.items()
        }
        num_labels = np.array([len(row["label_logprobs"]) for row in rows])
        weight = np.ones(num_labels.sum())  # the frontier's plays no part
        labels = Labels(**columns, weight=weight, vocab_size=rows[0]["vocab_size"])
        found = statistics_of(labels, num_labels, last_tokens=last_tokens)
        return {
            "statistics": found.macro,
            "statistics_pooled": found.pooled,
            "zero_weight_traces": found.zero_weight_traces,
            "num_traces": len(rows),
            "num_labels": int(num_labels.sum()),
        }


def _check_row(row, vocab_size):
    """Refuse columns that differ in length, are missing, or are no numbers of a label."""

    def fail(field, problem):
        raise InputError.at(
            problem,
            remedy=REMEDY,
            source="predictions",
            row=row["example_id"],
            field=field,
        )

    for name in (*LABEL_COLUMNS, "vocab_size"):
        if row[name] is None:
            fail(name, "it is missing")
    if row["vocab_size"] != vocab_size or vocab_size < 2:
        fail("vocab_size", f"{row['vocab_size']} where another row has {vocab_size}")
    num = len(row["label_logprobs"])
    for name in LABEL_COLUMNS:
        values = np.asarray(row[name], dtype=np.float64)
        if len(values) != num or not num:
            fail(name, f"{len(values)} values for {num} labels")
        is_logprob = name.endswith("logprobs")
        wrong = values > 0 if is_logprob else values < 0
        # where all others are masked, theirs is -inf
        lost = np.isnan(values) if name == "other_logprobs" else ~np.isfinite(values)
        if (wrong | lost).any():
            fail(name, f"a value is {'positive' if is_logprob else 'negative'} or not finite")
