"""Proxy scoring (rBridge) for the Hugging Face training stack."""

from importlib import import_module
from typing import Any

# Loaded on first use, so that `hf-proxy --help` and `hf_proxy.alignment` do not import torch.
_MODULE_OF = {
    "Comparison": "comparison",
    "ComputeSaving": "ranking",
    "Contrast": "divergence",
    "CrossValidation": "validation",
    "Curve": "prediction",
    "DecisionAccuracy": "ranking",
    "InputError": "schemas",
    "Ladder": "ladder",
    "Prediction": "prediction",
    "ProxyScore": "schemas",
    "Ranking": "ranking",
    "SelectiveSFTConfig": "sft",
    "SelectiveSFTTrainer": "sft",
    "Setting": "schemas",
    "align_traces": "alignment",
    "annotate_traces": "scoring",
    "compare": "comparison",
    "compute_saving": "ranking",
    "contrast": "divergence",
    "cross_validate": "validation",
    "decision_accuracy": "ranking",
    "fit_curve": "prediction",
    "fit_ladder": "ladder",
    "kendall_tau": "ranking",
    "load_metric": "metrics",
    "load_soft_targets": "mined_sets",
    "load_traces": "traces",
    "mine_soft_targets": "mined_sets",
    "rank": "ranking",
    "score_traces": "scoring",
    "token_logprobs": "scoring",
}
__all__ = sorted(_MODULE_OF)  # noqa: PLE0605
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'hf_proxy' has no attribute {name!r}")
    return getattr(import_module(f"hf_proxy.{_MODULE_OF[name]}"), name)
