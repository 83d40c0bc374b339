"""A model's weights as they are: a number that names them, shards, adapters off for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_proxy.parallel import Processes, sum_over_ranks

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
