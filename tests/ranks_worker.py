"""One start of two or three processes that does all that tests ask of so many, in turn.

To start and import takes longer than most of what is done. So this process imports, then becomes
the others by fork; where a launcher has started it, it is one of them already:

    python tests/ranks_worker.py 2 FOLDER NAME ...
    torchrun --nproc_per_node 2 tests/ranks_worker.py 2 FOLDER NAME ...
"""

import json
import os
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path

import torch
from accelerate import PartialState

from hf_proxy.models.parallel import end_together


def work(world_size: int, folder: Path, names: list[str]) -> None:
    """Write what each found to NAME-PROCESSES.json; NAME_worker.py says what it does."""
    torch.set_num_threads(1)
    state = PartialState(cpu=True)
    assert state.num_processes == world_size, "this would test another number of processes"
    for name in names:
        out = folder / f"{name}-{world_size}"
        found = import_module(f"{name}_worker").work(folder, out)
        if state.is_main_process:
            out.with_suffix(".json").write_text(json.dumps(found))


def fork(world_size: int) -> int | None:
    """Rank of this process, or None in the one that has waited for all and found them well."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    ranks: dict[int, int] = {}
    for rank in range(world_size):
        pid = os.fork()
        if pid == 0:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                "LOCAL_WORLD_SIZE": str(world_size),
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": port,
            }
            return rank
        ranks[pid] = rank
    while ranks:
        pid, status = os.wait()
        rank = ranks.pop(pid)
        if status:
            for other in ranks:
                os.kill(other, signal.SIGKILL)
            raise SystemExit(f"rank {rank} ended with {os.waitstatus_to_exitcode(status)}")
    return None


def main(world_size: int, folder: Path, names: list[str]) -> None:
    """Do all of it on all ranks, and end."""
    for name in names:
        import_module(f"{name}_worker")
    if "RANK" not in os.environ and fork(world_size) is None:
        return
    with end_together():
        work(world_size, folder, names)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
