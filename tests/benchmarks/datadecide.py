"""Which corpus trains the better model: small proxies against the 1B of 25 corpora (DataDecide).

Reads a table of `corpus, size, parameters, tokens, seed, task, metric, value`: of 14 sizes and
three seeds the mean -ln(probability per character of the right answer) over ten tasks at the last
checkpoint (`nll_per_char`), of the 1B its accuracy (one seed, and the mean of three). An attempt is
one seed of a size; its decision accuracy is held against the mean of three seeds of the 1B.

    python tests/benchmarks/datadecide.py --data datadecide.csv

Source: allenai/DataDecide-eval-results (arXiv 2504.11393), ODC-BY 1.0; only what is computed from
it is kept here.
"""

import argparse
import csv
from collections import defaultdict
from math import comb
from pathlib import Path

import numpy as np
from results import add, begin, table  # beside this one
from scipy import stats

from hf_proxy import compute_saving, decision_accuracy, kendall_tau, signal_to_noise

TARGET = "1B"
MACRO = "olmes_10_macro_avg"
# the same decision accuracy of the proxy's own accuracy, from the authors' released outputs (table
# of saidlaboratory/ASLA): the baseline of the compute saving
ACCURACY = {"4M": 0.379, "6M": 0.457, "8M": 0.564, "10M": 0.593, "14M": 0.570, "16M": 0.637}
ACCURACY |= {"20M": 0.646, "60M": 0.714, "90M": 0.786, "150M": 0.803, "300M": 0.823}
ACCURACY |= {"530M": 0.847, "750M": 0.816}
FIGURE = {"kind": "intervals", "y": "one seed", "low": "low", "high": "high", "zero": False}
FIGURE["y_label"] = "decision accuracy, 90 % interval"


def read(path):
    """(size, task, metric) to corpus to seed to value, and FLOPs of each size's run."""
    found = defaultdict(lambda: defaultdict(dict))
    flops = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            key = row["size"], row["task"], row["metric"]
            found[key][row["corpus"]][row["seed"]] = float(row["value"])
            flops[row["size"]] = 6 * float(row["parameters"]) * float(row["tokens"])
    return found, flops


def seeds_of(corpora):
    """Corpus to its values, one for each seed."""
    return {corpus: list(own.values()) for corpus, own in corpora.items()}


def sizes_table(values, flops):
    """A row for each size, by its own compute."""
    accuracy = values[TARGET, MACRO, "accuracy"]
    target = {corpus: own["mean of 3"] for corpus, own in accuracy.items()}
    clear = clear_of_noise(accuracy)
    rows = []
    for size in sorted(flops, key=flops.get):
        seeds = seeds_of(values[size, MACRO, "nll_per_char"])
        one = decision_accuracy(seeds, target, single_seed=True)
        mean = decision_accuracy(seeds, target)
        rows.append(
            {
                "size": size,
                "FLOPs over the target's": flops[size] / flops[TARGET],
                "one seed": one.value,
                "low": one.low,
                "high": one.high,
                "mean of 3 seeds": mean.value,
                "its low": mean.low,
                "its high": mean.high,
                "Kendall tau": kendall_tau(seeds, target),
                "clear pairs, one seed": share_among(seeds, target, clear),
                "signal to noise": signal_to_noise(seeds),
            }
        )
    return rows


def clear_of_noise(accuracy):
    """Pairs that the target's own seeds tell apart.

    Its table holds one seed and the mean of three: a seed less the mean of the two others has 1.5
    times the variance of one.
    """
    corpora = sorted(accuracy)
    own = np.array([accuracy[c]["default"] for c in corpora])
    mean = np.array([accuracy[c]["mean of 3"] for c in corpora])
    deviation = np.sqrt(((own - (3 * mean - own) / 2) ** 2).mean() / 1.5)
    bound = stats.t.ppf(0.95, len(corpora)) * deviation * np.sqrt(2 / 3)
    first, second = np.triu_indices(len(corpora), 1)
    return {
        (corpora[a], corpora[b])
        for a, b in zip(first, second, strict=True)
        if abs(mean[a] - mean[b]) > bound
    }


def share_among(seeds, target, pairs):
    """Of these pairs, mean over seeds of the share that is ordered as the target orders them."""
    right = []
    for a, b in pairs:
        for x, y in zip(seeds[a], seeds[b], strict=True):
            right.append(0.5 if x == y else float((x < y) == (target[a] > target[b])))
    return float(np.mean(right))


def tasks_table(values):
    """The target's own noise floor: one seed against the mean of the two others."""
    rows = []
    for _, task, metric in sorted(key for key in values if key[0] == TARGET):
        if metric != "accuracy":
            continue
        own = values[TARGET, task, metric]
        one = {corpus: seeds["default"] for corpus, seeds in own.items()}
        others = {c: (3 * seeds["mean of 3"] - seeds["default"]) / 2 for c, seeds in own.items()}
        found = decision_accuracy(one, others, lower_is_better=False)
        rows.append(
            {"task": task, "one seed": found.value, "low": found.low, "high": found.high}
            | {"pairs": found.num_pairs, "ties": found.num_ties}
        )
    return rows


def savings_table(values, flops, sizes):
    """Compute that accuracy needs for the decision accuracy of the likelihood."""
    proxy = [(flops[row["size"]], row["one seed"]) for row in sizes if row["size"] != TARGET]
    baseline = [(flops[s], share) for s, share in ACCURACY.items() if s in flops]
    return [
        {
            "FLOPs over the target's": saving.flops / flops[TARGET],
            "one seed": saving.decision_accuracy,
            "times less compute than accuracy": saving.factor,
            "note": saving.note,
        }
        for saving in compute_saving(proxy, baseline)
    ]


def main():
    """All tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the table, CSV")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmarks/datadecide.json"), help="JSON file"
    )
    args = parser.parse_args()
    content = begin("datadecide", args, dtype="float64")
    values, flops = read(args.data)
    sizes = sizes_table(values, flops)
    accuracy = values[TARGET, MACRO, "accuracy"]
    num_clear, num_pairs = len(clear_of_noise(accuracy)), comb(len(accuracy), 2)
    caption = f"decision accuracy against the accuracy of the {TARGET}, 90 % intervals"
    tables = [
        table(
            f"{caption}; {num_clear} of {num_pairs} pairs clear of its noise",
            sizes,
            FIGURE | {"caption": "one seed of each size, by its own compute", "x": "size"},
        ),
        table(
            f"the {TARGET} itself: one seed against the mean of the two others",
            tasks_table(values),
            FIGURE | {"caption": f"noise floor: the {TARGET} itself, by task", "x": "task"},
        ),
        table("compute saving, likelihood against accuracy", savings_table(values, flops, sizes)),
    ]
    add(content, tables, [], args.output)


if __name__ == "__main__":
    main()
