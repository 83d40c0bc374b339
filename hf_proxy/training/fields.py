"""What `SelectiveSFTConfig` adds to TRL's fields, apart: `--help` shows it without torch."""

from dataclasses import dataclass, field
from typing import Any

from hf_proxy.mining.settings import MiningSettings, Select, Target


@dataclass
class SelectiveFields:
    """Settings of the loss, and of an amateur's targets."""

    sft_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the plain cross-entropy over all completion tokens (0: none). Above "
            "0 the forward ends at the last token and the head meets every completion token."
        },
    )
    expert: str | None = field(
        default=None,
        metadata={
            "help": "With an amateur: who is held against it, 'base' (adapters off) or 'live' (the "
            "model as it stands). Unset: live in hf-proxy loop; else base under PEFT, else live."
        },
    )
    divergence_beta: float = field(
        default=MiningSettings.divergence_beta,
        metadata={
            "help": "With an amateur (hf-proxy loop): keep steps with KL of at least so many nats "
            "(paper: 0.4)."
        },
    )
    plausibility_alpha: float = field(
        default=MiningSettings.plausibility_alpha,
        metadata={"help": "With an amateur: targets are tokens of p >= alpha * largest p (0.2)."},
    )
    contrast_temperature: float = field(
        default=MiningSettings.contrast_temperature,
        metadata={"help": "With an amateur: divides the log-ratio before the softmax (paper: 1)."},
    )
    select: Select = field(
        default="kl",
        metadata={
            "help": "With an amateur: which steps are kept: kl (paper), random, entropy or "
            "low_entropy_high_kl keep as many of an optimizer step; all keeps every one."
        },
    )
    target: Target = field(
        default="contrast",
        metadata={
            "help": "With an amateur: what is aimed at: contrast (paper), expert (itself, over "
            "the plausible tokens), token (the one that it wrote) or mixture."
        },
    )
    mixture_weight: float | None = field(
        default=MiningSettings.mixture_weight,
        metadata={"help": "Of the contrast in target=mixture; the rest is the expert's."},
    )
    only_correct: bool = field(
        default=MiningSettings.only_correct,
        metadata={"help": "With an amateur: learn from trajectories with the right answer only."},
    )

    @property
    def contrast_settings(self) -> dict[str, Any]:
        """Those of `MiningSettings` that are fields here, by their names."""
        names = vars(MiningSettings()).keys() & SelectiveFields.__dataclass_fields__.keys()
        return {name: getattr(self, name) for name in sorted(names)}
