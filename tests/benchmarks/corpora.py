"""Does a small proxy choose the right corpus? Graded corpora, controls and noise floors.

The protocol, fixed before the first score: corpora.md, beside this file. It prints how long it will
take, then trains, tests and scores a target and two proxies on every corpus and seed. Killed and
started again it goes on, and loses at most the trainings it was at.

    python tests/benchmarks/corpora.py --output_dir outputs/corpora --seeds 0     # accuracies only
    python tests/benchmarks/corpora.py --output_dir outputs/corpora
    python tests/benchmarks/corpora.py --output_dir outputs/corpora --analyse
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import results
import torch
from corpora_cost import measured_cost, overhead_table, projected
from corpora_documents import CORPORA, GRADED
from corpora_ngrams import ngrams_of
from corpora_tables import found_of, tables_of
from corpora_world import SIZES, World, measure, row_path

from hf_proxy.recipes.library.workers import worker_pool
from hf_proxy.records.storage import write_text

SEEDS = (1, 2, 3)
EXPLORATION = 0  # the seed that sizes, steps and grades are set on: never scored
BUDGET = 10_800  # CPU seconds


def main() -> None:
    """Project, measure, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output_dir", type=Path, required=True, help="What is measured.")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=list(SEEDS),
        help=f"{EXPLORATION}, alone: accuracies to set sizes by, and no score.",
    )
    parser.add_argument(
        "--corpora", nargs="+", choices=CORPORA, default=list(CORPORA), help="To explore with few."
    )
    parser.add_argument("--num_processes", type=int, default=2, help="Trainings at a time.")
    parser.add_argument(
        "--budget", type=int, default=BUDGET, help="CPU seconds; stop before a longer run."
    )
    parser.add_argument("--analyse", action="store_true", help="What is there already.")
    parser.add_argument("--output", type=Path, default=None, help="OUTPUT_DIR/corpora.json")
    args = parser.parse_args()
    is_explored = EXPLORATION in args.seeds
    if is_explored and len(args.seeds) > 1:
        parser.error(f"seed {EXPLORATION} is looked at alone")
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    folder = args.output_dir
    content = results.begin("corpora", args, dtype="float32")
    if not args.analyse:
        left = [
            (corpus, seed)
            for seed in args.seeds
            for corpus in args.corpora
            if not all(row_path(folder, corpus, seed, model).exists() for model in SIZES)
        ]
        if left:
            seconds = projected(read_cost(folder), len(left), scored=not is_explored)
            print(f"{len(left)} corpora and seeds to go: {seconds:,.0f} CPU seconds", flush=True)
            if seconds > args.budget:
                sys.exit(f"that is more than --budget {args.budget}: set smaller sizes")
            measure_all(folder, left, args.num_processes, scored=not is_explored)
    rows = list(read_rows(folder, args.corpora, args.seeds))
    if is_explored:
        print_accuracies(rows)
        return
    ngrams = ngrams_of(World(folder), list(dict.fromkeys(row["corpus"] for row in rows)))
    tables = [*tables_of(rows, GRADED, ngrams), overhead_table(read_cost(folder))]
    content["found"] = found_of(tables)
    results.add(content, results.shortened(tables), [], args.output or folder / "corpora.json")


def read_cost(folder: Path) -> dict[str, Any]:
    """What a training costs here, measured once in a folder, and shown."""
    path = folder / "cost.json"
    if not path.exists():
        print("what a step, a test and a score cost:", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(measured_cost(World(folder)), indent=1))
        results.print_one(overhead_table(json.loads(path.read_text())))
    return json.loads(path.read_text())


def measure_all(
    folder: Path, left: Sequence[tuple[str, int]], num_processes: int, *, scored: bool
) -> None:
    """Each corpus of each seed, so many at a time; seed by seed, so that what is whole is whole."""
    if scored:
        World(folder).trace_sets()  # before processes would make them beside each other
    start = time.monotonic()

    def show(number: int, paths: Sequence[Path]) -> None:
        rows = [json.loads(path.read_text()) for path in paths]
        accuracies = ", ".join(f"{r['model']} {r['points'][-1]['accuracy']:.3f}" for r in rows)
        left_s = (time.monotonic() - start) / number * (len(left) - number)
        where = f"{number}/{len(left)} seed {rows[0]['seed']} {rows[0]['corpus']}"
        print(f"{where}: {accuracies}; {left_s / 60:.0f} min left", flush=True)

    if num_processes == 1:
        for number, (corpus, seed) in enumerate(left, 1):
            show(number, measure(folder, corpus, seed, scored))
        return
    with worker_pool(num_processes) as pool:
        jobs = [pool.submit(measure, folder, corpus, seed, scored) for corpus, seed in left]
        for number, job in enumerate(as_completed(jobs), 1):
            show(number, job.result())


def read_rows(folder: Path, corpora: Sequence[str], seeds: Sequence[int]) -> Iterator[dict]:
    """What was measured of these."""
    for seed in seeds:
        for corpus in corpora:
            for model in SIZES:
                path = row_path(folder, corpus, seed, model)
                if path.exists():
                    yield json.loads(path.read_text())


def print_accuracies(rows: Sequence[dict[str, Any]]) -> None:
    """What sizes, steps and grades are set by."""
    lines = [
        {"corpus": corpus}
        | {
            f"{row['model']} {point['step']}": point["accuracy"]
            for row in rows
            if row["corpus"] == corpus
            for point in row["points"]
        }
        for corpus in dict.fromkeys(row["corpus"] for row in rows)
    ]
    results.print_one(results.table(f"Accuracies of seed {EXPLORATION}", lines))


if __name__ == "__main__":
    sys.exit(main())
