"""Curves on real pre-training runs: one run against a larger one, and a ladder of twenty.

Reads a table of `run, size, tokens, task, bits_per_byte, accuracy` of the OLMo 2 model ladder
(allenai/OLMo-ladder). (a) Bits per byte along the 1B-10xC run against the 7B's and the 13B's
accuracy, paired by share of the run, which is itself a clock. (b) The last checkpoints of the
twenty small runs: size and data to bits per byte, bits per byte to accuracy, for the 7B and 13B.

Forecasts along a run: `forecasting.py`.

    python tests/benchmarks/olmo_ladder.py --data olmo_ladder.csv --output_dir outputs/ladder

`--reference hf_proxy/prediction/reference` writes the curves of (a) that the package brings.
"""

import argparse
import csv
import logging
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from results import add, begin, table  # beside this one

from hf_proxy import Curve, cross_validate, fit_curve, fit_ladder
from hf_proxy.recipes.fit_predictor import FitConfig, fit

PROXY_RUN = "1B-10xC"
TARGETS = ("7B", "13B")
SHARES = np.arange(1, 21) / 20


def read(path):
    """Task to run to columns, in the order of training."""
    runs_of = defaultdict(lambda: defaultdict(list))
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            runs_of[row["task"]][row["run"]].append(
                tuple(float(row[name]) for name in ("tokens", "bits_per_byte", "accuracy"))
            )
    return {
        task: {run: np.array(sorted(rows)) for run, rows in runs.items()}
        for task, runs in runs_of.items()
    }


def size_of(run):
    number = run.split("-")[0]
    return float(number[:-1]) * {"M": 1e6, "B": 1e9}[number[-1]]


def at_share(rows, share):
    """The checkpoint nearest to this share of the run's tokens."""
    return rows[np.argmin(np.abs(rows[:, 0] - share * rows[-1, 0]))]


def one_run(runs_of, folder):
    """(a): a table of points, then `hf-proxy fit` as a user would run it."""
    folder.mkdir(parents=True, exist_ok=True)
    points = folder / "points.csv"
    with points.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["run", "tokens", "score", "target", "target_accuracy", "metric"]
            + ["proxy", "num_parameters", "proxy_accuracy"]
        )
        for task, runs in runs_of.items():
            for target in TARGETS:
                for share in SHARES:
                    tokens, bits, accuracy = at_share(runs[PROXY_RUN], share)
                    name = task.split("_rc")[0].removesuffix("_test").removesuffix("_val")
                    writer.writerow(
                        [PROXY_RUN, tokens, bits, f"{name}-{target}"]
                        + [at_share(runs[target], share)[2], "bits_per_byte", "1B"]
                        + [int(size_of(PROXY_RUN)), accuracy]
                    )
    found = fit(FitConfig(points=str(points), output_dir=str(folder / "curves")))
    rows = []
    for curve in found["curves"]:
        for name, cv in curve["held_out"].items():
            against = curve["against"].get(name, {})
            rows.append(
                {
                    "target": curve["target"],
                    "from": name,
                    "held-out error, points": cv["test_mae_points"],
                    "in 90 %": cv["coverage"],
                    "proxy minus it, points": against.get("mae_points"),
                    "low": against.get("low"),
                    "high": against.get("high"),
                }
            )
    caption = (
        f"(a) {PROXY_RUN} -> {', '.join(TARGETS)}, {len(SHARES)} points paired by share of run"
    )
    return [table(caption, rows)]


def write_reference(curves, folder):
    """Parameters, errors and controls; of the points their number, no row."""
    for path in sorted(curves.glob("*-*B.json")):
        curve = Curve.load(path)
        task, target = path.stem.rsplit("-", 1)
        name = f"olmo-{task.replace('_', '-')}-{target.lower()}"
        own = {name: replace(cv, predicted=()) for name, cv in curve.statistics.controls.items()}
        replace(
            curve,
            points=(),
            target=f"OLMo 2 {target} {task}",
            proxy=f"OLMo-ladder {PROXY_RUN}",
            statistics=replace(curve.statistics, predicted=(), controls=own),
        ).save(folder / f"{name}.json")


