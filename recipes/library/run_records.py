"""What a training in a folder was asked to do, and whether it is done: for the same line again.

`run.json` holds the flags as the run begins, and what the command gave once all is written.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hf_proxy.models.disks import check_saving
from hf_proxy.models.parallel import from_main, is_main, require_equal, stop_together
from hf_proxy.recipes.library.training import common_checkpoint, last_checkpoint
from hf_proxy.records.errors import InputError
from hf_proxy.records.record import Record, Text, read_record
from hf_proxy.records.run_folders import checkpoints_of
from hf_proxy.records.storage import write_text

# where it is written, how it is shown, what it takes of the machine: not what is learnt or measured
_FREE = (
    *("json", "resume", "output_dir", "world_size", "score_tokens_per_batch", "local_rank"),
    *("use_cpu", "debug", "disable_tqdm", "skip_memory_metrics", "torch_empty_cache_steps"),
    *("gradient_checkpointing", "activation_checkpointing", "gradient_checkpointing_kwargs"),
    *("activation_checkpointing_kwargs", "activation_offloading", "save_total_limit"),
    *("save_on_each_node", "per_device_eval_batch_size", "dataset_num_proc", "trust_remote_code"),
    *("report_to", "run_name", "project", "push_to_hub"),
)
_FREE_KINDS = ("dataloader_", "ddp_", "hub_", "log_", "logging_", "trackio_", "torch_compile")
_LENGTHS = ("max_steps", "num_train_epochs")  # more of these go on from the last checkpoint
_PLAIN = (type(None), bool, int, float, str, list, dict)


class RunRecord(Record):
    """`run.json`."""

    command: Text
    asked: dict[str, Any]
    result: dict[str, Any] | None = None  # of the finished run, as `--json` prints it


class RunFolder:
    """The folder of one training command.

    Args:
        folder: its output_dir.
        command: as it is typed.
        configs: its parsed flags.
    """

    def __init__(self, folder: Path, command: str, configs: Sequence[Any]):
        self.path = folder / "run.json"
        self._folder, self._command = folder, command
        self._resume = configs[0].resume
        self._asked = _asked(configs)

    def begin(self) -> dict[str, Any] | None:
        """What the same command gave where it is finished already, else None: it may run.

        Raises:
            InputError: another run stands here that is finished, or can be gone on with.
        """
        found = from_main(PartialState(), self._begin)
        if found is not None and is_main(PartialState()):
            print(f"{self._folder}: this run is finished; nothing was done (--resume false: anew)")
        return found

    def _begin(self) -> dict[str, Any] | None:
        there = self._read() if self._resume else None
        if not self._resume:
            self._set_aside()
        if there is not None:
            is_done = there.result is not None
            has_checkpoint = last_checkpoint(self._folder, resume=True) is not None
            changed = _changed(there.asked, self._asked)
            if there.command != self._command:
                changed.insert(0, f"command ({there.command}, now {self._command})")
            longer = [name for name in _LENGTHS if _is_longer(name, there.asked, self._asked)]
            if is_done and not has_checkpoint:  # nothing to go on from
                changed += [_difference(name, there.asked, self._asked) for name in longer]
            if changed and (is_done or has_checkpoint):
                raise InputError.at(
                    f"a run with other flags stands here: {'; '.join(changed)}",
                    remedy="name another output_dir, or add --resume false to begin anew here",
                    source=self._folder,
                )
            if is_done and not changed and not longer:
                return there.result
        self._write(None)
        return None

    def _set_aside(self) -> None:
        """Checkpoints of an earlier run: killed, this one would be gone on with from them."""
        if not self._folder.is_dir():
            return
        old = [path for _, path, _ in checkpoints_of(self._folder)]
        if old:
            number = 1
            while (aside := self._folder / f"earlier.{number}").exists():
                number += 1
            aside.mkdir()
            for path in old:
                path.rename(aside / path.name)

    def end(self, result: Mapping[str, Any]) -> None:
        """The run is done, and everything of it written."""
        with stop_together(PartialState()):
            if is_main(PartialState()):
                self._write(dict(result))

    def _read(self) -> RunRecord | None:
        if not self.path.exists():
            return None  # an older version began it, or nothing did
        return read_record(self.path, RunRecord, remedy="delete it, or name another output_dir")

    def _write(self, result: dict[str, Any] | None) -> None:
        content = {"command": self._command, "asked": self._asked, "result": result}
        write_text(self.path, json.dumps(content, indent=2))


def train_to_the_end(trainer: Any, folder: Path, *, resume: bool) -> Any:
    """`trainer.train` from the last checkpoint in `folder`, if there is one.

    Trainer takes one step more where that was written at the last step; here it takes none.
    """
    draw = trainer.get_batch_samples

    def batches_of_a_step(*args: Any, **kwargs: Any) -> Any:
        if trainer.state.global_step >= trainer.state.max_steps:
            return [], None
        return draw(*args, **kwargs)

    trainer.get_batch_samples = batches_of_a_step
    processes = PartialState()
    check_saving(trainer.args, trainer.model, processes)
    if isinstance(trainer.train_dataset, Sized):
        require_equal(  # each node has read its own file, and would wait for the other's batches
            str(len(trainer.train_dataset)),
            processes,
            what="the number of rows to train on",
            remedy="give all nodes the same file",
        )
    start = common_checkpoint(folder, resume=resume, processes=processes)
    return trainer.train(resume_from_checkpoint=start)


def _asked(configs: Sequence[Any]) -> dict[str, Any]:
    """Flags that decide what is learnt and measured, as they are read back from JSON."""
    found = {}
    for config in configs:
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if field.name in _FREE or field.name.startswith(_FREE_KINDS):
                continue
            if isinstance(value, _PLAIN):
                found[field.name] = value
    return json.loads(json.dumps(found, default=str))


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The flags that differ, with both values; one that another version does not know does not."""
    return [
        _difference(name, old, new)
        for name in new
        if name in old and old[name] != new[name] and not _is_longer(name, old, new)
    ]


def _difference(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    return f"{name} ({old[name]!r}, now {new[name]!r})"


def _is_longer(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    before, now = old.get(name), new.get(name)
    if name not in _LENGTHS or not (
        isinstance(before, int | float) and isinstance(now, int | float)
    ):
        return False
    return 0 < before < now
