"""Sharded weights (FSDP2, ZeRO-3) within reach of ranks that do unequal work.

Each forward through shards is a collective, and ranks that write texts need unequal numbers of
them. Either every weight stands whole on each process meanwhile, and no collective runs; or ranks
that have nothing to do keep step with those that have.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast, get_args

import torch
from accelerate.utils import reduce
from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

from hf_proxy.models.access import has_shards, is_sharded, scoring_mode, unwrapped
from hf_proxy.models.adapters import num_virtual_tokens
from hf_proxy.models.parallel import Processes, num_processes
from hf_proxy.records.errors import InputError

Gather = Literal["whole", "shards"]

_in_reach: list[nn.Module] = []  # sharded models whose forwards may be unequal now


def check_gather(gather: str) -> None:
    """Refuse what is none of the two ways."""
    if gather not in get_args(Gather):
        raise InputError(f"gather must be one of {get_args(Gather)}, not {gather!r}")


def is_in_reach(model: Any) -> bool:
    """Whether this process may run a forward of the model while the others do something else."""
    bare = unwrapped(model)
    return not has_shards(bare) or any(bare is other for other in _in_reach)


@contextmanager
def weights_in_reach(model: Any, gather: str, processes: Processes) -> Iterator[None]:
    """Inside, each rank runs as many forwards as it likes; nothing else of it may be a collective.

    Every rank must enter and leave; a rank that fails inside lets the others end their work. Where
    no weights are sharded nothing is done.

    Args:
        gather: `"whole"`: one whole model on each process meanwhile; `"shards"`: forwards through
            the shards, of which every rank runs as many as the busiest.

    Raises:
        InputError: FSDP1; `in_lockstep` names more.
    """
    check_gather(gather)
    bare = unwrapped(model)
    if not has_shards(bare):  # those of a forward just before may be gathered still
        yield
        return
    if any(isinstance(module, FullyShardedDataParallel) for module in bare.modules()):
        raise InputError.at(
            "FSDP1 runs no forward of a model whose weights it has gathered",
            remedy="use FSDP2 (fsdp_version: 2), ZeRO-3 or DDP, or mine with one process",
        )
    _find_root(bare)
    way = whole_weights(bare) if gather == "whole" else in_lockstep(bare, processes)
    with way:
        _in_reach.append(bare)
        try:
            yield
        finally:
            _in_reach.remove(bare)


def _find_root(model: Any) -> None:
    """Under PEFT `generate` calls the model inside; FSDP2 takes what it sees first for the root."""
    inner = _inside(model)
    if inner is not model and isinstance(model, FSDPModule):
        with scoring_mode(cast(nn.Module, model)) as bare:
            bare(input_ids=_one_token(bare), use_cache=False)


def _inside(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _one_token(model: Any) -> torch.Tensor:
    return torch.zeros((1, 1), dtype=torch.int64, device=model.device)


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Every weight whole on this process, and forwards that are no collectives.

    FSDP2: each group is gathered, and told to stay so. ZeRO-3: parameters are gathered, and
    DeepSpeed's hooks, which would let them go behind each forward, are laid aside.
    """
    with _gathered_groups(model), _gathered_partitions(model):
        assert not is_sharded(model)
        yield


@contextmanager
def _gathered_groups(model: nn.Module) -> Iterator[None]:
    """FSDP2."""
    with _gathered([module for module in model.modules() if isinstance(module, FSDPModule)]):
        yield


@contextmanager
def _gathered(modules: list[Any]) -> Iterator[None]:
    # there is no public way to read what `set_reshard_after_forward` has set
    groups: list[Any] = [g for m in modules for g in m._get_fsdp_state()._fsdp_param_groups]
    before = [group.post_forward_mesh_info for group in groups]
    try:
        for module in modules:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        yield
    finally:
        for group, info in zip(groups, before, strict=True):
            group.post_forward_mesh_info = info
        for module in modules:
            module.reshard()


@contextmanager
def _gathered_partitions(model: nn.Module) -> Iterator[None]:
    """ZeRO-3."""
    partitioned: list[Any] = [p for p in model.parameters() if hasattr(p, "ds_tensor")]
    if not partitioned:
        yield
        return
    import deepspeed

    for parameter in partitioned:  # of the last forward; DeepSpeed keeps what is active
        parameter.ds_active_sub_modules.clear()
    with (
        deepspeed.zero.GatheredParameters(partitioned, modifier_rank=None),
        _without_hooks_of_deepspeed(model.modules()),
    ):
        yield


