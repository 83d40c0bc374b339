"""What decides a mined row beside the two models and its prompt."""

from dataclasses import dataclass

from hf_proxy.records.errors import InputError


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
