"""A model as it is: unwrapped, in eval mode, its head, its weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn

from hf_proxy.models.parallel import Processes, sum_over_ranks
from hf_proxy.records.errors import InputError


def unwrapped(model: nn.Module) -> Any:
    """The model without DDP, DeepSpeed or `torch.compile` wrapper; FSDP2 is none."""
    return extract_model_from_parallel(model, keep_torch_compile=False)


@contextmanager
def scoring_mode(model: nn.Module) -> Iterator[Any]:
    """Without gradient, in eval mode, eager; every module comes back as it was.

    Yields the model without DDP or `torch.compile` wrapper: a compiled graph would not run our
    hook. No random number is drawn.
    """
    bare = unwrapped(model)
    modules = list(bare.modules())
    angles = [_angles(module) for module in modules if hasattr(module, "rope_type")]
    training = [module.training for module in modules]
    compiled = [(m, m._compiled_call_impl) for m in modules if m._compiled_call_impl is not None]
    try:
        for module in modules:
            module.training = False
        for module, _ in compiled:
            module._compiled_call_impl = None
        with torch.no_grad():
            yield bare
    finally:
        for module, was_training in zip(modules, training, strict=True):
            module.training = was_training
        for module, attributes, buffers in angles:
            vars(module).update(attributes)
            for name, (buffer, content) in buffers.items():
                module._buffers[name] = buffer.copy_(content)
        for module, call in compiled:
            module._compiled_call_impl = call


def _angles(module: nn.Module) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """What a rotary module keeps from batch to batch: LongRoPE and dynamic NTK leave the last's."""
    attributes = {name: value for name, value in vars(module).items() if name[0] != "_"}
    buffers = {name: (b, b.clone()) for name, b in module._buffers.items() if b is not None}
    return module, attributes, buffers


def input_device(model: Any, processes: Processes = None) -> torch.device:
    """Where a model takes its input: where a `device_map` put it, else on this process's device."""
    placed = getattr(model, "hf_device_map", None)
    if placed:
        # what is offloaded computes on the first of the others, as accelerate dispatches it
        devices = [device for device in placed.values() if device not in ("cpu", "disk")]
        return torch.device(devices[0] if devices else "cpu")
    return model.device if processes is None else processes.device


def output_head(model: Any) -> nn.Module:
    """The module that maps hidden states to the vocabulary.

    Raises:
        ValueError: the model offers none.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None:
        raise InputError(
            f"{type(model).__name__} has no output head: expected a causal language model whose "
            "get_output_embeddings() gives one; load it with AutoModelForCausalLM"
        )
    return head


def head_width(model: Any) -> int:
    """Rows of the output head: ids from here on can never be predicted."""
    head: Any = output_head(model)
    # ZeRO-3 leaves no rows in the weight itself
    return int(getattr(head, "out_features", None) or head.weight.shape[0])


def input_rows(model: Any) -> int:
    """Rows of the input embedding: ids from here on cannot be read."""
    embedding: Any = model.get_input_embeddings()
    size = getattr(embedding, "num_embeddings", None)
    return int(size or model.config.get_text_config().vocab_size)


def prefers_padding_free(model: Any) -> bool:
    """Whether packed rows are the faster way, if they stay apart: flash never meets other rows."""
    attention = getattr(model.config, "_attn_implementation", None) or ""
    return attention.startswith("flash_attention")


def to_host(numbers: Sequence[torch.Tensor]) -> list[int]:
    """The values of scalar tensors; of each device one copy, since the host waits for each."""
    found = [0] * len(numbers)
    by_device: dict[torch.device, list[int]] = {}
    for place, number in enumerate(numbers):
        by_device.setdefault(number.device, []).append(place)
    for places in by_device.values():
        values = torch.stack([numbers[place] for place in places]).tolist()
        for place, value in zip(places, values, strict=True):
            found[place] = value
    return found


_INTEGER_OF_SIZE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """The model without its adapters (PEFT); what was frozen in them is so again behind it.

    `disable_adapter` itself leaves every active adapter trainable.
    """
    trainable = [(p, p.requires_grad) for p in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter, was_trainable in trainable:
            parameter.requires_grad_(was_trainable)


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds only its part (FSDP2 or ZeRO-3)."""
    return any(_is_part(tensor) for tensor in model.parameters())


def _is_part(tensor: Any) -> bool:
    if hasattr(tensor, "ds_tensor"):  # ZeRO-3; gathered, it has all its values
        return tensor.numel() != tensor.ds_numel
    return hasattr(tensor, "to_local")


def weights_checksum(model: nn.Module, accelerator: Processes = None) -> int:
    """A number below 2**40 for these weights and buffers; equal weights give equal numbers.

    Args:
        accelerator: where ranks hold shards, who they are: the number is then of all of them, and
            the same on every rank.
    """
    sums: list[torch.Tensor] = []
    for tensor in (*model.parameters(), *model.buffers()):
        if _is_part(tensor):
            tensor = getattr(tensor, "ds_tensor", tensor)  # ZeRO-3's own shard
        tensor = tensor.detach()
        tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # FSDP2's
        bits = _INTEGER_OF_SIZE.get(tensor.element_size())
        if bits is not None and not tensor.is_complex():
            sums.append(tensor.contiguous().view(bits).sum(dtype=torch.int64))
    total = sum((2 * place + 1) * value for place, value in enumerate(to_host(sums))) % 2**40
    return int(sum_over_ranks(np.array([total], dtype=np.float64), accelerator)[0])
