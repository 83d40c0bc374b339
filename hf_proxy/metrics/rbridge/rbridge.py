"""rBridge as an `evaluate` metric: from label log-probabilities and traces, without a model."""

import datasets
import evaluate
import numpy as np

from hf_proxy.records.errors import InputError, check_unique_ids
from hf_proxy.records.rows import LABEL_LOGPROB_FEATURES, REMEDY, TRACE_FEATURES, own_columns
from hf_proxy.scoring.summary import DIVISORS, TraceSums, summarise
from hf_proxy.traces.alignment import min_max, token_weights
from hf_proxy.traces.checks import check_trace
from hf_proxy.traces.settings import AlignmentSettings

_DESCRIPTION = """
How well a proxy model predicts a frontier model's reasoning traces, each token weighted by the
frontier's confidence (rBridge). Nats per token; lower is better. Gather the rows of all processes
first and compute on the main process.
"""
_CITATION = """
@article{koh2025rbridge,
    title={Predicting LLM Reasoning Performance with Small Proxy Model},
    author={Koh, Woosung and Suk, Juyoung and Han, Sungjun and Yun, Se-Young and Shin, Jamin},
    journal={arXiv preprint arXiv:2509.21013},
    year={2025}
}
"""
_KWARGS = """
Args:
    predictions: rows of `hf_proxy.token_logprobs`: `example_id`, `label_logprobs` (nats),
        `label_spans` (UTF-8 bytes of the trace).
    references: `Trace` rows of `hf_proxy.load_traces`, one for each prediction, in any order.
    unit (`str`): "letter" (default) or "byte", as in `hf_proxy.align_traces`.
    minmax_over (`str`, *optional*): "trace" (default), "dataset" or None.
    divisor (`str`): "tokens" (default) or "weights", as in `hf_proxy.score_traces`.
Returns:
    value, low, high, pooled, trace_nll (nats per token), bits_per_byte, num_traces, num_labels:
    what `hf_proxy.score_traces` gives on the same data.
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS)
class RBridge(evaluate.Metric):
    """The metric; load it with `hf_proxy.load_metric("rbridge")` or `evaluate.load(folder)`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS,
            features=datasets.Features(
                {"predictions": dict(LABEL_LOGPROB_FEATURES), "references": dict(TRACE_FEATURES)}
            ),
            reference_urls=["https://arxiv.org/abs/2509.21013"],
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Take the metric's own columns of the rows.

        Raises:
            InputError: there are no rows of one side.
        """
        for name, rows in (("predictions", predictions), ("references", references)):
            if rows is None:
                raise InputError.at(
                    "they are missing",
                    remedy="pass predictions=rows of token_logprobs, references=rows of "
                    "load_traces, one for each",
                    source=name,
                )
        own = own_columns(predictions, LABEL_LOGPROB_FEATURES)
        super().add_batch(predictions=own, references=references, **kwargs)

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Take the metric's own columns of the row."""
        (own,) = own_columns([prediction or {}], LABEL_LOGPROB_FEATURES)
        super().add(prediction=own, reference=reference, **kwargs)

    def _compute(
        self,
        predictions,
        references,
        unit=AlignmentSettings.unit,
        minmax_over=AlignmentSettings.minmax_over,
        divisor="tokens",
    ):
        AlignmentSettings(unit=unit, minmax_over=minmax_over)  # refuses unknown ones
        if divisor not in DIVISORS:
            raise ValueError(f"divisor must be one of {DIVISORS}, not {divisor!r}")
        traces = {row["example_id"]: row for row in references}
        check_unique_ids([row["example_id"] for row in references], source="references")
        check_unique_ids([row["example_id"] for row in predictions], source="predictions")
        unmatched = set(traces) ^ {row["example_id"] for row in predictions}
        if unmatched or not predictions:
            raise InputError.at(
                f"example_id {sorted(unmatched)[:3]} stands on one side only",
                remedy="give one prediction for each reference, gathered from all processes",
                source="predictions and references",
            )
        rows = []
        for index, row in enumerate(sorted(predictions, key=lambda row: row["example_id"])):
            trace = traces[row["example_id"]]
            check_trace(trace, source="references", index=index)
            spans = np.asarray(row["label_spans"], dtype=np.int64).reshape(-1, 2)
            logprobs = np.asarray(row["label_logprobs"], dtype=np.float64)
            _check_labels(row["example_id"], spans, logprobs, len(trace["trace"].encode()))
            rows.append((trace, spans, logprobs, token_weights(trace, spans, unit=unit)))
        weighted = [weight for trace, _, _, weight in rows if trace["weighting"] == "logprob"]
        everything = np.concatenate(weighted) if weighted else np.zeros(1)
        table = np.empty((len(rows), len(TraceSums._fields)))
        sums = TraceSums(*table.T)  # views
        for place, (trace, _, logprobs, weight) in enumerate(rows):
            if trace["weighting"] == "logprob" and minmax_over is not None:
                scope = weight if minmax_over == "trace" else everything
                weight = min_max(weight, scope.min(), scope.max())
            nll = -logprobs
            sums.weighted_nll[place] = (nll * weight).sum()
            sums.nll[place] = nll.sum()
            sums.weight[place] = weight.sum()
            sums.num_labels[place] = len(nll)
            sums.num_bytes[place] = len(trace["trace"].encode())
        ids = [trace["example_id"] for trace, *_ in rows]
        numbers = summarise(ids, sums, divisor=divisor)
        return numbers | {"num_traces": len(rows), "num_labels": int(sums.num_labels.sum())}


def _check_labels(example_id, spans, logprobs, num_bytes):
    """Refuse labels that do not tile the trace, or have no finite logprob."""

    def fail(field, problem):
        raise InputError.at(
            problem,
            remedy=REMEDY,
            source="predictions",
            row=example_id,
            field=field,
        )

    if len(spans) != len(logprobs) or not len(spans):
        fail("label_logprobs", f"{len(logprobs)} logprobs for {len(spans)} spans")
    ends = np.concatenate([[0], spans[:, 1]])
    if (spans[:, 0] != ends[:-1]).any() or (spans[:, 1] < spans[:, 0]).any():
        fail("label_spans", "the spans do not follow each other")
    if ends[-1] != num_bytes:
        fail("label_spans", f"they end at byte {ends[-1]}, the trace has {num_bytes}")
    if not np.isfinite(logprobs).all() or (logprobs > 0).any():
        fail("label_logprobs", "a logprob is positive or not finite")
