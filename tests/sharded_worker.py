"""Jobs of helpers/sharded.py, in turn, on every rank of one start.

accelerate launch --config_file FOLDER/fsdp2-2.yaml tests/gpus_on_cpu.py tests/sharded_worker.py \
    FOLDER/plan.json --launched fsdp2
"""

import faulthandler
import json
import os
import time
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import torch
from accelerate import PartialState
from helpers import sharded

from hf_proxy.models.parallel import end_together


def main(plan: Path, launched: str | None) -> None:
    """Write what each job returned on this rank to NAME-rankR.json beside the plan."""
    faulthandler.enable()
    torch.set_num_threads(1)
    rank, num_processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for job in json.loads(plan.read_text()):
        config = plan.parent / f"{job['setup']}-{num_processes}.yaml"
        is_set_up = job["setup"] == launched
        module, function = job["work"].split(":")
        faulthandler.dump_traceback_later(sharded.TIMEOUT_S, exit=True)
        begin = time.monotonic()
        with nullcontext() if is_set_up else sharded.set_up(config):
            assert PartialState().num_processes == num_processes
            work = getattr(import_module(module), function)
            found = work(plan.parent / job["name"], job["setup"], **job["options"])
        found["seconds"] = time.monotonic() - begin
        (plan.parent / f"{job['name']}-rank{rank}.json").write_text(json.dumps(found))
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    args = sharded.parse()
    if not args.launched:
        sharded.gpus_on_cpu()
    with end_together():
        main(args.plan, args.launched)
