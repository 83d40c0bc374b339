"""Settings of training on soft targets."""

from dataclasses import dataclass

from trl import SFTConfig

from hf_proxy.training.fields import SelectiveFields


@dataclass
class SelectiveSFTConfig(SelectiveFields, SFTConfig):
    """`SFTConfig` of TRL with the defaults that this trainer needs, and `SelectiveFields`.

    `remove_unused_columns` is False, since rows are `SoftTargets`; `max_length` is None, since rows
    are as long as they were mined. `expert`, `divergence_beta`, `plausibility_alpha` and
    `contrast_temperature` are read where the trainer has an amateur.
    """

    remove_unused_columns: bool = False
    max_length: int | None = None

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
