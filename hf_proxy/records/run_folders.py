"""Folders that a training leaves: checkpoints, whole or cut short, and the sets of its steps."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from hf_proxy.records.errors import InputError
from hf_proxy.records.record import LARGEST, Count, Record, Text, checked, read_json

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_STEP_FOLDER = re.compile(r"step-(\d+)(?:-[0-9a-f]+)?")


class LoggedRow(Record):
    """A row of Trainer's log; a loss may well be infinite or none, but no number of 400 digits."""

    model_config = ConfigDict(extra="allow")

    step: Count = 0

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if isinstance(value, int) and abs(value) > LARGEST:
                raise ValueError(f"{name} is no number of a log")
        return self


class TrainerState(Record):
    """`trainer_state.json`, as far as we read it."""

    global_step: Count | None = None
    log_history: list[LoggedRow] = []
    best_metric: Annotated[float, Field(allow_inf_nan=True)] | None = None
    best_model_checkpoint: Text | None = None


def checkpoints_of(folder: Path) -> Iterator[tuple[int, Path, dict[str, Any] | None]]:
    """Step, folder and Trainer's state of each checkpoint in `folder`, the newest first.

    Trainer writes `trainer_state.json` last, and not by rename: a folder where it is missing or cut
    is what a killed run had begun, or a live one is writing. Its state is None here.
    """
    found = {
        int(match[1]): path
        for path in folder.iterdir()
        if path.is_dir() and (match := _CHECKPOINT.fullmatch(path.name))
    }
    for step, path in sorted(found.items(), reverse=True):
        try:
            state = read_json(path / "trainer_state.json")
            checked(TrainerState, state)
        except InputError:
            yield step, path, None
        else:
            yield step, path, state


def step_of(folder: Path) -> int | None:
    """The step whose set this is, `step-<step>` with or without a checksum behind it, or None."""
    match = _STEP_FOLDER.fullmatch(folder.name)
    return int(match[1]) if match else None
