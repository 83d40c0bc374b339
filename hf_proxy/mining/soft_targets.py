"""Rows of soft targets: whether their columns fit, and what a set of them comes to in numbers."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hf_proxy.records.errors import InputError

# chosen here: with alpha 0.2 more plausible tokens than this means that none of them is likely
FLAT_SUPPORT = 10
# statistic: its published figure (arXiv 2510.07962, section 2.2), of other models and prompts
PUBLISHED_STATISTICS = {
    "kept_share": "about 0.2",
    "kl_mean_agree": "0.166",
    "kl_mean_differ": "1.99",
    "agree_kept_share": "0.10",
}
_STEP_COLUMNS = ("kl", "top1_agree", "expert_entropy", "amateur_entropy", "support_size")
_ENTRY_COLUMNS = ("prob", "expert_logprob", "amateur_logprob")


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
        check_soft_targets(row)
        kl = np.asarray(row["kl"], np.float64)
        agree = np.asarray(row["top1_agree"], bool)
        support = np.asarray(row["support_size"], np.int64)
        offset = np.asarray(row["offset"], np.int64)
        step = np.asarray(row["position"], np.int64) - row["prompt_length"]
        size = np.diff(offset)
        num_steps = len(kl)
        self.num_rows += 1
        self.num_steps += num_steps
        self.num_kept += len(step)
        self.num_agree += int(agree.sum())
        self.num_agree_kept += int(agree[step].sum())
        self.num_one_token += int((support == 1).sum())
        self.num_one_token_kept += int((size == 1).sum())
        bounds = zip(offset, offset[1:], strict=False)
        self.num_flips += sum(
            target_outcome(row["prob"][a:b], row["expert_logprob"][a:b]) == "flip"
            for a, b in bounds
        )
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


def target_outcome(prob: ArrayLike, expert_logprob: ArrayLike) -> str:
    """`"one token"`, `"flip"` where target and expert prefer different tokens, else `"same"`."""
    if np.size(prob) == 1:
        return "one token"
    return "flip" if np.argmax(prob) != np.argmax(expert_logprob) else "same"


def check_soft_targets(row: Mapping[str, Any], *, source: Any = None) -> None:
    """Refuse a `SoftTargets` row whose columns do not fit each other.

    Args:
        source: file or set, for the message.

    Raises:
        InputError: naming the row and the field.
    """
    num_ids, start, num_entries = len(row["input_ids"]), row["prompt_length"], len(row["token_id"])
    lengths = dict.fromkeys(_STEP_COLUMNS, num_ids - start) | dict.fromkeys(
        _ENTRY_COLUMNS, num_entries
    )
    lengths["offset"] = len(row["position"]) + 1
    problems = {}
    if not 1 <= start <= num_ids:
        problems["prompt_length"] = f"{start} is not between 1 and the {num_ids} input_ids"
    for name, length in lengths.items():
        if len(row[name]) != length:
            problems[name] = f"{length} values expected, {len(row[name])} given"
    if min(np.diff([start - 1, *row["position"], num_ids])) < 1:
        problems["position"] = "does not ascend from prompt_length to the end of input_ids"
    sizes = np.diff(row["offset"], prepend=0)  # the first is the offset of the first entry, 0
    if sizes.sum() != num_entries or sizes[:1].any() or (sizes[1:] < 1).any():
        problems["offset"] = f"does not part {num_entries} entries into steps of at least one"
    for name in ("input_ids", "token_id"):
        if min(row[name], default=0) < 0:
            problems[name] = "an id is negative"
    for field, problem in problems.items():
        raise InputError.at(
            problem, remedy="mine it anew", source=source, row=row["example_id"], field=field
        )


def _ratio(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None
