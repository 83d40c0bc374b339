"""How often the intervals of a curve hold what they should, by simulation.

Truth is each form fitted to the published ARC-C points; every draw makes new accuracies with noise
of one point, chooses the form anew and asks for one new observation. Neighbours in a run resemble
each other (AR(1)); beside it, on the same draws, fits that are told the correlation, and
observations beyond the points.

    python tests/benchmarks/coverage.py --draws 2000 --processes 2
"""

import argparse
import sys
from collections import defaultdict
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from helpers.coverage import WAYS, simulate_all
from results import add, begin, table  # beside this one

from hf_proxy.recipes.library.workers import worker_pool
from hf_proxy.records.defaults import FORMS

CORRELATIONS, SIZES = (0.0, 0.3, 0.5, 0.7), (10, 20, 30)
RUNS, RUN_SDS = (2, 3, 5), (0.0, 1.0, 2.0)
PARTS = {"covers": "share", "width": "width", "score": "score"}
BLOCK = 250  # draws after which all tables are written: it can be ended at any of them


def cell(job):
    form, num_points, rho, draws, block, changes = job
    return simulate_all(form, num_points, rho, draws, seed=11 + block, **changes)


def blocks_of(draws):
    """Draws of each block."""
    return [min(BLOCK, draws - first) for first in range(0, draws, BLOCK)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000, help="simulated fits of each cell")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmarks/coverage.json"), help="JSON file"
    )
    args = parser.parse_args()
    found = defaultdict(list)
    with ExitStack() as stack:
        each = map
        if args.processes > 1:
            each = stack.enter_context(worker_pool(args.processes)).map
        for block, draws in enumerate(blocks_of(args.draws)):
            content = begin("coverage", args, dtype="float64")
            jobs = {
                (form, n, rho): (form, n, rho, draws, block, {})
                for form, n, rho in product(FORMS, SIZES, CORRELATIONS)
            }
            for form, runs, run_sd in product(FORMS, RUNS, RUN_SDS):
                changes = {"runs": runs, "run_sd": run_sd, "ways": ("averaged",)}
                few = max(1, draws // 4)  # their points are more, and so are the seconds
                jobs["runs", form, runs, run_sd] = (form, 12, 0.5, few, block, changes)
            for key, cover in zip(jobs, each(cell, jobs.values()), strict=True):
                found[key].append((jobs[key][3], cover))
            content["settings"]["draws"] = block * BLOCK + draws  # so far
            add(content, tables_of(found), [], args.output)


def tables_of(found):
    """Means over draws, of every block that is there."""

    def cell_of(key, part, way):
        return float(
            np.average(
                [getattr(cover[way], part) for _, cover in found[key]],
                weights=[draws for draws, _ in found[key]],
            )
        )

    def cells_of(part, *, n=SIZES, rho=CORRELATIONS, form=FORMS, way="averaged"):
        return [cell_of(key, part, way) for key in product(form, n, rho)]

    def mean(part, **where):
        return float(np.mean(cells_of(part, **where)))

    by_form = []
    for form in FORMS:
        at = {"form": (form,), "n": (20,), "rho": (0.0,)}
        own, told = (mean("width", way=way, **at) for way in ("averaged", "told"))
        row = {"true form": form, "covers": mean("share", form=(form,))}
        row["least of its cells"] = min(cells_of("share", form=(form,)))
        row["width over told's, n = 20, AR(1) 0"] = own / told
        for way in WAYS:
            row[f"score, {way}"] = mean("score", form=(form,), way=way)
        row |= {f"covers, {way}": mean("share", form=(form,), way=way) for way in WAYS[1:]}
        by_form.append(row)
    by_cell = [
        {"n": n, "AR(1)": rho}
        | {f"covers, {form}": mean("share", n=(n,), rho=(rho,), form=(form,)) for form in FORMS}
        | {
            f"{name}, {way}": mean(part, n=(n,), rho=(rho,), way=way)
            for way, (name, part) in product(WAYS, PARTS.items())
        }
        for n, rho in product(SIZES, CORRELATIONS)
    ]
    by_runs = []
    for runs, run_sd in product(RUNS, RUN_SDS):
        keys = [("runs", form, runs, run_sd) for form in FORMS]
        shares = [cell_of(key, "share", "averaged") for key in keys]
        widths = [cell_of(key, "width", "averaged") for key in keys]
        row = {"runs": runs, "deviation of runs": run_sd, "covers": float(np.mean(shares))}
        row |= {"width": float(np.mean(widths)), "least of the forms": min(shares)}
        by_runs.append(row)
    said = "nominal 0.90, widths and interval scores in points"
    draws, few = (sum(draws for draws, _ in found[key]) for key in (next(iter(found)), keys[0]))
    return [
        table(f"a new observation of one run, by true form; {draws} draws a cell, {said}", by_form),
        table(f"the same, mean over the five true forms; {draws} draws a cell, {said}", by_cell),
        table(f"a new run, 12 points of each, AR(1) 0.5; {few} draws a cell, {said}", by_runs),
    ]


if __name__ == "__main__":
    main()