@contextmanager
def _without_hooks_of_deepspeed(modules: Iterable[nn.Module]) -> Iterator[None]:
    """The forward hooks that its engine has put there lie aside, and come back in their order."""
    kept: list[tuple[dict, dict]] = []
    try:
        for module in modules:
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                kept.append((hooks, dict(hooks)))
            for hooks, number in _hooks_of_deepspeed(module):
                del hooks[number]
        yield
    finally:
        for hooks, before in kept:
            hooks.clear()
            hooks.update(before)


def _hooks_of_deepspeed(module: nn.Module) -> list[tuple[dict, int]]:
    """Where they are kept, and under which number."""
    return [
        (hooks, number)
        for hooks in (module._forward_pre_hooks, module._forward_hooks)
        for number, hook in hooks.items()
        if str(getattr(hook, "__module__", "")).startswith("deepspeed.")
    ]


@contextmanager
def in_lockstep(model: Any, processes: Processes) -> Iterator[None]:
    """Forwards through the shards, each a collective, of which ranks want unequal numbers.

    Every forward is announced. A rank that is done with its own answers each further one with a
    forward of one token, until none is announced any more.

    Raises:
        InputError: an adapter of virtual tokens, whose own weights a forward of the model inside
            does not touch; weights that ZeRO-3 has partitioned without an engine.
    """
    if num_virtual_tokens(model):
        raise InputError.at(
            "an adapter of virtual tokens does not write through shards",
            remedy="set gather='whole', or use an adapter of another type",
            field="gather",
        )
    partitioned = any(hasattr(parameter, "ds_tensor") for parameter in model.parameters())
    if partitioned and not any(map(_hooks_of_deepspeed, model.modules())):
        raise InputError.at(
            "the weights are in parts, and no engine gathers them before the training begins",
            remedy="set gather='whole'",
            field="gather",
        )
    inner = _inside(model)
    inside = set(inner.modules())
    around = [module for module in model.modules() if module not in inside]

    def announce(*_: Any) -> None:
        _anyone(True, processes)

    # `generate` calls the model inside, past what PEFT has put around it: ranks of which one writes
    # and one scores must run the same collectives
    with (
        scoring_mode(model) as bare,
        _gathered([bare] if isinstance(bare, FSDPModule) and inner is not bare else []),
        _without_hooks_of_deepspeed(around),
    ):
        handle = inner.register_forward_pre_hook(announce, prepend=True)
        try:
            yield
        finally:
            handle.remove()
            while _anyone(False, processes):
                inner(input_ids=_one_token(bare), use_cache=False)


def _anyone(wants: bool, processes: Processes) -> bool:
    if num_processes(processes) == 1:
        return wants
    assert processes is not None
    flag = torch.tensor([int(wants)], device=processes.device)
    return bool(reduce(flag, reduction="sum").item())


def made_whole(model: Any) -> Any:
    """A model that was loaded in parts, whole from now on; one that is whole stays as it is.

    Once ZeRO-3 has been set up, whatever is loaded is partitioned as it loads. What is trained is
    put together by its engine; an amateur has none. Every rank must call.
    """
    whole: dict[int, nn.Parameter] = {}  # tied weights stay tied
    with _gathered_partitions(model):
        for parameter in model.parameters():
            if hasattr(parameter, "ds_tensor"):
                content = parameter.detach().clone()
                whole[id(parameter)] = nn.Parameter(content, parameter.requires_grad)
    for module in model.modules():
        own = module._parameters
        own.update({name: whole.get(id(held), held) for name, held in own.items()})  # type: ignore[arg-type]
    return model


@contextmanager
def on_device(model: Any, device: torch.device, *, offload: bool) -> Iterator[None]:
    """A model that is needed for a while only, on this device.

    Args:
        offload: whether it goes back to where it was.
    """
    before = model.device
    moved(model, device)
    try:
        yield
    finally:
        if offload:
            moved(model, before)


def moved(model: Any, device: Any) -> Any:
    """The model on this device; what a `device_map` has placed, or was quantized, stays."""
    stays = getattr(model, "hf_device_map", None) or getattr(model, "is_quantized", False)
    return model if stays else model.to(device)
