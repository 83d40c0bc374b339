"""How two processes end that hold a wrapped model; started by torchrun.

`exit_worker.py FOLDER HOW`, HOW being
- `well`: by the helper;
- `raise-0`, `raise-1`: that rank raises while the other is inside of a collective;
- `stuck`: rank 1 raises while the other is busy elsewhere, for minutes;
- `recipe`: as `raise-1`, in a recipe's `run`;
- `bare`: without the helper, for contrast.
"""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState

from hf_proxy.models.parallel import end_together
from hf_proxy.recipes.library.running import RecipeConfig, run

HELD = []  # outlives every frame, as in a script without functions


def train(how: str) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    model = accelerator.prepare(torch.nn.Linear(64, 64))
    HELD.append(model)
    for _ in range(2):
        model(torch.ones(2, 64)).sum().backward()
    total = accelerator.reduce(torch.ones(3))
    assert total.tolist() == [2, 2, 2]
    if how in ("well", "bare"):
        return
    if accelerator.process_index == (0 if how == "raise-0" else 1):
        raise KeyError("lost here")
    if how == "stuck":
        time.sleep(600)
    accelerator.reduce(torch.ones(3))  # the other never comes


def gloo_threads() -> list[str]:
    """Threads of a group in this process, by name."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


@dataclass(frozen=True, kw_only=True)
class ExitConfig(RecipeConfig):
    """No flag of its own."""


def recipe(config: ExitConfig) -> dict:
    """Raise."""
    train("recipe")
    return {}


def main(folder: Path, how: str) -> int:
    if how == "bare":
        train(how)
        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()
        return 0
    if how == "recipe":
        return run(ExitConfig, recipe, [])
    found = {}
    try:
        with end_together():
            try:
                train(how)
            finally:
                found["during"] = gloo_threads()
    except Exception as error:
        found["raised"] = str(error)
        raise
    finally:
        found["after"] = gloo_threads()
        (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), sys.argv[2]))
