"""Scores against plain full-logit forwards, worked vectors, and properties that must not matter."""

import json
import math
import random

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from helpers.memory import LargestTensor
from helpers.models import ATTENTION_FAMILIES, FAMILIES, FLOAT64_FAMILIES, Bigram, make_model
from helpers.traces import bigram_aligned, make_traces
from peft import LoraConfig, get_peft_model
from torch import nn

from hf_proxy import (
    InputError,
    ProxyScore,
    align_traces,
    annotate_traces,
    compare,
    score_traces,
    token_logprobs,
)
from hf_proxy.models.access import scoring_mode
from hf_proxy.models.logits import LABELS_PER_CHUNK, measure_logit_transform
from hf_proxy.recipes.library.scores import read_scores
from hf_proxy.records.rows import ALIGNED_FEATURES, TRACE_FEATURES
from hf_proxy.scoring.summary import expected_rank, expected_top
from hf_proxy.traces.checks import check_trace


@pytest.fixture(scope="module")
def aligned(traces, tokenizer):
    return align_traces(traces, tokenizer)


def plain_logprobs(model, row):
    """Logprobs, wins and ranks of a row's labels from one full-logit forward, in plain torch."""
    ids = torch.tensor(row["input_ids"])
    with torch.no_grad():
        logits_TV = model(ids[None], use_cache=False).logits[0]
    wide = torch.promote_types(logits_TV.dtype, torch.float32)
    logits_NV = logits_TV[row["label_start"] - 1 : -1].to(wide)
    label_N1 = ids[row["label_start"] :, None]
    logprob_N = torch.log_softmax(logits_NV, dim=-1).gather(1, label_N1)[:, 0]
    wins, ranks = [], []
    for logits, label in zip(logits_NV.tolist(), label_N1[:, 0].tolist(), strict=True):
        # every place that a random order of the tied ones can give
        first = 1 + sum(x > logits[label] for x in logits)
        places = range(first, first + sum(x == logits[label] for x in logits))
        wins.append(sum(place == 1 for place in places) / len(places))
        ranks.append(sum(places) / len(places))
    return logprob_N.double(), wins, ranks


def plain_score(model, aligned):
    """All numbers of a score from full-logit forwards, one row at a time, in float64 loops."""
    values, nlls, bits, num_bytes, wins, ranks, weighted_sum = [], [], 0.0, 0, [], [], 0.0
    for row in aligned:
        logprob_N, own_wins, own_ranks = plain_logprobs(model, row)
        weights = row["label_weight"][row["label_start"] :]
        terms = [-x * w for x, w in zip(logprob_N.tolist(), weights, strict=True)]
        values.append(math.fsum(terms) / len(terms))
        weighted_sum += math.fsum(terms)
        nlls.append(-math.fsum(logprob_N.tolist()) / len(terms))
        bits -= math.fsum(logprob_N.tolist()) / math.log(2)
        num_bytes += row["num_bytes"]
        wins += own_wins
        ranks += own_ranks
    return {
        "value": math.fsum(values) / len(values),
        "pooled": weighted_sum / len(ranks),
        "trace_nll": math.fsum(nlls) / len(nlls),
        "bits_per_byte": bits / num_bytes,
        "top1_agreement": sum(wins) / len(wins),
        "mean_rank": sum(ranks) / len(ranks),
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str
)
def test_equals_the_plain_forward(family, dtype, tolerance, aligned, tokenizer):
    if dtype is torch.float64 and family not in FLOAT64_FAMILIES:
        tolerance = 1e-6
    model = make_model(family, len(tokenizer), dtype=dtype)
    score = score_traces(model, aligned)
    for name, expected in plain_score(model, aligned).items():
        assert getattr(score, name) == pytest.approx(expected, rel=tolerance), name


