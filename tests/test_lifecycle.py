"""What callbacks and trainer keep true through a run's life: other trainers, searches, resumes."""

import copy
import json
import logging
import shutil

import pytest
import torch
from datasets import Dataset
from helpers.mining import make_callback
from helpers.models import make_model
from helpers.selective import make_rows, selective_trainer
from helpers.traces import make_traces
from helpers.trainers import lines_of, plain_trainer
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from transformers.trainer_utils import default_compute_objective
from trl import (
    DistillationConfig,
    DistillationTrainer,
    GRPOConfig,
    GRPOTrainer,
    RLOOConfig,
    RLOOTrainer,
)

from hf_proxy import InputError
from hf_proxy.callbacks import ProxyScoreCallback

SETTINGS = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "no",
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
}


def reward(completions, **kwargs):
    return [float(len(set(text)) % 3) for text in completions]


def generating_trainer(kind, folder, tokenizer, callback):
    """A trainer of TRL whose batches are lists of prompts."""
    prompts = Dataset.from_dict({"prompt": ["1 + 1", "2 + 2", "3 + 3", "4 + 4"]})
    # some load their reference from where the model came from
    make_model("llama", len(tokenizer)).save_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    sets = {"train_dataset": prompts, "eval_dataset": prompts.select(range(2))}
    own = {"max_completion_length": 4}
    if kind == "Distillation":
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = "{% for turn in messages %}{{ turn['content'] }}\n{% endfor %}"
        chats = Dataset.from_dict(
            {
                "prompt": [[{"role": "user", "content": text}] for text in prompts["prompt"]],
                "completion": [[{"role": "assistant", "content": "3"}]] * 4,
            }
        )
        return DistillationTrainer(
            model=model,
            teacher_model=make_model("llama", len(tokenizer)),
            args=DistillationConfig(str(folder / "run"), **SETTINGS, **own),
            train_dataset=chats,
            eval_dataset=chats.select(range(2)),
            processing_class=tokenizer,
            callbacks=[callback],
        )
    trainer, config = {
        "GRPO": (GRPOTrainer, GRPOConfig),
        "RLOO": (RLOOTrainer, RLOOConfig),
    }[kind]
    return trainer(
        model=model,
        reward_funcs=reward,
        args=config(str(folder / "run"), num_generations=2, **SETTINGS, **own),
        processing_class=tokenizer,
        callbacks=[callback],
        **sets,
    )


def embedding_trainer(folder, tokenizer, callback):
    """A Trainer whose batches are embeddings."""
    model = make_model("llama", len(tokenizer))
    table = model.get_input_embeddings().weight.detach().clone()

    def collate(rows):
        ids = torch.tensor([row["ids"] for row in rows])
        return {"inputs_embeds": table[ids], "labels": ids}

    rows = Dataset.from_dict({"ids": [[1, 2, 3, 4]] * 4})
    return Trainer(
        model=model,
        args=TrainingArguments(str(folder / "run"), remove_unused_columns=False, **SETTINGS),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=collate,
        processing_class=tokenizer,
        callbacks=[callback],
    )


@pytest.mark.parametrize("kind", ["GRPO", "RLOO", "Distillation", "embeddings"])
def test_batches_that_are_no_ids_leave_the_count_open(tmp_path, tokenizer, kind):
    callback = ProxyScoreCallback(make_traces(2))
    if kind == "embeddings":
        trainer = embedding_trainer(tmp_path, tokenizer, callback)
    else:
        trainer = generating_trainer(kind, tmp_path, tokenizer, callback)
    trainer.train()
    (row,) = [row for row in trainer.state.log_history if "eval_rbridge_nll" in row and row["step"]]
    assert "eval_loss" in row
    first, last = lines_of(tmp_path)
    assert (first["step"], first["tokens_seen"]) == (0, 0)
    assert (last["step"], last["value"]) == (2, row["eval_rbridge_nll"])
    # what the trainer counts itself, else nothing
    assert last["tokens_seen"] == (trainer.state.num_input_tokens_seen or None)


@pytest.mark.parametrize("on_error", ["raise", "warn"])
@pytest.mark.parametrize("part", ["count", "log"])
def test_all_of_our_wrapped_code_is_guarded(
    tmp_path, tokenizer, monkeypatch, caplog, part, on_error
):
    def broken(*args):
        raise RuntimeError("no such thing")

    trainer = plain_trainer(tmp_path, tokenizer, max_steps=2)
    callback = ProxyScoreCallback(make_traces(2), on_error=on_error)
    callback.attach(trainer)
    if part == "count":
        monkeypatch.setattr("hf_proxy.callbacks.attachment._num_tokens", broken)
    else:
        monkeypatch.setattr(callback, "_with_evaluations", broken)
    if on_error == "raise":
        with pytest.raises(RuntimeError, match="no such thing"):
            trainer.train()
        return
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.state.global_step == 2
    assert "ProxyScoreCallback: nothing at step" in caplog.text
    if part == "count":
        assert [line["tokens_seen"] for line in lines_of(tmp_path)] == [0, None]


