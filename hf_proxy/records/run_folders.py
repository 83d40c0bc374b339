"""Folders that a training leaves: checkpoints, whole or cut short, and the sets of its steps."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_STEP_FOLDER = re.compile(r"step-(\d+)(?:-[0-9a-f]+)?")


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
            state = json.loads((path / "trainer_state.json").read_text())
        except (OSError, ValueError):
            state = None
        yield step, path, state if isinstance(state, dict) else None


def step_of(folder: Path) -> int | None:
    """The step whose set this is, `step-<step>` with or without a checksum behind it, or None."""
    match = _STEP_FOLDER.fullmatch(folder.name)
    return int(match[1]) if match else None