def test_bfloat16_is_within_the_plain_forwards_own_error(aligned, tokenizer):
    exact = make_model("llama", len(tokenizer), dtype=torch.float64)
    model = make_model("llama", len(tokenizer), dtype=torch.bfloat16)
    with torch.no_grad():  # the same rounded weights, so that only the arithmetic differs
        for wide, narrow in zip(exact.parameters(), model.parameters(), strict=True):
            wide.copy_(narrow)
    truth = plain_score(exact, aligned)["value"]
    plain_error = abs(plain_score(model, aligned)["value"] - truth)
    error = abs(score_traces(model, aligned).value - truth)
    assert error <= plain_error + 2e-3 * truth


def bigram_table():
    """p(a|context) .5, p(²+|a) .25, p(b|²+) .1; p(o|context) .8 is put on another context (6)."""
    table = torch.full((8, 8), 1e-3, dtype=torch.float64)
    for before, after, p in ((0, 1, 0.5), (1, 2, 0.25), (2, 3, 0.1), (6, 4, 0.8), (4, 5, 0.2)):
        table[before] = (1 - p) / 7
        table[before, after] = p
    return table


# weights of the worked vectors: tests/test_alignment.py derives them from the traces
@pytest.mark.parametrize(
    ("weights", "tokens", "ratio"),
    [
        ([1, 0.5, 0], 0.462098, 0.924196),
        ([1, 2 / 3, 0], 0.539114, 0.970406),
        ([1, 0.25, 0], 0.346574, 0.831777),
        ([1, 1 / 3, 0], 0.385082, 0.866434),
        ([0.9, 0.65, 0.4], 0.815319, 1.589349 / 1.267),
    ],
)
def test_worked_vectors(weights, tokens, ratio):
    model = Bigram(bigram_table())
    rows = bigram_aligned([weights], [[1, 2, 3]])
    score = score_traces(model, rows)
    assert round(score.value, 6) == tokens
    assert round(score.trace_nll, 6) == 1.460676
    nll = [-math.log(p) for p in (0.5, 0.25, 0.1)]
    expected = sum(n * w for n, w in zip(nll, weights, strict=True))
    assert score.value == pytest.approx(expected / 3, rel=1e-12)
    weighted = score_traces(model, rows, divisor="weights").value
    assert weighted == pytest.approx(expected / sum(weights), rel=1e-12)
    if ratio < 1:
        assert round(weighted, 6) == ratio


def test_worked_vector_of_two_traces():
    model = Bigram(bigram_table())
    rows = bigram_aligned([[1, 0.5, 0], [0.0, 1, 0]], [[1, 2, 3], [6, 4, 5]])
    # the second trace is "o", "k" after a context of two tokens
    second = rows[1] | {"label_start": 2, "label_spans": [[0, 1], [1, 2]], "num_bytes": 2}
    rows = Dataset.from_list([rows[0], second], features=ALIGNED_FEATURES)
    score = score_traces(model, rows)
    assert round(score.value, 6) == 0.286835
    assert round(score.pooled, 6) == 0.321888
    assert round(score.trace_nll, 6) == 1.188483
    assert score.rows["num_labels"] == [3, 2]
    nll = -sum(math.log(p) for p in (0.5, 0.25, 0.1, 0.8, 0.2))
    assert score.bits_per_byte == pytest.approx(nll / math.log(2) / 5, rel=1e-12)


def test_rank_and_top1_by_hand():
    table = torch.tensor([[0.5, 0.25, 0.08, 0.08, 0.09]] * 5, dtype=torch.float64)
    score = score_traces(Bigram(table), bigram_aligned([[1, 1, 1, 1]], [[0, 1, 2, 3]]))
    # ranks 1, 2, and for the two that tie 4 or 5
    assert score.rows["rank_sum"] == [12.0]
    assert score.mean_rank == 3.0
    assert score.top1_agreement == 0.25
    assert score.rows["tied_sum"] == [2]
    assert score.tied_share == 0.5


