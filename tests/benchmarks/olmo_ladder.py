"""Curves on real pre-training runs: one run against a larger one, and a ladder of twenty.

Reads a table of `run, size, tokens, task, bits_per_byte, accuracy` of the OLMo 2 model ladder
(allenai/OLMo-ladder). (a) Bits per byte along the 1B-10xC run against the 7B's and the 13B's
accuracy, paired by share of the run, which is itself a clock. (b) The last checkpoints of the
twenty small runs: size and data to bits per byte, bits per byte to accuracy, for the 7B and 13B.

    python tests/benchmarks/olmo_ladder.py --data olmo_ladder.csv --output_dir outputs/ladder
"""

import argparse
import csv
import logging
from collections import defaultdict
from pathlib import Path

import numpy as np

from hf_proxy import cross_validate, fit_curve, fit_ladder
from hf_proxy.cli import main as hf_proxy

PROXY_RUN = "1B-10xC"
TARGETS = ("7B", "13B")
SHARES = np.arange(1, 21) / 20


def read(path):
    """Task to run to columns, in the order of training."""
    table = defaultdict(lambda: defaultdict(list))
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            table[row["task"]][row["run"]].append(
                tuple(float(row[name]) for name in ("tokens", "bits_per_byte", "accuracy"))
            )
    return {
        task: {run: np.array(sorted(rows)) for run, rows in runs.items()}
        for task, runs in table.items()
    }


def size_of(run):
    number = run.split("-")[0]
    return float(number[:-1]) * {"M": 1e6, "B": 1e9}[number[-1]]


def at_share(rows, share):
    """The checkpoint nearest to this share of the run's tokens."""
    return rows[np.argmin(np.abs(rows[:, 0] - share * rows[-1, 0]))]


def one_run(table, folder):
    """(a): a table of points, then `hf-proxy fit` as a user would run it."""
    folder.mkdir(parents=True, exist_ok=True)
    points = folder / "points.csv"
    with points.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["run", "tokens", "score", "target", "target_accuracy", "metric"]
            + ["proxy", "num_parameters", "proxy_accuracy"]
        )
        for task, runs in table.items():
            for target in TARGETS:
                for share in SHARES:
                    tokens, bits, accuracy = at_share(runs[PROXY_RUN], share)
                    name = task.split("_rc")[0].removesuffix("_test").removesuffix("_val")
                    writer.writerow(
                        [PROXY_RUN, tokens, bits, f"{name}-{target}"]
                        + [at_share(runs[target], share)[2], "bits_per_byte", "1B"]
                        + [int(size_of(PROXY_RUN)), accuracy]
                    )
    print(f"(a) {PROXY_RUN} -> {', '.join(TARGETS)}, {len(SHARES)} points paired by share of run")
    assert hf_proxy(["fit", "--points", str(points), "--output_dir", str(folder / "curves")]) == 0


def ladder(table):
    """(b): two steps, each one's error, beside compute alone."""
    print("\n(b) last points of the ladder; sizes are nominal")
    for task, runs in table.items():
        small = [run for run in runs if run not in TARGETS]
        size = np.array([size_of(run) for run in small])
        tokens, bits, accuracy = np.array([runs[run][-1] for run in small]).T
        compute = np.log10(6 * size * tokens)
        first = fit_ladder(size, tokens, bits)
        groups = [run.split("-")[0] for run in small]
        second = fit_curve(bits, accuracy, forms=("sigmoid",), metric="bits_per_byte", target=task)
        clock = fit_curve(compute, accuracy, forms=("sigmoid",), metric="bits_per_byte")
        print(f"{task}, {len(small)} runs")
        print(
            f"  step 1: E {first.irreducible:.3f}, a {first.size_exponent:.3f}, "
            f"b {first.data_exponent:.3f}, mean relative error {100 * first.relative_error:.2f} %"
        )
        print(f"  step 2: {second.form}, R2 {second.fits[0].r2:.3f}")
        found = cross_validate(
            bits, accuracy, groups=groups, folds=5, controls={"log10 FLOPs": compute}
        )
        for name, cv in {"bits per byte": found, **found.controls}.items():
            print(
                f"  sizes held out, {name}: test R2 {cv.test_r2:.3f}, MAE {100 * cv.test_mae:.2f} "
                f"points, in 90 % {cv.coverage:.2f}, forms {', '.join(cv.forms)}"
            )
        for target in TARGETS:
            last_tokens, last_bits, last_accuracy = runs[target][-1]
            predicted = first.predict(size_of(target), last_tokens)
            rows = {
                "both steps": second.predict(predicted),
                "step 2 from true bits per byte": second.predict(last_bits),
                "compute alone": clock.predict(np.log10(6 * size_of(target) * last_tokens)),
            }
            print(
                f"  {target}: bits per byte {predicted:.4f}, true {last_bits:.4f} "
                f"({100 * (predicted / last_bits - 1):+.1f} %); accuracy {100 * last_accuracy:.2f}"
            )
            for name, row in rows.items():
                inside = row.low <= last_accuracy <= row.high
                print(
                    f"    {name}: {100 * row.value:.2f} [{100 * row.low:.1f}, "
                    f"{100 * row.high:.1f}], error {100 * (row.value - last_accuracy):+.2f} "
                    f"points, {'inside' if inside else 'outside'}"
                )


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--output_dir", default="outputs/ladder")
    arguments = parser.parse_args()
    everything = read(arguments.data)
    one_run(everything, Path(arguments.output_dir))
    ladder(everything)
