"""What `SelectiveSFTConfig` adds to TRL's fields, apart: `--help` shows it without torch."""

from dataclasses import dataclass, field

from hf_proxy.mining.settings import MiningSettings


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
