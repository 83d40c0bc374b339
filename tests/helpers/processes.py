"""Starting what users start: commands in this process, launchers in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from hf_proxy import align_traces
from hf_proxy.cli import main

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent


def command(capsys, *arguments):
    """Exit code, table and last JSON line."""
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    last = said.out.splitlines()[-1] if said.out else ""
    return code, said, json.loads(last) if last.startswith("{") else None


def python(*arguments, timeout=300):
    """Start a process; a hang fails the test instead of the suite."""
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(TESTS),
    }
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def torchrun(world_size, *arguments, timeout=300):
    """Start real processes as users start them."""
    command = ["-m", "torch.distributed.run", "--nproc_per_node", world_size]
    # a free port of its own, so that two suites on one machine do not meet
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    return python(*command, *arguments, timeout=timeout)


def write_inputs(folder, tokenizer, traces):
    """What the workers of several processes read."""
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    align_traces(traces, tokenizer).save_to_disk(str(folder / "aligned"))
    traces.to_json(str(folder / "traces.jsonl"))
    prompts = [f"{number} + {number * number} = ?" for number in range(12)]
    (folder / "prompts.txt").write_text("\n".join(prompts))


def ranks(base, world_size, names):
    """Folder of the one start of so many processes that all tests of a session share.

    Args:
        base (`Path`): a folder that the processes of the session share, with the inputs in
            `inputs`; who comes first starts, the others wait.
        names: what is done in turn, as ranks_worker.py names it.
    """
    folder = base / "inputs"
    report = base / f"ranks-{world_size}.json"
    with FileLock(base / f"ranks-{world_size}.lock"):
        if not report.exists():
            done = python(TESTS / "ranks_worker.py", world_size, folder, *names)
            report.write_text(json.dumps([done.returncode, done.stderr[-6000:]]))
    code, said = json.loads(report.read_text())
    assert code == 0, said
    return folder


SHORT = {"num_steps": 2, "mine_steps": 2, "num_prompts": 4, "num_problems": 4}


def short(**flags):
    """Flags of a demo that learns hardly anything."""
    return [part for name, value in (SHORT | flags).items() for part in (f"--{name}", str(value))]
