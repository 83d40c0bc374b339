"""The closed loop from end to end: its rows, its costs, one process and two, killed and resumed."""

import contextlib
import io
import json
import random
import re

import pytest
import torch
from helpers.models import sharp_pair
from helpers.processes import ROOT, Forked, command, forked
from helpers.scores import curve_for
from helpers.traces import make_traces
from safetensors.torch import load_file

from hf_proxy import load_soft_targets, load_traces
from hf_proxy.cli import main
from hf_proxy.recipes.library.carry_chains import problems


@pytest.fixture(scope="module")
def loop_folder(tmp_path_factory, tokenizer):
    """A pair of models, questions, traces, and a curve over the scores of tiny proxies."""
    folder = tmp_path_factory.mktemp("loop")
    for name, model in zip(("expert", "amateur"), sharp_pair(len(tokenizer)), strict=True):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    rows = problems(random.Random(5))
    texts = (json.dumps({"question": next(rows)["prompt"]}) + "\n" for _ in range(14))
    (folder / "questions.jsonl").write_text("".join(texts))
    make_traces(3).to_json(str(folder / "traces.jsonl"))
    curve_for(load_traces(folder / "traces.jsonl"), tokenizer).save(folder / "curve.json")
    return folder


def arguments_of(folder, out, **changes):
    flags = {
        "model_name_or_path": folder / "expert",
        "amateur": folder / "amateur",
        "prompts": folder / "questions.jsonl",
        "traces": folder / "traces.jsonl",
        "curves": folder / "curve.json",
        "output_dir": folder / out,
        "prompt_context": "{prompt}\\n",
        "num_prompts": 4,
        "num_eval": 3,
        "mine_steps": 3,
        "mine_batch_size": 2,
        "max_new_tokens": 6,
        "divergence_beta": 0.05,
        "lora_r": 4,
        "lora_dropout": 0.0,  # ranks draw their own
        "learning_rate": 0.01,
        "max_steps": 8,
        "per_device_train_batch_size": 2,
        "eval_steps": 2,
        "save_steps": 2,
        "dtype": "float32",
        "use_cpu": "true",
        "disable_tqdm": "true",
        "dataloader_pin_memory": "false",
    } | changes
    config = ROOT / "recipes" / "closed_loop.yaml"
    pairs = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    return ["--config", str(config), *pairs]


def lines_of(folder, out, name="contrast.jsonl"):
    text = (folder / out / "hf_proxy" / name).read_text()
    return [json.loads(line) for line in text.splitlines()]


def adapter_of(folder, out):
    weights = load_file(folder / out / "adapter_model.safetensors")
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