def test_ties_for_the_first_place_are_shared():
    table = torch.tensor([[0.4, 0.4, 0.1, 0.05, 0.05], [0.2] * 5] * 2 + [[0.1] * 5])
    score = score_traces(Bigram(table.double()), bigram_aligned([[1, 1, 1]], [[1, 0, 2]]))
    # after 0 one of two, after 1 one of five, after 0 the third
    assert score.rows["top1_sum"] == [pytest.approx(1 / 2 + 1 / 5, rel=1e-12)]
    assert score.rows["rank_sum"] == [1.5 + 3.0 + 3.0]
    assert score.tied_share == pytest.approx(2 / 3)


def test_expectations_under_random_tie_breaking():
    rng = np.random.default_rng(0)
    greater, equal = rng.integers(0, 6, 200), rng.integers(0, 5, 200)
    places = [range(1 + g, 2 + g + e) for g, e in zip(greater, equal, strict=True)]
    for k in (1, 3, 5):
        expected = [np.mean([place <= k for place in own]) for own in places]
        np.testing.assert_allclose(expected_top(k, greater, equal), expected, rtol=1e-12)
    np.testing.assert_allclose(expected_rank(greater, equal), [np.mean(own) for own in places])


def test_low_precision_ties_neither_overstate_nor_understate(aligned, tokenizer):
    """The same weights and labels, logits rounded to bfloat16: many tie, the mean hardly moves."""
    model = make_model("llama", 4000, dtype=torch.float64)
    exact = score_traces(model, aligned)
    assert exact.tied_share == 0.0
    head = model.lm_head.weight
    model.lm_head = nn.Sequential(model.lm_head, RoundTo(torch.bfloat16))
    model.lm_head.weight = head
    tied = score_traces(model, aligned)
    assert tied.tied_share > 0.5
    strict = 1 + np.mean([g for g, _ in counts_of(model, aligned)])
    late = 1 + np.mean([g + e for g, e in counts_of(model, aligned)])
    off = abs(tied.mean_rank - exact.mean_rank)
    assert off < abs(strict - exact.mean_rank) / 5
    assert off < abs(late - exact.mean_rank) / 5
    assert strict < exact.mean_rank < late


class RoundTo(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, logits):
        return logits.to(self.dtype).to(logits.dtype)


def counts_of(model, aligned):
    """Greater and equal of every label, by full logits."""
    for row in aligned:
        ids = torch.tensor(row["input_ids"])
        with torch.no_grad():
            logits = model(ids[None], use_cache=False).logits[0, row["label_start"] - 1 : -1]
        own = logits.gather(1, ids[row["label_start"] :, None])
        greater, equal = (logits > own).sum(1), (logits == own).sum(1) - 1
        yield from zip(greater.tolist(), equal.tolist(), strict=True)


def test_a_score_of_an_older_version_still_loads(aligned, tokenizer, tmp_path):
    score = score_traces(make_model("llama", len(tokenizer)), aligned)
    content = json.loads(score.to_json())
    del content["tied_share"], content["rows"]["tied_sum"]
    content["rows"]["top1_sum"] = [int(x) for x in content["rows"]["top1_sum"]]
    old = ProxyScore.from_json(json.dumps(content))
    assert old.tied_share is None
    assert old.value == score.value
    assert compare(old, score).difference == 0.0
    # and of predictions.jsonl, whose lines have no rows
    line = {key: value for key, value in old.scalars().items() if key != "tied_share"}
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps(line | {"name": "rbridge", "run_id": "a"}) + "\n")
    ((again, run),) = read_scores(path)
    assert (again.value, again.tied_share, run) == (score.value, None, "a")


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=str
)
def test_batch_size_packing_and_order_do_not_matter(family, dtype, tolerance, aligned, tokenizer):
    if dtype is torch.float64 and family not in FLOAT64_FAMILIES:
        tolerance = 1e-6
    model = make_model(family, len(tokenizer), dtype=dtype)
    one = score_traces(model, aligned, tokens_per_batch=1)
    for tokens_per_batch in (200, 512, 100_000):
        for padding_free in (False, True):
            for rows in (aligned, aligned.shuffle(seed=1)):
                score = score_traces(
                    model, rows, tokens_per_batch=tokens_per_batch, padding_free=padding_free
                )
                for name in ("value", "low", "high", "pooled", "trace_nll", "bits_per_byte"):
                    expected = getattr(one, name)
                    assert getattr(score, name) == pytest.approx(expected, rel=tolerance), name
                assert list(score.rows["example_id"]) == list(one.rows["example_id"])
                assert score.setting == one.setting


