"""Work shared among processes: balanced shards, sums over ranks, and stopping together.

A callback must not use `gather_for_metrics`: inside training it cuts gathered values to the length
of the training batch. Here every rank writes into its own rows of a zero matrix and one SUM merges
them, which is exact for any number of ranks, because x + 0 is x.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object, reduce

from hf_proxy.records.errors import InputError

# what shares the work: an Accelerator, or the bare state of the processes where there is none
Processes: TypeAlias = Accelerator | PartialState | None


def num_processes(accelerator: Processes) -> int:
    """Processes that share the work; without an accelerator this one does all of it."""
    return 1 if accelerator is None else accelerator.num_processes


def is_main(accelerator: Processes) -> bool:
    """Whether this process speaks: progress bars, tables, files."""
    return accelerator is None or accelerator.is_main_process


def balanced_shards(costs: Sequence[int], num_shards: int) -> list[list[int]]:
    """Deal indices to shards of about equal summed costs: dearest first, to the poorest shard.

    Every index lands in exactly one shard, which may be empty; within it the dearest come first.
    """
    shards: list[list[int]] = [[] for _ in range(num_shards)]
    loads = [0] * num_shards
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        shard = loads.index(min(loads))
        shards[shard].append(index)
        loads[shard] += costs[index]
    return shards


def sum_over_ranks(array: np.ndarray, accelerator: Processes) -> np.ndarray:
    """The elementwise float64 sum of every rank's `array` (same shape everywhere)."""
    if num_processes(accelerator) == 1:
        return array
    assert accelerator is not None
    tensor = torch.from_numpy(array).to(accelerator.device)
    return reduce(tensor, reduction="sum").cpu().numpy()


def require_equal(value: str, accelerator: Processes, *, what: str, remedy: str) -> None:
    """Raise on every rank when the ranks do not hold the same `value`."""
    if num_processes(accelerator) == 1:
        return
    values = gather_object([value])
    odd = [rank for rank, theirs in enumerate(values) if theirs != values[0]]
    if odd:
        raise InputError.at(f"{what} differs between rank 0 and rank {odd[0]}", remedy=remedy)


@contextmanager
def stop_together(accelerator: Processes) -> Iterator[None]:
    """Where the body fails on one rank, raise on all: the others would wait for it for ever.

    The failing rank raises its own error. The others raise an `InputError` with the same line when
    it was one, else a `RuntimeError` that names the rank. Every rank must enter and leave the
    block.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    if num_processes(accelerator) > 1:
        kind = "" if failure is None else type(failure).__name__
        reports = gather_object([(kind, str(failure), isinstance(failure, InputError))])
        if failure is None:
            for rank, (kind, message, is_input) in enumerate(reports):
                if is_input:
                    raise InputError(message)
                if kind:
                    raise RuntimeError(f"rank {rank} stopped with {kind}: {message}")
    if failure is not None:
        raise failure
