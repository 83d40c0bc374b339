"""A model as it is: unwrapped, in eval mode, its head, its weights."""

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate.utils import is_compiled_module
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Replicate

from hf_proxy.models.parallel import Processes, is_main, sum_over_ranks
from hf_proxy.records.errors import InputError


def unwrapped(model: nn.Module) -> Any:
    """The model without DDP, DeepSpeed or `torch.compile` wrapper.

    FSDP2 is none, and FSDP1's stays: its weights are gathered in its own forward.
    """
    wrappers: tuple = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    # not imported here: whoever holds an engine has done so
    if (deepspeed := sys.modules.get("deepspeed")) is not None:
        wrappers += (deepspeed.DeepSpeedEngine,)
    bare: Any = model
    while True:
        if is_compiled_module(bare) or "_orig_mod" in vars(bare):  # whole, or layer by layer
            bare = bare._orig_mod
        elif isinstance(bare, wrappers):
            bare = bare.module
        else:
            return bare


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
    # a weight whose rows are elsewhere has none itself
    return int(getattr(head, "out_features", None) or _whole_shape(head.weight)[0])


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


def _fsdp1_units(model: nn.Module) -> list[Any]:
    """Flattened weights of each module that FSDP1 wraps."""
    modules = (m for m in model.modules() if isinstance(m, FullyShardedDataParallel))
    # nothing public tells of a shard beside what is gathered
    return [m._handle.flat_param for m in modules if m._handle is not None]


def _fsdp2_shards(model: nn.Module) -> dict[int, Tensor]:
    """Shard of each weight that FSDP2 has gathered, by the identity of what was gathered.

    A gathered one may have another precision than its shard, which is what is trained.
    """
    states = (m._get_fsdp_state() for m in model.modules() if isinstance(m, FSDPModule))
    groups = (group for state in states for group in state._fsdp_param_groups)
    params = (param for group in groups for param in group.fsdp_params)
    return {
        id(param._unsharded_param): param.sharded_param
        for param in params
        if hasattr(param, "_unsharded_param")
    }


def _zero_shard(tensor: Any) -> Tensor:
    """This rank's part of a weight under ZeRO-3, without what fills up the last one."""
    part = tensor.ds_tensor.reshape(-1)
    before = dist.get_rank(tensor.ds_process_group) * len(part)
    return part[: max(0, tensor.ds_numel - before)]


def _whole_shape(tensor: Any) -> torch.Size:
    """The shape that a parameter has where it is whole: ZeRO-3 leaves none in the tensor itself."""
    return getattr(tensor, "ds_shape", tensor.shape)


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds only its part (FSDP1, FSDP2, ZeRO-3, tensor parallel) now."""
    return bool(_fsdp1_units(model)) or any(
        isinstance(tensor, DTensor) or tensor.shape != _whole_shape(tensor)
        for tensor in model.parameters()
    )


def has_shards(model: nn.Module) -> bool:
    """Whether this process holds only its part, though the whole may be gathered now."""
    gathered = _fsdp2_shards(model)
    return is_sharded(model) or any(
        id(tensor) in gathered or hasattr(tensor, "ds_tensor") for tensor in model.parameters()
    )


def trained_dtype(model: Any) -> torch.dtype:
    """Precision of the weights as they are trained: FSDP2 may gather them in another."""
    shards = _fsdp2_shards(model)
    dtypes = [shards[id(p)].dtype for p in model.parameters() if id(p) in shards]
    return next((dtype for dtype in dtypes if dtype.is_floating_point), model.dtype)


def num_parameters(model: nn.Module) -> int:
    """Of the whole model, whatever part of it this process holds."""
    flat = _fsdp1_units(model)
    managed = {id(tensor) for unit in flat for tensor in (unit, *(unit._params or ()))}
    shapes = [shape for unit in flat for shape in unit._shapes]
    shapes += [_whole_shape(p) for p in model.parameters() if id(p) not in managed]
    return sum(map(math.prod, shapes))


def weights_checksum(model: nn.Module, accelerator: Processes = None) -> int:
    """A number below 2**40 for these weights and buffers; equal weights give equal numbers.

    The same for whole weights as for shards, and whatever of them is gathered at the time: each
    value is counted on one rank. (FSDP1, which flattens its weights, has numbers of its own.)

    Args:
        accelerator: where ranks hold shards, who they are: the number is then of all of them, and
            the same on every rank.
    """
    parts = (part for part in _own_parts(model, accelerator) if not part.is_complex())
    sums = [
        part.contiguous().view(bits).sum(dtype=torch.int64)
        for part in parts
        if (bits := _INTEGER_OF_SIZE.get(part.element_size()))
    ]
    total = sum((2 * place + 1) * value for place, value in enumerate(to_host(sums)))
    totals = np.array([total % 2**40], dtype=np.float64)
    return int(sum_over_ranks(totals, accelerator)[0]) % 2**40


def _own_parts(model: nn.Module, accelerator: Processes) -> Iterator[Tensor]:
    """Of each parameter and buffer what is counted on this rank, possibly nothing of it."""
    flat = _fsdp1_units(model)
    managed = {id(tensor) for unit in flat for tensor in (unit, *(unit._params or ()))}
    # kept beside what is gathered, from the first forward on
    yield from (getattr(unit, "_local_shard", unit).detach() for unit in flat)
    sharded = _fsdp2_shards(model)
    for gathered in (*model.parameters(), *model.buffers()):
        if id(gathered) in managed:
            continue
        tensor: Any = sharded.get(id(gathered), gathered)
        if hasattr(tensor, "ds_tensor"):  # ZeRO-3 keeps it beside the gathered weight
            yield _zero_shard(tensor).detach()
        elif isinstance(tensor, DTensor):
            # of copies the first counts: along a dimension of the mesh, and of several meshes
            mesh = tensor.device_mesh
            copies = zip(mesh.get_coordinate() or (), tensor.placements, strict=False)
            counts = all(at == 0 for at, how in copies if isinstance(how, Replicate))
            counts = counts and bool((mesh.mesh == 0).any())
            yield tensor.to_local().detach().reshape(-1)[: None if counts else 0]
        else:
            yield tensor.detach().reshape(-1)[: None if is_main(accelerator) else 0]