@pytest.mark.parametrize("family", ATTENTION_FAMILIES)
def test_packed_rows_do_not_see_each_other(family, aligned, tokenizer):
    model = make_model(family, len(tokenizer), dtype=torch.float64)
    packed = score_traces(model, aligned, padding_free=True)
    padded = score_traces(model, aligned, padding_free=False)
    tolerance = 1e-12 if family in FLOAT64_FAMILIES else 1e-6
    assert packed.value == pytest.approx(padded.value, rel=tolerance)


def test_recurrent_models_are_not_packed(aligned, tokenizer):
    model = make_model("mamba", len(tokenizer))
    with pytest.raises(ValueError, match="padding_free=False"):
        score_traces(model, aligned, padding_free=True)


def test_weighting_none_is_the_trace_nll(traces, tokenizer):
    blank = {"weighting": "none", "frontier_spans": [], "frontier_logprobs": []}
    plain = traces.map(lambda row: blank, features=TRACE_FEATURES)
    score = score_traces(make_model("llama", len(tokenizer)), align_traces(plain, tokenizer))
    assert score.value == score.trace_nll


def test_token_logprobs_are_those_of_the_plain_forward(aligned, tokenizer):
    model = make_model("llama", len(tokenizer), dtype=torch.float64)
    rows = token_logprobs(model, aligned.shuffle(seed=3), tokens_per_batch=300)
    expected = {row["example_id"]: plain_logprobs(model, row)[0].numpy() for row in aligned}
    assert list(rows["example_id"]) == list(aligned.shuffle(seed=3)["example_id"])
    for row in rows:
        np.testing.assert_allclose(row["label_logprobs"], expected[row["example_id"]], rtol=1e-12)
        assert len(row["label_spans"]) == len(row["label_logprobs"])


# the model's state


def hooks_of(model):
    return [
        (len(module._forward_pre_hooks), len(module._forward_hooks)) for module in model.modules()
    ]


def test_the_model_and_the_random_streams_are_left_as_they_were(aligned, tokenizer):
    model = make_model("llama", len(tokenizer), attention_dropout=0.3).train()
    model.model.layers[0].eval()  # a frozen block keeps its own flag
    model.gradient_checkpointing_enable()
    before = (
        [module.training for module in model.modules()],
        hooks_of(model),
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
        model.config.to_dict(),
        model.is_gradient_checkpointing,
    )
    score = score_traces(model, aligned)
    assert before[0] == [module.training for module in model.modules()]
    assert before[1] == hooks_of(model)
    assert torch.equal(before[2], torch.get_rng_state())
    assert before[3] == random.getstate()
    assert before[4] == np.random.get_state()[1].tolist()
    assert before[5] == model.config.to_dict()
    assert before[6] == model.is_gradient_checkpointing
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert score.value == score_traces(model.eval(), aligned).value  # no dropout while it scored


def test_the_model_is_left_as_it_was_after_an_error(aligned, tokenizer):
    model = make_model("llama", len(tokenizer)).train()
    model.lm_head.weight.data[5] = float("nan")
    before = hooks_of(model)
    with pytest.raises(InputError):
        score_traces(model, aligned)
    assert before == hooks_of(model)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("how", ["wrapper", "in place"])
