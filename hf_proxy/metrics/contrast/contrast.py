"""Figures of a set of soft targets as an `evaluate` metric, without a model."""

import datasets
import evaluate

from hf_proxy.mining.soft_targets import tally_rows
from hf_proxy.records.errors import InputError
from hf_proxy.records.rows import SOFT_TARGET_FEATURES

_DESCRIPTION = """
How far an expert and an amateur part on the expert's own trajectories (LightReasoner): the share of
steps that are kept, their divergence and their targets. Gather the rows of all processes first and
compute on the main process.
"""
_CITATION = """
@article{wang2025lightreasoner,
    title={LightReasoner: Can Small Language Models Teach Large Language Models Reasoning?},
    author={Wang, Jingyuan and Chen, Yankai and Li, Zhonghang and Huang, Chao},
    journal={arXiv preprint arXiv:2510.07962},
    year={2025}
}
"""
_KWARGS = """
Args:
    predictions: rows of `hf_proxy.mine_soft_targets` or `hf_proxy.load_soft_targets`.
Returns:
    kept_share, kl_mean (nats, all steps), top1_agreement, support_size (mean over kept steps),
    flip_rate (of kept steps), and all else that `Tally.statistics` names but `echo_share`,
    which needs the tokenizer. What has nothing to be a share of is None.
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS)
class Contrast(evaluate.Metric):
    """The metric; load it with `hf_proxy.load_metric("contrast")` or `evaluate.load(folder)`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS,
            features=datasets.Features({"predictions": dict(SOFT_TARGET_FEATURES)}),
            reference_urls=["https://arxiv.org/abs/2510.07962"],
        )

    def _compute(self, predictions):
        if not len(predictions):
            raise InputError.at("there are no rows", remedy="give at least one")
        statistics = tally_rows(predictions).statistics()
        del statistics["echo_share"]
        return statistics
