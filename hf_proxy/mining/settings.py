"""What decides a mined row beside the two models and its prompt."""

from dataclasses import dataclass

from hf_proxy.mining.divergence import check_settings
from hf_proxy.records.defaults import BATCH_SIZE


@dataclass(frozen=True)
class MiningSettings:
    """What decides a row beside the two models and its prompt; see `mine_soft_targets`."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    batch_size: int = BATCH_SIZE
    seed: int = 0
    divergence_beta: float = 0.4
    plausibility_alpha: float = 0.2
    contrast_temperature: float = 1.0
    parity: str | None = None

    def __post_init__(self) -> None:
        check_settings(
            self.divergence_beta, self.plausibility_alpha, self.contrast_temperature, self.parity
        )
        if self.max_new_tokens < 1 or self.batch_size < 1:
            raise ValueError("max_new_tokens and batch_size must be at least 1")
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be >= 0 (0: greedy), not {self.temperature}")
