"""Mining with an expert in shards, on gloo: the rows of whole weights, the training left alone."""

from pathlib import Path

import pytest
import torch
from helpers.mining import make_callback
from helpers.models import make_model
from helpers.sharded import ASSETS, differences, job, results, run_jobs
from peft import PromptTuningConfig, get_peft_model
from sharded_mining_jobs import CONTEXT, PROMPTS, SETTINGS, sets_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_proxy import mine_soft_targets
from hf_proxy.models.whole import in_lockstep
from hf_proxy.records.errors import InputError

pytestmark = pytest.mark.distributed
ONE_LAUNCH = pytest.mark.xdist_group("mining matrix")  # on one worker, or each would launch it
SHARDED = ("fsdp2", "zero3")
GATHERS = ("whole", "shards")


def mining(name, setup, work, **options):
    return job(name, setup, f"sharded_mining_jobs:{work}", **options)


def same_rows(found, expected, *, exactly=True):
    """Ids, kept steps and targets; to the last bit, or as far as other sums let them be."""
    for name in ("example_id", "input_ids", "position", "token_id"):
        assert found["rows"][name] == expected["rows"][name], name
    for name in ("kl", "prob"):
        for own, theirs in zip(found["rows"][name], expected["rows"][name], strict=True):
            assert own == (theirs if exactly else pytest.approx(theirs, abs=2e-5)), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process mines with whole weights, of the first prompts."""
    folder = tmp_path_factory.mktemp("alone")
    expert, amateur = (
        AutoModelForCausalLM.from_pretrained(ASSETS / name, dtype=torch.float32).eval()
        for name in ("expert", "amateur")
    )
    own = {name: value for name, value in SETTINGS.items() if name != "num_prompts"}
    mine_soft_targets(
        expert,
        amateur,
        PROMPTS[: SETTINGS["num_prompts"]],
        processing_class=AutoTokenizer.from_pretrained(ASSETS / "expert"),
        output_dir=folder / "mined",
        **own | CONTEXT,
    )
    found = sets_of(folder)["mined"]
    lengths = [len(kl) for kl in found["rows"]["kl"]]
    kept = sum(map(len, found["rows"]["position"]))
    assert len(set(lengths)) > 1 and 0 < kept < sum(lengths)  # else this would show little
    return found


@pytest.fixture(scope="module")
def watched(shared, tmp_path_factory):
    """Trainings with a callback that mines, and without, in one start of two processes."""
    folder = tmp_path_factory.mktemp("watched")
    jobs = []
    for setup, gather in zip(SHARDED, GATHERS, strict=True):
        jobs.append(mining(f"{setup}-plain", setup, "watched", with_contrast=False, max_steps=1))
        own = {"gather": gather}
        jobs.append(mining(f"{setup}-mined", setup, "watched", mining=own, max_steps=1))
    run_jobs(shared, folder, 2, jobs)
    return folder


@pytest.mark.parametrize("setup", SHARDED)
def test_an_expert_in_shards_is_mined_as_a_whole_one(watched, alone, setup):
    mined, plain = (results(watched, f"{setup}-{name}", 2) for name in ("mined", "plain"))
    assert differences(mined, plain) == []
    assert [rank["share"] for rank in mined] == pytest.approx([0.5, 0.5], abs=0.01)
    sets = mined[0]["sets"]
    assert sets == mined[1]["sets"] and list(sets) == ["step-00000000", "step-00000001"]
    same_rows(sets["step-00000000"], alone)
    assert sets["step-00000000"]["models"] == alone["models"]  # gone on with on one process
    assert sets["step-00000001"]["models"] != alone["models"]


def test_what_does_not_go_through_shards_is_named(tokenizer):
    plain = make_model("llama", len(tokenizer))
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    adapted = get_peft_model(make_model("llama", len(tokenizer)), prompt)
    plain.lm_head.weight.ds_tensor = torch.zeros(1)  # as ZeRO-3 loads it
    for model, message in (
        (adapted, "an adapter of virtual tokens does not write through shards"),
        (plain, "no engine gathers them before the training begins; set gather='whole'"),
    ):
        with pytest.raises(InputError, match=message), in_lockstep(model, None):
            pass
    problems = [{"prompt": "1 + 1", "answer": "2"}]
    with pytest.raises(InputError, match="foretelling needs whole weights on each process"):
        make_callback(tokenizer, foretell=problems, temperature=0.0, gather="shards")


# the long form: each way of sharding, gathering, adapting and training


@pytest.fixture(scope="module")
def matrix(shared, tmp_path_factory, alone):
    folder = tmp_path_factory.mktemp("matrix")
    sets = str(Path(folder) / "ddp-before" / "sets" / "mined")
    jobs = [
        mining("ddp-before", "ddp", "before_training"),
        mining("zero3-before", "zero3", "before_training"),
        mining("ddp-fed", "ddp", "selective"),
        mining("ddp-online", "ddp", "selective", how="online", mined=sets),
    ]
    for expert in ("live", "base"):
        options = {"with_lora": True, "max_steps": 2, "mining": {"expert": expert}}
        jobs.append(mining(f"ddp-{expert}", "ddp", "watched", **options))
    for setup in SHARDED:
        jobs.append(mining(f"{setup}-online", setup, "selective", how="online", mined=sets))
        jobs.append(mining(f"{setup}-bf16-plain", setup, "watched", bf16=True, with_contrast=False))
        jobs.append(
            mining(f"{setup}-lora-plain", setup, "watched", with_lora=True, with_contrast=False)
        )
        for gather in GATHERS:
            name, own = f"{setup}-{gather}", {"gather": gather}
            jobs.append(mining(f"{name}-fed", setup, "selective", mining=own))
            jobs.append(mining(f"{name}-bf16", setup, "watched", bf16=True, mining=own))
            jobs.append(mining(f"{name}-broken", setup, "broken", gather=gather))
            for expert in ("live", "base"):
                changes = own | {"expert": expert}
                jobs.append(
                    mining(f"{name}-{expert}", setup, "watched", with_lora=True, mining=changes)
                )
    for gather in GATHERS:
        jobs.append(mining(f"fsdp1-{gather}", "fsdp1", "failing", mining={"gather": gather}))
    for one in jobs:
        if one["work"].endswith("watched"):
            one["options"].setdefault("max_steps", 2)
    run_jobs(shared, folder, 2, jobs)
    return folder


@ONE_LAUNCH
@pytest.mark.long
@pytest.mark.parametrize("gather", GATHERS)
@pytest.mark.parametrize("setup", SHARDED)
def test_a_run_that_feeds_itself_learns_the_same(matrix, alone, setup, gather):
    found, expected = (
        results(matrix, f"{name}-fed", 2)[0] for name in (f"{setup}-{gather}", "ddp")
    )
    assert list(found["sets"]) == [f"step-{step:08d}" for step in range(3)]
    same_rows(found["sets"]["step-00000000"], alone)
    for name, mined in found["sets"].items():
        same_rows(mined, expected["sets"][name], exactly=False)
    for own, theirs in zip(found["log"], expected["log"], strict=True):
        assert own == pytest.approx(theirs, rel=1e-5)
    same_weights(matrix / f"{setup}-{gather}-fed", matrix / "ddp-fed")


def same_weights(folder, other):
    found, expected = (torch.load(place / "whole.pt") for place in (folder, other))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0)


@ONE_LAUNCH
@pytest.mark.long
@pytest.mark.parametrize("setup", SHARDED)
def test_targets_of_the_batch_itself_are_the_same(matrix, setup):
    found, expected = (results(matrix, f"{name}-online", 2)[0] for name in (setup, "ddp"))
    for own, theirs in zip(found["log"], expected["log"], strict=True):
        assert own == pytest.approx(theirs, rel=1e-5)
    same_weights(matrix / f"{setup}-online", matrix / "ddp-online")


@ONE_LAUNCH
@pytest.mark.long
@pytest.mark.parametrize("expert", ["live", "base"])
@pytest.mark.parametrize("gather", GATHERS)
@pytest.mark.parametrize("setup", SHARDED)
def test_an_adapter_writes_and_is_trained_as_before(matrix, alone, setup, gather, expert):
    found = results(matrix, f"{setup}-{gather}-{expert}", 2)
    expected = results(matrix, f"ddp-{expert}", 2)[0]
    assert differences(found, results(matrix, f"{setup}-lora-plain", 2)) == []
    for name, mined in found[0]["sets"].items():
        same_rows(mined, expected["sets"][name], exactly=False)
    same_rows(found[0]["sets"]["step-00000000"], alone)


@ONE_LAUNCH
@pytest.mark.long
@pytest.mark.parametrize("setup", SHARDED)
def test_bf16_is_the_same_whole_and_through_shards(matrix, setup):
    """Not as under DDP, whose weights stay float32 outside of its autocast."""
    whole, shards = (results(matrix, f"{setup}-{gather}-bf16", 2) for gather in GATHERS)
    for found in (whole, shards):
        assert differences(found, results(matrix, f"{setup}-bf16-plain", 2)) == []
    assert whole[0]["sets"] == shards[0]["sets"]
    dtypes = {own["models"][0][1] for own in whole[0]["sets"].values()}
    assert dtypes == {"torch.float32" if setup == "fsdp2" else "torch.bfloat16"}


@ONE_LAUNCH
@pytest.mark.long
def test_what_was_loaded_in_parts_is_mined_whole(matrix, alone):
    """Before a training has an engine for it: a set to evaluate on, as `hf-proxy loop` mines it."""
    ranks = results(matrix, "zero3-before", 2)
    assert [rank["values"] for rank in ranks] == [0, 0]  # else nothing was in parts
    same_rows(ranks[0]["sets"]["mined"], alone)


@ONE_LAUNCH
@pytest.mark.long
@pytest.mark.parametrize("gather", GATHERS)
def test_fsdp1_is_refused_by_name(matrix, gather):
    for rank in results(matrix, f"fsdp1-{gather}", 2):
        assert rank["error"].startswith("InputError: FSDP1 runs no forward")


@ONE_LAUNCH
@pytest.mark.long
@pytest.mark.parametrize("gather", GATHERS)
@pytest.mark.parametrize("setup", SHARDED)
def test_a_rank_that_fails_ends_all(matrix, setup, gather):
    ranks = results(matrix, f"{setup}-{gather}-broken", 2)
    for rank in ranks:
        assert "the expert has a logit that is not finite" in rank["error"]
        assert rank["error"].startswith(InputError.__name__) and rank["seconds"] < 60
