"""How often the intervals of a curve hold what they should, by simulation.

Truth is each form fitted to the published ARC-C points; every draw makes new accuracies with noise
of one point, chooses the form anew and asks for one new observation. Neighbours in a run resemble
each other (AR(1)); beside it stand fits that are told the correlation.

    python tests/benchmarks/coverage.py --draws 2000 --processes 2
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from helpers.coverage import simulate
from results import add, begin, table  # beside this one

from hf_proxy.prediction import correlation
from hf_proxy.records.defaults import FORMS

CORRELATIONS, SIZES = (0.0, 0.3, 0.5, 0.7), (10, 20, 30)
RUNS, RUN_SDS = (2, 3, 5), (0.0, 1.0, 2.0)


def cell(job):
    form, num_points, rho, draws, changes, is_known = job
    # a fit that is told the correlation has nothing to average over
    own = np.array([rho]) if is_known else correlation.CORRELATIONS
    with mock.patch.object(correlation, "CORRELATIONS", own):
        return simulate(form, num_points, rho, draws, **changes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000, help="simulated fits of each cell")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmarks/coverage.json"), help="JSON file"
    )
    args = parser.parse_args()
    content = begin("coverage", args, dtype="float64")
    kinds = {"averaged": ({}, False), "told": ({}, True), "beyond": ({"outside": True}, False)}
    jobs = {
        (kind, form, n, rho): (form, n, rho, args.draws, *kinds[kind])
        for kind, form, n, rho in product(kinds, FORMS, SIZES, CORRELATIONS)
    }
    for form, runs, run_sd in product(FORMS, RUNS, RUN_SDS):
        changes = {"runs": runs, "run_sd": run_sd}
        jobs["runs", form, runs, run_sd] = (form, 12, 0.5, args.draws, changes, False)
    found = {}
    with ExitStack() as stack:
        each = map
        if args.processes > 1:
            each = stack.enter_context(ProcessPoolExecutor(args.processes)).map
        for key, cover in zip(jobs, each(cell, jobs.values()), strict=True):
            found[key] = cover
            print(*key, *(f"{value:.3f}" for value in cover), file=sys.stderr)

    def mean(part, *, n=SIZES, rho=CORRELATIONS, form=FORMS, kind="averaged"):
        own = [getattr(found[kind, *key], part) for key in product(form, n, rho)]
        return float(np.mean(own)), min(own)

    by_form = []
    for form in FORMS:
        share, least = mean("share", form=(form,))
        row = {"true form": form, "share": share, "least of its cells": least}
        for name, where in (("width over told's", {"n": (20,), "rho": (0.0,)}),):
            own, told = (
                mean("width", form=(form,), kind=kind, **where)[0] for kind in ("averaged", "told")
            )
            row[f"{name}, n = 20, AR(1) 0"] = own / told
        for kind in kinds:
            row[f"score, {kind}"] = mean("score", form=(form,), kind=kind)[0]
            row[f"share, {kind}"] = mean("share", form=(form,), kind=kind)[0]
        by_form.append(row)
    by_cell = [
        {"n": n, "AR(1)": rho}
        | {
            f"{part}, {kind}": mean(part, n=(n,), rho=(rho,), kind=kind)[0]
            for kind, part in product(kinds, ("share", "width", "score"))
        }
        for n, rho in product(SIZES, CORRELATIONS)
    ]
    by_runs = []
    for runs, run_sd in product(RUNS, RUN_SDS):
        own = [found["runs", form, runs, run_sd] for form in FORMS]
        by_runs.append(
            {"runs": runs, "deviation of runs": run_sd}
            | {part: float(np.mean([getattr(c, part) for c in own])) for part in ("share", "width")}
        )
    caption = f"nominal 0.90, {args.draws} draws a cell, widths and interval scores in points"
    tables = [
        table(f"a new observation of one run, by true form; {caption}", by_form),
        table(f"the same, mean over the five true forms; {caption}", by_cell),
        table(f"a new run, 12 points of each, AR(1) 0.5; {caption}", by_runs),
    ]
    add(content, tables, [], args.output)


if __name__ == "__main__":
    main()
