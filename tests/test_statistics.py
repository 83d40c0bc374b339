"""Statistics of traces: worked vectors, plain loops over full logits, and what must not matter."""

import math

import numpy as np
import pytest
import torch
from helpers.models import Bigram, make_model
from helpers.traces import bigram_aligned, make_traces

from hf_proxy import InputError, ProxyScore, align_traces, load_metric, score_traces, token_logprobs
from hf_proxy.scoring.statistics import (
    LABEL_COLUMNS,
    STATISTIC_NAMES,
    STATISTICS,
    WEIGHTINGS,
    Labels,
    check_statistics,
    is_lower_better,
    statistic_name,
    statistics_of,
)

# probabilities over six tokens, the label, its frequency
T1 = ([0.50, 0.20, 0.12, 0.10, 0.05, 0.03], 0, 0.4)
T2 = ([0.40, 0.30, 0.12, 0.10, 0.05, 0.03], 1, 0.3)
T3 = ([0.35, 0.30, 0.20, 0.08, 0.04, 0.03], 2, 0.2)
T4 = ([0.60, 0.15, 0.10, 0.08, 0.05, 0.02], 5, 0.1)
A = [T1, T2, T3, T4]
# rows in the order of STATISTICS but for log_rank, columns in that of WEIGHTINGS
A_EXPECTED = """
ce        1.854645 1.086170 2.117680 1.786911 2.099382 1.351541 2.539849 1.474458
top1       .250000  .490196  .167785  .250850  .246928  .400000  .120000  .234029
top2       .500000  .784314  .402685  .512255  .455721  .700000  .280000  .551596
top3       .750000  .980392  .671141  .777070  .652191  .900000  .520000  .909571
top5       .750000  .980392  .671141  .777070  .652191  .900000  .520000  .909571
entropy    .783232  .802484  .776642  .786625  .770971  .795818  .759700  .804148
rank      3.000000 1.784314 3.416107 2.905686 3.340779 2.200000 4.040000 2.485662
rrank      .500000  .705882  .429530  .506979  .474783  .633333  .360000  .527209
margin     .207500  .070196  .254497  .195162  .252079  .118000  .330400  .137902
wrongconf  .337500  .198039  .385235  .331005  .360967  .250000  .436000  .306575
"""


def labels_of(tokens, logits=None):
    """What a model of these probabilities (or logits) gives, in plain float64."""
    columns = []
    for place, (prob, label, _) in enumerate(tokens):
        z = np.log(prob) if logits is None else np.array(logits[place])
        l = z - np.log(np.exp(z).sum())  # noqa: E741
        p = np.exp(l)
        columns.append(
            [label, 1.0, l[label], (z > z[label]).sum(), (z == z[label]).sum() - 1]
            + [-sum(x * y for x, y in zip(p, l, strict=True) if x), l.max()]
            + [np.delete(l, label).max()]
        )
    return Labels(*np.array(columns).T, vocab_size=6)


def found_for(*traces, **settings):
    everything = [token for trace in traces for token in trace]
    frequency = np.array([f for _, _, f in everything])
    return statistics_of(
        labels_of(everything),
        np.array([len(trace) for trace in traces]),
        frequency=frequency,
        **settings,
    )


def six(value):
    """To the last digit of the vectors."""
    return pytest.approx(value, abs=5.1e-7)


def test_vector_a_under_every_weighting():
    found = found_for(A)
    lines = [line.split() for line in A_EXPECTED.split("\n") if line]
    assert len(lines) == 10
    for statistic, *values in lines:
        for weighting, value in zip(WEIGHTINGS, values, strict=True):
            name = statistic_name(weighting, statistic)
            assert found.macro[name] == six(float(value)), name
            if weighting != "gauss":
                assert found.pooled[name] == six(float(value)), name
    assert found.macro["log_rank"] == six(0.895880)
    assert found.pooled["gauss_ce"] == six(1.474458)  # of one trace all labels are its own
    assert found.zero_weight_traces == {}
    assert set(found.macro) == set(found.pooled) == set(STATISTIC_NAMES)
    assert len(STATISTIC_NAMES) == 88


