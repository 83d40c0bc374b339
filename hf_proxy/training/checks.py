"""What `SelectiveSFTTrainer` refuses of its host's arguments: what it would not read."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from datasets import Dataset

from hf_proxy.models.access import input_device, scoring_mode
from hf_proxy.models.adapters import (
    active_config,
    check_causal_adapter,
    drops_under_checkpointing,
)
from hf_proxy.models.positions import length_kinds, window_of
from hf_proxy.models.probes import require_causal, why_not_packed
from hf_proxy.records.errors import InputError
from hf_proxy.training.rows import check_longest

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
    """Refuse processes that share rows.

    Args:
        parallelism: the accelerator's `ParallelismConfig`, or None.

    Raises:
        InputError: context, sequence or tensor parallelism is on.
    """
    cut = "it would cut rows between processes, and kept steps are places in whole rows"
    same = "its processes learn from the same rows, and kept steps are counted over all processes"
    for name, why in (("cp", cut), ("sp", cut), ("tp", same)):
        if parallelism is not None and getattr(parallelism, f"{name}_size") > 1:
            raise InputError.at(why, remedy="set it to 1", field=f"parallelism_config {name}_size")


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


def check_model(model: Any, args: Any, accelerator: Any) -> None:
    """Refuse a model whose loss would not be that of its rows, each by itself.

    Args:
        model: as the trainer holds it; every rank runs the same forwards on it.
        args: the trainer's.

    Raises:
        InputError: it looks ahead, an adapter would be dropped under gradient checkpointing, or
            packed rows would see each other.
    """
    with scoring_mode(model) as bare, accelerator.autocast():
        check_causal_adapter(bare)
        where = {"device": input_device(bare, accelerator), "processes": accelerator}
        require_causal(bare, **where)
        why_not = why_not_packed(bare, longest=LONGEST_LINE, **where) if args.padding_free else ""
        if why_not:
            raise InputError.at(why_not, remedy="set padding_free=False")
        checkpoints = args.gradient_checkpointing or args.activation_checkpointing
        if drops_under_checkpointing(bare) and (checkpoints or bare.is_gradient_checkpointing):
            raise InputError.at(
                f"an adapter of type {active_config(bare).peft_type.value} stands in a cache, and "
                "layers under gradient checkpointing run without one",
                remedy="set gradient_checkpointing=False",
                field="gradient_checkpointing",
            )


def check_lengths(rows: Any, name: str, model: Any, args: Any, *, to_the_end: bool) -> None:
    """Refuse rows that would be cut, and rows of a batch that would turn each other's positions.

    Some models choose the rotary angles of a whole batch by its longest row (LongRoPE), so a short
    row beside a long one would be read otherwise than alone.

    Args:
        rows, name: a set of the trainer's, and which one.
        model: unwrapped.
        to_the_end: forwards end before a row's last token, else at its last kept step.

    Raises:
        InputError: naming set and row.
    """
    check_longest(rows, name, window_of(model), args.max_length)
    training = name.startswith("train")
    if (args.train_batch_size if training else args.eval_batch_size) == 1:
        return
    read = [len(ids) - 1 for ids in rows["input_ids"]]
    if not to_the_end:
        read = [max(position, default=1) for position in rows["position"]]
    kinds = length_kinds(model, read)
    other = next((place for place, kind in enumerate(kinds) if kind != kinds[0]), None)
    if other is not None:
        size = f"per_device_{'train' if training else 'eval'}_batch_size"
        raise InputError.at(
            f"it reads {read[other]} tokens and row {rows[0]['example_id']} reads {read[0]}, on "
            f"two sides of a length beyond which {type(model).__name__} turns the positions of a "
            "whole batch otherwise",
            remedy=f"set {size}=1, or give rows of one side",
            source=name,
            row=rows[other]["example_id"],
            field="input_ids",
        )
