"""The evaluate module gives what `score_traces` gives, loaded both ways, offline."""

from pathlib import Path

import evaluate
import pytest
import torch
from helpers.models import make_model

from hf_proxy import InputError, align_traces, load_metric, score_traces, token_logprobs
from hf_proxy.records.rows import LABEL_LOGPROB_FEATURES

FOLDER = Path(__file__).parent.parent / "hf_proxy" / "metrics" / "rbridge"
NUMBERS = ("value", "low", "high", "pooled", "trace_nll", "bits_per_byte", "num_traces")


@pytest.fixture(scope="module")
def model(tokenizer):
    return make_model("llama", len(tokenizer), dtype=torch.float64)


@pytest.mark.parametrize("how", ["load_metric", "evaluate.load"])
def test_equals_score_traces(how, model, traces, tokenizer):
    metric = load_metric("rbridge") if how == "load_metric" else evaluate.load(str(FOLDER))
    for unit, minmax_over, divisor in (
        ("letter", "trace", "tokens"),
        ("byte", "dataset", "weights"),
        ("letter", None, "tokens"),
    ):
        aligned = align_traces(traces, tokenizer, unit=unit, minmax_over=minmax_over)
        expected = score_traces(model, aligned, divisor=divisor)
        found = metric.compute(
            predictions=token_logprobs(model, aligned.shuffle(seed=1)).to_list(),
            references=traces.to_list(),
            unit=unit,
            minmax_over=minmax_over,
            divisor=divisor,
        )
        for name in NUMBERS:
            assert found[name] == pytest.approx(getattr(expected, name), rel=1e-12), name
        assert found["num_labels"] == expected.num_labels


def test_rows_may_be_added_one_by_one(model, traces, tokenizer):
    aligned = align_traces(traces, tokenizer)
    metric = load_metric("rbridge")
    for row, trace in zip(token_logprobs(model, aligned), traces, strict=True):
        # with the columns of an older version, or with all
        own = {name: row[name] for name in LABEL_LOGPROB_FEATURES}
        metric.add(prediction=own if trace["example_id"] > "t4" else row, reference=trace)
    assert metric.compute()["value"] == pytest.approx(score_traces(model, aligned).value, rel=1e-12)


def test_bad_rows_are_named(model, traces, tokenizer):
    metric = load_metric("rbridge")
    rows = token_logprobs(model, align_traces(traces, tokenizer)).to_list()
    references = traces.to_list()

    def changed(**fields):
        return [rows[0] | fields, *rows[1:]]

    first = rows[0]
    cut = first["label_spans"][:-1]
    cases = [
        (changed(label_spans=cut), "row t0, field label_logprobs: .* logprobs for .* spans"),
        (
            changed(label_spans=cut, label_logprobs=first["label_logprobs"][:-1]),
            "row t0, field label_spans: they end at byte",
        ),
        (changed(label_spans=first["label_spans"][::-1]), "do not follow each other"),
        (changed(label_logprobs=[0.5, *first["label_logprobs"][1:]]), "positive or not finite"),
        (changed(example_id="t1"), "'t1' stands in row 0 and again"),
        (changed(example_id="other"), r"example_id \['other', 't0'\] stands on one side only"),
    ]
    for predictions, message in cases:
        with pytest.raises(InputError, match=message):
            metric.compute(predictions=predictions, references=references)
    with pytest.raises(ValueError, match="no metric 'bleu'"):
        load_metric("bleu")
    with pytest.raises(ValueError, match="unit must be one of"):
        metric.compute(predictions=rows, references=references, unit="word")
