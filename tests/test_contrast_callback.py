"""ContrastCallback on real trainers: its figures, its sets, and a training left as it was."""

import json

import contrast_worker
import pytest
import torch
from datasets import Dataset
from helpers.mining import (
    PROMPTS,
    SETTINGS,
    TEMPLATE,
    contrast_lines,
    make_callback,
    with_controls,
)
from helpers.models import sharp_pair
from helpers.traces import make_traces
from helpers.trainers import plain_trainer, same, state_of
from peft import LoraConfig, get_peft_model
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from hf_proxy import foretell_gain, load_metric, load_soft_targets, mine_soft_targets
from hf_proxy.callbacks import ProxyScoreCallback
from hf_proxy.callbacks.contrast import FORETOLD, KEYS
from hf_proxy.mining import foretelling
from hf_proxy.models.access import adapters_off
from hf_proxy.records.lines import ContrastLine
from hf_proxy.report.page import write_report


def test_figures_stand_beside_the_loss(tmp_path, tokenizer):
    callback = make_callback(tokenizer)
    trainer = plain_trainer(tmp_path, tokenizer)
    callback.attach(trainer)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "eval_loss" in row]
    assert len(rows) == 3 and all(set(KEYS) <= set(row) for row in rows)
    lines = contrast_lines(tmp_path)
    assert [line["step"] for line in lines] == [0, 2, 4, 6]
    for row, line in zip(rows, lines[1:], strict=True):
        sets = load_soft_targets(tmp_path / "run" / "hf_proxy" / line["folder"])
        found = load_metric("contrast").compute(predictions=sets.to_list())
        for key, name in KEYS.items():
            assert row[key] == line[name] == found[name]
    # three of five prompts each time, in turn
    names = [
        list(load_soft_targets(tmp_path / "run" / "hf_proxy" / line["folder"])["example_id"])
        for line in lines
    ]
    assert names == [["0", "1", "2"], ["3", "4", "0"], ["1", "2", "3"], ["4", "0", "1"]]


def test_the_set_is_the_one_that_mining_would_give(tmp_path, tokenizer):
    """The last weights, mined on their own: the same rows."""
    callback = make_callback(tokenizer, strategy="steps", steps=6, temperature=0.0)
    trainer = plain_trainer(tmp_path, tokenizer, callbacks=[callback])
    trainer.train()
    (line,) = contrast_lines(tmp_path)
    theirs = load_soft_targets(tmp_path / "run" / "hf_proxy" / line["folder"])
    settings = {k: v for k, v in SETTINGS.items() if k != "num_prompts"} | {"temperature": 0.0}
    mine = mine_soft_targets(
        trainer.model,
        callback.amateur,
        PROMPTS[:3],
        processing_class=tokenizer,
        amateur_processing_class=tokenizer,
        output_dir=tmp_path / "alone",
        **settings,
    )
    assert mine.to_dict() == theirs.to_dict()


PROBLEMS = [{"prompt": prompt, "answer": "5"} for prompt in PROMPTS[:3]]


@pytest.mark.parametrize(
    ("attached", "changes"),
    [(True, {}), (False, {}), (True, {"foretell": PROBLEMS, "temperature": 0.0})],
)
def test_training_is_bit_for_bit_the_same(tmp_path, tokenizer, attached, changes):
    def trained(name, with_callback):
        trainer = plain_trainer(tmp_path / name, tokenizer)
        if with_callback:
            callback = make_callback(tokenizer, **changes).attach(trainer)
            if not attached:
                callback.detach()
        set_seed(11)  # the amateur of this test draws its weights
        trainer.train()
        return state_of(trainer)

    assert same(trained("plain", False), trained("watched", True))


def test_models_given_by_name_do_not_move_the_random_streams(tmp_path, tokenizer):
    amateur = sharp_pair(len(tokenizer))[1]
    amateur.save_pretrained(tmp_path / "amateur")
    tokenizer.save_pretrained(tmp_path / "amateur")
    state = torch.get_rng_state()
    callback = make_callback(tokenizer, amateur=tmp_path / "amateur", amateur_processing_class=None)
    assert torch.equal(torch.get_rng_state(), state)
    assert callback.amateur_processing_class is not None  # so its ids are checked
    assert not any(p.requires_grad for p in callback.amateur.parameters())


