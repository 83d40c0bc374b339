"""Small proxies on public tables, by compute: DataDecide's corpora and the OLMo ladder, as one.

What `corpora.py` asks in a small world, asked of real runs. (a) DataDecide: decision accuracy of
each size against the 1B, beside what one seed of the 1B itself reaches. (b) OLMo ladder: how far
off the 7B's and the 13B's last accuracy is foretold from the runs up to each size.

    python tests/benchmarks/public_tables.py --datadecide datadecide.csv --ladder olmo_ladder.csv

Sources: allenai/DataDecide-eval-results (arXiv 2504.11393), ODC-BY 1.0; allenai/OLMo-ladder,
Apache-2.0. Only what is computed from them is kept here.
"""

import argparse
import logging
from pathlib import Path

import datadecide
import numpy as np
import olmo_ladder
import results
from olmo_ladder import TARGETS, size_of

from hf_proxy import fit_curve, fit_ladder

SHARE = "FLOPs over the target's"


def datadecide_tables(path):
    """(a): a row for each size, and the floor that the target's own seeds are."""
    values, flops = datadecide.read(path)
    names = {"size": "proxy", SHARE: SHARE, "one seed": "decision accuracy"}
    names |= {"low": "low", "high": "high", "clear pairs, one seed": "clear pairs"}
    rows = [
        {new: row[old] for old, new in names.items()}
        for row in datadecide.sizes_table(values, flops)
    ]
    floor = [row for row in datadecide.tasks_table(values) if row["task"] == datadecide.MACRO]
    return [
        results.table("(a) DataDecide: likelihood of one seed against accuracy of the 1B", rows),
        results.table("(a) noise of the 1B itself: one seed against the two others", floor),
    ]


def ladder_rows(runs_of):
    """(b): a row for each size that the runs go up to; errors over tasks and targets."""
    every = {run for runs in runs_of.values() for run in runs} - set(TARGETS)
    rows = []
    for largest in sorted({size_of(run) for run in every})[1:]:  # one size holds no law of sizes
        off, inside, flops = {}, {}, []
        for runs in runs_of.values():
            small = [run for run in runs if run not in TARGETS and size_of(run) <= largest]
            size = np.array([size_of(run) for run in small])
            tokens, bits, accuracy = np.array([runs[run][-1] for run in small]).T
            curves = {
                "step 2": fit_curve(bits, accuracy, forms=("sigmoid",), metric="bits_per_byte"),
                "compute": fit_curve(np.log10(6 * size * tokens), accuracy, forms=("sigmoid",)),
            }
            ladder = fit_ladder(size, tokens, bits)
            for target in TARGETS:
                last_tokens, last_bits, truth = runs[target][-1]
                spent = 6 * size_of(target) * last_tokens
                flops.append((6 * size * tokens).sum() / spent)
                bits_told = ladder.predict(size_of(target), last_tokens)
                ways = {
                    "both steps": curves["step 2"].predict(bits_told),
                    "from true bits": curves["step 2"].predict(last_bits),
                    "compute alone": curves["compute"].predict(np.log10(spent)),
                }
                for name, way in ways.items():
                    off.setdefault(name, []).append(100 * abs(way.value - truth))
                    inside.setdefault(name, []).append(way.low <= truth <= way.high)
        for name, errors in off.items():
            row = {"runs up to": f"{largest / 1e6:,.0f}M", SHARE: float(np.mean(flops))}
            row |= {"from": name, "error, points": float(np.mean(errors))}
            row |= {"least": float(min(errors)), "most": float(max(errors))}
            rows.append(row | {"in 90 %": float(np.mean(inside[name])), "cases": len(errors)})
    return rows


def both_rows(tables):
    """Both as one figure has them: what is told, how, by which share of the target's compute."""
    (sizes, noise, ladder), rows = tables, []
    for row in sizes["rows"]:
        told = {"what": "decision accuracy", "how": "likelihood, DataDecide"}
        rows.append(told | {SHARE: row[SHARE], "value": row["decision accuracy"]})
        rows[-1] |= {"low": row["low"], "high": row["high"]}
    ends = [row[SHARE] for row in sizes["rows"]]
    for share in (min(ends), max(ends)):  # a level: what the target's own seeds reach
        told = {"what": "decision accuracy", "how": "another seed of the 1B"}
        rows.append(told | {SHARE: share, "value": noise["rows"][0]["one seed"]})
    for row in ladder["rows"]:
        told = {"what": "error, points", "how": f"{row['from']}, ladder"}
        rows.append(told | {SHARE: row[SHARE], "value": row["error, points"]})
        rows[-1] |= {"low": row["least"], "high": row["most"]}
    return rows


BOTH = {
    "kind": "compute",
    "caption": "what small runs tell of large ones, by compute: which corpus (90 % intervals), "
    "and which accuracy (from the least to the most of six cases)",
    "x": SHARE,
    "x_label": "FLOPs over the target's",
    "y": "value",
    "y_label": "told",
    "low": "low",
    "high": "high",
    "by": "how",
    "panel": "what",
}


def main():
    """All of it in one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datadecide", type=Path, required=True, help="CSV")
    parser.add_argument("--ladder", type=Path, required=True, help="CSV")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmarks/public_tables.json")
    )
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    content = results.begin("public_tables", args, dtype="float64")
    ladder = ladder_rows(olmo_ladder.read(args.ladder))
    tables = datadecide_tables(args.datadecide)
    caption = "(b) OLMo ladder: accuracy of the 7B and 13B foretold, three tasks"
    tables.append(results.table(caption, ladder))
    both = results.table("(a) and (b) by compute", both_rows(tables), BOTH)
    results.add(content, [*tables, both], [], args.output)


if __name__ == "__main__":
    main()
