"""Two and three real processes on gloo give the score of one, and stop together."""

import json

import pytest
import torch
from helpers.models import make_model
from helpers.processes import ROOT, forked
from helpers.traces import make_traces
from transformers import AutoModelForCausalLM

from hf_proxy import align_traces, load_traces, score_traces, token_logprobs
from hf_proxy.models.parallel import balanced_shards, from_main

pytestmark = pytest.mark.distributed
SCORES = ("value", "low", "high", "pooled", "trace_nll", "bits_per_byte", "mean_rank")


@pytest.fixture(scope="module", params=[2, 3])
def found(request, of_ranks):
    return of_ranks("distributed", request.param)


@pytest.fixture(scope="module")
def aligned(traces, tokenizer):
    return align_traces(traces, tokenizer)


def assert_same(theirs, score, tolerance):
    for name in SCORES:
        assert theirs[name] == pytest.approx(getattr(score, name), rel=tolerance), name
    assert theirs["setting"] == score.setting.hash
    assert theirs["rows"]["example_id"] == list(score.rows["example_id"])
    for name in ("weighted_nll_sum", "nll_sum"):
        assert theirs["rows"][name] == pytest.approx(list(score.rows[name]), rel=tolerance)
    assert theirs["num_parameters"] == score.num_parameters


def test_same_score_as_one_process(found, aligned, tokenizer):
    single = score_traces(make_model("llama", len(tokenizer)), aligned)
    double = score_traces(make_model("llama", len(tokenizer), dtype=torch.float64), aligned)
    for tokens_per_batch in (64, 100_000):
        assert_same(found[f"float32 {tokens_per_batch}"], single, 1e-6)
        assert_same(found[f"float64 {tokens_per_batch}"], double, 1e-12)
    assert_same(found["ddp"], single, 1e-6)
    assert_same(found["alone"], double, 1e-12)
    assert_same(found["own order"], double, 1e-12)
    assert found["same on every rank"]


def test_fewer_rows_than_ranks(found, aligned, tokenizer):
    model = make_model("llama", len(tokenizer), dtype=torch.float64)
    expected = score_traces(model, aligned.select([3]))
    assert found["one row"]["value"] == pytest.approx(expected.value, rel=1e-12)
    assert found["one row"]["low"] is None


def test_token_logprobs_are_gathered_whole(found, aligned, tokenizer):
    model = make_model("llama", len(tokenizer), dtype=torch.float64)
    expected = token_logprobs(model, aligned).to_dict()
    theirs = found["token_logprobs"]
    assert theirs["example_id"] == expected["example_id"]
    assert theirs["label_spans"] == expected["label_spans"]
    pairs = zip(theirs["label_logprobs"], expected["label_logprobs"], strict=True)
    for mine, one in pairs:
        assert mine == pytest.approx(one, rel=1e-12)


def test_sharded_weights_give_the_same_score(found, aligned, tokenizer):
    expected = score_traces(make_model("llama", len(tokenizer)), aligned)
    assert "DTensor" in found["types"]  # they were sharded
    assert_same(found["fsdp2"], expected, 1e-6)
    assert_same(found["fsdp2 again"], expected, 1e-6)


