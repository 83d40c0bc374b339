"""The callback on real trainers: every number in its place, the training as it would be without."""

import json
from dataclasses import asdict

import pytest
from datasets import Dataset
from helpers.models import make_model
from helpers.scores import curve_for
from helpers.tokenizers import ImageProcessor, Processor
from helpers.traces import make_traces
from helpers.trainers import Careless, lines_of, plain_trainer, same, state_of, texts
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    EarlyStoppingCallback,
    TrainerCallback,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

from hf_proxy import InputError, align_traces, compare, forecast, score_traces
from hf_proxy.callbacks import ProxyScoreCallback
from hf_proxy.recipes.library.score_tables import print_steps
from hf_proxy.recipes.library.scores import read_scores

KEYS = [
    f"eval_rbridge_{end}" for end in ("nll", "nll_low", "nll_high", "trace_nll", "bits_per_byte")
]


# neutrality


def test_a_processor_scores_as_the_tokenizer_that_it_holds(tmp_path, tokenizer):
    values = []
    for name, own in (("plain", tokenizer), ("held", Processor(tokenizer))):
        callback = ProxyScoreCallback(make_traces(2))
        trainer = plain_trainer(tmp_path / name, tokenizer, callbacks=[callback])
        trainer.processing_class = own
        callback.attach(trainer)
        values.append(trainer.evaluate()["eval_rbridge_nll"])
    assert values[0] == values[1]
    given = ProxyScoreCallback(make_traces(2), processing_class=Processor(tokenizer))
    assert given.processing_class is tokenizer
    with pytest.raises(InputError, match="ImageProcessor is no tokenizer and holds none"):
        ProxyScoreCallback(make_traces(2), processing_class=ImageProcessor())
    callback = ProxyScoreCallback(make_traces(2))
    trainer = plain_trainer(tmp_path / "images", tokenizer, callbacks=[callback])
    trainer.processing_class = ImageProcessor()
    callback.attach(trainer)
    with pytest.raises(ValueError, match="the trainer has no processing_class; pass"):
        trainer.evaluate()


def test_training_is_bit_for_bit_the_same(tmp_path, tokenizer):
    def trained(name, detach=False, callbacks=()):
        trainer = plain_trainer(tmp_path / name, tokenizer, callbacks=callbacks)
        if detach:
            callbacks[0].detach()
        set_seed(11)
        trainer.train()
        return state_of(trainer), [r["loss"] for r in trainer.state.log_history if "loss" in r]

    def callback(**arguments):
        return ProxyScoreCallback(make_traces(4), **arguments)

    without, losses = trained("without")
    assert len(losses) == 6
    for name, detach, callbacks in (
        ("attached", False, [callback()]),
        ("detached", True, [callback()]),
        ("steps", False, [callback(strategy="steps", steps=1)]),
        ("save", False, [callback(strategy="save")]),
    ):
        state, their_losses = trained(name, detach, callbacks)
        assert same(without, state), name
        assert losses == their_losses, name  # no row was swallowed, none changed
    careless, _ = trained("careless", False, [Careless()])
    assert not same(without, careless)  # the test can fail


def test_modules_come_back_as_they_were(tmp_path, tokenizer):
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            seen.append([module.training for module in model.modules()])

    callback = ProxyScoreCallback(make_traces(3), strategy="steps", steps=1)
    trainer = plain_trainer(
        tmp_path, tokenizer, callbacks=[callback, Watch()], activation_checkpointing=True
    )
    callback.attach(trainer)
    trainer.train()
    assert len(seen) == 6 and all(all(flags) for flags in seen)
    assert trainer.model.is_gradient_checkpointing
    callback.detach()
    assert "log" not in vars(trainer) and "get_batch_samples" not in vars(trainer)


# where the numbers go


