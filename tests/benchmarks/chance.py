"""What choosing among columns that say nothing reaches, with tasks held out and with models.

Worlds of models with one skill and some tasks that agree about it; columns are noise that each
model keeps from task to task, as its statistics do. Nothing can be foretold, so every correlation
is chance; beside it the order of accuracies on the tasks held in, which needs no column.

    python tests/benchmarks/chance.py
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from results import add, begin, table  # beside this one

from hf_proxy import select_proxy
from hf_proxy.prediction.selection import SCORERS


def world(rng, args):
    """Scores and accuracies that have nothing to do with each other."""
    skill = rng.normal(size=args.num_models)
    accuracy = skill[:, None] + 0.5 * rng.normal(size=(args.num_models, args.num_tasks))
    own = rng.normal(size=(args.num_models, 1, args.num_columns))
    shape = args.num_models, args.num_tasks, args.num_columns
    column = own + 0.3 * rng.normal(size=shape)
    scores, accuracies = {}, {}
    for m in range(args.num_models):
        names = [f"t{t}" for t in range(args.num_tasks)]
        accuracies[f"m{m:03d}"] = dict(zip(names, accuracy[m].tolist(), strict=True))
        scores[f"m{m:03d}"] = {
            name: {f"c{f:03d}": float(x) for f, x in enumerate(column[m, t])}
            for t, name in enumerate(names)
        }
    return scores, accuracies


def row_of(scorer, found):
    """Mean over worlds, and the 95 % point, of what one way to choose reaches."""
    tasks = np.array([one.tasks_out.value for one in found])
    models = np.array([one.models_out.value for one in found if one.models_out is not None])
    row = {"scorer": scorer, "held in": float(np.mean([one.held_in for one in found]))}
    row |= {"tasks held out": float(tasks.mean()), "95 %": float(np.quantile(tasks, 0.95))}
    row["models held out"] = float(models.mean()) if len(models) else None
    control = [one.tasks_out.controls["accuracy on held-in tasks"] for one in found]
    return row | {"accuracy on held-in tasks": float(np.mean(control))}


def main():
    """A row for each way to choose."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_models", type=int, default=18)
    parser.add_argument("--num_tasks", type=int, default=6)
    parser.add_argument("--num_columns", type=int, default=80)
    parser.add_argument("--worlds", type=int, default=40)
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmarks/chance.json"), help="JSON file"
    )
    args = parser.parse_args()
    content = begin("chance", args, dtype="float64")
    rows = []
    for scorer in SCORERS:
        rng = np.random.default_rng(0)
        worlds = [world(rng, args) for _ in range(args.worlds)]
        found = [select_proxy(*own, scorer=scorer, num_permutations=1) for own in worlds]
        rows.append(row_of(scorer, found))
        print(f"{scorer} done", file=sys.stderr)
    caption = f"Spearman with columns of noise: {args.num_models} models, {args.num_tasks} tasks, "
    caption += f"{args.num_columns} columns, {args.worlds} worlds"
    add(content, [table(caption, rows)], [], args.output)


if __name__ == "__main__":
    main()
