"""Seconds until `hf-proxy --help` and each command's `--help` have said all: bar 1.5 s.

    python tests/benchmarks/start.py --rounds 5 --output start.json

Each is a process of its own; of the rounds the quickest counts, which a busy machine spoils least.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from results import add, bar, begin, table

from hf_proxy.cli import COMMANDS
from hf_proxy.recipes import mine_soft_targets, traces

ACTIONS = {"traces": traces.ACTIONS, "contrast": mine_soft_targets.ACTIONS}
BAR_S = 1.5


def seconds(words: list[str], rounds: int) -> list[float]:
    """Wall time of each round."""
    found = []
    command = [sys.executable, "-m", "hf_proxy.cli", *words, "--help"]
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - start)
    return found


def main() -> None:
    """Time every help and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmarks/start.json"), help="JSON file"
    )
    args = parser.parse_args()
    content = begin("start", args, dtype="none")
    commands = [[], *([name] for name in COMMANDS)]
    commands += [[name, action] for name, actions in ACTIONS.items() for action in actions]
    rows = []
    for words in commands:
        found = seconds(words, args.rounds)
        name = " ".join(["hf-proxy", *words, "--help"])
        rows.append({"command": name, "quickest, s": min(found), "median, s": median(found)})
    slowest = max(row["quickest, s"] for row in rows)
    what = "`--help` of every command: the slowest"
    bars = [bar(what, slowest, "at most", BAR_S, unit="s")]
    add(content, [table("Start of --help", rows)], bars, args.output)


if __name__ == "__main__":
    main()
