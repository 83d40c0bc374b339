"""Modules for `evaluate`: the same numbers without a model, from rows that a model gave before."""

from pathlib import Path

import evaluate

METRICS = ("contrast", "rbridge", "trace_statistics")


def load_metric(name: str) -> evaluate.Metric:
    """The metric `name` of this package, offline; `compute` runs on the calling process alone.

    Gather the rows of all processes first, then compute on the main process.
    """
    if name not in METRICS:
        raise ValueError(f"there is no metric {name!r}; use one of {METRICS}")
    return evaluate.load(str(Path(__file__).parent / name), keep_in_memory=True)
