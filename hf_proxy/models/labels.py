"""What a model gives each label: log-probability, place among all tokens, entropy."""

import math
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from hf_proxy.models.batching import TokenBatch
from hf_proxy.models.logits import (
    CPU_ROWS_PER_BLOCK,
    ROWS_PER_BLOCK,
    LogitTransform,
    read_logits,
)


class LabelLogprobs(NamedTuple):
    """What a model gives each label, on the CPU; what any statistic of a trace is made of.

    Attributes:
        logprob_N: nats.
        greater_N: tokens whose logit is greater.
        equal_N: other tokens with the same logit: in bfloat16 one label in eight has some.
        entropy_N: of the whole distribution, nats.
        max_logprob_N: of the likeliest token, nats.
        other_logprob_N: of the likeliest token that is not the label, nats.
    """

    logprob_N: Float64[Tensor, " N"]
    greater_N: Int64[Tensor, " N"]
    equal_N: Int64[Tensor, " N"]
    entropy_N: Float64[Tensor, " N"]
    max_logprob_N: Float64[Tensor, " N"]
    other_logprob_N: Float64[Tensor, " N"]


def label_logprobs(
    model: nn.Module, batch: TokenBatch, transform: LogitTransform, *, device: torch.device
) -> LabelLogprobs:
    """Log-probability of each label and its place among all tokens, from one forward pass.

    Equals the `log_softmax` of the model's full logits in fp32, read at `position - 1`. The softmax
    runs in fp32, in float64 for a float64 model; its last step, the logarithm of a sum, in float64.
    """
    parts: list[_Columns] = []
    # two blocks that all chunks share: fresh memory for each costs more than the arithmetic
    scratch: list[Tensor] = []

    def consume(head_CV: Tensor, where: slice) -> None:
        label_C1 = batch.label_N[where, None].to(head_CV.device)
        dtype = torch.promote_types(head_CV.dtype, torch.float32)
        rows = CPU_ROWS_PER_BLOCK if head_CV.device.type == "cpu" else ROWS_PER_BLOCK
        if not scratch:
            shape = (min(rows, len(batch.label_N)), head_CV.shape[-1])
            scratch.extend(torch.empty(shape, dtype=dtype, device=head_CV.device) for _ in range(2))
        for block_CV, label_1 in zip(head_CV.split(rows), label_C1.split(rows), strict=True):
            logit_V, other_V = (block[: len(block_CV)] for block in scratch)
            transform(logit_V.copy_(block_CV))
            parts.append(_read_block(logit_V, label_1, other_V))

    read_logits(model, batch, consume, device=device)
    # one copy, and float64 on the host only: there are accelerators without
    columns = torch.stack([torch.cat(part) for part in zip(*parts, strict=True)])
    own, other, greater, equal, highest_prob, mean_logit = columns.cpu().double()
    highest = torch.maximum(own, other)
    log_sum = -highest_prob.log()  # of exp(logit - highest), whose largest is 1
    return LabelLogprobs(
        logprob_N=own - highest - log_sum,
        greater_N=greater.long(),
        equal_N=equal.long(),
        # of logits less the highest: with the logits themselves both terms are large, and their
        # fp32 difference errs by 6e-4 nats
        entropy_N=(log_sum - mean_logit).clamp_(min=0),
        max_logprob_N=-log_sum,
        other_logprob_N=other - highest - log_sum,
    )


# of a fixed length: to look into another the tests' checker of shapes would draw from `random`
_Columns: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _read_block(logit_V: Tensor, label_1: Tensor, scratch_V: Tensor) -> _Columns:
    """What takes a pass over all tokens, for a few rows; both blocks are overwritten.

    Returns:
        logit of the label, highest logit of the others, how many are greater, how many others are
        equal, probability of the highest, mean of the logits less the highest.
    """
    own_1 = logit_V.gather(1, label_1)
    # without the label the highest is that of the others
    logit_V.scatter_(1, label_1, -math.inf)
    on_cpu = logit_V.device.type == "cpu"
    other_at_1 = _argmax(logit_V)
    other_1 = logit_V.gather(1, other_at_1)
    if on_cpu:
        greater, equal = _count_on_cpu(logit_V, own_1, other_1, scratch_V)
    else:
        # of logits: the softmax rounds some together. Summed as floats, exact below 2**24, because
        # summing booleans is ten times slower
        greater = torch.gt(logit_V, own_1, out=scratch_V).sum(-1, keepdim=True)
        equal = torch.eq(logit_V, own_1, out=scratch_V).sum(-1, keepdim=True)
    logit_V.scatter_(1, label_1, own_1)
    prob_V = torch.softmax(logit_V, -1, out=scratch_V)
    highest_prob = prob_V.gather(1, torch.where(own_1 >= other_1, label_1, other_at_1))[:, 0]
    logit_V.sub_(torch.maximum(own_1, other_1))
    mean_logit = _dot_on_cpu(prob_V, logit_V) if on_cpu else None
    if mean_logit is None or mean_logit.isnan().any():
        mean_logit = prob_V.mul_(logit_V).nansum(-1)  # 0 * -inf, where a column is masked
    return own_1[:, 0], other_1[:, 0], greater[:, 0], equal[:, 0], highest_prob, mean_logit


def _argmax(logit_V: Tensor) -> Tensor:
    """`[C, 1]`, place of the highest logit; by numpy, which needs a tenth of torch's time here."""
    if logit_V.device.type == "cpu":
        return torch.from_numpy(logit_V.numpy().argmax(-1))[:, None]
    return logit_V.argmax(-1, keepdim=True)


def _dot_on_cpu(one_V: Tensor, other_V: Tensor) -> Tensor:
    """`[C]`, sum of products: in one pass, where a product and its sum are two."""
    rows = zip(one_V.numpy(), other_V.numpy(), strict=True)
    with np.errstate(invalid="ignore"):  # of a masked column nan, which the caller looks for
        return torch.from_numpy(np.array([np.dot(one, other) for one, other in rows]))


def _count_on_cpu(
    logit_V: Tensor, own_1: Tensor, other_1: Tensor, scratch_V: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits above the label's and equal to it; where the label leads, nothing is counted.

    By numpy, which counts booleans in half the time that torch needs for floats.
    """
    logit, own, other = (tensor.numpy() for tensor in (logit_V, own_1, other_1))
    found = scratch_V.numpy().reshape(-1).view(np.bool_)[: logit.shape[1]]
    greater, equal = np.zeros_like(own), np.zeros_like(own)
    for row in np.flatnonzero(other >= own):
        greater[row] = np.count_nonzero(np.greater(logit[row], own[row], out=found))
        equal[row] = np.count_nonzero(np.equal(logit[row], own[row], out=found))
    return torch.from_numpy(greater), torch.from_numpy(equal)
