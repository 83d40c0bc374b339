"""Settings of training on soft targets."""

from dataclasses import dataclass, field

from trl import SFTConfig

from hf_proxy.mining.settings import MiningSettings


@dataclass
class SelectiveSFTConfig(SFTConfig):
    """`SFTConfig` of TRL with the defaults that this trainer needs.

    `remove_unused_columns` is False, since rows are `SoftTargets`; `max_length` is None, since rows
    are as long as they were mined. The other fields are read where the trainer has an amateur.
    """

    remove_unused_columns: bool = False
    max_length: int | None = None
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

    def __post_init__(self) -> None:
        if self.packing:
            raise ValueError(
                "packing=True would cut the steps from their trajectories; set padding_free=True, "
                "which spends nothing on padding"
            )
        if not 0 <= self.sft_weight < float("inf"):
            raise ValueError(f"sft_weight must be a number from 0 on, not {self.sft_weight}")
        if self.expert not in (None, "base", "live"):
            raise ValueError(f"expert must be 'base', 'live' or None, not {self.expert!r}")
        super().__post_init__()
