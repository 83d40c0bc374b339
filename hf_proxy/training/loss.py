"""The loss of kept steps, and what is counted and logged of it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def selective_loss(logits_MV: Tensor, step_S: Tensor, token_id_S: Tensor, prob_S: Tensor) -> Tensor:
    """KL(soft target || model) of each kept step.

    Equals `F.kl_div(log_softmax(logits), q, reduction="none").sum(-1)` with q as dense rows.

    Args:
        logits_MV: of the kept steps, any dtype; the softmax runs in fp32 (float64 for float64).
        step_S, token_id_S, prob_S: entries of the targets: their step, token and probability.

    Returns:
        `kl_M`, nats, with gradient, not reduced.
    """
    dtype = torch.promote_types(logits_MV.dtype, torch.float32)
    logprob_MV = torch.log_softmax(logits_MV.to(dtype), dim=-1)
    prob_S = prob_S.to(dtype)
    # q ln q - q ln p, entry by entry
    part_S = -torch.special.entr(prob_S) - prob_S * logprob_MV[step_S, token_id_S]
    return logprob_MV.new_zeros(len(logprob_MV)).scatter_add(0, step_S, part_S)


def loss_counts(batch: Mapping[str, Any]) -> list[int]:
    """Kept steps of a batch, and the completion tokens that its loss is made of."""
    if "kept" in batch:
        return [len(batch["kept"]), len(batch["label"])]
    return [len(batch["logit_index"]), 0]


def logged_figures(
    kl_sum: float, correct: float, num_kept: float, nll_sum: float, num_tokens: float
) -> dict[str, float]:
    """What is logged beside the loss; a mean of nothing is left out."""
    figures = {}
    if num_kept:
        figures = {"kept_accuracy": correct / num_kept, "num_kept": num_kept}
    if num_kept and num_tokens:
        figures["kept_kl"] = kl_sum / num_kept
    if num_tokens:
        figures["completion_nll"] = nll_sum / num_tokens
    return figures


def prefers_target_token(logits_MV: Tensor, step: Tensor, token_id: Tensor, prob: Tensor) -> Tensor:
    """Whether the model's first token is the target's most probable one, bool `[M]`."""
    num_steps = len(logits_MV)
    most = prob.new_zeros(num_steps).scatter_reduce(0, step, prob, "amax")
    is_most = prob == most[step]
    first = logits_MV.argmax(-1) if num_steps else step.new_zeros(0)
    hit = (token_id == first[step]) & is_most
    return prob.new_zeros(num_steps).scatter_reduce(0, step, hit.to(prob.dtype), "amax")
