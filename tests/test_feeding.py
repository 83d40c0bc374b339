"""Rows that a run mines for itself: what is drawn, when, and what a resumed run draws."""

import copy
import shutil

import feeding_worker
import pytest
import torch
from datasets import Dataset
from helpers.feeding import FEED, Watch, feeding_trainer
from helpers.mining import contrast_lines, make_callback
from helpers.models import sharp_pair
from helpers.selective import weights_of
from helpers.trainers import plain_trainer
from transformers import TrainerCallback

from hf_proxy import InputError, load_soft_targets
from hf_proxy.training.feeding import FedRows


def rows_of(names):
    return Dataset.from_dict({"example_id": names})


# the order


def test_each_row_once_then_each_once_more():
    fed = FedRows(rows_of(list("abcde")), number=2, step=10)
    drawn = [row["example_id"] for step in range(10, 20) for row in fed.draw(step, 3, seed=7)]
    laps = [drawn[start : start + 5] for start in range(0, 30, 5)]
    assert all(sorted(lap) == list("abcde") for lap in laps)
    assert len({tuple(lap) for lap in laps}) > 1
    # a function of its numbers alone
    assert [row["example_id"] for row in fed.draw(13, 3, seed=7)] == drawn[9:12]
    # more rows a step than there are, and the same rows however many a step takes
    assert [row["example_id"] for row in fed.draw(10, 12, seed=7)] == drawn[:12]
    assert [row["example_id"] for row in fed.draw(11, 12, seed=7)] == drawn[12:24]
    for other in (FedRows(fed.rows, 3, 10).draw(10, 15, 7), fed.draw(10, 15, seed=8)):
        assert [row["example_id"] for row in other] != drawn[:15]


# a run


def test_a_run_learns_from_its_newest_mining(tmp_path, tokenizer):
    callback = make_callback(tokenizer, **FEED)
    trainer = feeding_trainer(tmp_path, tokenizer, [callback], data_seed=5)
    watch = Watch(trainer)
    before = weights_of(trainer.model).clone()
    trainer.train()
    assert [line["step"] for line in contrast_lines(tmp_path)] == [0, 3, 6]
    assert [step for step, _ in watch.steps] == list(range(8))
    for step, names in watch.steps:
        number = step // 3
        folder = tmp_path / "run" / "hf_proxy" / contrast_lines(tmp_path)[number]["folder"]
        rows = load_soft_targets(folder)
        kept = rows.select([i for i, row in enumerate(rows) if len(row["position"])])
        expected = FedRows(kept, number, 3 * number).draw(step, 2, seed=5)
        assert names == [row["example_id"] for row in expected]
    assert not torch.equal(weights_of(trainer.model), before)
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows) == 8 and all(row["num_kept"] > 0 for row in rows)


def test_the_update_is_that_of_a_set_mined_beforehand(tmp_path, tokenizer):
    """One step of all five rows: the same weights as training on the set the run mined."""
    callback = make_callback(tokenizer, **FEED | {"divergence_beta": 0.0})
    fed = feeding_trainer(
        tmp_path, tokenizer, [callback], max_steps=3, per_device_train_batch_size=5
    )
    Watch(fed, stop_at=1)
    with pytest.raises(KeyboardInterrupt):
        fed.train()
    rows = load_soft_targets(tmp_path / "run" / "hf_proxy" / contrast_lines(tmp_path)[0]["folder"])
    offline = feeding_trainer(
        tmp_path / "offline",
        tokenizer,
        None,
        rows=rows,
        max_steps=3,
        per_device_train_batch_size=5,
    )
    Watch(offline, stop_at=1)
    with pytest.raises(KeyboardInterrupt):
        offline.train()
    torch.testing.assert_close(weights_of(fed.model), weights_of(offline.model), atol=1e-6, rtol=0)


