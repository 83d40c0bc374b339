"""`callbacks=[...]` is all that a user writes: the callback finds its trainer, and only its own."""

import logging
import re
import time

import pytest
from datasets import Dataset
from helpers.models import make_model
from helpers.selective import make_rows, selective_trainer
from helpers.traces import make_traces
from helpers.trainers import lines_of, plain_trainer, texts
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from hf_proxy import InputError
from hf_proxy.callbacks import ProxyScoreCallback
from hf_proxy.records import progress

KEY = "eval_rbridge_nll"


class Reporter(TrainerCallback):
    """Stands where W&B stands: before our callback, fed by on_log."""

    def __init__(self):
        self.rows = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.rows.append(dict(logs))


def watching(num_traces=2, **arguments):
    return ProxyScoreCallback(make_traces(num_traces), **arguments)


SETTINGS = {
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "no",
    "logging_steps": 1,
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
}


def trainer_of(kind, folder, tokenizer, callbacks):
    """One of the five, as small as it can be."""
    if kind == "Trainer":
        return plain_trainer(
            folder, tokenizer, callbacks=callbacks, max_steps=1, eval_steps=1, save_strategy="no"
        )
    if kind == "SelectiveSFT":
        rows = make_rows(tokenizer, 4)
        return selective_trainer(
            folder / "run",
            tokenizer,
            rows,
            eval_dataset=rows,
            callbacks=callbacks,
            eval_strategy="steps",
            eval_steps=1,
            disable_tqdm=True,
        )
    tokenizer.pad_token = tokenizer.eos_token
    prompts = ["1 + 1 = ", "2 + 2 = ", "3 + 3 = ", "4 + 4 = "]
    columns = {
        "SFT": {"text": texts(4)},
        "DPO": {"prompt": prompts, "chosen": list("2468"), "rejected": list("1357")},
        "GRPO": {"prompt": prompts},
    }[kind]
    trainer, config, own = {
        "SFT": (SFTTrainer, SFTConfig, {}),
        "DPO": (DPOTrainer, DPOConfig, {}),
        "GRPO": (GRPOTrainer, GRPOConfig, {"max_completion_length": 4, "num_generations": 2}),
    }[kind]
    make_model("llama", len(tokenizer)).save_pretrained(folder / "model")  # some load a reference
    model = type(make_model("llama", len(tokenizer))).from_pretrained(folder / "model")
    reward = {"reward_funcs": lambda completions, **_: [1.0 * len(text) for text in completions]}
    return trainer(
        model=model,
        args=config(str(folder / "run"), **SETTINGS, **own),
        train_dataset=Dataset.from_dict(columns),
        eval_dataset=Dataset.from_dict(columns).select(range(2)),
        processing_class=tokenizer,
        callbacks=callbacks,
        **(reward if kind == "GRPO" else {}),
    )


@pytest.mark.parametrize("kind", ["Trainer", "SFT", "SelectiveSFT", "DPO", "GRPO"])
def test_given_as_a_callback_it_has_the_row_in_every_trainer(kind, tmp_path, tokenizer):
    reporter, callback = Reporter(), watching()
    trainer = trainer_of(kind, tmp_path, tokenizer, [reporter, callback])
    trainer.train()
    first, last = lines_of(tmp_path)
    assert [first["step"], last["step"]] == [0, 1]
    (row,) = [row for row in reporter.rows if "eval_loss" in row]
    assert row[KEY] == last["value"]
    assert first["tokens_seen"] == 0
    if kind == "GRPO":  # batches of no ids: its own count, or none
        assert last["tokens_seen"] == (trainer.state.num_input_tokens_seen or None)
    else:
        assert last["tokens_seen"] > 0


def test_two_trainers_alive_keep_their_own_rows(tmp_path, tokenizer):
    pairs = []
    for number, name in enumerate("ab", 2):
        reporter = Reporter()
        callbacks = [reporter, watching(number)]
        pairs.append((reporter, plain_trainer(tmp_path / name, tokenizer, callbacks=callbacks)))
    values = [trainer.evaluate()[KEY] for _, trainer in reversed(pairs)][::-1]
    assert [[row[KEY] for row in reporter.rows] for reporter, _ in pairs] == [
        [values[0]],
        [values[1]],
    ]
    assert values[0] != values[1]  # they score on other traces


def test_one_callback_is_one_trainers(tmp_path, tokenizer):
    callback = watching()
    first = plain_trainer(tmp_path / "a", tokenizer, callbacks=[callback])
    refused = r"ProxyScoreCallback: it is another trainer's already.*other.pop_callback\(callback\)"
    with pytest.raises(InputError, match=refused):
        plain_trainer(tmp_path / "b", tokenizer, callbacks=[callback])
    second = plain_trainer(tmp_path / "b", tokenizer)
    with pytest.raises(InputError, match=refused):
        callback.attach(second)
    second.add_callback(callback)
    with pytest.raises(InputError, match=refused):
        second.train()
    assert second.state.global_step == 0
    # taken out of the first it watches there no more, and may go to another
    assert first.pop_callback(callback) is callback
    assert KEY not in first.evaluate()
    assert KEY in second.evaluate()
    assert "log" not in vars(first)
    second.pop_callback(callback)
    third = plain_trainer(tmp_path / "c", tokenizer, callbacks=[callback])
    assert KEY in third.evaluate()