def test_a_compiled_model_is_scored_by_its_original_modules(how, aligned, tokenizer):
    model = make_model("llama", len(tokenizer))
    expected = score_traces(model, aligned).value
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    if how == "wrapper":
        compiled = torch.compile(model, backend=backend)
    else:
        model.compile(backend=backend)
        compiled = model
    assert score_traces(compiled, aligned).value == expected
    assert not calls
    if how == "in place":
        assert model._compiled_call_impl is not None


def test_lora_adapters_are_scored_with_the_model(aligned, tokenizer):
    model = make_model("llama", len(tokenizer), dtype=torch.float64)
    base = score_traces(model, aligned).value
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "lm_head"])
    tuned = get_peft_model(model, config, autocast_adapter_dtype=False)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    score = score_traces(tuned, aligned)
    assert score.value == pytest.approx(plain_score(tuned, aligned)["value"], rel=1e-12)
    assert score.value != base


def test_autocast_of_the_caller_holds(aligned, tokenizer):
    model = make_model("llama", len(tokenizer))
    full = score_traces(model, aligned).value
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = score_traces(model, aligned).value
        expected = plain_score(model, aligned)["value"]
    assert low != full
    assert low == pytest.approx(expected, rel=2e-3)


# memory


def test_no_tensor_of_all_tokens_by_vocabulary(tokenizer):
    aligned = align_traces(make_traces(20), tokenizer)
    model = make_model("llama", 4000)
    num_tokens = sum(map(len, aligned["input_ids"]))
    assert num_tokens > 6 * LABELS_PER_CHUNK  # else the bound below says nothing
    with LargestTensor() as ours:
        score_traces(model, aligned, tokens_per_batch=100_000)
    assert ours.numel == max(LABELS_PER_CHUNK * 4000, 4000 * 32)
    row = max(aligned, key=lambda row: len(row["input_ids"]))
    with LargestTensor() as naive:  # the guard can fail: one row the naive way trips it
        plain_logprobs(model, row)
    assert naive.numel >= len(row["input_ids"]) * 4000 > ours.numel


# what the model does to its logits


