"""What a set of soft targets looks like in numbers, comparable with the published ones."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hf_proxy.schemas import InputError

# chosen here: with alpha 0.2 more plausible tokens than this means that none of them is likely
FLAT_SUPPORT = 10


@dataclass
class Tally:
    """Sums over rows; add any number of them, in any order, then read `statistics`.

    A sum of tallies is the tally of all rows, so ranks and batches merge exactly where sums do.
    """

    num_rows: int = 0
    num_steps: int = 0
    num_kept: int = 0
    num_agree: int = 0
    num_agree_kept: int = 0
    num_one_token: int = 0
    num_one_token_kept: int = 0
    num_flips: int = 0
    num_flat: int = 0
    num_entries: int = 0
    num_ended_at_once: int = 0
    num_echoes: int = 0
    kl_sum: float = 0.0
    kl_agree_sum: float = 0.0

    def add(self, row: Mapping[str, Any], *, is_echo: bool = False) -> None:
        """Count one `SoftTargets` row.

        Raises:
            InputError: its columns do not fit each other.
        """
        kl = np.asarray(row["kl"], np.float64)
        agree = np.asarray(row["top1_agree"], bool)
        support = np.asarray(row["support_size"], np.int64)
        offset = np.asarray(row["offset"], np.int64)
        step = np.asarray(row["position"], np.int64) - row["prompt_length"]
        size = np.diff(offset)
        num_steps = len(row["input_ids"]) - row["prompt_length"]
        fits = (
            len(kl) == len(agree) == len(support) == num_steps >= 1
            and len(size) == len(step)
            and offset[-1] == len(row["prob"]) == len(row["expert_logprob"])
            and (not len(step) or (0 <= step.min() and step.max() < num_steps))
        )
        if not fits:
            raise InputError.at(
                "the columns of the row do not fit each other",
                remedy="give rows of mine_soft_targets as they are",
                row=row.get("example_id"),
            )
        self.num_rows += 1
        self.num_steps += num_steps
        self.num_kept += len(step)
        self.num_agree += int(agree.sum())
        self.num_agree_kept += int(agree[step].sum())
        self.num_one_token += int((support == 1).sum())
        self.num_one_token_kept += int((size == 1).sum())
        self.num_flips += int(flips(row).sum())
        self.num_flat += int((size > FLAT_SUPPORT).sum())
        self.num_entries += int(offset[-1])
        self.num_ended_at_once += num_steps == 1
        self.num_echoes += is_echo
        self.kl_sum += float(kl.sum())
        self.kl_agree_sum += float(kl[agree].sum())

    def statistics(self) -> dict[str, float | int | None]:
        """Counts and shares; a share of nothing is None.

        Returns:
            num_rows, num_steps, num_kept, num_ended_at_once; `kept_share` of all steps; `kl_mean`
            (nats, all steps), `kl_mean_agree`, `kl_mean_differ` (where the first token is the same,
            or not); `top1_agreement`; `agree_kept_share` of the agreeing steps; `support_size`
            (mean over kept steps); `one_token_share` of kept and `one_token_share_all` of all steps
            (so without the filter); `flip_rate` of kept steps (the target's best token is not the
            expert's); `flat_share` of kept steps (more than `FLAT_SUPPORT` plausible tokens);
            `echo_share` of rows that repeat the system prompt.
        """
        differ = self.num_steps - self.num_agree
        return {
            "num_rows": self.num_rows,
            "num_steps": self.num_steps,
            "num_kept": self.num_kept,
            "num_ended_at_once": self.num_ended_at_once,
            "kept_share": _ratio(self.num_kept, self.num_steps),
            "kl_mean": _ratio(self.kl_sum, self.num_steps),
            "kl_mean_agree": _ratio(self.kl_agree_sum, self.num_agree),
            "kl_mean_differ": _ratio(self.kl_sum - self.kl_agree_sum, differ),
            "top1_agreement": _ratio(self.num_agree, self.num_steps),
            "agree_kept_share": _ratio(self.num_agree_kept, self.num_agree),
            "support_size": _ratio(self.num_entries, self.num_kept),
            "one_token_share": _ratio(self.num_one_token_kept, self.num_kept),
            "one_token_share_all": _ratio(self.num_one_token, self.num_steps),
            "flip_rate": _ratio(self.num_flips, self.num_kept),
            "flat_share": _ratio(self.num_flat, self.num_kept),
            "echo_share": _ratio(self.num_echoes, self.num_rows),
        }

    def to_array(self) -> np.ndarray:
        """The sums as float64, for a sum over ranks."""
        return np.array(list(asdict(self).values()), dtype=np.float64)

    @classmethod
    def from_array(cls, array: np.ndarray) -> "Tally":
        """The tally whose sums these are."""
        kinds = [type(value) for value in asdict(cls()).values()]
        return cls(*(kind(value) for kind, value in zip(kinds, array.tolist(), strict=True)))


def tally_rows(rows: Iterable[Mapping[str, Any]]) -> Tally:
    """The tally of all rows."""
    tally = Tally()
    for row in rows:
        tally.add(row)
    return tally


def flips(row: Mapping[str, Any]) -> np.ndarray:
    """Whether the target's best token is another than the expert's, bool [M], of the kept steps."""
    offset = row["offset"]
    return np.array(
        [
            np.argmax(row["prob"][a:b]) != np.argmax(row["expert_logprob"][a:b])
            for a, b in zip(offset, offset[1:], strict=False)
        ],
        dtype=bool,
    )


def _ratio(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None
