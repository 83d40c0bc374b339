"""Which ranks read rows of their own, and which the same ones, by the meshes of devices.

Data-parallel ranks, sharded or not (DDP, FSDP, HSDP, ZeRO), read different rows. Ranks that hold
parts of one layer (tensor, expert parallelism) must read the same ones: each computes its part of
the same logits, and with different rows the parts of two would be added up, silently.
"""

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from hf_proxy.models.parallel import Processes, num_processes
from hf_proxy.records.errors import InputError

# names that accelerate, transformers and torch's own examples give to dimensions of a mesh
_OWN_ROWS = ("dp", "fsdp", "hsdp", "dp_replicate", "dp_shard", "dp_shard_cp", "replicate", "shard")
_SAME_ROWS = ("tp", "ep")


class Readers(NamedTuple):
    """This rank among those that read rows of their own.

    Attributes:
        number: of groups whose ranks read the same rows; without such groups, of ranks.
        place: of this rank's group among them.
        counts: whether this rank's results are its group's; of the others they are copies.
    """

    number: int
    place: int
    counts: bool


def readers(model: nn.Module, processes: Processes) -> Readers:
    """How rows are dealt to ranks; every rank must call.

    Args:
        model: unwrapped.
        processes: that share the work; None: this one reads all rows, as those of its group do.

    Raises:
        InputError: a dimension of a mesh along which rows are neither dealt nor shared whole.
    """
    if num_processes(processes) == 1:
        return Readers(1, 0, True)
    assert processes is not None
    _refuse_cut_rows()
    rank = processes.process_index
    meshes = [mesh for mesh in _meshes(model) if _same_rows_dims(mesh, model)]
    if not meshes:
        return Readers(processes.num_processes, rank, True)
    first = min(_first_of_group(mesh, model) for mesh in meshes)
    every = gather_object([first])
    groups = sorted(set(every))
    return Readers(len(groups), groups.index(first), rank == first)


def refuse_same_rows(model: nn.Module, processes: Processes, what: str) -> None:
    """Refuse work whose rows are dealt to all ranks alike; every rank must call.

    Raises:
        InputError: ranks hold parts of one layer, and would have to read the same rows.
    """
    if num_processes(processes) > 1 and not _reads_alone(model, processes):
        raise InputError.at(
            f"{what} deals its rows to all processes, but those of a tensor-parallel model have to "
            "read the same rows",
            remedy="load the model without tensor parallelism (tp_plan, tp_size)",
        )


def _reads_alone(model: nn.Module, processes: Processes) -> bool:
    return readers(model, processes).number == num_processes(processes)


def _refuse_cut_rows() -> None:
    """Context and sequence parallelism cut a row between ranks, also outside of training."""
    parallelism = None
    if AcceleratorState._shared_state:
        parallelism = getattr(AcceleratorState(), "parallelism_config", None)
    for name in ("cp", "sp"):
        if parallelism is not None and getattr(parallelism, f"{name}_size", 1) > 1:
            raise InputError.at(
                "it cuts rows between processes, and each label is read from a whole row",
                remedy="set it to 1",
                field=f"parallelism_config {name}_size",
            )
    if "deepspeed" in sys.modules:
        from transformers.integrations.deepspeed import deepspeed_config

        size = ((deepspeed_config() or {}).get("tensor_parallel") or {}).get("autotp_size", 1)
        if isinstance(size, int) and size > 1:
            raise InputError.at(
                "DeepSpeed's ranks of a layer cannot be told from those of the data",
                remedy="set it to 1, or load the model with transformers' own tp_size",
                field="tensor_parallel autotp_size",
            )


def _meshes(model: nn.Module) -> Iterator[DeviceMesh]:
    """Each mesh that weights of the model lie on."""
    seen = []
    for parameter in model.parameters():
        if isinstance(parameter, DTensor) and parameter.device_mesh not in seen:
            seen.append(parameter.device_mesh)
            yield parameter.device_mesh
    # what FSDP2 has gathered is no part of a mesh while it is; the model's own tells the whole
    own: Any = getattr(model, "_device_mesh", None)
    if isinstance(own, DeviceMesh):
        yield own


def _same_rows_dims(mesh: DeviceMesh, model: nn.Module) -> list[int]:
    """Dimensions of a mesh along which ranks read the same rows."""
    if mesh.mesh_dim_names is None:  # made by hand: FSDP's own, or else of parallel layers
        is_fsdp = any(isinstance(module, FSDPModule) for module in model.modules())
        return [] if is_fsdp else [d for d in range(mesh.ndim) if mesh.size(d) > 1]
    found = []
    for d, name in enumerate(mesh.mesh_dim_names):
        if mesh.size(d) == 1 or name in _OWN_ROWS:
            continue
        if name not in _SAME_ROWS:
            raise InputError.at(
                f"its processes share a row in a way that is not known here: the mesh of devices "
                f"has a dimension {name!r} of {mesh.size(d)}",
                remedy=f"known are {', '.join((*_OWN_ROWS, *_SAME_ROWS))}",
            )
        found.append(d)
    return found


def _first_of_group(mesh: DeviceMesh, model: nn.Module) -> int:
    """The lowest rank of those that read the same rows as this one."""
    place = mesh.get_coordinate()
    assert place is not None, "a weight of this rank lies on a mesh without it"
    shared = _same_rows_dims(mesh, model)
    group = tuple(slice(None) if d in shared else at for d, at in enumerate(place))
    return int(mesh.mesh[group].min())
