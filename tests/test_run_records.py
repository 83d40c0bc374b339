"""The same line again: a finished run is left as it is, another one is refused by its flags."""

import dataclasses
import json
import shutil

import pytest
import torch
from helpers.trainers import plain_trainer

from hf_proxy import InputError
from hf_proxy.recipes.library.run_records import RunFolder, train_to_the_end
from hf_proxy.recipes.library.training import last_checkpoint


@dataclasses.dataclass
class Flags:
    rate: float = 0.1
    traces: list = dataclasses.field(default_factory=lambda: ["a.jsonl"])
    max_steps: int = 8
    num_train_epochs: float = 3.0
    resume: bool = True
    logging_steps: int = 5
    hub_token: str = "secret"


def run_of(path, command="train", **changes):
    return RunFolder(path, command, [Flags(**changes)])


def checkpoint(path, step):
    (path / f"checkpoint-{step}").mkdir(parents=True)
    (path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({}))


def test_a_finished_run_gives_what_it_gave(tmp_path, capsys):
    run = run_of(tmp_path)
    assert run.begin() is None
    assert run_of(tmp_path).begin() is None  # killed: the same line goes on
    run.end({"loss": 0.5})
    assert "secret" not in run.path.read_text() and "logging" not in run.path.read_text()
    for changes in ({}, {"logging_steps": 1, "hub_token": "x"}):  # what is shown, not what is done
        assert run_of(tmp_path, **changes).begin() == {"loss": 0.5}
        assert "this run is finished; nothing was done" in capsys.readouterr().out


def test_other_flags_are_named(tmp_path):
    run_of(tmp_path).begin()
    changes = {"rate": 0.2, "traces": ["b.jsonl"]}
    # nothing has been reached: the line is put right
    assert run_of(tmp_path, **changes).begin() is None
    assert run_of(tmp_path).begin() is None
    refused = (
        r"a run with other flags stands here: rate \(0.1, now 0.2\); traces \(\['a.jsonl'\], now "
        r"\['b.jsonl'\]\); name another output_dir, or add --resume false"
    )
    checkpoint(tmp_path, 4)
    with pytest.raises(InputError, match=refused):
        run_of(tmp_path, **changes).begin()
    with pytest.raises(InputError, match=r"flags stands here: command \(train, now loop\)"):
        run_of(tmp_path, "loop").begin()
    with pytest.raises(InputError, match=r"max_steps \(8, now 6\)"):
        run_of(tmp_path, max_steps=6).begin()
    assert run_of(tmp_path).begin() is None
    # what an older version did not know does not differ; what it wrote is no record of ours
    record = json.loads((tmp_path / "run.json").read_text())
    del record["asked"]["rate"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert run_of(tmp_path, rate=0.2).begin() is None
    (tmp_path / "run.json").write_text('{"command": 3}')
    with pytest.raises(InputError, match=r"run.json.*; delete it, or name another output_dir"):
        run_of(tmp_path).begin()


def test_a_longer_run_goes_on_where_there_is_a_checkpoint(tmp_path):
    for longer in ({"max_steps": 16}, {"num_train_epochs": 4.0}):
        shutil.rmtree(tmp_path, ignore_errors=True)
        run_of(tmp_path).end({})
        with pytest.raises(InputError, match=rf"stands here: {next(iter(longer))} \("):
            run_of(tmp_path, **longer).begin()
        checkpoint(tmp_path, 8)
        assert run_of(tmp_path, **longer).begin() is None
        assert run_of(tmp_path, **longer).begin() is None  # unfinished again


def test_begun_anew_it_is_never_gone_on_with_from_the_old_checkpoints(tmp_path):
    for number in (1, 2):
        run_of(tmp_path).end({})
        checkpoint(tmp_path, 8)
        assert run_of(tmp_path, rate=0.2, resume=False).begin() is None
        assert last_checkpoint(tmp_path, resume=True) is None
        assert (tmp_path / f"earlier.{number}" / "checkpoint-8" / "trainer_state.json").exists()
    assert run_of(tmp_path, rate=0.2).begin() is None


def test_no_step_beyond_the_last(tmp_path, tokenizer):
    """Killed after its last checkpoint, in the middle of an epoch: the weights stay."""
    settings = {"eval_strategy": "no", "max_steps": 4, "lr_scheduler_type": "constant"}
    trainer = plain_trainer(tmp_path, tokenizer, **settings)
    trainer.train()
    weights = [p.detach().clone() for p in trainer.model.parameters()]
    for own in (True, False):
        again = plain_trainer(tmp_path, tokenizer, **settings | {"save_strategy": "no"})
        if own:
            train_to_the_end(again, tmp_path / "run", resume=True)
        else:  # why it is there
            again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
        pairs = zip(weights, again.model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) is own
        assert again.state.global_step == (4 if own else 5)