def test_vector_b_ties_are_the_mean_over_random_orders():
    found = found_for([([0.35, 0.35, 0.12, 0.10, 0.05, 0.03], 1, 1.0)]).macro
    expected = {"top1": 0.5, "rank": 1.5, "rrank": 0.75, "wrongconf": 0.175, "ce": 1.049822}
    expected |= {"entropy": 0.822961, "margin": 0, "log_rank": math.log(2) / 2, "top2": 1}
    assert {name: found[name] for name in expected} == {n: six(v) for n, v in expected.items()}


def test_vector_c_masked_columns():
    logits = [[2, 1, 0, -1, -math.inf, -math.inf]]
    with np.errstate(invalid="ignore"):
        labels = labels_of([(None, 1, 1.0)], logits)
    found = statistics_of(labels, np.array([1])).macro
    assert labels.entropy[0] == six(0.947537)
    expected = {"ce": 1.440190, "rank": 2, "margin": 0.407031, "wrongconf": 0.643914}
    assert {name: found[name] for name in expected} == {n: six(v) for n, v in expected.items()}


def test_vector_d_two_traces():
    found = found_for(A, [T4])
    expected = {
        "ce": (2.883334, 2.266121),
        "inv_freq_top1": (0.06, 0.081081),
        "freq_top5": (0.45, 0.818182),
        "1-p_rrank": (0.298098, 0.364478),
        "gauss_ce": (2.693240, 2.079688),
    }
    for name, (macro, pooled) in expected.items():
        assert (found.macro[name], found.pooled[name]) == (six(macro), six(pooled)), name


def test_vector_e_the_last_labels_only():
    found = found_for(A, last_tokens=2).macro
    expected = {"ce": 2.760730, "freq_top5": 0.666667, "inv_freq_top1": 0, "rrank": 0.25}
    assert {name: found[name] for name in expected} == {n: six(v) for n, v in expected.items()}
    assert found_for(A, last_tokens=4) == found_for(A, last_tokens=None) == found_for(A)
    # of each trace its own
    assert found_for(A, [T4], last_tokens=1).macro == found_for([T4], [T4]).macro
    for wrong in (0, -1):
        with pytest.raises(InputError, match="field last_tokens: expected a positive number"):
            found_for(A, last_tokens=wrong)


def test_a_trace_without_weight_is_averaged_uniformly_and_counted():
    sure = ([1.0, 0.0, 0.0, 0.0, 0.0, 0.0], 0, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        labels = labels_of([sure, *A])
    found = statistics_of(labels, np.array([1, 4]))
    assert found.zero_weight_traces == {"1-p": 1, "entropy": 1}
    alone = found_for(A)
    assert found.macro["1-p_ce"] == pytest.approx((0 + alone.macro["1-p_ce"]) / 2)
    assert found.pooled["1-p_ce"] == pytest.approx(alone.pooled["1-p_ce"])  # it weighs nothing
    with np.errstate(divide="ignore", invalid="ignore"):
        nothing = statistics_of(labels_of([sure, sure]), np.array([1, 1]))
    assert nothing.zero_weight_traces == {"1-p": 2, "entropy": 2}
    assert nothing.pooled["1-p_top1"] == nothing.macro["1-p_top1"] == 1


def test_equal_surprise_is_uniform_under_gauss():
    found = found_for([T2, T2, T2]).macro
    assert found["gauss_rank"] == pytest.approx(found["rank"], rel=1e-12)


# a model


@pytest.fixture(scope="module")
def aligned(traces, tokenizer):
    return align_traces(traces, tokenizer)


@pytest.fixture(scope="module")
def model(tokenizer):
    return make_model("llama", len(tokenizer), dtype=torch.float64)


def plain_labels(model, aligned, last_tokens):
    """Label, distribution, logits of the last labels of each trace, from full-logit forwards."""
    for row in aligned:
        ids = torch.tensor(row["input_ids"])
        with torch.no_grad():
            logits = model(ids[None], use_cache=False).logits[0, row["label_start"] - 1 : -1]
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).double()
        begin = 0 if last_tokens is None else -last_tokens
        label = ids[row["label_start"] :][begin:].tolist()
        yield list(zip(label, torch.softmax(wide, -1)[begin:].tolist(), wide[begin:], strict=True))


