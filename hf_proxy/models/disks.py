"""What the processes of several nodes see of each other's files: proved by a token, not by a path.

Without a shared disk one path leads to other files on each node. A rank that decided by its own
disk would enter a collective that the others never join, or take its part of a set for the whole.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from accelerate.utils import gather_object

from hf_proxy.models.parallel import (
    Processes,
    from_main,
    is_main,
    num_processes,
    require_equal,
    stop_together,
)
from hf_proxy.records.errors import InputError
from hf_proxy.records.storage import write_text

APPEARS_S = 2.0  # chosen here: the longest that a shared disk may take to show a new file


def writers_seen(folder: Path, writes: bool, processes: Processes) -> list[set[int]]:
    """By rank, those ranks of which it sees what they write in `folder`; the same on every rank.

    Every rank must call. `folder` is made where it is missing; nothing else stays.

    Args:
        writes: whether this rank is one that writes.
    """
    if num_processes(processes) == 1:
        return [{0} if writes else set()]
    assert processes is not None
    name = from_main(processes, lambda: f".token.{uuid4().hex}.")
    token = folder / f"{name}{processes.process_index}"
    with stop_together(processes):
        if writes:
            write_text(token, "")
    seen = gather_object([_seen(folder, name)])
    if writes:
        token.unlink(missing_ok=True)
    return seen


def ranks_without(folder: Path, processes: Processes) -> list[int]:
    """The ranks that do not see what the main process writes in `folder`, as `writers_seen`."""
    seen = writers_seen(folder, is_main(processes), processes)
    return [rank for rank, writers in enumerate(seen) if not writers]


def require_shared(folder: Path, processes: Processes) -> None:
    """Refuse, before any work, to write a set of which each node would hold a part.

    Raises:
        InputError: some rank does not see what the main process writes in `folder`.
    """
    without = ranks_without(folder, processes)
    if without:
        raise InputError.at(
            f"rank {without[0]} does not see what rank 0 writes here, and each node would hold a "
            "part of the set",
            remedy="name an output_dir on a disk that all nodes share, or run on one node",
            source=folder,
        )


def check_saving(args: Any, model: Any, processes: Processes) -> None:
    """Refuse a training whose checkpoints not every node could read, or several would write.

    Args:
        args: `transformers.TrainingArguments`.
        model: that is saved, not wrapped.

    Raises:
        InputError: `load_best_model_at_end` would give the nodes different weights, or
            `save_on_each_node` would have several of them write the same files.
    """
    if not (args.load_best_model_at_end or args.save_on_each_node):
        return
    if num_processes(processes) == 1:
        return
    folder = Path(args.output_dir)
    seen = writers_seen(folder, args.should_save, processes)
    # whatever Trainer asks, transformers writes a model's weights on rank 0 alone; PEFT does not
    saves = getattr(type(model), "should_save_on_this_rank", None)
    has_weights = args.should_save and (saves is None or saves(model, True))
    with_weights = {rank for rank, it in enumerate(gather_object([has_weights])) if it}
    for rank, writers in enumerate(seen):
        if len(writers) > 1:
            raise InputError.at(
                f"ranks {' and '.join(map(str, sorted(writers)))} would write the same files here",
                remedy="leave it out: it is for nodes without a shared disk",
                source=folder,
                field="save_on_each_node",
            )
        if args.load_best_model_at_end and not writers & with_weights:
            raise InputError.at(
                f"rank {rank} does not see the weights that are saved here, and would not load the "
                "best ones",
                remedy="name an output_dir on a disk that all nodes share, or tune an adapter with "
                "save_on_each_node=True",
                source=folder,
                field="load_best_model_at_end",
            )


def check_same_step(step: int, processes: Processes) -> None:
    """Refuse a run that goes on from other steps on other nodes: each found its own checkpoint.

    Raises:
        InputError: the ranks stand at different steps.
    """
    require_equal(
        str(step),
        processes,
        what="the step that the run goes on from",
        remedy="give all nodes the same checkpoint, or begin anew",
    )


def _seen(folder: Path, name: str) -> set[int]:
    """The ranks whose file `<name><rank>` is seen here."""
    deadline = time.monotonic() + APPEARS_S
    found: list[str] = []
    while not found and time.monotonic() < deadline:
        # the folder is opened each time: a network disk may answer for a name from its cache
        with suppress(OSError):
            found = [file for file in os.listdir(folder) if file.startswith(name)]
        time.sleep(0 if found else 0.05)
    return {int(file.removeprefix(name)) for file in found}
