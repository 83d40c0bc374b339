"""The matrix of sharded set-ups as a table, by `accelerate launch` on gloo.

Not in the suite, whose long form asserts what is printed here. A folder that is there is only read.

    python tests/long/sharded.py --folder outputs/sharded
"""

import argparse
import os
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from helpers import sharded_matrix as matrix  # noqa: E402
from helpers.sharded import job, results  # noqa: E402


def said(differing: list[str]) -> str:
    return "yes" if not differing else ", ".join(differing)


def main(folder: Path) -> None:
    more = {4: [job("parallel", "ddp", "sharded_jobs:tensor_parallel")]}
    folders = matrix.launch_all(folder, more)
    print(
        "| set-up | ranks | a rank holds | training equal | score - checkpoint's | resume equal |"
    )
    print("|---|---|---|---|---|---|")
    for case in matrix.CASES:
        own = folders[case.ranks, case.setup]
        share = results(own, f"{case.key}-scored", case.ranks)[0]["share"]
        equal = "our number chooses" if case.decides else said(matrix.neutral(own, case))
        resumed = said(matrix.resumed(own, case)) if case.resumes else ""
        gap = matrix.score_gap(own, case)
        print(f"| {case.name} | {case.ranks} | {share:.2f} | {equal} | {gap:.1e} | {resumed} |")
    print("\n| SelectiveSFT, one update | ranks | largest difference of a weight |\n|---|---|---|")
    for update in matrix.UPDATES:
        with tempfile.TemporaryDirectory() as alone:
            with redirect_stdout(sys.stderr):
                matrix.one_process(Path(alone), update)
            gap = matrix.update_gap(folders[update.ranks, update.setup], update, Path(alone))
        how = ", ".join(update.options) or "plain"
        print(f"| {update.setup}, {how} | {update.ranks} | {gap:.1e} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="of all that is trained")
    main(parser.parse_args().folder)
