"""Golden outputs of commands on the bundled models: answers of two models, the demo."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from golden.world import ASSETS, read_json, read_lines

from hf_proxy.cli import main as hf_proxy


def accuracy(folder: Path, small: bool) -> dict[str, Any]:
    """`hf-proxy accuracy`: the bundled expert and amateur on the same problems."""
    own = folder / "accuracy"
    flags = {"problems": ASSETS / "problems.jsonl", "question_column": "prompt"}
    flags |= {"num_problems": 30 if small else 100, "max_new_tokens": 96, "output_dir": own}
    if small:
        flags |= {"dtype": "float64"}
    argv = ["accuracy", "--models", str(ASSETS / "expert"), str(ASSETS / "amateur")]
    for flag, value in flags.items():
        argv += [f"--{flag}", str(value)]
    if hf_proxy(argv):
        raise RuntimeError("hf-proxy accuracy failed")
    found = read_json(own / "results.json")
    return {name: found[name] for name in ("models", "comparisons")} | {
        "items": read_lines(own / "items.jsonl")
    }


def demo(folder: Path) -> dict[str, Any]:
    """`hf-proxy demo`: its printed table, the same in full precision, the tuned weights' hash."""
    own = folder / "demo"
    command = [sys.executable, "-m", "hf_proxy.cli", "demo", "--json", "--output_dir", str(own)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    start = next(i for i, line in enumerate(said) if "loop's step" in line)
    result = json.loads(said[-1])
    return {
        "table": said[start:-2],  # without the seconds, and what --json adds
        "rows": result["rows"],
        "foretold": result["foretold"],
        "loop": result["loop"],
        "weights": {
            str(path.relative_to(own)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(own.rglob("*.safetensors"))
        },
    }