@pytest.mark.parametrize(
    ("family", "changes", "scale", "cap"),
    [
        ("llama", {}, 1.0, None),
        ("gemma2", {"final_logit_softcapping": 30.0}, 1.0, 30.0),
        ("gemma2", {"final_logit_softcapping": None}, 1.0, None),
        ("cohere", {"logit_scale": 0.0625}, 0.0625, None),
        ("granite", {"logits_scaling": 13.0}, 1 / 13, None),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_logit_transform_is_measured(family, changes, scale, cap, dtype):
    model = make_model(family, 64, dtype=dtype, **changes)
    with scoring_mode(model) as bare:
        found = measure_logit_transform(bare, device=torch.device("cpu"))
    assert found.scale == pytest.approx(scale, rel=1e-7)
    assert found.cap == cap


def test_an_unknown_change_of_the_logits_is_refused():
    model = Bigram(bigram_table(), after_head=lambda logits: logits + logits.sin())
    with pytest.raises(ValueError, match="neither a scale nor a softcap"):
        score_traces(model, bigram_aligned([[1, 1]], [[1, 2]]))


def test_scale_and_softcap_together_are_honoured():
    def bend(logits):
        return 3 * torch.tanh(logits * 0.5 / 3)

    model = Bigram(bigram_table(), after_head=bend)
    rows = bigram_aligned([[1, 1]], [[1, 2]])
    expected = -torch.log_softmax(bend(bigram_table()[[0, 1]].log()), dim=-1)
    expected = (expected[0, 1] + expected[1, 2]).item() / 2
    assert score_traces(model, rows).value == pytest.approx(expected, rel=1e-7)


def test_a_head_that_is_not_called_is_refused():
    model = Bigram(bigram_table(), calls_head=False)
    with pytest.raises(ValueError, match="does not call its output head"):
        score_traces(model, bigram_aligned([[1, 1]], [[1, 2]]))


def test_a_model_with_positions_of_its_own_is_refused():
    model = Bigram(bigram_table(), num_virtual=3)
    with pytest.raises(ValueError, match="hands 98 positions to its output head for 92 tokens"):
        score_traces(model, bigram_aligned([[1, 1]], [[1, 2]]))


def test_a_model_without_a_head_is_refused(aligned, tokenizer):
    with pytest.raises(ValueError, match="no output head"):
        score_traces(make_model("llama", len(tokenizer)).model, aligned)


# bad input


def test_a_row_beyond_the_window_is_named(aligned, tokenizer):
    longest = max(aligned, key=lambda row: len(row["input_ids"]))
    fits = len(longest["input_ids"]) - 1
    score_traces(make_model("llama", len(tokenizer), max_position_embeddings=fits), aligned)
    model = make_model("llama", len(tokenizer), max_position_embeddings=fits - 1)
    with pytest.raises(InputError, match=f"{longest['example_id']}.*window is {fits - 1}.*max_len"):
        score_traces(model, aligned)


def test_a_vocabulary_smaller_than_the_tokenizer_is_named(aligned):
    with pytest.raises(InputError, match="row t.*input_ids.*beyond the model's vocabulary of 200"):
        score_traces(make_model("llama", 200), aligned)


def test_repeated_ids_and_mixed_settings_are_named(aligned, traces, tokenizer):
    model = make_model("llama", len(tokenizer))
    with pytest.raises(InputError, match="'t0' stands in row 0 and again in row 9"):
        score_traces(model, concatenate_datasets([aligned, aligned]))
    byte = align_traces(traces, tokenizer, unit="byte")
    mixed = concatenate_datasets([aligned.select([0]), byte.select([1])])
    with pytest.raises(InputError, match="unit: 'byte' != 'letter'"):
        score_traces(model, mixed)
    with pytest.raises(InputError, match="no aligned traces"):
        score_traces(model, aligned.select([]))


def test_logits_that_are_not_finite_are_named(aligned, tokenizer):
    model = make_model("llama", len(tokenizer))
    model.lm_head.weight.data[7] = float("nan")
    with pytest.raises(InputError, match="row t.*logprob of label 0 is nan"):
        score_traces(model, aligned)
    model = Bigram(bigram_table())  # with token 2 masked out for good, by a bias of -inf
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(8, dtype=torch.float64))
    model.lm_head.bias.data[2] = -torch.inf
    with pytest.raises(InputError, match="row 0.*logprob of label 1 is -inf"):
        score_traces(model, bigram_aligned([[1, 1]], [[1, 2]]))


def test_weights_that_sum_to_zero_cannot_be_the_divisor():
    rows = bigram_aligned([[1, 1], [0, 0]], [[1, 2], [1, 2]])
    with pytest.raises(InputError, match="row 1: its weights sum to 0"):
        score_traces(Bigram(bigram_table()), rows, divisor="weights")
    with pytest.raises(ValueError, match="divisor must be"):
        score_traces(Bigram(bigram_table()), rows, divisor="labels")


# settings, files, comparisons


def test_a_selection_is_a_set_of_its_own(aligned, tokenizer):
    model = make_model("llama", len(tokenizer))
    whole = score_traces(model, aligned)
    part = score_traces(model, aligned.select([2, 0, 1]))
    again = score_traces(model, aligned.select([0, 1, 2]))
    assert part.setting == again.setting
    assert part.value == again.value
    assert part.setting.hash != whole.setting.hash
    with pytest.raises(ValueError, match="num_traces: 9 != 3"):
        compare(whole, part)


def test_a_score_comes_back_from_json(aligned, tokenizer):
    score = score_traces(make_model("llama", len(tokenizer)), aligned, step=3, model_id="m")
    again = ProxyScore.from_json(score.to_json())
    assert again.scalars() == score.scalars()
    assert again.rows.to_dict() == score.rows.to_dict()
    single = score_traces(make_model("llama", len(tokenizer)), aligned.select([0]))
    assert single.low is None and single.high is None
    assert ProxyScore.from_json(single.to_json()).low is None


def test_the_interval_holds_the_mean_and_shrinks_with_more_traces(tokenizer):
    model = make_model("llama", len(tokenizer))
    few = score_traces(model, align_traces(make_traces(6), tokenizer))
    many = score_traces(model, align_traces(make_traces(60), tokenizer))
    for score in (few, many):
        assert score.low < score.value < score.high
    assert many.high - many.low < (few.high - few.low) / 2


def with_rows(score, **columns):
    return ProxyScore.from_json(
        json.dumps(json.loads(score.to_json()) | {"rows": score.rows.to_dict() | columns})
    )


def test_compare_by_hand(aligned, tokenizer):
    score = score_traces(make_model("llama", len(tokenizer)), aligned)
    same = compare(score, score)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    nll_sum = np.array(score.rows["nll_sum"])
    labels = np.array(score.rows["num_labels"])
    worse = with_rows(score, nll_sum=(nll_sum + 0.25 * labels).tolist())
    found = compare(score, worse, metric="trace_nll")
    # every trace differs by 0.25, so every resample does; 2 of 2**9 sign patterns are as extreme
    assert (found.difference, found.low, found.high) == pytest.approx((-0.25, -0.25, -0.25))
    assert found.p_value == 2 / 2**9
    assert compare(worse, score, metric="trace_nll").difference == -found.difference
    bits = compare(score, worse, metric="bits_per_byte").difference
    expected = -0.25 * labels.sum() / math.log(2) / sum(score.rows["num_bytes"])
    assert bits == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="metric must be"):
        compare(score, score, metric="loss")


