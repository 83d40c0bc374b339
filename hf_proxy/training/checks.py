"""What `SelectiveSFTTrainer` refuses of its host's arguments: what it would not read."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from datasets import Dataset

from hf_proxy.models.access import scoring_mode
from hf_proxy.models.probes import why_not_packed
from hf_proxy.records.errors import InputError

# arguments of SFTTrainer that this trainer does not read, and the remedy
_UNREAD = {
    "compute_loss_func": "the loss is the divergence from the soft targets: leave it out",
    "compute_metrics": "no logits are kept to compute from: read eval_loss and eval_kept_accuracy, "
    "or attach a callback",
    "data_collator": "SelectiveSFTTrainer has a collator of its own: leave it out",
    "formatting_func": "the rows are token ids already: leave it out",
    "preprocess_logits_for_metrics": "no logits are kept: leave it out",
}

# fields of SelectiveSFTConfig that are read where a trainer has an amateur
_MINING_FIELDS = (
    "expert",
    "divergence_beta",
    "plausibility_alpha",
    "contrast_temperature",
    "select",
    "target",
    "mixture_weight",
    "only_correct",
)


def check_arguments(model: Any, args: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of the trainer that would do nothing.

    Args:
        model, args: of the trainer.
        arguments: those that it would hand on to `SFTTrainer`.

    Raises:
        InputError: naming the argument.
    """
    given = [name for name, value in arguments.items() if value is not None]
    refused = {name: _UNREAD[name] for name in given if name in _UNREAD}
    if not isinstance(model, str):  # the host reads them where it loads the model itself
        remedy = "give them to from_pretrained, or give the trainer the model's name"
        if args.model_init_kwargs is not None:
            refused["model_init_kwargs"] = remedy
        if "quantization_config" in given:
            refused["quantization_config"] = remedy
    for name, remedy in refused.items():
        raise InputError.at("it would change nothing", remedy=remedy, field=name)


def check_parallelism(parallelism: Any) -> None:
    """Refuse to cut rows between processes: kept steps are places in whole rows.

    Args:
        parallelism: the accelerator's `ParallelismConfig`, or None.

    Raises:
        InputError: context or sequence parallelism is on.
    """
    for name in ("cp", "sp"):
        if parallelism is not None and getattr(parallelism, f"{name}_enabled"):
            raise InputError.at(
                "it would cut rows between processes, and kept steps are places in whole rows",
                remedy="set it to 1",
                field=f"parallelism_config {name}_size",
            )


def check_fed(args: Any) -> None:
    """Refuse settings that rows mined in the run itself cannot follow.

    Raises:
        InputError: naming the field of `args`.
    """
    if args.max_steps <= 0:
        raise InputError.at(
            "without a train_dataset, max_steps says how long to train",
            remedy="set it to the number of optimizer steps",
            field="max_steps",
        )
    for name, harmless, remedy in (
        ("max_length", None, "max_new_tokens of the ContrastCallback says how long its rows are"),
        ("train_sampling_strategy", "random", "rows come in an order drawn for each mining"),
    ):
        if getattr(args, name) != harmless:
            raise InputError.at(
                "it would change nothing without a train_dataset", remedy=remedy, field=name
            )


def check_mining_fields(args: Any, mined_with: Mapping[str, Any]) -> None:
    """Refuse settings of mining that are not those that the rows are mined with.

    Args:
        args: the trainer's.
        mined_with: values that are read where the rows are mined; those that are missing are not
            known here.

    Raises:
        InputError: naming the field of `args`.
    """
    defaults = {field.name: field.default for field in fields(args)}
    for name in _MINING_FIELDS:
        value = getattr(args, name)
        if value not in (defaults[name], mined_with.get(name, defaults[name])):
            where = "give it to the ContrastCallback" if mined_with else "give it to the mining"
            raise InputError.at(
                f"{value!r} would change nothing: the rows are not mined by this trainer",
                remedy=f"{where} and leave it out here",
                field=name,
            )


def check_in_memory(rows: Any, name: str) -> None:
    """Refuse what is no `datasets.Dataset`: every row is checked before the first step.

    Raises:
        InputError: naming the set.
    """
    if not isinstance(rows, Dataset):
        raise InputError.at(
            f"expected a datasets.Dataset, found {type(rows).__name__}",
            remedy="rows are checked before the first step, so they are not streamed: "
            "Dataset.from_list(list(rows)) has them all",
            source=name,
        )


LONGEST_LINE = 4096  # tokens of packed rows to come; a window beyond it is not probed; chosen here


def check_rows_apart(model: Any, accelerator: Any) -> None:
    """Refuse to pack rows that would see each other.

    Raises:
        InputError: `padding_free=True` with such a model.
    """
    with scoring_mode(model) as bare, accelerator.autocast():
        why_not = why_not_packed(
            bare, longest=LONGEST_LINE, device=accelerator.device, processes=accelerator
        )
    if why_not:
        raise InputError.at(why_not, remedy="set padding_free=False")