def test_sft_with_adapters_live_and_base(tmp_path, tokenizer):
    """Adapters that have learnt move the live expert, not the base one."""
    tokenizer = with_controls(tokenizer, [])
    tokenizer.chat_template = TEMPLATE
    kl = {}
    for expert in ("live", "base"):
        arguments = SFTConfig(
            output_dir=str(tmp_path / expert / "run"),
            max_steps=4,
            per_device_train_batch_size=2,
            learning_rate=0.3,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            seed=1,
        )
        rows = [{"prompt": p, "completion": " 42."} for p in PROMPTS * 2]
        trainer = SFTTrainer(
            model=sharp_pair(len(tokenizer))[0],
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
        )
        callback = make_callback(
            tokenizer, expert=expert, context="chat", temperature=0.0, num_prompts=5
        )
        callback.attach(trainer)
        trainer.train()
        lines = contrast_lines(tmp_path / expert)
        assert [line["step"] for line in lines] == [0, 4]
        kl[expert] = [line["kl_mean"] for line in lines]
        assert lines[0]["expert_is"] == expert
    assert kl["live"][0] == kl["base"][0] == kl["base"][1]
    assert kl["live"][1] != kl["live"][0]


def test_both_callbacks_on_one_trainer(tmp_path, tokenizer):
    """Each keeps its numbers, whichever is detached first."""
    contrast, proxy = make_callback(tokenizer), ProxyScoreCallback(make_traces(3))
    trainer = plain_trainer(tmp_path, tokenizer)
    contrast.attach(trainer)
    proxy.attach(trainer)
    trainer.evaluate()
    row = trainer.state.log_history[-1]
    assert "eval_rbridge_nll" in row and "contrast_kl_mean" in row
    contrast.detach()
    trainer.remove_callback(contrast)
    trainer.evaluate()
    row = trainer.state.log_history[-1]
    assert "eval_rbridge_nll" in row and "contrast_kl_mean" not in row
    proxy.detach()
    trainer.remove_callback(proxy)
    trainer.evaluate()
    assert "eval_rbridge_nll" not in trainer.state.log_history[-1]


def test_resume_leaves_no_gap_and_no_double(tmp_path, tokenizer):
    trainer = plain_trainer(tmp_path, tokenizer)
    make_callback(tokenizer).attach(trainer)
    trainer.train()
    before = contrast_lines(tmp_path)
    folder = tmp_path / "run" / "hf_proxy" / "soft_targets"
    sets = {p.name: load_soft_targets(p).to_dict() for p in folder.iterdir()}
    assert len(sets) == 4
    (folder / "step-00000004" / "shards" / "000001.arrow").unlink()  # as if killed there

    trainer = plain_trainer(tmp_path, tokenizer)
    make_callback(tokenizer).attach(trainer)
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    after = contrast_lines(tmp_path)
    timeless = [{k: v for k, v in line.items() if k != "seconds"} for line in after]
    assert timeless == [{k: v for k, v in line.items() if k != "seconds"} for line in before]
    assert {p.name: load_soft_targets(p).to_dict() for p in folder.iterdir()} == sets

    fresh = plain_trainer(tmp_path, tokenizer)
    make_callback(tokenizer).attach(fresh)
    fresh.train()
    assert {p.name: load_soft_targets(p).to_dict() for p in folder.iterdir()} == sets
    assert (folder.parent / "soft_targets.1").is_dir()
    assert (folder.parent / "contrast.1.jsonl").exists()


def test_errors_raise_or_warn(tmp_path, tokenizer, caplog):
    amateur = sharp_pair(len(tokenizer))[1]
    amateur.lm_head.weight.data[5] = float("nan")
    with pytest.raises(ValueError, match="the amateur has a logit that is not finite"):
        trainer = plain_trainer(tmp_path / "a", tokenizer)
        make_callback(tokenizer, amateur=amateur).attach(trainer)
        trainer.train()
    trainer = plain_trainer(tmp_path / "b", tokenizer)
    make_callback(tokenizer, amateur=amateur, on_error="warn").attach(trainer)
    trainer.train()
    assert trainer.state.global_step == 6
    assert "ContrastCallback: nothing at step 4" in caplog.text
    assert not any("contrast_kl_mean" in row for row in trainer.state.log_history)


