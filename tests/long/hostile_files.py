"""Spoil files of every kind, thousands of times, and count what the package makes of them.

Run outside the suite; the counts stay in --state, so that the same line goes on where it stopped.
Each kind runs in processes of its own, so that one that a file kills is counted and named.

    python tests/long/hostile_files.py --cases 1500 --state hostile.jsonl
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def work(name: str, first: int, last: int, state: str, seed: int) -> None:
    """Cases `first` to `last` of a kind, a line for each."""
    home = tempfile.mkdtemp(prefix="hostile-")
    os.environ["HF_HOME"] = home  # before the libraries are imported: they read it once
    os.environ["HF_HUB_OFFLINE"] = "1"
    import shutil

    from hostile import KINDS, judge, prepare

    kind, folder = KINDS[name], Path(home) / "files"
    try:
        prepare(kind, folder)
        with open(state, "a") as file:
            for case in range(first, last):
                # a case whose process dies is the one that was begun last
                file.write(json.dumps([name, case, "killed", ""]) + "\n")
                file.flush()
                verdict, said = judge(kind, folder, f"{seed} {name} {case}")
                file.write(json.dumps([name, case, verdict, said[-400:]]) + "\n")
                file.flush()
                if case % 100 == 99:  # the cache of what was read
                    shutil.rmtree(Path(home) / "hf_proxy", ignore_errors=True)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def verdicts(state: Path) -> dict[str, dict[int, tuple[str, str]]]:
    """By kind and case what was found."""
    found: dict[str, dict[int, tuple[str, str]]] = {}
    for line in state.read_text().splitlines() if state.exists() else ():
        name, case, verdict, said = json.loads(line)
        found.setdefault(name, {})[case] = (verdict, said)
    return found


def main() -> int:
    """Run what is missing, print the table; exit code 1 if a verdict is not good."""
    from hostile import GOOD, KINDS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1500, help="of each kind")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--state", type=Path, default=Path("hostile.jsonl"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=3, help="bad cases of each kind")
    args = parser.parse_args()
    start = multiprocessing.get_context("spawn").Process
    for name in args.kinds:
        while len(done := verdicts(args.state).get(name, {})) < args.cases:
            first = max(done, default=-1) + 1
            last = min(first + 500, args.cases)
            process = start(target=work, args=(name, first, last, str(args.state), args.seed))
            process.start()
            process.join()
            if len(verdicts(args.state).get(name, {})) == len(done):
                print(f"{name}: its valid files cannot be made or read", file=sys.stderr)
                return 1
    total: Counter[str] = Counter()
    words = ("right", "refused", "bare", "wrong", "allocated", "hung", "killed")
    print(f"{'kind':<22}{'cases':>7}" + "".join(f"{word:>10}" for word in words))
    for name in args.kinds:
        found = verdicts(args.state).get(name, {})
        counts = Counter(verdict for verdict, _ in found.values())
        total += counts
        print(f"{name:<22}{len(found):>7}" + "".join(f"{counts[word]:>10}" for word in words))
        bad = [(case, *found[case]) for case in sorted(found) if found[case][0] not in GOOD]
        for case, verdict, said in bad[: args.show]:
            print(f"    case {case}, {verdict}: {said}")
    print(f"{'all':<22}{total.total():>7}" + "".join(f"{total[word]:>10}" for word in words))
    return 1 if total.total() > sum(total[word] for word in GOOD) else 0


if __name__ == "__main__":
    raise SystemExit(main())