@pytest.mark.parametrize("detach", [False, True])
def test_numbers_stand_in_every_place(detach, tmp_path, tokenizer):
    reported = []

    class Reporter(TrainerCallback):
        """Stands where W&B stands: before our callback, fed by on_log."""

        def on_log(self, args, state, control, logs=None, **kwargs):
            reported.append(dict(logs))

    callback = ProxyScoreCallback(make_traces(4), statistics=["freq_top5", "ce"], last_tokens=9)
    trainer = plain_trainer(tmp_path, tokenizer, callbacks=[Reporter(), callback])
    wrapped = trainer.log
    assert callback.attach(trainer) is callback
    assert trainer.log is wrapped  # it was attached already
    if detach:
        callback.detach()
    trainer.train()
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [0, 2, 4, 6]
    assert len({line["run_id"] for line in lines}) == 1
    rows = [row for row in trainer.state.log_history if "eval_loss" in row]
    assert [row["step"] for row in rows] == [2, 4, 6]
    for row, line in zip(rows, lines[1:], strict=True):
        assert [row[key] for key in KEYS] == [
            line[name] for name in ("value", "low", "high", "trace_nll", "bits_per_byte")
        ]
        for name in ("freq_top5", "ce"):
            assert row[f"eval_rbridge_{name}"] == line["statistics"][name]
        assert "eval_rbridge_top1" not in row and len(line["statistics"]) == 88
        assert line["statistics_parts"]["last_tokens"] == 9
    with_ours = [row for row in reported if KEYS[0] in row]
    beside_loss = [row for row in with_ours if "eval_loss" in row]
    assert len(beside_loss) == (0 if detach else 3)
    # 2 rows of 24 tokens, twice per step
    expected = [None] * 4 if detach else [96 * line["step"] for line in lines]
    assert [line["tokens_seen"] for line in lines] == expected
    assert lines[0]["value"] > lines[-1]["value"]  # it learns the same kind of text
    assert {"setting", "setting_parts", "seconds", "precision", "num_parameters"} <= set(lines[0])
    # and the number is that of the checkpoint
    aligned = align_traces(make_traces(4), tokenizer)
    for line in lines[1:]:
        checkpoint = tmp_path / "run" / f"checkpoint-{line['step']}"
        model = AutoModelForCausalLM.from_pretrained(checkpoint)
        assert score_traces(model, aligned).value == pytest.approx(line["value"], rel=1e-6)
        assert line["setting"] == score_traces(model, aligned).setting.hash
    found = score_traces(model, aligned, last_tokens=9)
    assert lines[-1]["statistics"] == pytest.approx(found.statistics, rel=1e-5)


def test_metrics_of_evaluate_alone_and_of_predict(tmp_path, tokenizer):
    callback = ProxyScoreCallback(make_traces(3))
    trainer = plain_trainer(tmp_path, tokenizer)
    callback.attach(trainer)
    metrics = trainer.evaluate()
    expected = score_traces(trainer.model, align_traces(make_traces(3), tokenizer))
    assert metrics["eval_rbridge_nll"] == expected.value
    assert KEYS[0] not in trainer.predict(trainer.eval_dataset).metrics


def test_several_trace_sets_and_evaluation_sets(tmp_path, tokenizer, monkeypatch):
    calls = []

    def counted(*args, **kwargs):
        calls.append(kwargs["step"])
        return score_traces(*args, **kwargs)

    monkeypatch.setattr("hf_proxy.callbacks.proxy_score.score_traces", counted)
    aligned = align_traces(make_traces(3, seed=4), tokenizer, unit="byte")
    callback = ProxyScoreCallback({"short": make_traces(2), "own": aligned})
    trainer = plain_trainer(
        tmp_path,
        tokenizer,
        callbacks=[callback],
        datasets=lambda rows: {"a": rows(3, 6), "b": rows(3, 7)},
        max_steps=2,
    )
    callback.attach(trainer)
    trainer.train()
    # one score of each trace set per evaluation, not per evaluation set
    assert calls == [0, 0, 2, 2]
    rows = [row for row in trainer.state.log_history if "eval_a_loss" in row]
    assert {"eval_short_nll", "eval_own_nll"} <= set(rows[0])
    assert [(line["name"], line["step"]) for line in lines_of(tmp_path)] == [
        ("short", 0),
        ("own", 0),
        ("short", 2),
        ("own", 2),
    ]
    assert len({line["setting"] for line in lines_of(tmp_path)}) == 2