def test_what_was_detached_stays_so_and_says_it(tmp_path, tokenizer, caplog):
    reporter, callback = Reporter(), watching()
    trainer = plain_trainer(
        tmp_path, tokenizer, callbacks=[reporter, callback], max_steps=2, save_strategy="no"
    )
    callback.detach()
    assert "log" not in vars(trainer) and "get_batch_samples" not in vars(trainer)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert caplog.text.count("ProxyScoreCallback is attached to no Trainer") == 1
    assert not any(KEY in row for row in reporter.rows)
    assert [KEY in row for row in trainer.state.log_history if "eval_loss" in row] == [True]
    assert [line["tokens_seen"] for line in lines_of(tmp_path)] == [None, None]
    callback.attach(trainer)
    trainer.evaluate()
    assert KEY in reporter.rows[-1]
    # what one trainer was left with says nothing of another
    callback.detach()
    other = plain_trainer(tmp_path / "other", tokenizer, callbacks=[callback])
    assert KEY in other.evaluate()


def test_where_no_trainer_calls_it_says_so_as_the_run_begins(tmp_path, tokenizer, caplog):
    callback = watching(strategy="steps", steps=1)
    arguments = TrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to="none")
    state, control = TrainerState(max_steps=1), TrainerControl()
    model = make_model("llama", len(tokenizer))
    handler = CallbackHandler([callback], model, tokenizer, None, None)
    with caplog.at_level(logging.WARNING):
        handler.on_init_end(arguments, state, control)
        assert "attached to no Trainer" not in caplog.text
        handler.on_train_begin(arguments, state, control)
    assert caplog.text.count("ProxyScoreCallback is attached to no Trainer") == 1
    state.global_step = 1
    handler.on_step_end(arguments, state, control)
    (line,) = lines_of(tmp_path)
    assert [row[KEY] for row in state.log_history] == [line["value"]]


def test_a_trainer_further_off_that_has_it_not_is_left_alone(tmp_path, tokenizer):
    """A loop of another kind inside an event of a Trainer."""
    inner = watching()

    class Outer(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            handler = CallbackHandler([inner], model, tokenizer, None, None)
            handler.on_train_begin(args, state, control)

    trainer = plain_trainer(
        tmp_path, tokenizer, callbacks=[Outer()], max_steps=1, eval_strategy="no"
    )
    trainer.train()
    assert "log" not in vars(trainer) and inner not in trainer.callback_handler.callbacks


class Renaming(Trainer):
    """Hands on a row of its own, without the runtimes."""

    def log(self, logs, *args):
        super().log({k: v for k, v in logs.items() if not k.endswith("runtime")}, *args)


def test_a_subclass_with_its_own_log(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("helpers.trainers.Trainer", Renaming)
    reporter = Reporter()
    trainer = plain_trainer(tmp_path, tokenizer, callbacks=[reporter, watching()])
    metrics = trainer.evaluate()
    (row,) = reporter.rows
    assert row[KEY] == metrics[KEY] and "eval_runtime" not in row


def test_added_later_it_attaches_at_the_next_event(tmp_path, tokenizer):
    for first in ("evaluate", "train"):
        reporter, callback = Reporter(), watching()
        trainer = plain_trainer(
            tmp_path / first, tokenizer, callbacks=[reporter], max_steps=2, save_strategy="no"
        )
        trainer.add_callback(callback)
        if first == "evaluate":  # its row was logged before any event: ours follows it
            metrics = trainer.evaluate()
            assert [KEY in row for row in reporter.rows] == [False, True]
            assert metrics[KEY] == reporter.rows[-1][KEY]
        trainer.train()
        (row,) = [row for row in reporter.rows if "eval_loss" in row and row["epoch"]]
        assert row[KEY] == lines_of(tmp_path / first)[-1]["value"]
        assert lines_of(tmp_path / first)[-1]["tokens_seen"] == 192


@pytest.mark.parametrize("seconds", [9, 11])
def test_a_measurement_of_more_than_ten_seconds_tells_how_far_it_is(
    seconds, tmp_path, tokenizer, monkeypatch, capsys
):
    trainer = plain_trainer(
        tmp_path, tokenizer, callbacks=[watching(4, tokens_per_batch=64)], max_steps=2
    )
    begun = time.monotonic()
    clock = iter([begun] * 2)  # as the measurement and its scoring begin
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock, begun + seconds))
    trainer.evaluate()
    said = capsys.readouterr().err
    assert said.count("Scoring: ") == (1 if seconds > 10 else 0)
    if seconds > 10:
        assert re.search(r"Scoring: \d+ of \d+ tokens \(\d+%\), .* tokens/s, .* left", said)
