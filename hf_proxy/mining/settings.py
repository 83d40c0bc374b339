"""What decides a mined row beside the two models and its prompt."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from hf_proxy.records.errors import InputError

Select = Literal["kl", "all", "random", "entropy", "low_entropy_high_kl"]
Target = Literal["contrast", "expert", "token", "mixture"]


@dataclass(frozen=True)
class MiningSettings:
    """What decides a row beside the two models and its prompt; see `mine_soft_targets`.

    The defaults of every function, callback and recipe that takes one of these are read here.
    """

    max_new_tokens: int = 128  # paper
    temperature: float = 0.0
    batch_size: int = 32  # chosen here: see tests/benchmarks/contrast.py
    seed: int = 0
    divergence_beta: float = 0.4  # nats; paper
    plausibility_alpha: float = 0.2  # paper
    contrast_temperature: float = 1.0  # paper
    parity: str | None = None
    select: str = "kl"  # paper; one of `Select`
    target: str = "contrast"  # paper; one of `Target`
    mixture_weight: float | None = None  # of the contrast; only of target "mixture"
    only_correct: bool = False

    def __post_init__(self) -> None:
        if not self.divergence_beta >= 0:
            raise InputError(f"divergence_beta must be >= 0 nats, not {self.divergence_beta}")
        if not 0 < self.plausibility_alpha <= 1:
            raise InputError(f"plausibility_alpha must be in (0, 1], not {self.plausibility_alpha}")
        if not self.contrast_temperature > 0:
            raise InputError(f"contrast_temperature must be > 0, not {self.contrast_temperature}")
        if self.parity not in (None, "official"):
            raise InputError(f"parity must be None or 'official', not {self.parity!r}")
        if self.max_new_tokens < 1 or self.batch_size < 1:
            raise InputError("max_new_tokens and batch_size must be at least 1")
        if not self.temperature >= 0:
            raise InputError(f"temperature must be >= 0 (0: greedy), not {self.temperature}")
        for name, words in (("select", Select), ("target", Target)):
            if getattr(self, name) not in get_args(words):
                raise InputError(
                    f"{name} must be one of {get_args(words)}, not {getattr(self, name)!r}"
                )
            if self.parity == "official" and getattr(self, name) != get_args(words)[0]:
                raise InputError.at(
                    f"{getattr(self, name)!r} is no form of the published script, which "
                    "parity='official' follows",
                    remedy="leave out one of the two",
                    field=name,
                )
        weight, is_mixture = self.mixture_weight, self.target == "mixture"
        if is_mixture and (weight is None or not 0 <= weight <= 1):
            raise InputError(
                f"target='mixture' needs a mixture_weight in [0, 1], of the contrast, not {weight}"
            )
        if weight is not None and not is_mixture:
            raise InputError.at(
                "it is read with target='mixture' only",
                remedy="leave it out",
                field="mixture_weight",
            )
        if self.contrast_temperature != 1 and self.target in ("expert", "token"):
            raise InputError.at(
                f"{self.contrast_temperature} would change nothing: target={self.target!r} has no "
                "contrast",
                remedy="leave it out",
                field="contrast_temperature",
            )

    @property
    def ranks_steps(self) -> bool:
        """Whether a step's place among those of its mining batch decides if it is kept."""
        return self.select not in ("kl", "all")


# what an older version did not know, and did
_LATER = ("select", "target", "mixture_weight", "only_correct")


def with_later(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as a file has them, with those that its version did not know."""
    return {name: getattr(MiningSettings, name) for name in _LATER} | settings
