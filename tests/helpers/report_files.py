"""Files that a report shows, small and valid, as commands of this version write them."""

import json
from dataclasses import asdict

import numpy as np

from helpers.scores import make_score
from hf_proxy.prediction.fitting import fit_curve
from hf_proxy.prediction.forecast import forecast
from hf_proxy.prediction.selection import select_proxy


def lines_of(nlls, *, keep=True, **more):
    """Lines of predictions.jsonl, ten steps apart, of these NLLs of the traces."""
    found = []
    for number, nll in enumerate(nlls):
        score = make_score(nll, step=10 * number)
        line = {"name": "rbridge", "predictions": {}, **score.scalars()} | more
        found.append(line | ({"rows": score.rows.to_dict()} if keep else {}))
    return found


def tuned_stamp(**changes):
    """`provenance.json` of `hf-proxy train`."""
    settings = {"batch_size": 4, "divergence_beta": 0.1, "plausibility_alpha": 0.2}
    training = {"optimizer_steps": 8, "losses": [0.5, 0.25], "kept_steps_trained": 321}
    training |= {"amateur": "/somewhere/models/small", "targets": settings}
    log = [{"step": 4, "loss": 0.5, "kept_accuracy": 0.5}]
    log += [{"step": 8, "loss": 0.25, "kept_accuracy": 0.875}]
    return {
        "training": training,
        "soft_targets": {"facts": {"prompts": "data/questions.jsonl"}},
        "model": {"model_name_or_path": "org/base"},
        "arguments": {"learning_rate": 1e-4},
        "log_history": log,
    } | changes


def selection_of(num_permutations=12):
    """What `hf-proxy rank --select` gives of nine models, three tasks, a true column and noise."""
    rng = np.random.default_rng(0)
    models, tasks = [f"m{i}" for i in range(9)], ["a", "b", "c"]
    skill = dict(zip(models, rng.normal(size=9), strict=True))
    scores = {
        m: {t: {"ce": -skill[m] + 0.01 * k, "x": rng.normal()} for k, t in enumerate(tasks)}
        for m in models
    }
    accuracies = {m: {t: float(0.5 + skill[m] / 9) for t in tasks} for m in models}
    controls = {"size": {m: float(i) for i, m in enumerate(models)}}
    return select_proxy(scores, accuracies, controls=controls, num_permutations=num_permutations)


def forecast_lines():
    """Lines with what they foretell of step 160, from the seventh on."""
    x = np.linspace(1, 8, 12)
    curve = fit_curve(x, 0.9 - 0.1 * x + 0.01 * np.sin(5 * x), target="big")
    steps = np.arange(10, 90, 10)
    value = 1 + 2.0 * (steps / 80) ** -0.5 + 0.05 * np.sin(steps)
    lines = [
        {"name": "rbridge", "step": int(step), "value": float(v), "low": None, "high": None}
        | {"trace_nll": 2.0, "bits_per_byte": 1.0, "predictions": {}, "forecasts": {}}
        for step, v in zip(steps, value, strict=True)
    ]
    for at in (6, 7):
        found = forecast(steps[: at + 1], value[: at + 1], 160, curve=curve)
        content = json.loads(json.dumps(asdict(found))) | {"metric": "value"}
        lines[at]["forecasts"] = {"big": content}
    return lines


def write_pages(folder):
    """A run with all traces' sums and forecasts, a selection, a tuned folder, drawn tables."""
    rng = np.random.default_rng(0)
    run = {"command": "finetune", "asked": {"max_steps": 8, "traces": ["a/b"]}, "result": None}
    lines = lines_of(rng.uniform(1, 9, (3, 4)))
    asked = {"kind": "groups", "caption": "g", "x": "a", "y": "b", "y_label": "y", "by": "c"}
    pairs = {"kind": "agreement", "caption": "p", "x": "d", "y": "d", "y_label": "y"}
    rows = [{"a": i, "b": i / 2, "c": "one", "d": [1.0, 2.0]} for i in range(3)]
    bench = {"benchmark": "mine", "models": ["m"], "device": "cpu", "processor": "x", "threads": 1}
    bench |= {"dtype": "float32", "date": "today", "bars": [], "found": "Something."}
    bench["tables"] = [{"caption": "t", "rows": rows, "figures": [asked, pairs]}]
    files = {
        "paired/hf_proxy/predictions.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
        "paired/run.json": json.dumps(run),
        "ahead/predictions.jsonl": "".join(json.dumps(line) + "\n" for line in forecast_lines()),
        "selected/ranking.json": json.dumps({"selection": asdict(selection_of(2))}),
        "tuned/provenance.json": json.dumps(tuned_stamp()),
        "drawn/mine.json": json.dumps(bench),
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
