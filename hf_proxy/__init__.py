"""Proxy scoring (rBridge) and expert-amateur contrast (LightReasoner) for Hugging Face."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers; a running program loads a name when it is asked for
    from hf_proxy.building.annotation import annotate_traces
    from hf_proxy.building.building import build_traces
    from hf_proxy.metrics import load_metric
    from hf_proxy.mining.divergence import Contrast, contrast
    from hf_proxy.mining.foretelling import foretell_gain
    from hf_proxy.mining.sets import load_soft_targets, mine_soft_targets
    from hf_proxy.mining.verdicts import Foretold
    from hf_proxy.prediction.cross_validation import CrossValidation, cross_validate
    from hf_proxy.prediction.curve import Curve, Prediction
    from hf_proxy.prediction.decisions import (
        ComputeSaving,
        DecisionAccuracy,
        compute_saving,
        decision_accuracy,
        kendall_tau,
    )
    from hf_proxy.prediction.fitting import fit_curve
    from hf_proxy.prediction.forecast import Forecast, ForecastComparison, forecast
    from hf_proxy.prediction.ladder import Ladder, fit_ladder
    from hf_proxy.prediction.noise import signal_to_noise
    from hf_proxy.prediction.ranking import Ranking, rank
    from hf_proxy.prediction.selection import Selection, select_proxy
    from hf_proxy.records.errors import InputError
    from hf_proxy.records.scores import ProxyScore, Setting
    from hf_proxy.scoring.comparison import Comparison, compare
    from hf_proxy.scoring.scoring import score_traces, token_logprobs
    from hf_proxy.traces.alignment import align_traces
    from hf_proxy.traces.reading import load_traces
    from hf_proxy.training.config import SelectiveSFTConfig
    from hf_proxy.training.trainer import SelectiveSFTTrainer

# the same again, so that `hf-proxy --help` and `hf_proxy.align_traces` do not import torch
_MODULE_OF = {
    "Comparison": "scoring.comparison",
    "ComputeSaving": "prediction.decisions",
    "Contrast": "mining.divergence",
    "CrossValidation": "prediction.cross_validation",
    "Curve": "prediction.curve",
    "DecisionAccuracy": "prediction.decisions",
    "Forecast": "prediction.forecast",
    "ForecastComparison": "prediction.forecast",
    "Foretold": "mining.verdicts",
    "InputError": "records.errors",
    "Ladder": "prediction.ladder",
    "Prediction": "prediction.curve",
    "ProxyScore": "records.scores",
    "Ranking": "prediction.ranking",
    "Selection": "prediction.selection",
    "SelectiveSFTConfig": "training.config",
    "SelectiveSFTTrainer": "training.trainer",
    "Setting": "records.scores",
    "align_traces": "traces.alignment",
    "annotate_traces": "building.annotation",
    "build_traces": "building.building",
    "compare": "scoring.comparison",
    "compute_saving": "prediction.decisions",
    "contrast": "mining.divergence",
    "cross_validate": "prediction.cross_validation",
    "decision_accuracy": "prediction.decisions",
    "fit_curve": "prediction.fitting",
    "fit_ladder": "prediction.ladder",
    "forecast": "prediction.forecast",
    "foretell_gain": "mining.foretelling",
    "kendall_tau": "prediction.decisions",
    "load_metric": "metrics",
    "load_soft_targets": "mining.sets",
    "load_traces": "traces.reading",
    "mine_soft_targets": "mining.sets",
    "rank": "prediction.ranking",
    "score_traces": "scoring.scoring",
    "select_proxy": "prediction.selection",
    "signal_to_noise": "prediction.noise",
    "token_logprobs": "scoring.scoring",
}
__all__ = [
    "Comparison",
    "ComputeSaving",
    "Contrast",
    "CrossValidation",
    "Curve",
    "DecisionAccuracy",
    "Forecast",
    "ForecastComparison",
    "Foretold",
    "InputError",
    "Ladder",
    "Prediction",
    "ProxyScore",
    "Ranking",
    "Selection",
    "SelectiveSFTConfig",
    "SelectiveSFTTrainer",
    "Setting",
    "align_traces",
    "annotate_traces",
    "build_traces",
    "compare",
    "compute_saving",
    "contrast",
    "cross_validate",
    "decision_accuracy",
    "fit_curve",
    "fit_ladder",
    "forecast",
    "foretell_gain",
    "kendall_tau",
    "load_metric",
    "load_soft_targets",
    "load_traces",
    "mine_soft_targets",
    "rank",
    "score_traces",
    "select_proxy",
    "signal_to_noise",
    "token_logprobs",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'hf_proxy' has no attribute {name!r}")
    return getattr(import_module(f"hf_proxy.{_MODULE_OF[name]}"), name)