def looped(arguments):
    """What the command says, and its last line read."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["loop", *arguments, "--json"]) == 0
    return said.getvalue(), json.loads(said.getvalue().splitlines()[-1])


@pytest.fixture(scope="module")
def whole(loop_folder):
    """One run without a stop."""
    return looped(arguments_of(loop_folder, "whole"))


def test_score_and_prediction_stand_in_each_evaluation_row(loop_folder, whole):
    said, found = whole
    assert [row["step"] for row in found["rows"]] == [2, 4, 6, 8]
    assert [row["mined_at"] for row in found["rows"]] == [0, 3, 6, 6]
    scores = {line["step"]: line for line in lines_of(loop_folder, "whole", "predictions.jsonl")}
    for row in found["rows"]:
        assert row["eval_loss"] > 0 and row["eval_num_kept"] > 0
        assert row["eval_rbridge_nll"] == scores[row["step"]]["value"]
        prediction = scores[row["step"]]["predictions"]["13b_gsm8k"]
        assert row["eval_rbridge_13b_gsm8k_accuracy"] == prediction["value"]
        assert 0 <= prediction["low"] <= prediction["value"] <= prediction["high"] <= 1
    # every evaluation is of the same held-out steps
    assert len({row["eval_num_kept"] for row in found["rows"]}) == 1
    assert [line["step"] for line in found["minings"]] == [0, 3, 6]
    assert all(line["num_kept"] > 0 for line in found["minings"])
    assert all(value > 0 for value in found["seconds"].values())
    assert "rbridge_13b_gsm8k_accuracy" in said and "in the whole run mining" in said
    # the model has learnt: it is not what it was
    eval_rows = load_soft_targets(loop_folder / "whole" / "hf_proxy" / "eval_soft_targets")
    assert list(eval_rows["example_id"]) == ["11", "12", "13"]
    assert found["rows"][0]["eval_rbridge_nll"] != found["rows"][-1]["eval_rbridge_nll"]


def test_the_same_line_again_leaves_a_finished_loop_as_it_is(loop_folder, whole):
    before = adapter_of(loop_folder, "whole")
    said, found = looped(arguments_of(loop_folder, "whole"))
    assert "this run is finished; nothing was done" in said and found == whole[1]
    assert torch.equal(adapter_of(loop_folder, "whole"), before)


def test_killed_and_resumed_nothing_is_lost(shared, loop_folder, whole):
    """Killed after its second mining: the same lines, the same rows, the same adapter."""
    arguments = arguments_of(loop_folder, "cut")
    file = loop_folder / "cut" / "hf_proxy" / "contrast.jsonl"
    process = Forked(shared, ROOT / "recipes" / "closed_loop.py", *arguments)
    process.kill_once(lambda: file.exists() and file.read_text().count("\n") >= 2)
    assert len(lines_of(loop_folder, "cut")) < 3
    _, found = looped(arguments)

    def timeless(lines):
        own = ("seconds", "run_id", "folder")
        found = [{k: v for k, v in line.items() if k not in own} for line in lines]
        for line in found:
            for prediction in line.get("predictions", {}).values():
                del prediction["transfer"]  # names the run
        return found

    for name in ("contrast.jsonl", "predictions.jsonl"):
        cut, full = (timeless(lines_of(loop_folder, out, name)) for out in ("cut", "whole"))
        assert cut == full
    steps = [row["eval_loss"] for row in found["rows"]]
    assert steps == [row["eval_loss"] for row in whole[1]["rows"]]
    assert torch.equal(adapter_of(loop_folder, "cut"), adapter_of(loop_folder, "whole"))


@pytest.mark.distributed
def test_two_processes_run_the_loop_of_one(shared, loop_folder, whole):
    arguments = arguments_of(loop_folder, "two", per_device_train_batch_size=1, world_size=2)
    recipe = ROOT / "recipes" / "closed_loop.py"
    done = forked(shared, recipe, *arguments, "--json", world_size=2)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["num_processes"] == 2
    for one, two in zip(whole[1]["rows"], found["rows"], strict=True):
        assert two["step"] == one["step"] and two["mined_at"] == one["mined_at"]
        for key in ("eval_loss", "eval_rbridge_nll", "eval_rbridge_13b_gsm8k_accuracy"):
            assert two[key] == pytest.approx(one[key], rel=1e-4)
    assert [m["num_kept"] for m in found["minings"]] == [m["num_kept"] for m in whole[1]["minings"]]


def test_without_a_curve_it_says_so_and_bad_input_stops_it(loop_folder, capsys):
    text = (loop_folder / "questions.jsonl").read_text()
    prompts = loop_folder / "prompts.jsonl"
    prompts.write_text(text.replace('"question"', '"prompt"'))
    own = {"prompts": prompts, "prompt_column": "prompt"}
    arguments = arguments_of(loop_folder, "plain", max_steps=2, mine_steps=2, **own)
    where = arguments.index("--curves")
    code, said, found = command(
        capsys, "loop", *arguments[:where], *arguments[where + 2 :], "--json"
    )
    assert code == 0, said.err
    assert "no curves: the score is shown, no accuracy predicted" in said.out
    assert "eval_rbridge_nll" in found["rows"][0]
    assert not any(key.endswith("_13b_gsm8k_accuracy") for key in found["rows"][0])
    stamp = json.loads((loop_folder / "plain" / "provenance.json").read_text())
    assert stamp["loop"]["num_prompts"] == 4 and stamp["model"]["lora_r"] == 4
    assert stamp["training"]["divergence_beta"] == 0.05
    cases = {
        "num_eval must be at least 1": {"num_eval": 0},
        "num_prompts must be between 1 and the number of prompts, 11, not 99": {"num_prompts": 99},
        "1 processes run, world_size=8 was asked for": {"world_size": 8},
        "max_steps says how long to train": {"max_steps": -1},
        "ContrastCallback.steps=99. never fires in 8 steps": {"mine_steps": 99},
        "questions.jsonl.*there is no such column": {"prompt_column": "text"},
    }
    for number, (message, changes) in enumerate(cases.items()):
        code, said, _ = command(
            capsys, "loop", *arguments_of(loop_folder, f"bad-{number}", **changes)
        )
        assert code == 2 and re.search(message, said.err), said.err[-400:]