@pytest.mark.parametrize("detach", [False, True])
def test_the_best_checkpoint_is_the_one_with_the_lowest_score(detach, tmp_path, tokenizer):
    callback = ProxyScoreCallback(make_traces(4))
    trainer = plain_trainer(
        tmp_path,
        tokenizer,
        callbacks=[callback],
        learning_rate=5.0,  # far too high, so that the last is not the best
        lr_scheduler_type="constant",
        load_best_model_at_end=True,
        metric_for_best_model="eval_rbridge_nll",
        greater_is_better=False,
    )
    if detach:
        callback.detach()
    trainer.train()
    lines = {line["step"]: line["value"] for line in lines_of(tmp_path)}
    best = min((2, 4, 6), key=lines.__getitem__)
    assert trainer.state.best_metric == lines[best]
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    assert best != 6
    # the best weights are back: nothing stale is repeated, and no second line of step 6 is written
    metrics = trainer.evaluate()
    assert metrics["eval_rbridge_nll"] == pytest.approx(lines[best], rel=1e-6)
    assert [line["step"] for line in lines_of(tmp_path)] == [0, 2, 4, 6]


@pytest.mark.parametrize("ours_first", [True, False])
def test_early_stopping_reads_our_number(ours_first, tmp_path, tokenizer):
    callback = ProxyScoreCallback(make_traces(4))
    stop = EarlyStoppingCallback(early_stopping_patience=1)
    trainer = plain_trainer(
        tmp_path,
        tokenizer,
        callbacks=[callback, stop] if ours_first else [stop, callback],
        learning_rate=0.0,  # no evaluation is better than the one before
        load_best_model_at_end=True,
        metric_for_best_model="rbridge_nll",
        greater_is_better=False,
    )
    trainer.train()
    assert trainer.state.global_step == 4


def test_curves_stand_in_the_same_row(tmp_path, tokenizer):
    curve = curve_for(make_traces(3), tokenizer)
    curve.save(tmp_path / "curve.json")
    callback = ProxyScoreCallback(make_traces(3), curves=[tmp_path / "curve.json"])
    trainer = plain_trainer(
        tmp_path,
        tokenizer,
        callbacks=[callback],
        load_best_model_at_end=True,
        metric_for_best_model="eval_rbridge_13b_gsm8k_accuracy",
        greater_is_better=True,
    )
    callback.attach(trainer)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "eval_loss" in row]
    assert rows
    for row in rows:
        expected = curve.predict(row["eval_rbridge_nll"], run="another than the curve's")
        for end, value in (("", expected.value), ("_low", expected.low), ("_high", expected.high)):
            assert row[f"eval_rbridge_13b_gsm8k_accuracy{end}"] == value
    line = lines_of(tmp_path)[-1]
    assert line["predictions"]["13b_gsm8k"] == asdict(
        curve.predict(line["value"], run=line["run_id"])
    )
    assert line["forecasts"] == {} and not any("final" in key for row in rows for key in row)


def test_the_end_of_the_run_is_foretold_from_the_sixth_score_on(tmp_path, tokenizer):
    curve = curve_for(make_traces(3), tokenizer)
    callback = ProxyScoreCallback(make_traces(3), curves=[curve], strategy="steps", steps=1)
    trainer = plain_trainer(tmp_path, tokenizer, callbacks=[callback], max_steps=7)
    callback.attach(trainer)
    trainer.train()
    lines = lines_of(tmp_path)
    assert [len(line["forecasts"]) for line in lines] == [0] * 5 + [1, 1]
    steps, values = range(1, 7), [line["value"] for line in lines[:6]]
    expected = forecast(steps, values, 7, curve=curve, run=lines[0]["run_id"])
    assert lines[5]["forecasts"]["13b_gsm8k"] == json.loads(
        json.dumps(asdict(expected) | {"metric": "value"})
    )
    key = "eval_rbridge_13b_gsm8k_final"
    rows = [row for row in trainer.state.log_history if key in row]
    assert [row["step"] for row in rows] == [6, 7]
    found = [rows[0][key + end] for end in ("", "_low", "_high")]
    accuracy = expected.accuracy
    assert found == [accuracy.value, accuracy.low, accuracy.high]