def ladder(runs_of):
    """(b): two steps, each one's error, beside compute alone; a task that fails is said."""
    steps, held_out, targets = [], [], []
    for task, runs in runs_of.items():
        try:
            own = ladder_of(task, runs)
        except ValueError as error:
            steps.append({"task": task, "runs": len(runs), "failed": str(error)})
            continue
        for table_rows, found in zip((steps, held_out, targets), own, strict=True):
            table_rows += found
    return [
        table("(b) size and data to bits per byte, bits per byte to accuracy", steps),
        table("(b) whole sizes held out inside the ladder", held_out),
        table("(b) last checkpoints of the large runs; sizes are nominal", targets),
    ]


def ladder_of(task, runs):
    """Rows of one task for the three tables."""
    steps, held_out, targets = [], [], []
    small = [run for run in runs if run not in TARGETS]
    size = np.array([size_of(run) for run in small])
    tokens, bits, accuracy = np.array([runs[run][-1] for run in small]).T
    compute = np.log10(6 * size * tokens)
    first = fit_ladder(size, tokens, bits)
    groups = [run.split("-")[0] for run in small]
    second = fit_curve(bits, accuracy, forms=("sigmoid",), metric="bits_per_byte", target=task)
    clock = fit_curve(compute, accuracy, forms=("sigmoid",), metric="bits_per_byte")
    steps.append(
        {
            "task": task,
            "runs": len(small),
            "E": first.irreducible,
            "a": first.size_exponent,
            "b": first.data_exponent,
            "mean relative error, %": 100 * first.relative_error,
            "step 2": second.form,
            "R2": second.fits[0].r2,
        }
    )
    found = cross_validate(
        bits, accuracy, groups=groups, folds=5, controls={"log10 FLOPs": compute}
    )
    held_out += [
        {
            "task": task,
            "from": name,
            "test R2": cv.test_r2,
            "error, points": 100 * cv.test_mae,
            "in 90 %": cv.coverage,
            "forms": ", ".join(cv.forms),
        }
        for name, cv in {"bits per byte": found, **found.controls}.items()
    ]
    for target in TARGETS:
        last_tokens, last_bits, last_accuracy = runs[target][-1]
        predicted = first.predict(size_of(target), last_tokens)
        ways = {
            "both steps": second.predict(predicted),
            "step 2 from true bits per byte": second.predict(last_bits),
            "compute alone": clock.predict(np.log10(6 * size_of(target) * last_tokens)),
        }
        targets += [
            {
                "task, target": f"{task}, {target}",
                "bits per byte": predicted,
                "true": last_bits,
                "off, %": 100 * (predicted / last_bits - 1),
                "true accuracy, %": 100 * last_accuracy,
                "from": name,
                "predicted, %": 100 * way.value,
                "low": 100 * way.low,
                "high": 100 * way.high,
                "error, points": 100 * (way.value - last_accuracy),
                "inside": "yes" if way.low <= last_accuracy <= way.high else "no",
            }
            for name, way in ways.items()
        ]
    return steps, held_out, targets


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--output_dir", default="outputs/ladder")
    parser.add_argument("--reference", type=Path, help="folder to write the reference curves to")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmarks/olmo_ladder.json"), help="JSON file"
    )
    arguments = parser.parse_args()
    content = begin("olmo_ladder", arguments, dtype="float64", models=[PROXY_RUN, *TARGETS])
    everything = read(arguments.data)
    tables = one_run(everything, Path(arguments.output_dir)) + ladder(everything)
    if arguments.reference:
        write_reference(Path(arguments.output_dir) / "curves", arguments.reference)
    add(content, tables, [], arguments.output)