def test_compare_refuses_what_cannot_be_compared(traces, aligned, tokenizer, other_tokenizer):
    model = make_model("llama", len(tokenizer))
    score = score_traces(model, aligned)
    foreign = score_traces(model, align_traces(traces, other_tokenizer))
    with pytest.raises(ValueError, match="tokenizer: .*bits_per_byte"):
        compare(score, foreign)
    assert compare(score, foreign, metric="bits_per_byte").num_traces == 9
    other_context = align_traces(traces, other_tokenizer, context="Q: {prompt}\nA: ")
    with pytest.raises(ValueError, match="context: 'text {prompt}"):
        compare(score, score_traces(model, other_context), metric="bits_per_byte")
    with pytest.raises(ValueError, match="divisor: 'tokens' != 'weights'"):
        compare(score, score_traces(model, aligned, divisor="weights"))
    with pytest.raises(ValueError, match="at least three"):
        one = score_traces(model, aligned.select([0]))
        compare(one, one)


# annotation


def test_annotation_gives_each_byte_the_frontiers_probability(traces, tokenizer, other_tokenizer):
    frontier = make_model("llama", len(other_tokenizer), dtype=torch.float64)
    annotated = annotate_traces(traces, frontier, other_tokenizer)
    assert annotated.features == TRACE_FEATURES
    aligned = align_traces(traces, other_tokenizer)
    for row, source, ids in zip(annotated, traces, aligned, strict=True):
        check_trace(row)
        assert (row["example_id"], row["trace"]) == (source["example_id"], source["trace"])
        expected = plain_logprobs(frontier, ids)[0]
        np.testing.assert_allclose(row["frontier_logprobs"], expected, rtol=1e-12)
        assert row["frontier_spans"] == ids["label_spans"]
    # the frontier scored on its own annotation: byte by byte, w is its own p before min-max
    own_aligned = align_traces(annotated, other_tokenizer, minmax_over=None, unit="byte")
    own = score_traces(frontier, own_aligned)
    p = np.exp(annotated[0]["frontier_logprobs"])
    row = {row["example_id"]: row for row in own.rows}[annotated[0]["example_id"]]
    assert row["weighted_nll_sum"] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-12)