def test_each_trace_set_has_its_own_curves(tmp_path, tokenizer):
    sets = {"three": make_traces(3), "four": make_traces(4)}
    curves = [curve_for(sets[name], tokenizer, f"target_{name}") for name in sets]
    callback = ProxyScoreCallback(sets, curves=curves)
    trainer = plain_trainer(tmp_path, tokenizer, callbacks=[callback])
    callback.attach(trainer)
    metrics = trainer.evaluate()
    found = {key for key in metrics if key.endswith("_accuracy")}
    assert found == {"eval_three_target_three_accuracy", "eval_four_target_four_accuracy"}


def test_a_curve_of_another_setting_stops_the_run_before_its_first_step(tmp_path, tokenizer):
    cases = {
        "traces: ": [curve_for(make_traces(4), tokenizer)],
        "fitted without a setting": [curve_for(make_traces(3), tokenizer, setting=None)],
        "two curves of 'rbridge' are named": [curve_for(make_traces(3), tokenizer)] * 2,
    }
    for number, (message, curves) in enumerate(cases.items()):
        callback = ProxyScoreCallback(make_traces(3), curves=curves, on_error="warn")
        trainer = plain_trainer(tmp_path / str(number), tokenizer, callbacks=[callback])
        with pytest.raises(ValueError, match=message):
            trainer.train()
        assert trainer.state.global_step == 0


# schedules


@pytest.mark.parametrize(
    ("callback", "arguments", "steps"),
    [
        ({}, {}, [0, 2, 4, 6]),
        ({}, {"eval_strategy": "no", "save_steps": 3}, [0, 3, 6]),
        ({}, {"eval_strategy": "no", "save_strategy": "no"}, [0, 6]),
        ({}, {"eval_steps": 4}, [0, 4, 6]),
        ({}, {"eval_on_start": True}, [0, 2, 4, 6]),
        ({"strategy": "evaluate"}, {}, [2, 4, 6]),
        ({"strategy": "evaluate"}, {"eval_on_start": True, "eval_steps": 3}, [0, 3, 6]),
        ({"strategy": "steps", "steps": 4}, {}, [4]),
        ({"strategy": "save"}, {"save_steps": 3}, [3, 6]),
    ],
)
@pytest.mark.parametrize("detach", [False, True])
def test_schedules(callback, arguments, steps, detach, tmp_path, tokenizer):
    ours = ProxyScoreCallback(make_traces(2), **callback)
    trainer = plain_trainer(tmp_path, tokenizer, callbacks=[ours], **arguments)
    if detach:
        ours.detach()
    trainer.train()
    assert [line["step"] for line in lines_of(tmp_path)] == steps
    logged = {row["step"] for row in trainer.state.log_history if KEYS[0] in row}
    assert logged == set(steps)
    assert len([row for row in trainer.state.log_history if "loss" in row]) == 6


@pytest.mark.parametrize(
    ("callback", "arguments", "message"),
    [
        ({"strategy": "evaluate"}, {"eval_strategy": "no"}, "never fires.*set eval_strategy"),
        ({"strategy": "save"}, {"save_strategy": "no"}, "never fires.*set save_strategy"),
        ({"strategy": "steps", "steps": 7}, {}, "steps=7.*never fires in 6 steps"),
        (
            {},
            {"metric_for_best_model": "eval_rbridge_nll", "load_best_model_at_end": True},
            r"gets worse as it grows; set TrainingArguments\(greater_is_better=False\)",
        ),
        (
            {"statistics": ["1-p_margin"]},
            {"metric_for_best_model": "eval_rbridge_1-p_margin", "load_best_model_at_end": True},
            r"gets worse as it grows; set TrainingArguments\(greater_is_better=False\)",
        ),
        (
            {"statistics": ["freq_top5"]},
            {"metric_for_best_model": "rbridge_freq_top5", "greater_is_better": False},
            r"set TrainingArguments\(greater_is_better=True\)",
        ),
        (
            {"strategy": "save"},
            {"metric_for_best_model": "rbridge_nll", "greater_is_better": False},
            "strategy='save' leaves evaluations out",
        ),
    ],
)
def test_a_run_that_would_go_wrong_does_not_start(
    callback, arguments, message, tmp_path, tokenizer
):
    ours = ProxyScoreCallback(make_traces(2), **callback)
    trainer = plain_trainer(tmp_path, tokenizer, callbacks=[ours], **arguments)
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


