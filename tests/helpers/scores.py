"""Scores that no model gave, and curves over them."""

import numpy as np
from datasets import Dataset

from hf_proxy import align_traces, fit_curve
from hf_proxy.records.scores import ProxyScore, Setting
from hf_proxy.scoring.scoring import setting_of

PARTS = {"traces": "t", "context": "c", "tokenizer": "k", "divisor": "tokens"}


def make_score(nll, *, num_labels=None, parts=None, model_id="m", step=None):
    """A score with these weighted NLLs per trace; the scalars as `score_traces` defines them."""
    nll = np.asarray(nll, float)
    num_labels = np.full(len(nll), 10) if num_labels is None else np.asarray(num_labels)
    rows = {
        "example_id": [f"e{i:04d}" for i in range(len(nll))],
        "weighted_nll_sum": nll,
        "nll_sum": 2 * nll,
        "weight_sum": np.full(len(nll), 5.0),
        "num_labels": num_labels,
        "num_bytes": 4 * num_labels,
    }
    return ProxyScore(
        value=float((nll / num_labels).mean()),
        low=None,
        high=None,
        pooled=float(nll.sum() / num_labels.sum()),
        trace_nll=float((2 * nll / num_labels).mean()),
        bits_per_byte=float(2 * nll.sum() / np.log(2) / (4 * num_labels).sum()),
        top1_agreement=0.5,
        mean_rank=2.0,
        num_traces=len(nll),
        num_labels=int(num_labels.sum()),
        setting=Setting(PARTS | (parts or {})),
        model_id=model_id,
        num_parameters=1000,
        step=step,
        rows=Dataset.from_dict(rows),
    )


def curve_for(traces, tokenizer, target="13b_gsm8k", **changes):
    """A curve over the scores that tiny models have on these traces."""
    x = np.linspace(1.0, 7.0, 12)
    y = 0.8 - 0.1 * x + 0.01 * np.sin(5 * x)
    setting = setting_of(align_traces(traces, tokenizer))
    return fit_curve(x, y, **{"setting": setting, "target": target} | changes)
