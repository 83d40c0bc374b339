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

from hf_proxy.models.parallel import Processes, from_main, is_main, num_processes, require_equal
from hf_proxy.records.errors import InputError
from hf_proxy.records.storage import write_text

APPEARS_S = 2.0  # chosen here: the longest that a shared disk may take to show a new file


def ranks_without(folder: Path, processes: Processes) -> list[int]:
    """The ranks that do not see what the main process writes in `folder`, the same on every rank.

    Every rank must call. `folder` is made where it is missing; nothing stays in it.
    """
    if num_processes(processes) == 1:
        return []

    def put() -> str:
        name = f".token.{uuid4().hex}"
        write_text(folder / name, "")
        return name

    token = folder / from_main(processes, put)
    sees = gather_object([_appears(token)])
    if is_main(processes):
        token.unlink(missing_ok=True)
    return [rank for rank, is_seen in enumerate(sees) if not is_seen]


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


def check_saving(args: Any, processes: Processes) -> None:
    """Refuse a training whose checkpoints not every node could read, or several would write.

    Args:
        args: `transformers.TrainingArguments`.

    Raises:
        InputError: `load_best_model_at_end` would give the nodes different weights, or
            `save_on_each_node` would have several of them write the same files.
    """
    if not (args.load_best_model_at_end or args.save_on_each_node):
        return
    if num_processes(processes) == 1:
        return
    folder = Path(args.output_dir)
    without = ranks_without(folder, processes)
    if args.save_on_each_node:
        writing = gather_object([bool(args.should_save)])
        same = [rank for rank, it in enumerate(writing) if it and rank not in without]
        if len(same) > 1:
            raise InputError.at(
                f"ranks {same[0]} and {same[1]} would write the same files here",
                remedy="leave it out: it is for nodes without a shared disk",
                source=folder,
                field="save_on_each_node",
            )
    elif without:
        raise InputError.at(
            f"rank {without[0]} does not see what rank 0 writes here, and would not load the best "
            "weights",
            remedy="set save_on_each_node=True, or name an output_dir on a disk that all nodes "
            "share",
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


def _appears(file: Path) -> bool:
    """Whether a file that another process has written is seen here."""
    deadline = time.monotonic() + APPEARS_S
    while True:
        # the folder is opened each time: a network disk may answer for a name from its cache
        with suppress(OSError):
            if file.name in os.listdir(file.parent):
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
