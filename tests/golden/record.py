"""Every number that the package gives, in full precision, from tiny models made in place.

    python tests/golden/record.py OUT.json           all of it and the demo, a minute
    python tests/golden/record.py OUT.json --small   what tests/test_golden.py compares

Twice on one machine gives the same file byte for byte; so do two trees that compute the same. It
uses public names and commands only, so it runs unchanged when the inside moves. Dates, seconds,
run ids and paths are left out.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before the libraries that read these once
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        # a cache of its own: another tree's alignments would hide a change
        "HF_HOME": tempfile.mkdtemp(prefix="hf-proxy-golden-"),
    }

# the tests' folder, as pytest has it
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from golden.commands import accuracy, demo
from golden.scoring import alignments, curves, scores
from golden.training import mined, sft, watched
from golden.world import make_tokenizer, plain

LIBRARIES = ("torch", "transformers", "tokenizers", "trl", "datasets", "numpy", "scipy")


def record(folder: Path, *, small: bool) -> dict[str, Any]:
    """All sections, as JSON holds them.

    Args:
        folder: an empty one, for what is written on the way.
        small: less of everything, in float64, that another machine gives to 1e-6.
    """
    tokenizer = make_tokenizer(320)
    found: dict[str, Any] = {}
    found["aligned"], aligned = alignments(folder, tokenizer, small)
    found["scores"] = scores(folder, tokenizer, aligned, small)
    found["curves"] = curves(folder, small)
    found["mined"], rows = mined(folder, tokenizer, small)
    found["sft"] = sft(folder, tokenizer, rows, small)
    found["watched"] = watched(folder, tokenizer, small)
    found["accuracy"] = accuracy(folder, small)
    if not small:
        found["demo"] = demo(folder)
    return plain(found, folder)


def made_with() -> dict[str, Any]:
    """Versions and device, which are recorded and not compared."""
    return {
        "python": platform.python_version(),
        "device": f"cpu, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        **{name: version(name) for name in LIBRARIES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="The file to write.")
    parser.add_argument("--small", action="store_true", help="What the test compares.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = record(Path(folder).resolve(), small=arguments.small)
    content = {"made_with": made_with(), "recorded": found}
    arguments.out.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    shutil.rmtree(os.environ["HF_HOME"])


if __name__ == "__main__":
    main()
