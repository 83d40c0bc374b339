"""Golden outputs from traces to predictions: alignment, scores, metrics, curves, orders."""

from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import torch
from datasets import Dataset
from golden.world import ROOT, TRACES, make_model, make_tokenizer, make_traces, read_json

from hf_proxy import (
    align_traces,
    annotate_traces,
    compare,
    compute_saving,
    cross_validate,
    decision_accuracy,
    fit_curve,
    fit_ladder,
    kendall_tau,
    load_metric,
    rank,
    score_traces,
    token_logprobs,
)


def alignments(folder: Path, tokenizer, small: bool) -> tuple[dict[str, Any], dict[str, Dataset]]:
    """Rows of `align_traces` under its arguments, and the ones to be scored."""
    traces = make_traces(folder, number=4 if small else len(TRACES))
    made = {
        "letter": align_traces(traces, tokenizer),
        "byte_dataset": align_traces(traces, tokenizer, unit="byte", minmax_over="dataset"),
    }
    if not small:
        made |= {
            "raw_chat": align_traces(traces, tokenizer, minmax_over=None, context="chat"),
            "called": align_traces(
                traces,
                tokenizer,
                context=lambda row: row["prompt"].upper(),
                context_name="upper",
                max_length=90,
                too_long="drop",
            ),
            "none": align_traces(make_traces(folder, "none"), tokenizer),
            "mask": align_traces(make_traces(folder, "mask"), tokenizer),
        }
    return {"traces": traces, **made}, made


def scores(folder: Path, tokenizer, aligned: dict[str, Dataset], small: bool) -> dict[str, Any]:
    """Scores, label log-probabilities, comparisons, both ways to the rbridge metric."""
    kinds = [("gpt2", torch.float64)]
    if not small:
        kinds += [("llama", torch.float32), ("llama", torch.bfloat16)]
    found: dict[str, Any] = {}
    for kind, dtype in kinds:
        model = make_model(tokenizer, kind, 1, dtype=dtype)
        own = found[f"{kind}-{dtype}"] = {}
        made = {}
        for name, rows in aligned.items():
            for divisor in ("tokens", "weights"):
                made[name, divisor] = score_traces(model, rows, divisor=divisor, step=3)
        made["letter", "batched"] = score_traces(model, aligned["letter"], tokens_per_batch=60)
        if kind == "llama":
            made["letter", "packed"] = score_traces(model, aligned["letter"], padding_free=True)
        for names, score in made.items():
            own["-".join(names)] = {**score.scalars(), "rows": score.rows}
        other = make_model(tokenizer, kind, 2, dtype=dtype)
        base = score_traces(other, aligned["letter"], model_id="other")
        mine = made["letter", "tokens"]
        coarse = make_tokenizer(290)
        rows = align_traces(make_traces(folder, number=mine.num_traces), coarse)
        elsewhere = score_traces(make_model(coarse, kind, 1, dtype=dtype), rows)
        for metric in ("value", "trace_nll", "bits_per_byte"):
            own[f"compare-{metric}"] = compare(mine, base, metric=metric)
        own["rank"] = rank({"mine": mine, "other": base}, target={"mine": 0.3, "other": 0.2})
        own["compare-tokenizers"] = compare(mine, elsewhere, metric="bits_per_byte")
        own["rank-seeds"] = rank({"mine": [mine, base], "other": [base]}, metric="bits_per_byte")
        own["label_logprobs"] = labels = token_logprobs(model, aligned["letter"])
        references = make_traces(folder, number=len(labels)).to_list()
        for module in (
            load_metric("rbridge"),
            evaluate.load(str(ROOT / "hf_proxy/metrics/rbridge")),
        ):
            for divisor in ("tokens", "weights"):
                own.setdefault("metric", []).append(
                    module.compute(
                        predictions=labels.to_list(),
                        references=references,
                        minmax_over="trace" if divisor == "tokens" else "dataset",
                        unit="letter" if divisor == "tokens" else "byte",
                        divisor=divisor,
                    )
                )
        if not small:
            text = make_traces(folder, "none")
            own["annotated"] = annotate_traces(text, model, tokenizer)
    return found


def curves(folder: Path, small: bool) -> dict[str, Any]:
    """Fits, what is read from them, both protocols of validation, the ladder, orders."""
    x = 1.4 * np.exp(-np.arange(18) / 7) + 0.4 + 0.02 * np.cos(np.arange(18) * 2.0)
    y = 0.75 - 0.3 * x + 0.02 * np.sin(np.arange(18) * 1.7)
    tokens = 1e9 * np.arange(1, 19)
    # the others have directions that the points hardly hold, which no two machines fit alike
    forms = ("linear", "quadratic", "logarithmic")
    chosen: dict[str, Any] = {"forms": forms} if small else {}
    runs = ["a"] * 9 + ["b"] * 9
    found: dict[str, Any] = {}
    for name, arguments in {
        "one_run": {"controls": {"tokens": tokens}, "target": "big", "proxy": "small"},
        "two_runs": {"groups": runs, "y_unit": "percent", "metric": "trace_nll"},
    }.items():
        scale = 100 if name == "two_runs" else 1
        curve = fit_curve(x, y * scale, **arguments, **chosen)
        curve.save(folder / f"{name}.json")
        loaded = type(curve).load(folder / f"{name}.json")
        found[name] = {
            "saved": read_json(folder / f"{name}.json"),
            "predictions": [
                loaded.predict(float(at), level)
                for at in (0.3, 0.55, 0.9, 1.6, 2.5)
                for level in (0.5, 0.9)
            ],
        }
    found["sound"] = cross_validate(x, y, groups=runs, controls={"tokens": tokens}, **chosen)
    found["sound_one_run"] = cross_validate(x, y, folds=4, **chosen)
    if not small:
        found["paper"] = cross_validate(x, y, protocol="paper", controls={"tokens": tokens})
    size, data = (grid.ravel() for grid in np.meshgrid([1e6, 4e6, 2e7, 9e7], [1e8, 1e9, 2e10]))
    reached = 0.6 + 90 / size**0.35 + 300 / data**0.33
    ladder = fit_ladder(size, data, reached * (1 + 0.002 * np.cos(np.arange(12))))
    found["ladder"] = [ladder.predict(1e9, 1e11), ladder.relative_error]
    if not small:
        found["ladder"].append(ladder)
    proxy = {name: [1 + ((7 * i) % 5) / 9, 1.1 + i / 20] for i, name in enumerate("abcdef")}
    target = {name: [0.5 - ((3 * i) % 7) / 30] for i, name in enumerate("abcdef")}
    found["decisions"] = decision_accuracy(proxy, target)
    found["kendall_tau"] = kendall_tau(proxy, target)
    frontier = [(1e18, 0.6), (3e18, 0.7), (2e19, 0.85), (1e20, 0.84)]
    found["saving"] = compute_saving(frontier, [(2e18, 0.55), (1e20, 0.72), (5e20, 0.8)])
    return found