FAULTS = {
    "unreadable_file": ("InputError", "elsewhere.jsonl: there is no such file", None),
    "unlike_rows": ("InputError", "the aligned traces differs between rank 0 and rank", None),
    "nan_on_one_rank": ("InputError", "logprob of label 0 is nan", None),
    "crash_on_one_rank": ("RuntimeError", "stopped with KeyError: 'lost'", "KeyError"),
    "bad_rows_on_one_rank": ("InputError", "there are no aligned traces", None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_all_ranks_stop_together(found, fault):
    kind, message, own_kind = FAULTS[fault]
    *others, last = found["faults"][fault]
    for name, text in others:
        assert name == kind and message in text
    assert last[0] == (own_kind or kind)
    if own_kind is None:
        assert last[1] == others[0][1]  # one line, the same everywhere


def test_the_main_process_works_for_all(found):
    assert found["same on every rank"]
    assert found["from_main"] == 0
    main, *others = found["faults"]["crash_on_main_for_all"]
    assert main == ["KeyError", "'lost'"]
    assert others
    assert all(
        other == ["RuntimeError", "rank 0 stopped with KeyError: 'lost'"] for other in others
    )
    assert from_main(None, lambda: [1, "b"]) == [1, "b"]  # one process
    with pytest.raises(KeyError, match="lost"):
        from_main(None, lambda: {}["lost"])


def test_after_a_fault_the_processes_still_score(found, aligned, tokenizer):
    assert_same(found["after"], score_traces(make_model("llama", len(tokenizer)), aligned), 1e-6)


@pytest.fixture(scope="module")
def trained(shared, of_ranks):
    return shared / "inputs" / "training-2", of_ranks("training", 2)


def test_training_on_two_processes_is_bit_for_bit_the_same(trained):
    _, found = trained
    assert found["neutral"]["unattached"] == [True, True]
    assert found["neutral"]["attached"] == [True, True]
    assert found["neutral"]["careless"] == [False, False]  # the test can fail


def test_the_callback_on_two_processes_scores_what_one_scores(trained, tokenizer):
    folder, found = trained
    assert [line["step"] for line in found["lines"]] == [0, 2, 4, 6]
    aligned = align_traces(make_traces(5), tokenizer)
    for line in found["lines"][1:]:
        checkpoint = folder / "attached" / "run" / f"checkpoint-{line['step']}"
        model = AutoModelForCausalLM.from_pretrained(checkpoint)
        assert line["value"] == pytest.approx(score_traces(model, aligned).value, rel=1e-6)


def test_resume_on_two_processes_has_no_gap_and_no_double(trained):
    _, found = trained
    before, after = found["lines"], found["lines after resume"]
    assert [line["step"] for line in after] == [0, 2, 4, 6]
    assert [line["value"] for line in after] == [line["value"] for line in before]
    assert [line["tokens_seen"] for line in after] == [0, 384, 768, 1152]  # of both processes
    assert {line["run_id"] for line in after} == {before[0]["run_id"]}


def test_the_metric_in_a_plain_loop(trained):
    loop = trained[1]["loop"]
    assert loop["rows"] == 7
    assert loop["metric"] == pytest.approx(loop["score_traces"], rel=1e-6)


def test_shards_are_balanced_and_complete():
    costs = [900, 10, 20, 30, 400, 450, 5, 5, 60]
    for num_shards in (1, 2, 3, 12):
        shards = balanced_shards(costs, num_shards)
        assert sorted(index for shard in shards for index in shard) == list(range(len(costs)))
        loads = [sum(costs[index] for index in shard) for shard in shards]
        # greedy longest-first: no shard beats the mean by more than the largest single cost
        assert max(loads) <= max(max(costs), sum(costs) / num_shards * 4 / 3)


def test_the_command_on_two_processes(shared, tokenizer, tmp_path):
    folder = shared / "inputs"
    model = make_model("llama", len(tokenizer))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    recipe = ROOT / "recipes" / "score_checkpoints.py"
    arguments = ["--models", tmp_path / "model", "--traces", folder / "traces.jsonl", "--json"]
    done = forked(shared, recipe, *arguments, world_size=2)
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    aligned = align_traces(load_traces(folder / "traces.jsonl"), tokenizer)
    expected = score_traces(model, aligned)
    assert json.loads(line)["scores"][0]["value"] == pytest.approx(expected.value, rel=1e-6)

    arguments[3] = folder / "missing.jsonl"
    done = forked(shared, recipe, *arguments, world_size=2)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("hf-proxy: error")]
    assert len(said) == 1 and "missing.jsonl: there is no such file" in said[0]