def test_a_checkpoint_evaluated_elsewhere_adds_no_line(tmp_path, tokenizer):
    trainer = plain_trainer(tmp_path, tokenizer)
    for callback in (ProxyScoreCallback(make_traces(2)), make_callback(tokenizer)):
        callback.attach(trainer)
    trainer.train()
    files = [tmp_path / "run" / "hf_proxy" / f for f in ("predictions.jsonl", "contrast.jsonl")]
    before = [file.read_text() for file in files]
    value = json.loads(before[0].splitlines()[-1])["value"]
    again = plain_trainer(tmp_path, tokenizer)  # as a new process makes it
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-6")
    again.model.load_state_dict(model.state_dict())
    for callback in (ProxyScoreCallback(make_traces(2)), make_callback(tokenizer)):
        callback.attach(again)
    metrics = again.evaluate()
    assert metrics["eval_rbridge_nll"] == pytest.approx(value, rel=1e-6)
    assert "contrast_kl_mean" in metrics
    assert [file.read_text() for file in files] == before
    # the run goes on as if it had not been looked at, and its own evaluations have their lines
    again.args.max_steps = 8
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6"))
    assert [line["step"] for line in lines_of(tmp_path)] == [0, 2, 4, 6, 8]


def test_an_evaluation_where_nothing_was_run_stands_at_step_0(tmp_path, tokenizer):
    trainer = plain_trainer(tmp_path, tokenizer)
    ProxyScoreCallback({"a": make_traces(2), "b": make_traces(3)}).attach(trainer)
    for _ in range(2):
        trainer.evaluate()
        assert [(line["name"], line["step"]) for line in lines_of(tmp_path)] == [("a", 0), ("b", 0)]


def test_a_search_does_not_add_our_numbers_up(tmp_path, tokenizer, monkeypatch):
    # a trial of no backend: what Trainer makes of it is what it makes of theirs
    monkeypatch.setattr("transformers.integrations.hp_params", dict)
    plain = plain_trainer(tmp_path / "plain", tokenizer, max_steps=2)
    attached = plain_trainer(tmp_path / "attached", tokenizer, max_steps=2)
    callback = ProxyScoreCallback(make_traces(2))
    attached.add_callback(callback)
    sums = [default_compute_objective(dict(t.evaluate())) for t in (plain, attached)]
    assert sums[1] > sums[0] + 1  # why it is refused
    attached.compute_objective = default_compute_objective  # as hyperparameter_search sets it
    with pytest.raises(InputError, match=r"; write trainer.hyperparameter_search\(.*eval_loss"):
        attached.train(trial={})
    attached.compute_objective = lambda metrics: metrics["eval_loss"]
    attached.train(trial={})
    assert attached.state.global_step == 2
    callback.detach()
    # it cannot be seen from here
    with pytest.raises(
        InputError, match=r"write callback.attach\(trainer\) and trainer.hyper.*eval"
    ):
        attached.train(trial={})
    watching = ProxyScoreCallback(make_traces(2), strategy="steps", steps=1)
    alone = plain_trainer(tmp_path / "alone", tokenizer, max_steps=2, callbacks=[watching])
    alone.train(trial={})  # its numbers stand in no evaluation


def test_learnt_steps_are_counted_whatever_is_logged(tmp_path, tokenizer):
    rows = make_rows(tokenizer)
    settings = {
        "per_device_train_batch_size": 2,
        "max_steps": 7,
        "save_strategy": "steps",
        "save_steps": 3,
        "learning_rate": 0.01,
    }
    trainer = selective_trainer(tmp_path / "all", tokenizer, rows, **settings)
    result = trainer.train()
    every = sum(row["num_kept"] for row in trainer.state.log_history if "num_kept" in row)
    assert result.metrics["train_num_kept"] == every > 0
    trainer = selective_trainer(tmp_path / "some", tokenizer, rows, **settings, logging_steps=5)
    assert trainer.train().metrics["train_num_kept"] == every
    logged = sum(row["num_kept"] for row in trainer.state.log_history if "num_kept" in row)
    assert logged < every  # what was stated before
    # a resumed run counts on, also where Trainer makes the callback anew
    for restore in (False, True):
        shutil.rmtree(tmp_path / "some" / "checkpoint-7", ignore_errors=True)
        shutil.rmtree(tmp_path / "some" / "checkpoint-6", ignore_errors=True)
        trainer = selective_trainer(
            tmp_path / "some",
            tokenizer,
            rows,
            **settings,
            restore_callback_states_from_checkpoint=restore,
        )
        again = trainer.train(resume_from_checkpoint=str(tmp_path / "some" / "checkpoint-3"))
        assert again.metrics["train_num_kept"] == every
    # a checkpoint of an older version does not say
    file = tmp_path / "some" / "checkpoint-3" / "trainer_state.json"
    state = json.loads(file.read_text())
    del state["stateful_callbacks"]["LearntSteps"]
    file.write_text(json.dumps(state))
    trainer = selective_trainer(tmp_path / "some", tokenizer, rows, **settings)
    found = trainer.train(resume_from_checkpoint=str(tmp_path / "some" / "checkpoint-3"))
    assert "train_num_kept" not in found.metrics
