"""Where an expert and an amateur part ways, and the soft targets that their contrast gives.

The paper's way; `selection` and `targets` say what else may be kept and aimed at.

For one step, with p_E and p_A over the whole vocabulary:

    KL(E || A)  = sum_a p_E(a) * (ln p_E(a) - ln p_A(a))            kept where >= divergence_beta
    mask        = { a : p_E(a) >= plausibility_alpha * max p_E }
    target(a)   = softmax over the mask of (ln p_E(a) - ln p_A(a)) / contrast_temperature

Source: arXiv 2510.07962, equations 2 to 6.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hf_proxy.mining.selection import choose_steps
from hf_proxy.mining.settings import MiningSettings
from hf_proxy.mining.targets import target_probabilities
from hf_proxy.models.logits import CPU_ROWS_PER_BLOCK, ROWS_PER_BLOCK

# what four rows of 150,000 hold; of a small vocabulary more rows are as near in the cache
_CPU_LOGITS_PER_BLOCK = 600_000
_OFFICIAL_EPSILON = 1e-12  # added to both probabilities by the published script


@dataclass(frozen=True)
class Contrast:
    """N steps held against each other, and the targets of the M kept ones, S entries in all.

    Attributes:
        kl_N: KL(expert || amateur), nats.
        keep_N: whether it is kept (by `kl`: whether it reaches `divergence_beta`).
        top1_agree_N: whether both rank the same token first.
        expert_entropy_N, amateur_entropy_N: nats.
        support_size_N: plausible tokens of every step, kept or not.
        num_entries_N: of its target; 0 where it is not kept.
        token_id: strictly ascending within a step.
        prob: the target; sums to 1 within a step.
        expert_logprob, amateur_logprob: nats, over the whole vocabulary.
    """

    kl_N: Float[Tensor, " N"]
    keep_N: Bool[Tensor, " N"]
    top1_agree_N: Bool[Tensor, " N"]
    expert_entropy_N: Float[Tensor, " N"]
    amateur_entropy_N: Float[Tensor, " N"]
    support_size_N: Int64[Tensor, " N"]
    num_entries_N: Int64[Tensor, " N"]
    token_id: Int64[Tensor, " S"]
    prob: Float[Tensor, " S"]
    expert_logprob: Float[Tensor, " S"]
    amateur_logprob: Float[Tensor, " S"]

    @classmethod
    def concatenate(cls, parts: Sequence["Contrast"]) -> "Contrast":
        """All steps of `parts`, in order."""
        names = [f.name for f in fields(cls)]
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    @cached_property
    def offset(self) -> Int64[Tensor, " M_and_1"]:
        """Kept step m owns entries `offset[m]` to `offset[m + 1]`."""
        size_M = self.num_entries_N[self.keep_N]
        return torch.cat([size_M.new_zeros(1), size_M.cumsum(0)])

    def on_host(self) -> "Contrast":
        """The same on the CPU: of each dtype one copy, since the host waits for each."""
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Tensor] = {}
        for dtype in {column.dtype for column in columns.values()}:
            own = {name: column for name, column in columns.items() if column.dtype == dtype}
            joined = torch.cat(list(own.values())).cpu()
            moved |= zip(own, joined.split(list(map(len, own.values()))), strict=True)
        return Contrast(**moved)

    def require_finite(self) -> None:
        """Refuse a step with a logit that is NaN or infinite; each goes into its step's sums.

        Raises:
            ValueError: naming the step and the model.
        """
        finite_N = torch.isfinite(self.kl_N + self.expert_entropy_N + self.amateur_entropy_N)
        if not finite_N.all():
            step = int((~finite_N).nonzero()[0])
            whose = "amateur" if torch.isfinite(self.expert_entropy_N[step]) else "expert"
            raise ValueError(
                f"step {step}: the {whose} has a logit that is not finite; its weights or its "
                "precision are broken: try float32, or look for NaN in them"
            )

    def keeping(self, keep_N: Bool[Tensor, " N"]) -> "Contrast":
        """The same steps, of which these alone are kept; they were kept before."""
        keep_S = keep_N.repeat_interleave(self.num_entries_N, output_size=len(self.prob))
        entries = ("token_id", "prob", "expert_logprob", "amateur_logprob")
        kept = {name: getattr(self, name)[keep_S] for name in entries}
        num_entries_N = self.num_entries_N.where(keep_N, 0)
        return replace(self, keep_N=keep_N, num_entries_N=num_entries_N, **kept)

    def first_token(self, allowed_V: Bool[Tensor, " V"]) -> Int64[Tensor, " M"]:
        """The target's first token of each kept step; of equals the lowest id.

        The same under every `contrast_temperature`, which divides all log-ratios alike.

        Args:
            allowed_V: whether an id may be chosen; those beyond its end may not.

        Returns:
            ids; -1 where the target holds none that is allowed.
        """
        size_M = self.offset.diff()
        step_S = torch.arange(len(size_M), device=size_M.device).repeat_interleave(size_M)
        known_S = self.token_id < len(allowed_V)
        may_S = known_S & allowed_V[self.token_id.clamp(max=len(allowed_V) - 1)]
        prob_S = self.prob.where(may_S, -1.0)
        most_M = prob_S.new_full(size_M.shape, -1.0).scatter_reduce(0, step_S, prob_S, "amax")
        none = torch.iinfo(torch.int64).max
        best_S = self.token_id.where(may_S & (prob_S == most_M[step_S]), none)
        first_M = best_S.new_full(size_M.shape, none).scatter_reduce(0, step_S, best_S, "amin")
        return first_M.where(first_M != none, -1)


def contrast(
    expert_logits_NV: Tensor,
    amateur_logits_NV: Tensor,
    *,
    divergence_beta: float = MiningSettings.divergence_beta,
    plausibility_alpha: float = MiningSettings.plausibility_alpha,
    contrast_temperature: float = MiningSettings.contrast_temperature,
    parity: str | None = None,
    select: str = MiningSettings.select,
    target: str = MiningSettings.target,
    mixture_weight: float | None = MiningSettings.mixture_weight,
    token_id_N: Int64[Tensor, " N"] | None = None,
    seed: int = MiningSettings.seed,
) -> Contrast:
    """Divergence of each step, and soft targets of those that are kept.

    Args:
        expert_logits_NV, amateur_logits_NV: raw logits of the same steps; the wider is cut to the
            other's width, before the softmax. fp32 inside, float64 where both are.
        divergence_beta: nats; a step is kept where KL >= beta (paper: 0.4).
        plausibility_alpha: share of the expert's largest probability, inclusive (paper: 0.2).
        contrast_temperature: divides the log-ratio (paper: 1).
        parity: `"official"`: the published script's form, 1e-12 added to every probability before
            its logarithm, without renormalising.
        select: which steps are kept, see `hf_proxy.mining.selection`; these N are the batch.
        target: what is aimed at, see `hf_proxy.mining.targets`.
        mixture_weight: of the contrast, in target `"mixture"`.
        token_id_N: the tokens that were written, for target `"token"`.
        seed: of select `"random"`.

    Returns:
        `Contrast` on the device of the logits, fp32 (float64).

    Raises:
        ValueError: other numbers of steps, settings out of range, a logit that is not finite.
    """
    settings = MiningSettings(
        divergence_beta=divergence_beta,
        plausibility_alpha=plausibility_alpha,
        contrast_temperature=contrast_temperature,
        parity=parity,
        select=select,
        target=target,
        mixture_weight=mixture_weight,
        seed=seed,
    )
    found = contrast_steps(expert_logits_NV, amateur_logits_NV, settings, token_id_N)
    found.require_finite()
    if not settings.ranks_steps:
        return found
    kl_N, entropy_N = found.kl_N.cpu().numpy(), found.expert_entropy_N.cpu().numpy()
    keep_N = torch.from_numpy(choose_steps(kl_N, entropy_N, settings, [seed]))
    return found.keeping(keep_N.to(found.keep_N.device))


def contrast_steps(
    expert_logits_NV: Tensor,
    amateur_logits_NV: Tensor,
    settings: MiningSettings,
    token_id_N: Int64[Tensor, " N"] | None = None,
) -> Contrast:
    """`contrast` under settings that are there already, of steps that may be part of a batch.

    Where a rule ranks the steps of a whole batch, all are kept here: `choose_steps` comes later.
    So does `require_finite`: on an accelerator the host waits once for a block here, to know how
    many entries its targets have, and for nothing else.
    """
    if expert_logits_NV.shape[0] != amateur_logits_NV.shape[0]:
        raise ValueError(
            f"the expert has {expert_logits_NV.shape[0]} steps, the amateur "
            f"{amateur_logits_NV.shape[0]}; give both the same"
        )
    width = min(expert_logits_NV.shape[1], amateur_logits_NV.shape[1])
    dtype = torch.promote_types(expert_logits_NV.dtype, amateur_logits_NV.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    if settings.target == "token":
        token_id_N = _written(token_id_N, len(expert_logits_NV), width, expert_logits_NV.device)
    rows = ROWS_PER_BLOCK
    if expert_logits_NV.device.type == "cpu":
        rows = min(rows, max(CPU_ROWS_PER_BLOCK, _CPU_LOGITS_PER_BLOCK // max(width, 1)))
    blocks = []
    for start in range(0, max(len(expert_logits_NV), 1), rows):
        expert_BV, amateur_BV = (
            logits_NV[start : start + rows, :width].to(dtype, copy=True)
            for logits_NV in (expert_logits_NV, amateur_logits_NV)
        )
        # inside a training's autocast the dot products would be made in half precision
        with torch.autocast(expert_BV.device.type, enabled=False):
            token_id_B = None if token_id_N is None else token_id_N[start : start + rows]
            blocks.append(_contrast_block(expert_BV, amateur_BV, token_id_B, settings))
    return Contrast.concatenate(blocks)


def _written(
    token_id_N: Tensor | None, num_steps: int, width: int, device: torch.device
) -> Int64[Tensor, " N"]:
    """The tokens that are the targets, once each is seen to be one that both models know."""
    if token_id_N is None or len(token_id_N) != num_steps:
        number = "none" if token_id_N is None else len(token_id_N)
        raise ValueError(f"target='token' needs token_id_N of {num_steps} steps, {number} given")
    beyond = ((token_id_N < 0) | (token_id_N >= width)).nonzero()
    if len(beyond):
        step = int(beyond[0])
        raise ValueError(
            f"step {step}: its token {int(token_id_N[step])} is beyond the {width} logits that "
            "both models have, so it is no target"
        )
    return token_id_N.to(device)


def _contrast_block(
    expert_BV: Float[Tensor, "B V"],
    amateur_BV: Float[Tensor, "B V"],
    token_id_B: Int64[Tensor, " B"] | None,
    settings: MiningSettings,
) -> Contrast:
    """A few rows, few enough to stay in a CPU's cache.

    With z = logit - max, q = exp z and Z its sum, p = q / Z and ln p = z - ln Z, so that
    KL = (q_E.z_E - q_E.z_A) / Z_E - ln Z_E + ln Z_A and H = ln Z - q.z / Z: dot products, without a
    table of p or of ln p.
    """
    z_E, q_E, total_E, top_E = _exponentials(expert_BV)
    z_A, q_A, total_A, top_A = _exponentials(amateur_BV)
    log_Z_E, log_Z_A = total_E.log(), total_A.log()
    own_E = torch.linalg.vecdot(q_E, z_E) / total_E
    own_A = torch.linalg.vecdot(q_A, z_A) / total_A
    kl_B = own_E - torch.linalg.vecdot(q_E, z_A) / total_E - log_Z_E + log_Z_A
    if settings.parity == "official":
        shifted_E = q_E / total_E[:, None] + _OFFICIAL_EPSILON
        shifted_A = q_A / total_A[:, None] + _OFFICIAL_EPSILON
        kl_B = torch.linalg.vecdot(shifted_E, shifted_E.log() - shifted_A.log())
    keep_B = kl_B >= settings.divergence_beta
    if settings.select != "kl":
        keep_B = torch.ones_like(keep_B)
    # inclusive, with room for the rounding of two logarithms: a token at exactly alpha stays
    room = 8 * torch.finfo(z_E.dtype).eps
    least = math.log(settings.plausibility_alpha) - room
    if settings.target == "token":
        assert token_id_B is not None
        row_S = keep_B.nonzero()[:, 0]
        token_id = token_id_B[row_S]
    else:
        row_S, token_id = ((z_E >= least) & keep_B[:, None]).nonzero().unbind(1)
    num_entries_B = token_id.new_zeros(len(keep_B)).scatter_add(0, row_S, torch.ones_like(row_S))
    expert_logprob = z_E[row_S, token_id] - log_Z_E[row_S]
    amateur_logprob = z_A[row_S, token_id] - log_Z_A[row_S]
    if settings.parity == "official":
        ratio = shifted_E[row_S, token_id].log() - shifted_A[row_S, token_id].log()
    else:
        ratio = expert_logprob - amateur_logprob
    return Contrast(
        kl_N=kl_B,
        keep_N=keep_B,
        top1_agree_N=top_E == top_A,
        expert_entropy_N=log_Z_E - own_E,
        amateur_entropy_N=log_Z_A - own_A,
        support_size_N=z_E.ge_(least).sum(-1).long(),  # floats, in place: ten times faster
        num_entries_N=num_entries_B,
        token_id=token_id,
        prob=target_probabilities(ratio, expert_logprob, row_S, len(keep_B), settings),
        expert_logprob=expert_logprob,
        amateur_logprob=amateur_logprob,
    )


def _exponentials(
    logits_BV: Float[Tensor, "B V"],
) -> tuple[Float[Tensor, "B V"], Float[Tensor, "B V"], Float[Tensor, " B"], Int64[Tensor, " B"]]:
    """z = logit - max (in the logits' own memory), exp z, its sum, and the place of the maximum."""
    if not logits_BV.numel():
        empty = logits_BV.new_zeros(len(logits_BV))
        return logits_BV, logits_BV, empty, empty.long()
    most, top = logits_BV.max(dim=-1)
    z_BV = logits_BV.sub_(most[:, None])
    q_BV = z_BV.exp()
    return z_BV, q_BV, q_BV.sum(-1), top