def test_wrong_arguments_are_refused():
    for arguments, message in (
        ({"strategy": "epoch"}, "strategy must be"),
        ({"strategy": "steps"}, "goes with strategy='steps'"),
        ({"steps": 3}, "goes with strategy='steps'"),
        ({"strategy": "steps", "steps": 0}, "positive number"),
        ({"on_error": "ignore"}, "on_error must be"),
        ({"divisor": "words"}, "divisor must be"),
        ({"statistics": ["freq_top4"]}, r"no statistic 'freq_top4' \(did you mean freq_top5"),
        ({"last_tokens": 0}, "field last_tokens: expected a positive number"),
    ):
        with pytest.raises(ValueError, match=message):
            ProxyScoreCallback(make_traces(2), **arguments)


def test_errors_raise_or_warn(tmp_path, tokenizer, caplog):
    bad = align_traces(make_traces(2), tokenizer)
    bad = bad.map(lambda row: {"input_ids": [9999] * len(row["input_ids"])})
    trainer = plain_trainer(tmp_path, tokenizer, callbacks=[ProxyScoreCallback(bad)])
    with pytest.raises(ValueError, match="token id 9999 is beyond"):
        trainer.train()
    quiet = ProxyScoreCallback(bad, on_error="warn")
    trainer = plain_trainer(tmp_path / "warn", tokenizer, callbacks=[quiet])
    trainer.train()
    assert trainer.state.global_step == 6
    assert "ProxyScoreCallback: nothing at step 4: row t" in caplog.text
    assert not (tmp_path / "warn" / "run" / "hf_proxy" / "predictions.jsonl").exists()


def test_a_trainer_without_tokenizer_is_told(tmp_path, tokenizer):
    trainer = plain_trainer(tmp_path, tokenizer, callbacks=[ProxyScoreCallback(make_traces(2))])
    trainer.processing_class = None
    trainer.callback_handler.processing_class = None
    with pytest.raises(ValueError, match=r"pass ProxyScoreCallback\( ?processing_class=tokenizer"):
        trainer.train()


# resume


def test_resume_has_no_gap_and_no_double(tmp_path, tokenizer):
    def run(resume=None, **arguments):
        callback = ProxyScoreCallback(make_traces(3))
        trainer = plain_trainer(tmp_path, tokenizer, callbacks=[callback], **arguments)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    run()
    whole = lines_of(tmp_path)
    path = tmp_path / "run" / "hf_proxy" / "predictions.jsonl"
    # killed after step 6 was scored, while a line was being written, resumed from step 4
    with path.open("a") as file:
        file.write('{"run_id": "half a li')
    run(resume=str(tmp_path / "run" / "checkpoint-4"))
    again = lines_of(tmp_path)
    assert [line["step"] for line in again] == [0, 2, 4, 6]
    assert [line["value"] for line in again] == [line["value"] for line in whole]
    assert [line["tokens_seen"] for line in again] == [0, 192, 384, 576]
    assert {line["run_id"] for line in again} == {whole[0]["run_id"]}
    # killed between the checkpoint and its score: the line that was due is made good
    path.write_text("".join(json.dumps(line) + "\n" for line in whole if line["step"] < 4))
    run(resume=str(tmp_path / "run" / "checkpoint-4"))
    assert [line["value"] for line in lines_of(tmp_path)] == [line["value"] for line in whole]
    # a fresh run leaves the old file aside
    run()
    assert [line["step"] for line in lines_of(tmp_path)] == [0, 2, 4, 6]
    assert lines_of(tmp_path)[0]["run_id"] != whole[0]["run_id"]
    assert (path.parent / "predictions.1.jsonl").exists()


