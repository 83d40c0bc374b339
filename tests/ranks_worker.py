"""One start of two or three processes that does all that tests ask of so many, in turn.

To start and import takes longer than most of what is done.

    torchrun --nproc_per_node 2 tests/ranks_worker.py FOLDER NAME ...
"""

import json
import sys
from importlib import import_module
from pathlib import Path

import torch
from accelerate import PartialState

from hf_proxy.models.parallel import end_together


def main(folder: Path, names: list[str]) -> None:
    """Write what each found to NAME-PROCESSES.json; NAME_worker.py says what it does."""
    torch.set_num_threads(1)
    state = PartialState(cpu=True)
    assert state.num_processes > 1, "this would test one process"
    for name in names:
        out = folder / f"{name}-{state.num_processes}"
        found = import_module(f"{name}_worker").work(folder, out)
        if state.is_main_process:
            out.with_suffix(".json").write_text(json.dumps(found))


if __name__ == "__main__":
    with end_together():
        main(Path(sys.argv[1]), sys.argv[2:])
