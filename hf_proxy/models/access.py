"""A model as it is: unwrapped, in eval mode, its head, its weights, what packing it allows."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn

from hf_proxy.models.adapters import needs_rows_apart
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
        for module, call in compiled:
            module._compiled_call_impl = call


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


def supports_padding_free(model: Any) -> bool:
    """Whether several rows in one line, told apart by restarting positions, stay apart.

    True of attention models in transformers (eager, sdpa and flash build their mask or their
    sequence bounds from `position_ids`, as long as `use_cache=False`); not of recurrent ones.
    """
    attention = getattr(model.config, "_attn_implementation", None) or ""
    known = attention in ("eager", "sdpa") or attention.startswith(("flash_attention", "kernels"))
    recurrent = any(getattr(module, "_is_stateful", False) for module in model.modules())
    takes_positions = "position_ids" in _forward_parameters(model)
    return known and not recurrent and takes_positions and not needs_rows_apart(model)


def prefers_padding_free(model: Any) -> bool:
    """Whether padding-free is also the faster way: attention that never meets other rows."""
    attention = getattr(model.config, "_attn_implementation", None) or ""
    return attention.startswith("flash_attention") and supports_padding_free(model)


def _forward_parameters(model: Any) -> dict[str, Any]:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return dict(inspect.signature(type(inner).forward).parameters)


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
    return any(
        hasattr(tensor, "ds_tensor") or hasattr(tensor, "to_local") for tensor in model.parameters()
    )


def weights_checksum(model: nn.Module, accelerator: Processes = None) -> int:
    """A number below 2**40 for these weights and buffers; equal weights give equal numbers.

    Args:
        accelerator: where ranks hold shards, who they are: the number is then of all of them, and
            the same on every rank.
    """
    sums = []
    for tensor in (*model.parameters(), *model.buffers()):
        tensor = getattr(tensor, "ds_tensor", tensor).detach()  # ZeRO-3's own shard
        tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # FSDP2's
        bits = _INTEGER_OF_SIZE.get(tensor.element_size())
        if bits is not None and not tensor.is_complex():
            sums.append(tensor.contiguous().view(bits).sum(dtype=torch.int64).cpu())
    total = sum((2 * place + 1) * int(value) for place, value in enumerate(sums)) % 2**40
    return int(sum_over_ranks(np.array([total], dtype=np.float64), accelerator)[0])