def test_with_plain_cross_entropy_rows_without_kept_steps_are_fed_too(tmp_path, tokenizer):
    """At a threshold that some rows never reach: way (c) trains what way (a) trains."""
    settings = FEED | {"steps": 9, "strategy": "steps", "num_prompts": 5}
    look = make_callback(tokenizer, **settings | {"steps": 1})
    feeding_trainer(tmp_path / "look", tokenizer, [look], max_steps=1).train()
    rows = load_soft_targets(
        tmp_path / "look/run/hf_proxy" / contrast_lines(tmp_path / "look")[0]["folder"]
    )
    highest = sorted(max(row["kl"]) for row in rows)
    beta = float(highest[1] + highest[2]) / 2
    step = {"max_steps": 1, "per_device_train_batch_size": 5, "sft_weight": 0.5}
    callback = make_callback(tokenizer, **settings | {"steps": 1, "divergence_beta": beta})
    fed = feeding_trainer(tmp_path, tokenizer, [callback], **step)
    fed.train()
    rows = load_soft_targets(tmp_path / "run" / "hf_proxy" / contrast_lines(tmp_path)[0]["folder"])
    assert sum(bool(len(row["position"])) for row in rows) == 3
    offline = feeding_trainer(tmp_path / "offline", tokenizer, None, rows=rows, **step)
    offline.train()
    torch.testing.assert_close(weights_of(fed.model), weights_of(offline.model), atol=1e-6, rtol=0)


@pytest.mark.parametrize("stop_at", [5, 6], ids=["between minings", "at a mining"])
def test_a_killed_run_draws_what_it_would_have_drawn(tmp_path, tokenizer, stop_at):
    def trained(folder, **arguments):
        trainer = feeding_trainer(folder, tokenizer, [make_callback(tokenizer, **FEED)])
        watch = Watch(trainer, stop_at=arguments.pop("stop_at", None))
        try:
            trainer.train(**arguments)
        except KeyboardInterrupt:
            pass
        return trainer, watch.steps

    whole, steps = trained(tmp_path / "whole")
    _, first = trained(tmp_path / "cut", stop_at=stop_at)
    checkpoint = tmp_path / "cut" / "run" / "checkpoint-4"
    resumed, rest = trained(tmp_path / "cut", resume_from_checkpoint=str(checkpoint))
    assert first == steps[:stop_at] and rest == steps[4:]
    assert torch.equal(weights_of(whole.model), weights_of(resumed.model))

    def timeless(folder):
        # after a resume the tokens are counted on only where a line stands at the checkpoint's step
        own = ("seconds", "run_id", "tokens_seen")
        return [{k: v for k, v in x.items() if k not in own} for x in contrast_lines(folder)]

    assert timeless(tmp_path / "cut") == timeless(tmp_path / "whole")


def test_a_resumed_run_needs_the_rows_it_had(tmp_path, tokenizer):
    trainer = feeding_trainer(tmp_path, tokenizer, [make_callback(tokenizer, **FEED)], max_steps=4)
    trainer.train()
    shutil.rmtree(tmp_path / "run" / "hf_proxy" / "soft_targets" / "step-00000003")
    trainer = feeding_trainer(tmp_path, tokenizer, [make_callback(tokenizer, **FEED)])
    with pytest.raises(InputError, match="step-00000003: this is no folder of soft targets"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))


