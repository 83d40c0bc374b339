"""One trajectory's share of a batch's contrast, the choice among all of them, and the row it is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hf_proxy.mining.divergence import Contrast
from hf_proxy.mining.selection import choose_steps
from hf_proxy.mining.settings import MiningSettings

_STEP_COLUMNS = ("kl", "top1_agree", "expert_entropy", "amateur_entropy", "support_size")
_ENTRY_COLUMNS = ("token_id", "prob", "expert_logprob", "amateur_logprob")


@dataclass(frozen=True)
class TrajectorySteps:
    """The G steps of one trajectory.

    Attributes:
        columns: [G] each, of every step.
        kept: [M], numbers of the kept steps.
        offset: [M + 1], see `Contrast`.
        entries: [S] each, of the kept steps' targets.
    """

    columns: dict[str, np.ndarray]
    kept: np.ndarray
    offset: np.ndarray
    entries: dict[str, np.ndarray]

    @property
    def ranking(self) -> tuple[np.ndarray, np.ndarray]:
        """What its place in a batch is decided by: KL and the expert's entropy, nats, [G]."""
        return self.columns["kl"], self.columns["expert_entropy"]

    def keeping(self, keep_G: np.ndarray) -> "TrajectorySteps":
        """These alone of the steps; they were kept before."""
        keep_M, size_M = keep_G[self.kept], np.diff(self.offset)
        return replace(
            self,
            kept=self.kept[keep_M],
            offset=np.concatenate([self.offset[:1], np.cumsum(size_M[keep_M])]),
            entries={name: all_S[keep_M.repeat(size_M)] for name, all_S in self.entries.items()},
        )


def steps_by_trajectory(
    whole: Contrast, num_steps: list[int], skip_first: bool
) -> list[TrajectorySteps]:
    """The steps of each trajectory.

    Args:
        whole: on the host.
        num_steps: of each, in the order of `whole`.
        skip_first: no trajectory's first step is kept.
    """
    columns = {name: getattr(whole, f"{name}_N").numpy() for name in _STEP_COLUMNS}
    entries = {name: getattr(whole, name).numpy() for name in _ENTRY_COLUMNS}
    offset = whole.offset.numpy()
    kept = np.flatnonzero(whole.keep_N.numpy())
    found, start = [], 0
    for num in num_steps:
        first, last = np.searchsorted(kept, [start + int(skip_first), start + num])
        own = slice(offset[first], offset[last])
        found.append(
            TrajectorySteps(
                {name: column[start : start + num] for name, column in columns.items()},
                kept[first:last] - start,
                offset[first : last + 1] - offset[first],
                {name: column[own] for name, column in entries.items()},
            )
        )
        start += num
    return found


def choose_in_batch(
    steps: Sequence[TrajectorySteps], settings: MiningSettings, seed: Sequence[int]
) -> list[TrajectorySteps]:
    """The trajectories of a mining batch with the steps that its rule keeps.

    Args:
        seed: see `choose_steps`.
    """
    if not settings.ranks_steps:  # what is kept is kept already
        return list(steps)
    chosen = choose_among([one.ranking for one in steps], settings, seed)
    return [one.keeping(keep_G) for one, keep_G in zip(steps, chosen, strict=True)]


def choose_among(
    rankings: Sequence[tuple[np.ndarray, np.ndarray]],
    settings: MiningSettings,
    seed: Sequence[int],
) -> list[np.ndarray]:
    """Whether each step of each trajectory of a batch is kept, from their `ranking`."""
    if not rankings:
        return []
    kl_N, entropy_N = (np.concatenate(column) for column in zip(*rankings, strict=True))
    keep_N = choose_steps(kl_N, entropy_N, settings, seed)
    ends = np.cumsum([len(kl_G) for kl_G, _ in rankings])
    return np.split(keep_N, ends[:-1])


def soft_targets_row(
    example_id: str, prompt: list[int], trajectory: list[int], steps: TrajectorySteps
) -> dict[str, Any]:
    """A `SoftTargets` row."""
    return {
        "example_id": example_id,
        "input_ids": prompt + trajectory,
        "prompt_length": len(prompt),
        "position": steps.kept + len(prompt),
        "offset": steps.offset,
        **steps.columns,
        **steps.entries,
    }
