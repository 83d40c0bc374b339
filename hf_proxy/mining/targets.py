"""What the expert should say at a step: four rules, each over the plausible tokens.

    contrast(a)  = softmax over the mask of (ln p_E(a) - ln p_A(a)) / contrast_temperature
    expert(a)    = p_E(a) / sum over the mask of p_E
    mixture(a)   = mixture_weight * contrast(a) + (1 - mixture_weight) * expert(a)
    token(a)     = 1 for the token that was written, plausible or not

Source of the first: arXiv 2510.07962, equation 6; of the second: its ablation without contrast.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_proxy.mining.settings import MiningSettings


def target_probabilities(
    ratio_S: Float[Tensor, " S"],
    expert_logprob_S: Float[Tensor, " S"],
    step_S: Int64[Tensor, " S"],
    num_steps: int,
    settings: MiningSettings,
) -> Float[Tensor, " S"]:
    """Probabilities of the entries of each step, summing to 1 within it.

    Args:
        ratio_S: ln p_E - ln p_A, nats.
        expert_logprob_S: ln p_E, nats.
        step_S: whose entries these are, ascending; of target `"token"` each step has one.
        num_steps: steps in all.
    """
    if settings.target == "token":
        return torch.ones_like(ratio_S)
    if settings.target == "expert":
        return softmax_within(expert_logprob_S, step_S, num_steps)
    sharp_S = softmax_within(ratio_S / settings.contrast_temperature, step_S, num_steps)
    if settings.target == "contrast":
        return sharp_S
    assert settings.mixture_weight is not None
    return torch.lerp(
        softmax_within(expert_logprob_S, step_S, num_steps), sharp_S, settings.mixture_weight
    )


def softmax_within(
    score_S: Float[Tensor, " S"], step_S: Int64[Tensor, " S"], num_steps: int
) -> Float[Tensor, " S"]:
    """Softmax of the entries of each step."""
    most = score_S.new_full((num_steps,), -math.inf).scatter_reduce(0, step_S, score_S, "amax")
    weight = (score_S - most[step_S]).exp()
    total = score_S.new_zeros(num_steps).scatter_add(0, step_S, weight)
    return weight / total[step_S]