def plain_statistics(model, aligned, last_tokens=None):
    """All of them in float64 loops, ties as every place that a random order can give."""
    rows = list(plain_labels(model, aligned, last_tokens))
    everything = [label for row in rows for label, _, _ in row]
    means = {name: [] for name in STATISTIC_NAMES}
    for row in rows:
        surprise = [-math.log(prob[label]) for label, prob, _ in row]
        mu = math.fsum(surprise) / len(row)
        variance = math.fsum((x - mu) ** 2 for x in surprise) / len(row)
        values, weights = {name: [] for name in STATISTICS}, {name: [] for name in WEIGHTINGS}
        for (label, prob, logits), ce in zip(row, surprise, strict=True):
            first = 1 + int((logits > logits[label]).sum())
            places = range(first, first + int((logits == logits[label]).sum()))
            share = -math.fsum(p * math.log(p) for p in prob if p) / math.log(len(prob))
            f = everything.count(label) / len(everything)

            def mean(of, places=places):
                return math.fsum(map(of, places)) / len(places)

            own = {
                "ce": ce,
                **{f"top{k}": mean(lambda r, k=k: r <= k) for k in (1, 2, 3, 5)},
                "entropy": share,
                "rank": mean(float),
                "log_rank": mean(math.log),
                "rrank": mean(lambda r: 1 / r),
                "margin": max(prob) - prob[label],
                "wrongconf": max(prob) * mean(lambda r: r > 1),
            }
            weight = (1, prob[label], 1 - prob[label], share, 1 - share, f, 1 / f)
            weight += (math.exp(-((ce - mu) ** 2) / (2 * variance)) if variance else 1.0,)
            for name, value in own.items():
                values[name].append(value)
            for name, value in zip(WEIGHTINGS, weight, strict=True):
                weights[name].append(value)
        for w in WEIGHTINGS:
            for s in STATISTICS:
                total = math.fsum(a * b for a, b in zip(weights[w], values[s], strict=True))
                means[statistic_name(w, s)].append(total / math.fsum(weights[w]))
    return {name: math.fsum(own) / len(own) for name, own in means.items()}


def assert_close(found, expected, tolerance):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name


@pytest.mark.parametrize("last_tokens", [None, 11])
def test_equals_plain_loops_over_full_logits(last_tokens, model, aligned):
    score = score_traces(model, aligned, last_tokens=last_tokens)
    assert_close(score.statistics, plain_statistics(model, aligned, last_tokens), 1e-11)
    assert score.statistics_parts["last_tokens"] == last_tokens
    assert score.setting == score_traces(model, aligned).setting  # of the statistics only
    assert score.statistics_setting != score_traces(model, aligned).statistics_setting
    assert score.statistics["ce"] != score.trace_nll or last_tokens is None


def test_bfloat16_ties_are_those_of_its_own_logits(tokenizer, aligned):
    model = make_model("llama", len(tokenizer), dtype=torch.bfloat16)
    score = score_traces(model, aligned)
    assert score.tied_share > 0.05
    # logits of one row alone round otherwise here and there, so means are close, not equal
    expected = plain_statistics(model, aligned)
    for name in ("ce", "top5", "entropy", "rrank", "freq_margin"):
        assert score.statistics[name] == pytest.approx(expected[name], rel=0.02), name


def test_masked_columns_of_a_model():
    """Columns at -inf, as padded heads have them: an entropy, never NaN."""
    table = torch.full((6, 6), 1e-9, dtype=torch.float64)
    table[0] = torch.softmax(torch.tensor([2, 1, 0, -1, -math.inf, -math.inf]).double(), -1)
    found = token_logprobs(Bigram(table), bigram_aligned([[1.0]], [[1]]))[0]
    assert found["entropies"] == [six(0.947537)]
    assert found["label_logprobs"] == [six(-1.440190)]
    assert found["max_logprobs"] == found["other_logprobs"] == [six(math.log(0.643914))]


