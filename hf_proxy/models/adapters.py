"""What PEFT's adapters ask of a batch: places for virtual tokens, rows apart, names of refusal."""

from typing import Any

import torch
from torch import Tensor

from hf_proxy.models.batching import TokenBatch
from hf_proxy.records.errors import InputError

# kept as keys and values of a cache before the text, not as hidden states
_IN_THE_CACHE = ("PREFIX_TUNING", "CARTRIDGE")
_OF_A_TASK = ("MULTITASK_PROMPT_TUNING", "POLY")
_ACROSS_TOKENS = ("LILY",)  # its router averages over every token of the batch, later ones too


def active_config(model: Any) -> Any:
    """The config of the adapter that runs; None without one, or where it is switched off."""
    off = getattr(model, "_adapters_disabled", True)
    return None if off else getattr(model, "active_peft_config", None)


def num_virtual_tokens(model: Any) -> int:
    """Places of the model's window that prompt learning takes before every text."""
    config = active_config(model)
    return config.num_virtual_tokens if config is not None and config.is_prompt_learning else 0


def needs_rows_apart(model: Any) -> bool:
    """Whether several rows in one line would lose the adapter, or see each other through it."""
    config = active_config(model)
    return config is not None and (
        config.is_prompt_learning
        or config.peft_type in (*_ACROSS_TOKENS, "XLORA")
        or bool(_invocation_tokens(config))
    )


def is_across_rows(model: Any) -> bool:
    """Whether a row of a batch is read through the others of it, their padding included."""
    config = active_config(model)
    return config is not None and config.peft_type in _ACROSS_TOKENS


def drops_under_checkpointing(model: Any) -> bool:
    """Whether the adapter stands in a cache, which a checkpointed layer runs without."""
    config = active_config(model)
    return config is not None and config.peft_type in _IN_THE_CACHE


def check_adapter(model: Any) -> None:
    """Refuse adapters whose text would be another model's.

    Raises:
        InputError: the adapter needs what no prompt says, or PEFT would run the base model instead.
    """
    config = active_config(model)
    configs = [] if config is None else [config]
    if getattr(model, "_hf_peft_config_loaded", False):  # by transformers itself
        configs = list(model.peft_config.values())
    for own in configs:
        name = getattr(own.peft_type, "value", own.peft_type)
        if name in _OF_A_TASK:
            raise InputError.at(
                f"the adapter is of type {name}, which PEFT runs only with the number of a task",
                remedy="merge the task's share into an adapter of another type",
                field="adapter",
            )
        by_peft = config is not None and own.task_type == "CAUSAL_LM"
        if (own.is_prompt_learning or _invocation_tokens(own)) and not by_peft:
            kind = "aLoRA" if _invocation_tokens(own) else name
            raise InputError.at(
                f"PEFT would run the base model without this {kind} adapter "
                f"(task_type {own.task_type})",
                remedy="set task_type 'CAUSAL_LM' in its config, load it by PeftModel",
                field="adapter",
            )


def check_causal_adapter(model: Any) -> None:
    """Refuse an adapter under which a later token moves an earlier logit.

    Raises:
        InputError: it is one.
    """
    config = active_config(model)
    if config is not None and config.peft_type in _ACROSS_TOKENS:
        raise InputError.at(
            f"the adapter is of type {config.peft_type.value}, whose router reads later tokens: "
            "no teacher-forced pass gives what the model would write",
            remedy="use an adapter of another type",
            field="adapter",
        )


def text_states(model: Any, hidden: Tensor, num_tokens: int) -> Tensor:
    """Hidden states `[B * T, D]` of the text, without those of virtual tokens before it."""
    if hidden.dim() == 3 and hidden.shape[1] == num_tokens + num_virtual_tokens(model):
        hidden = hidden[:, -num_tokens:]
    return hidden.reshape(-1, hidden.shape[-1])


def adapter_inputs(model: Any, batch: TokenBatch) -> dict[str, Any]:
    """Where aLoRA begins in each row, which PEFT would look for in the padding as well.

    Padding repeats a row's last token, and that may spell the invocation.
    """
    config = active_config(model)
    if config is None or not _invocation_tokens(config) or batch.position_ids_BT is not None:
        return {}
    width = batch.input_ids_BT.shape[1]
    last_B = batch.index_N[torch.tensor(batch.num_labels).cumsum(0) - 1] % width
    offsets = []
    for ids_T, last in zip(batch.input_ids_BT, last_B.tolist(), strict=True):
        own = ids_T[None, : last + 1]
        (offset,) = _invocations(model, own)
        offsets.append(None if offset is None else offset + width - 1 - last)
    return {"alora_offsets": offsets}


def generation_inputs(model: Any, prompts: list[list[int]]) -> dict[str, Any]:
    """The same for prompts that are padded on the left, which may spell it as well."""
    config = active_config(model)
    if config is None or not _invocation_tokens(config):
        return {}
    return {"alora_offsets": [_invocations(model, torch.tensor([ids]))[0] for ids in prompts]}


def _invocation_tokens(config: Any) -> Any:
    return getattr(config, "alora_invocation_tokens", None)


def _invocations(model: Any, ids_BT: Tensor) -> list[int | None]:
    from peft.tuners.lora.variants import calculate_alora_offsets

    offsets: list = calculate_alora_offsets(model.peft_config, model.active_adapter, ids_BT)
    return offsets
