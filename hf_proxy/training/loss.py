"""The loss of kept steps, and what is counted and logged of it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def selective_loss(
    logits_MV: Float[Tensor, "M V"],
    step_S: Int64[Tensor, " S"],
    token_id_S: Int64[Tensor, " S"],
    prob_S: Float[Tensor, " S"],
) -> Float[Tensor, " M"]:
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


class LossSums(NamedTuple):
    """What is summed over steps and tokens: numbers, or one tensor or array over rows each."""

    kl_sum: Any  # nats, over kept steps
    num_correct: Any  # kept steps whose first token is the target's
    num_kept: Any
    nll_sum: Any  # nats, over completion tokens
    num_tokens: Any

    def figures(self) -> dict[str, float]:
        """What is logged beside the loss; a mean of nothing is left out."""
        found = {}
        if self.num_kept:
            found = {
                "kept_accuracy": self.num_correct / self.num_kept,
                "num_kept": self.num_kept,
            }
        if self.num_kept and self.num_tokens:
            found["kept_kl"] = self.kl_sum / self.num_kept
        if self.num_tokens:
            found["completion_nll"] = self.nll_sum / self.num_tokens
        return found

    def put_into(self, metrics: dict[str, float], prefix: str, sft_weight: float) -> None:
        """The exact means of an evaluation in place of its mean over batches."""
        if self.num_kept:
            loss = self.kl_sum / self.num_kept
            metrics[f"{prefix}_loss"] = loss + sft_weight * self.nll_sum / max(self.num_tokens, 1)
        else:  # possible with an amateur only; there is no mean of nothing
            metrics.pop(f"{prefix}_loss", None)
        metrics[f"{prefix}_num_kept"] = self.num_kept
        metrics.update({f"{prefix}_{name}": value for name, value in self.figures().items()})


def prefers_target_token(
    logits_MV: Float[Tensor, "M V"],
    step: Int64[Tensor, " S"],
    token_id: Int64[Tensor, " S"],
    prob: Float[Tensor, " S"],
) -> Float[Tensor, " M"]:
    """1 where the model's first token is the target's most probable one, else 0."""
    num_steps = len(logits_MV)
    most = prob.new_zeros(num_steps).scatter_reduce(0, step, prob, "amax")
    is_most = prob == most[step]
    first = logits_MV.argmax(-1) if num_steps else step.new_zeros(0)
    hit = (token_id == first[step]) & is_most
    return prob.new_zeros(num_steps).scatter_reduce(0, step, hit.to(prob.dtype), "amax")