def test_a_mining_that_keeps_nothing_leaves_the_rows_as_they_were(tmp_path, tokenizer):
    """Before the second mining the amateur becomes the expert: they part nowhere."""
    callback = make_callback(
        tokenizer, **FEED, amateur=sharp_pair(len(tokenizer))[0], divergence_beta=1e-3
    )
    callback.amateur.lm_head.weight.data *= 0.5

    class Copy(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step >= 3:
                callback.amateur.load_state_dict(model.state_dict())

    trainer = feeding_trainer(tmp_path, tokenizer, [Copy(), callback], max_steps=6)
    watch = Watch(trainer)
    trainer.train()
    lines = contrast_lines(tmp_path)
    assert [bool(line["num_kept"]) for line in lines] == [True, False, False]
    rows = load_soft_targets(tmp_path / "run" / "hf_proxy" / lines[0]["folder"])
    kept = rows.select([i for i, row in enumerate(rows) if len(row["position"])])
    for step, names in watch.steps:
        expected = FedRows(kept, 0, 0).draw(step, 2, seed=trainer.args.seed)
        assert names == [row["example_id"] for row in expected]
    # and so does a run resumed after it
    trainer.pop_callback(callback)  # it is one trainer's
    again = feeding_trainer(tmp_path, tokenizer, [callback], max_steps=6)
    rest = Watch(again)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert rest.steps == watch.steps[4:]


@pytest.mark.distributed
def test_two_processes_learn_from_the_rows_of_one(tmp_path, shared, of_ranks):
    found = {1: feeding_worker.work(shared / "inputs", tmp_path), 2: of_ranks("feeding", 2)}
    assert found[2]["equal across ranks"]
    assert found[1]["rows"] == found[2]["rows"]
    one, two = (torch.tensor(found[n]["weights"]) for n in (1, 2))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
    assert found[2]["lines"] == found[1]["lines"] == [0, 3]


# refused


def test_what_cannot_be_fed_is_refused_before_the_first_step(tmp_path, tokenizer):
    feeder = make_callback(tokenizer, **FEED)
    only = r"feed=True\) gives rows to a SelectiveSFTTrainer only"
    with pytest.raises(ValueError, match=only):
        plain_trainer(tmp_path / "plain", tokenizer, callbacks=[feeder])
    plain = plain_trainer(tmp_path / "plain", tokenizer)
    plain.add_callback(feeder)  # nobody is told of it before the run begins
    with pytest.raises(ValueError, match=only):
        plain.train()
    plain.pop_callback(feeder)
    with pytest.raises(ValueError, match="without a train_dataset, max_steps says how long"):
        feeding_trainer(tmp_path / "endless", tokenizer, [feeder], max_steps=-1)
    rows = load_rows(tmp_path, tokenizer)
    amateur = sharp_pair(len(tokenizer))[1]
    cases = {
        "1 callbacks with feed=True, train_dataset not None": ([feeder], {"rows": rows}),
        "0 callbacks with feed=True, train_dataset None": ([], {}),
        "2 callbacks with feed=True": ([feeder, make_callback(tokenizer, **FEED)], {}),
        "1 callbacks with feed=True, train_dataset None, amateur not None": (
            [feeder],
            {"amateur": amateur},
        ),
    }
    for number, (message, (callbacks, changes)) in enumerate(cases.items()):
        with pytest.raises(ValueError, match=message):
            trainer = feeding_trainer(tmp_path / str(number), tokenizer, callbacks, **changes)
            assert callbacks == []  # one may be added until the run begins
            trainer.train()
    late = feeding_trainer(tmp_path / "late", tokenizer, [], rows=rows)
    late.add_callback(make_callback(tokenizer, **FEED))
    with pytest.raises(ValueError, match="1 callbacks with feed=True, train_dataset not None"):
        late.train()
    own = copy.deepcopy(tokenizer)
    own.chat_template = "{{ messages[0]['content'] }}"
    other = make_callback(tokenizer, **FEED, processing_class=own)
    with pytest.raises(ValueError, match="processing_class is not the trainer's"):
        feeding_trainer(tmp_path / "other", tokenizer, [other])
    nothing = make_callback(tokenizer, **FEED | {"divergence_beta": 99.0})
    trainer = feeding_trainer(tmp_path / "nothing", tokenizer, [nothing])
    with pytest.raises(InputError, match="no mining of this run has kept a step yet"):
        trainer.train()


def load_rows(folder, tokenizer):
    """A small set, mined by a run."""
    callback = make_callback(tokenizer, **FEED)
    feeding_trainer(folder / "small", tokenizer, [callback], max_steps=3).train()
    lines = contrast_lines(folder / "small")
    return load_soft_targets(folder / "small" / "run" / "hf_proxy" / lines[0]["folder"])
