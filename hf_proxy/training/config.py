"""Settings of training on soft targets, and those of the host that would do nothing here."""

from dataclasses import dataclass
from typing import Any

from trl import SFTConfig

from hf_proxy.records.errors import InputError
from hf_proxy.training.fields import SelectiveFields

_READY = "the rows are token ids already: leave it out"
_NO_LOGITS = "an evaluation gives the loss and no logits: leave it out"
_NO_PADDING = "set padding_free=True, which spends nothing on padding"
_OWN_LOSS = "the loss is the divergence from the soft targets: leave it out"
# fields of SFTConfig that this trainer does not read: values that change nothing, and the remedy
_UNREAD: dict[str, tuple[tuple[Any, ...], str]] = {
    "assistant_only_loss": ((False,), _OWN_LOSS),
    "batch_eval_metrics": ((False,), _NO_LOGITS),
    "chat_template_path": ((None,), "mine with a tokenizer that has it, and train with that"),
    "completion_only_loss": ((None, True), "prompts are never learnt here: leave it out"),
    "dataset_kwargs": ((None, {"skip_prepare_dataset": True}), _READY),
    "dataset_num_proc": ((None,), _READY),
    "dataset_text_field": (("text",), _READY),
    "eval_do_concat_batches": ((True,), _NO_LOGITS),
    "eval_packing": ((None, False), _NO_PADDING),
    "include_for_metrics": (([],), _NO_LOGITS),
    "label_names": ((None,), _READY),
    "label_smoothing_factor": ((0,), _OWN_LOSS),
    "loss_type": (("nll", "chunked_nll"), _OWN_LOSS),
    "packing_strategy": (("bfd",), _NO_PADDING),
    "pad_to_multiple_of": (
        (None, "auto", "none", "null"),
        _NO_PADDING,
    ),
    "pad_token": ((None,), "set it on the tokenizer"),
    "remove_unused_columns": ((False,), "the columns are the soft targets: leave it False"),
    "router_aux_loss_coef": ((None, 0), "no load-balancing loss is added here: leave it out"),
    "shuffle_dataset": ((False,), "train_sampling_strategy says in which order rows come"),
    "truncation_mode": (("keep_start",), "no row is cut: leave it out"),
}


@dataclass
class SelectiveSFTConfig(SelectiveFields, SFTConfig):
    """`SFTConfig` of TRL with the defaults that this trainer needs, and `SelectiveFields`.

    `remove_unused_columns` is False, since rows are `SoftTargets`; `max_length` is None, since rows
    are as long as they were mined: a longer one is refused, never cut. No load-balancing loss of
    experts is added, whatever the model's config declares. `SelectiveFields` but `sft_weight` are
    read where the trainer has an amateur.

    Raises:
        InputError: a field of `SFTConfig` is set that this trainer would not read.
    """

    remove_unused_columns: bool = False
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.packing:
            raise InputError.at(
                "packing=True would cut the steps from their trajectories",
                remedy=_NO_PADDING,
                field="packing",
            )
        for name, (harmless, remedy) in _UNREAD.items():
            value = getattr(self, name)
            if value not in harmless:
                raise InputError.at(
                    f"{value!r} would change nothing in selective SFT", remedy=remedy, field=name
                )
        if not 0 <= self.sft_weight < float("inf"):
            raise InputError(f"sft_weight must be a number from 0 on, not {self.sft_weight}")
        if self.expert not in (None, "base", "live"):
            raise InputError(f"expert must be 'base', 'live' or None, not {self.expert!r}")
        super().__post_init__()
        given: Any = self.accelerator_config
        if given.dispatch_batches:
            raise InputError.at(
                "True would cut the kept steps of a batch to its number of rows",
                remedy="leave it out: every process reads its own rows",
                field="accelerator_config dispatch_batches",
            )
        if not given.even_batches and self.world_size > 1:
            raise InputError.at(
                "False leaves processes without a batch while others wait for them",
                remedy="leave it out, or start one process",
                field="accelerator_config even_batches",
            )
        if not self.average_tokens_across_devices and self.world_size > 1:
            raise InputError.at(
                "False would change nothing: the mean is over the kept steps of all processes",
                remedy="leave it out",
                field="average_tokens_across_devices",
            )
