"""Sharded training through the trainers, on gloo: a few set-ups here, the matrix in long form.

The whole of it as a table: tests/long/sharded.py.
"""

import json
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml
from accelerate.utils import merge_fsdp_weights
from helpers import sharded_matrix as matrix
from helpers.processes import ROOT, command
from helpers.sharded import ASSETS, forked_script, job, results, run_jobs
from torch import nn
from transformers import AutoModelForCausalLM

from hf_proxy.models.access import head_width, weights_checksum
from hf_proxy.models.meshes import readers
from hf_proxy.records.errors import InputError

pytestmark = pytest.mark.distributed
ONE_LAUNCH = pytest.mark.xdist_group("sharded matrix")  # on one worker, or each would launch it
QUICK = (
    matrix.Case("FSDP2", "fsdp2", options={"max_steps": 2}),
    matrix.Case("ZeRO-3", "zero3", options={"max_steps": 2}),
)
QUICK_UPDATE = matrix.Update("zero3")


@pytest.fixture(scope="module")
def quick(shared, tmp_path_factory):
    """Folder of what two processes do in one start."""
    folder = tmp_path_factory.mktemp("sharded")
    jobs = [own for case in QUICK for own in case.jobs()] + QUICK_UPDATE.jobs()
    jobs.append(job("fsdp1", "fsdp1", "sharded_jobs:sft", watch="score", max_steps=1))
    jobs.append(job("bad", "fsdp2", "sharded_jobs:one_bad_row"))
    bf16 = {"mixed_precision": "bf16"}
    jobs.append(job("checksums-fsdp2", "fsdp2", "sharded_jobs:checksums", **bf16))
    jobs.append(job("checksums-zero3", "zero3", "sharded_jobs:checksums"))
    jobs.append(job("checksums-fsdp1", "fsdp1", "sharded_jobs:checksums"))
    jobs.append(job("parallel", "ddp", "sharded_jobs:tensor_parallel"))
    jobs.append(job("cut", "fsdp2", "sharded_jobs:context_parallel"))
    run_jobs(shared, folder, 2, jobs)
    return folder


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.setup)
def test_a_sharded_training_is_left_as_it_was_and_its_checkpoint_scores_alike(quick, case):
    assert matrix.neutral(quick, case) == []
    scored = results(quick, f"{case.key}-scored", 2)
    assert [rank["share"] for rank in scored] == pytest.approx([0.5, 0.5], abs=0.01)
    assert scored[0]["scores"] == scored[1]["scores"] and len(scored[0]["scores"]) == 2
    assert matrix.score_gap(quick, case) < 1e-5


def test_under_fsdp1_the_wrapper_gathers_what_is_scored(quick):
    scores = [rank["scores"] for rank in results(quick, "fsdp1", 2)]
    assert scores[0] == scores[1]
    before = results(quick, "FSDP2-scored", 2)[0]["scores"][0]
    assert scores[0][0] == pytest.approx(before, rel=1e-6)  # the same weights


def test_a_row_that_cannot_be_scored_stops_sharded_ranks_together(quick):
    found = results(quick, "bad", 2)
    row = found[0]["row"]
    for rank in found:
        assert rank["id"].startswith(f"InputError: row {row}, field input_ids: token id 399999")
        assert rank["nan"].startswith(f"InputError: row {row}: the model's logprob of label 0 is")
        assert rank["then"] == found[0]["then"] > 0  # and the ranks go on together


@pytest.mark.parametrize("setup", ["fsdp2", "zero3", "fsdp1"])
def test_the_checksum_is_of_what_is_trained_whatever_is_gathered(quick, setup):
    found = results(quick, f"checksums-{setup}", 2)
    values = {value for rank in found for value in rank["same"]}
    assert len(values) == 1
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "expert", dtype=torch.float32)
    assert (values == {weights_checksum(model)}) is (setup != "fsdp1")
    assert all(rank["facts"] == [True, model.num_parameters()] for rank in found)
    assert values != {rank["moved"] for rank in found}  # the test can fail