def test_resume_of_a_run_evaluated_by_epoch(tmp_path, tokenizer):
    def run(resume=None):
        epochs = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 2}
        callback = ProxyScoreCallback(make_traces(2))
        trainer = plain_trainer(tmp_path, tokenizer, callbacks=[callback], max_steps=-1, **epochs)
        callback.attach(trainer)
        trainer.train(resume_from_checkpoint=resume)

    run()
    whole = lines_of(tmp_path)
    assert [line["step"] for line in whole] == [0, 6, 12]
    # the line of the epoch that the checkpoint stands at was lost
    path = tmp_path / "run" / "hf_proxy" / "predictions.jsonl"
    path.write_text(json.dumps(whole[0]) + "\n")
    run(resume=str(tmp_path / "run" / "checkpoint-6"))
    assert [line["value"] for line in lines_of(tmp_path)] == [line["value"] for line in whole]


# other trainers and data


@pytest.mark.parametrize("peft", [False, True])
def test_sft_trainer(peft, tmp_path, tokenizer):
    callback = ProxyScoreCallback(make_traces(3))
    tokenizer.pad_token = tokenizer.eos_token
    trainer = SFTTrainer(
        model=make_model("llama", len(tokenizer)),
        args=SFTConfig(
            output_dir=str(tmp_path / "run"),
            max_steps=4,
            per_device_train_batch_size=2,
            eval_strategy="steps",
            eval_steps=2,
            logging_steps=1,
            save_strategy="no",
            bf16=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            learning_rate=1e-2,
        ),
        train_dataset=Dataset.from_dict({"text": texts(16)}),
        eval_dataset=Dataset.from_dict({"text": texts(4, seed=9)}),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=2, target_modules=["q_proj", "v_proj"]) if peft else None,
        callbacks=[callback],
    )
    trainer.train()
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [0, 2, 4]
    rows = [row for row in trainer.state.log_history if "eval_loss" in row]
    assert [row["eval_rbridge_nll"] for row in rows] == [line["value"] for line in lines[1:]]
    # TRL's own numbers stay in their own rows
    assert all("eval_mean_token_accuracy" in row for row in rows)
    trained = [row for row in trainer.state.log_history if "loss" in row]
    assert len(trained) == 4 and all("mean_token_accuracy" in row for row in trained)
    expected = score_traces(trainer.model, align_traces(make_traces(3), tokenizer))
    assert lines[-1]["value"] == pytest.approx(expected.value, rel=1e-6)


def test_streaming_data(tmp_path, tokenizer):
    callback = ProxyScoreCallback(make_traces(2))
    trainer = plain_trainer(tmp_path, tokenizer, callbacks=[callback], streaming=True)
    trainer.train()
    assert [line["step"] for line in lines_of(tmp_path)] == [0, 2, 4, 6]


def test_two_steps_compare_trace_by_trace(tmp_path, tokenizer, capsys):
    traces = make_traces(6)
    callback = ProxyScoreCallback(traces, per_trace=True)
    trainer = plain_trainer(tmp_path, tokenizer, max_steps=2)
    callback.attach(trainer)
    trainer.train()
    path = tmp_path / "run" / "hf_proxy" / "predictions.jsonl"
    (first, run), (last, _) = read_scores(path, trace_set="rbridge")
    assert (first.step, last.step) == (0, 2) and run == lines_of(tmp_path)[0]["run_id"]
    # the traces of the last are those of the model as it stands
    aligned = align_traces(traces, tokenizer)
    assert last.rows.to_dict() == score_traces(trainer.model, aligned).rows.to_dict()
    expected = compare(last, first)
    capsys.readouterr()
    print_steps(path, ["rbridge"])
    said = capsys.readouterr().out
    assert said.startswith("rbridge: step 2 - step 0: rBridge ")
    assert f"{expected.difference:+.4f} [{expected.low:+.4f}, {expected.high:+.4f}]" in said
    # without them there is nothing to pair
    bare = [{k: v for k, v in line.items() if k != "rows"} for line in lines_of(tmp_path)]
    path.write_text("".join(json.dumps(line) + "\n" for line in bare))
    print_steps(path, ["rbridge"])
    assert capsys.readouterr().out == ""