def test_batches_packing_and_order_do_not_matter(model, aligned):
    base = score_traces(model, aligned)
    for settings in ({"tokens_per_batch": 64}, {"padding_free": True}):
        other = score_traces(model, aligned.shuffle(seed=2), **settings)
        assert_close(other.statistics, base.statistics, 1e-12)
        assert_close(other.statistics_pooled, base.statistics_pooled, 1e-12)
    assert score_traces(model, aligned.shuffle(seed=5)).statistics == base.statistics


def test_blocks_of_traces_do_not_matter(model, aligned, monkeypatch):
    base = score_traces(model, aligned)
    monkeypatch.setattr("hf_proxy.scoring.statistics._LABELS_TOGETHER", 50)
    again = score_traces(model, aligned)
    assert (again.statistics, again.statistics_pooled) == (
        base.statistics,
        base.statistics_pooled,
    )


def test_saved_scores_keep_them_and_older_ones_load(model, aligned):
    score = score_traces(model, aligned)
    again = ProxyScore.from_json(score.to_json())
    assert again.scalars() == score.scalars()
    assert again.statistics == score.statistics and again.statistics_parts["last_tokens"] == 1000


def test_the_metric_needs_no_model(model, aligned):
    score = score_traces(model, aligned, last_tokens=20)
    rows = token_logprobs(model, aligned.shuffle(seed=1))
    metric = load_metric("trace_statistics")
    found = metric.compute(predictions=rows.to_list(), last_tokens=20)
    assert found["statistics"] == score.statistics
    assert found["statistics_pooled"] == score.statistics_pooled
    assert found["num_traces"] == 9 and found["zero_weight_traces"] == {}
    # a weighting of one's own from the same rows
    (row,) = rows.select([0])
    assert {len(row[name]) for name in LABEL_COLUMNS} == {len(row["label_spans"])}
    assert row["vocab_size"] == model.config.vocab_size


def test_the_metric_refuses_what_does_not_fit(model, aligned):
    rows = token_logprobs(model, aligned).to_list()
    metric = load_metric("trace_statistics")
    cases = [
        ({"greater": rows[0]["greater"][:-1]}, "row t0, field greater: .* values for"),
        ({"entropies": None}, "row t0, field entropies: it is missing"),
        ({"label_logprobs": [math.nan] * len(rows[0]["greater"])}, "field label_logprobs: "),
        ({"vocab_size": 7}, "field vocab_size: .*7.*"),
        ({"example_id": "t1"}, "'t1' stands in row 0 and again"),
    ]
    for change, message in cases:
        with pytest.raises(InputError, match=message):
            metric.compute(predictions=[rows[0] | change, *rows[1:]])
    with pytest.raises(InputError, match="last_tokens"):
        metric.compute(predictions=rows, last_tokens=0)
    older = [{k: row[k] for k in ("example_id", "label_logprobs", "label_spans")} for row in rows]
    with pytest.raises(InputError, match="row 0: entropies, equal, greater, .* missing; pass the"):
        metric.compute(predictions=older)


# names


def test_names_are_those_of_the_reference_and_unknown_ones_are_refused():
    for name in ("ce", "1-p_top1", "freq_top5", "inv_freq_top1", "gauss_wrongconf", "log_rank"):
        assert name in STATISTIC_NAMES
    assert check_statistics(["freq_top5", "ce"]) == ("freq_top5", "ce")
    with pytest.raises(InputError, match=r"no statistic 'freq_top4' \(did you mean freq_top5\?\)"):
        check_statistics(["freq_top4"])
    with pytest.raises(InputError, match="no statistic 'uniform_ce'"):
        check_statistics(["uniform_ce"])
    with pytest.raises(InputError, match="field statistics: 'ce' stands twice"):
        check_statistics(["ce", "ce"])
    assert is_lower_better("inv_freq_rank") and is_lower_better("entropy_top1") is False
    assert is_lower_better("p_entropy") is None


def test_one_trace_of_many_labels_needs_no_more_than_its_end(tokenizer, model):
    long = align_traces(make_traces(1), tokenizer)
    score = score_traces(model, long, last_tokens=3)
    assert score.num_labels > 3
    rows = token_logprobs(model, long)[0]
    ce = -np.array(rows["label_logprobs"][-3:])
    assert score.statistics["ce"] == pytest.approx(ce.mean(), rel=1e-12)