def test_ranks_of_one_layer_read_the_same_rows(quick):
    found = results(quick, "parallel", 2)
    assert [rank["readers"] for rank in found] == [[1, 0, True], [1, 0, False]]
    assert [rank["unnamed"] for rank in found] == [[1, 0, True], [1, 0, False]]
    for rank in found:
        assert rank["parallel"] == pytest.approx(rank["whole"], rel=1e-6)
        assert rank["transformers"] == pytest.approx(rank["whole"], rel=1e-6)
        assert len(set(rank["checksums"])) == 1
        assert "the mesh of devices has a dimension 'rows' of 2" in rank["odd"]
        assert rank["dealt"].startswith("InputError: mining deals its rows to all processes")


def test_ranks_that_cut_a_row_are_refused_by_name(quick):
    for rank in results(quick, "cut", 2):
        for who in ("accelerator", "state"):
            assert "parallelism_config cp_size: it cuts rows between processes" in rank[who]


def test_an_update_under_zero3_is_that_of_one_process(quick, tmp_path):
    matrix.one_process(tmp_path, QUICK_UPDATE)
    assert matrix.update_gap(quick, QUICK_UPDATE, tmp_path) < 1e-5


def test_layers_that_deepspeed_cuts_are_refused_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", sys.modules.get("deepspeed", ModuleType("ds")))
    config = {"tensor_parallel": {"autotp_size": 2}}
    monkeypatch.setattr("transformers.integrations.deepspeed.deepspeed_config", lambda: config)
    processes = SimpleNamespace(num_processes=2, process_index=0)
    with pytest.raises(InputError, match="^field tensor_parallel autotp_size: DeepSpeed's ranks"):
        readers(nn.Linear(2, 2), processes)


def test_a_head_whose_rows_are_elsewhere_has_its_width_all_the_same():
    class Head(nn.Module):
        weight = nn.Parameter(torch.empty(0))

    class Model(nn.Module):
        def get_output_embeddings(self):
            return Head()

    Head.weight.ds_shape = torch.Size([11, 4])  # as ZeRO-3 leaves it
    assert head_width(Model()) == 11


# recipes


def finetune(shared, config, folder, **flags):
    """The recipe on two processes under a file for `accelerate launch`; its last line."""
    rows = [{"prompt": f"How much is {i} and 2?", "completion": f" {i + 2}."} for i in range(12)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {
        "model_name_or_path": ASSETS / "expert",
        "train_data": folder / "rows.jsonl",
        "traces": ASSETS / "traces.parquet",
        "output_dir": folder / "run",
        "num_eval": 4,
        "max_steps": 2,
        "save_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "per_device_train_batch_size": 1,
        "world_size": 2,
        "bf16": "true",
    } | flags
    arguments = [part for name, value in given.items() for part in (f"--{name}", value)]
    recipe = ROOT / "recipes" / "finetune_with_proxy.py"
    done = forked_script(shared, config, 2, recipe, *arguments, "--json")
    assert done.returncode == 0, done.stderr[-6000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith('{"')]
    return json.loads(line)


def scored(folder, capsys, dtype="float32"):
    """`hf-proxy score` of a folder: exit code, last line, value."""
    given = ("--models", folder, "--traces", ASSETS / "traces.parquet", "--dtype", dtype)
    code, said, found = command(capsys, "score", *given, "--json")
    return code, said.err, found and found["scores"][0]["value"]


def test_a_run_that_keeps_shards_ends_with_a_model_all_the_same(shared, tmp_path, capsys):
    config = yaml.safe_load((ROOT / "recipes" / "accelerate_fsdp2.yaml").read_text())
    config["fsdp_config"]["fsdp_state_dict_type"] = "SHARDED_STATE_DICT"
    (tmp_path / "shards.yaml").write_text(yaml.safe_dump(config))
    found = finetune(shared, tmp_path / "shards.yaml", tmp_path)
    run = tmp_path / "run"
    code, said, value = scored(run, capsys, "bfloat16")
    assert code == 0, said
    assert value == pytest.approx(found["scores"][-1]["value"], rel=1e-6)
    # its checkpoints are shards, and the way to a model is said
    checkpoint = run / "checkpoint-2"
    code, said, _ = scored(checkpoint, capsys)
    assert code == 2 and f"accelerate merge-weights {checkpoint}/pytorch_model_fsdp_0" in said
    merge_fsdp_weights(str(checkpoint / "pytorch_model_fsdp_0"), str(checkpoint))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).write_bytes((run / name).read_bytes())
    code, said, merged = scored(checkpoint, capsys, "bfloat16")
    assert code == 0 and merged == value


