"""Raw answers of a frontier on disk: append-only shards, each by rename, one run at a time.

They lie in a folder of their own beside the trace set that is made of them. A run that is started
again asks only for what is missing there; what was paid for is there before it is read.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from hf_proxy.models.parallel import Processes, from_main, is_main, stop_together
from hf_proxy.records.errors import InputError, shown
from hf_proxy.records.lines import read_lines, write_lines
from hf_proxy.records.record import Record, read_json
from hf_proxy.records.storage import write_text

_AGAIN = "delete it, and the same line asks again"
R = TypeVar("R", bound=Record)


def responses_of(output_dir: str | Path) -> Path:
    """The folder of the raw answers that the trace set in `output_dir` is made of."""
    output = Path(output_dir)
    return output.with_name(f"{output.name}.responses")


class ResponseFolder:
    """Shards of raw answers, and the settings that they were asked under.

    Args:
        path: of the folder, see `responses_of`.
    """

    def __init__(self, path: Path):
        self.path = path

    @contextmanager
    def opened(
        self, settings: Mapping[str, Any], processes: Processes = None
    ) -> Iterator["ResponseFolder"]:
        """Hold the folder; every rank enters, the main process holds it.

        Raises:
            InputError: another run holds it, or what is there was asked under other settings.
        """
        lock = FileLock(self.path / "lock", timeout=0)
        try:
            with stop_together(processes):
                if is_main(processes):
                    self._take(lock, settings)
            yield self
        finally:
            lock.release()

    def _take(self, lock: FileLock, settings: Mapping[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise InputError.at(
                "another run is writing here",
                remedy="wait for it, or name another output_dir",
                source=self.path,
            ) from error
        file = self.path / "settings.json"
        # a run that got no answer binds nobody
        if not file.exists() or not any((self.path / "shards").glob("*.jsonl")):
            write_text(file, json.dumps(settings, indent=2, sort_keys=True))
            return
        there = read_json(file, remedy=_AGAIN)
        now = json.loads(json.dumps(settings))
        differing = [
            f"{part} ({shown(there.get(part))}, now {shown(now.get(part))})"
            for part in sorted({*there, *now})
            if there.get(part) != now.get(part)
        ]
        if differing:
            raise InputError.at(
                f"the answers here were asked under other settings: {', '.join(differing)}",
                remedy="give the same again, or name another output_dir",
                source=self.path,
            )

    def write(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """One shard, whole or not at all."""
        write_lines(self.path / "shards" / f"{name}.jsonl", rows)

    def names(self, processes: Processes = None) -> list[str]:
        """The shards that are there, the same on every rank, in order."""
        folder = self.path / "shards"
        return from_main(processes, lambda: sorted(path.stem for path in folder.glob("*.jsonl")))

    def read(self, name: str, model: type[R]) -> list[R]:
        """The rows of one shard.

        Raises:
            InputError: they are no such rows.
        """
        path = self.path / "shards" / f"{name}.jsonl"
        return [line.record for line in read_lines(path, model, remedy=_AGAIN)]