def test_what_cannot_work_stops_the_run_before_its_first_step(tmp_path, tokenizer, other_tokenizer):
    cases = {
        "tokens of the expert are others": {"amateur_processing_class": other_tokenizer},
        "has adapters|adapters \\(PEFT\\)": {"expert": "base"},
        "window of 640": {"prompts": ["1 " * 900, *PROMPTS]},
        "has no chat template": {"context": "chat"},
        "no verdict without right answers": {"foretell": [{"prompt": "1 + 1"}], "temperature": 0.0},
    }
    for number, (message, changes) in enumerate(cases.items()):
        trainer = plain_trainer(tmp_path / str(number), tokenizer)
        make_callback(tokenizer, **changes).attach(trainer)
        with pytest.raises(ValueError, match=message):
            trainer.train()
        assert trainer.state.global_step == 0
    trainer = plain_trainer(
        tmp_path / "best",
        tokenizer,
        load_best_model_at_end=True,
        metric_for_best_model="contrast_kl_mean",
        greater_is_better=True,
    )
    make_callback(tokenizer).attach(trainer)
    with pytest.raises(ValueError, match="is no measure of quality"):
        trainer.train()
    for changes, message in (
        ({"num_prompts": 9}, "between 1 and the number of prompts, 5"),
        ({"foretell": PROBLEMS}, "field temperature: 1: a gain is foretold from greedy"),
        ({"expert": "frozen"}, "expert must be one of"),
        ({"strategy": "often"}, "strategy must be one of"),
        ({"divergence_beta": -1}, "divergence_beta must be"),
    ):
        with pytest.raises(ValueError, match=message):
            make_callback(tokenizer, **changes)


def test_a_gain_is_foretold_while_the_model_trains(tmp_path, tokenizer, monkeypatch):
    """What `foretell_gain` says of the weights as they stand; the amateur answers once."""
    changes = {"foretell": PROBLEMS, "temperature": 0.0, "divergence_beta": 0.1}
    callback = make_callback(tokenizer, strategy="steps", steps=3, **changes)
    asked = []
    write = foretelling.write_in_rounds
    monkeypatch.setattr(
        foretelling, "write_in_rounds", lambda *a, **k: asked.append(k["what"]) or write(*a, **k)
    )
    trainer = plain_trainer(tmp_path, tokenizer, callbacks=[callback])
    trainer.train()
    assert asked == ["Expert", "Amateur", "Contrast 0.1, 0.2", "Expert", "Contrast 0.1, 0.2"]
    lines = contrast_lines(tmp_path)
    rows = [row for row in trainer.state.log_history if FORETOLD in row]
    assert [row[FORETOLD] for row in rows] == [line["foretold"]["gain"] for line in lines]
    own = foretell_gain(
        trainer.model,
        callback.amateur,
        PROBLEMS,
        processing_class=tokenizer,
        amateur_processing_class=tokenizer,
        divergence_beta=0.1,
        context="{prompt}\n",
        max_new_tokens=6,
        batch_size=2,
    )
    expected = {k: v for k, v in vars(own).items() if k != "settings"}
    expected["notes"] = list(own.notes)
    assert lines[-1]["foretold"] == expected
    assert ContrastLine.model_validate(lines[-1]).foretold.num_problems == 3
    write_report(tmp_path / "run", tmp_path / "page.html")
    assert "Gain foretold by step" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.distributed
def test_two_processes_mine_what_one_mines(tmp_path, shared, of_ranks):
    found = {1: contrast_worker.work(shared / "inputs", tmp_path), 2: of_ranks("contrast", 2)}
    assert found[2]["same weights"] == [True, True]
    assert found[1]["first set"] == found[2]["first set"]  # before the first step: equal weights
    for key in KEYS:
        assert found[1]["first row"][key] == pytest.approx(found[2]["first row"][key], rel=1e-12)
    assert found[2]["steps"] == [0, 2, 4]
    assert found[2]["same adapters"] == [True, True]  # SFTTrainer with LoRA
    assert found[2]["adapter steps"] == found[1]["adapter steps"] == [0, 3]


def test_best_weights_measured_at_the_last_step_get_a_set_of_their_own(tmp_path, tokenizer):
    trainer = plain_trainer(
        tmp_path,
        tokenizer,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # so that the last weights are not the best
    )
    make_callback(tokenizer).attach(trainer)
    trainer.train()
    assert trainer.state.best_global_step != 6
    trainer.evaluate()
    folder = tmp_path / "run" / "hf_proxy" / "soft_targets"
    names = sorted(path.name for path in folder.glob("step-00000006*"))
    assert len(names) == 2 and names[0] == "step-00000006"
    for name in names:
        rows = load_soft_targets(folder / name)
        statistics = json.loads((folder / name / "statistics.json").read_text())
        stamp = json.loads((folder / name / "provenance.json").read_text())
        assert statistics["num_rows"] == len(rows) == 3
        assert stamp["facts"]["expert"] == "live, step 6"


def test_what_was_frozen_in_an_adapter_stays_frozen(tokenizer):
    model = get_peft_model(sharp_pair(len(tokenizer))[0], LoraConfig(r=4))
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    before = [p.requires_grad for p in model.parameters()]
    with adapters_off(model):
        pass
    assert [p.requires_grad for p in model.parameters()] == before
    with model.disable_adapter():
        pass
    assert [p.requires_grad for p in model.parameters()] != before  # the trap is there