def test_shards_of_deepspeed_name_the_way_to_a_model(tmp_path, capsys):
    (tmp_path / "global_step2").mkdir()
    (tmp_path / "global_step2" / "zero_pp_rank_0_mp_rank_00_model_states.pt").write_bytes(b"")
    code, said, _ = scored(tmp_path, capsys)
    assert code == 2 and "zero_to_fp32.py" in said and "zero3_save_16bit_model: true" in said


@pytest.mark.long
@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero3"])
def test_the_files_that_are_shipped_start_as_they_stand(name, shared, tmp_path, capsys):
    config = ROOT / "recipes" / f"accelerate_{name}.yaml"
    found = finetune(shared, config, tmp_path)
    code, said, value = scored(tmp_path / "run", capsys, "bfloat16" if name != "ddp" else "float32")
    assert code == 0, said
    # under autocast the norms stay in float32
    assert value == pytest.approx(found["scores"][-1]["value"], rel=0.02)


# ends


@pytest.mark.long
@pytest.mark.parametrize("setup, where", [("fsdp2", "forward"), ("zero3", "step")])
def test_a_rank_that_is_lost_ends_all_with_its_message(setup, where, shared, tmp_path):
    with pytest.raises(AssertionError, match="KeyError: 'lost here'"):
        run_jobs(shared, tmp_path, 2, [job("a", setup, "sharded_jobs:failing", where=where)])
    raised = float((tmp_path / "a" / "raised").read_text())
    assert time.time() - raised < 90  # it waits half a minute for the other


# the matrix


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folder of what each set-up does on so many processes, under `accelerate launch`."""
    more = {4: [job("parallel", "ddp", "sharded_jobs:tensor_parallel")]}
    return matrix.launch_all(tmp_path_factory.mktemp("matrix"), more)


@ONE_LAUNCH
@pytest.mark.long
@pytest.mark.parametrize("case", matrix.CASES, ids=lambda case: case.key)
def test_every_set_up_is_left_as_it_was(folders, case):
    folder = folders[case.ranks, case.setup]
    if not case.decides:
        assert matrix.neutral(folder, case) == []
    # the world's sure models have logits of 40, whose spacing is 1e-5 of such a score
    assert matrix.score_gap(folder, case) < 1e-5
    for rank in results(folder, f"{case.key}-scored", case.ranks):
        assert rank["share"] == pytest.approx(1 / (2 if case.setup == "hsdp" else case.ranks), 0.02)
        steps = [step for step, _ in rank["lines"]]
        assert steps == [0, 2, 4]
        if case.decides:
            _, second, fourth = rank["scores"]
            assert rank["best"] == f"checkpoint-{2 if second < fourth else 4}"
            assert rank["after"] == pytest.approx(min(second, fourth), rel=1e-12)  # loaded again


@ONE_LAUNCH
@pytest.mark.long
@pytest.mark.parametrize("case", [c for c in matrix.CASES if c.resumes], ids=lambda case: case.key)
def test_every_set_up_goes_on_where_it_stopped(folders, case):
    assert matrix.resumed(folders[case.ranks, case.setup], case) == []


@ONE_LAUNCH
@pytest.mark.long
@pytest.mark.parametrize("update", matrix.UPDATES, ids=lambda update: update.key)
def test_every_update_is_that_of_one_process(folders, update, tmp_path):
    matrix.one_process(tmp_path, update)
    assert matrix.update_gap(folders[update.ranks, update.setup], update, tmp_path) < 1e-5


@ONE_LAUNCH
@pytest.mark.long
def test_two_pairs_of_ranks_read_rows_of_their_own(folders):
    found = results(folders[4, "hsdp"], "parallel", 4)
    expected = [[2, 0, True], [2, 0, False], [2, 1, True], [2, 1, False]]
    assert [rank["readers"] for rank in found] == expected
    for rank in found:
        assert rank["parallel"] == pytest.approx(rank["whole"], rel=1e-6)
        assert len(set(rank["checksums"])) == 1
