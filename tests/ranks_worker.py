"""One start of two or three processes that does all that tests ask of so many, in turn.

torchrun --nproc_per_node 2 tests/ranks_worker.py 2 FOLDER NAME ...
"""

import json
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


def main(world_size: int, folder: Path, names: list[str]) -> None:
    """Do all of it on all ranks, and end."""
    with end_together():
        work(world_size, folder, names)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
