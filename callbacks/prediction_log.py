"""One line per name and step in a JSONL file, whole through crashes and resumes.

Only the main process reads and writes it; what it finds is told to the others, on whatever node.
"""

import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hf_proxy.models.parallel import from_main, is_main
from hf_proxy.records.lines import Line, RunLine, append_line, keep_lines, read_log


class PredictionLog:
    """The file of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.run_id = uuid.uuid4().hex

    def lines(self) -> list[Line[RunLine]]:
        """All lines; one that was being written when the machine died is none.

        Raises:
            InputError: a line is not one of ours.
        """
        return read_log(self.path, RunLine)[0]

    def open(self, step: int) -> int | None:
        """Make the file ready for a run that stands at `step`.

        Later lines of the run that is resumed go, by atomic rewrite; a fresh run leaves an earlier
        one's file aside.

        Returns:
            tokens seen up to `step`, 0 for a fresh run, None where no line says so.
        """
        self.run_id, tokens_seen = from_main(PartialState(), lambda: self._tidy(step))
        return tokens_seen

    def _tidy(self, step: int) -> tuple[str, int | None]:
        lines = self.lines()
        if step == 0:
            if self.path.exists():
                number = 1
                while (aside := self.path.with_stem(f"{self.path.stem}.{number}")).exists():
                    number += 1
                os.replace(self.path, aside)
            return uuid.uuid4().hex, 0
        kept = [line for line in lines if line.record.step <= step]
        if self.path.exists():
            keep_lines(self.path, (line.number for line in kept))
        here = [line.record.tokens_seen for line in kept if line.record.step == step]
        return lines[-1].record.run_id if lines else self.run_id, here[-1] if here else None

    def missing(self, names: Iterable[str], step: int) -> bool:
        """Whether one of `names` has no line at `step`; the same on every process."""

        def look() -> bool:
            there = {(line.record.name, line.record.step) for line in self.lines()}
            return any((name, step) not in there for name in names)

        return from_main(PartialState(), look)

    def count_before(self, step: int) -> int:
        """How many lines stand before `step`; the same on every process."""

        def count() -> int:
            return sum(line.record.step < step for line in self.lines())

        return from_main(PartialState(), count)

    def has_others(self) -> bool:
        """Whether lines of another run stand here; for the main process."""
        return any(line.record.run_id != self.run_id for line in self.lines())

    def append(self, line: dict[str, Any]) -> None:
        """Add a line, on the disk before this returns, unless its name and step have one."""
        if not is_main(PartialState()):
            return
        here = (line["name"], line["step"])
        if any((old.record.name, old.record.step) == here for old in self.lines()):
            return
        append_line(self.path, {"run_id": self.run_id} | line)
