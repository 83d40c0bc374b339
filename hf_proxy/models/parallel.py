"""Work shared among processes: balanced shards, sums over ranks, stopping and ending together.

A callback must not use `gather_for_metrics`: inside training it cuts gathered values to the length
of the training batch. Here every rank writes into its own rows of a zero matrix and one SUM of bits
merges them, which is exact for any number of ranks.
"""

import gc
import json
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FunctionType
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather, gather_object, reduce
from torch.nn.parallel import DistributedDataParallel

from hf_proxy.records.errors import InputError

# what shares the work: an Accelerator, or the bare state of the processes where there is none
Processes: TypeAlias = Accelerator | PartialState | None
Found = TypeVar("Found")
Item = TypeVar("Item")

# chosen here: the longest that a rank at its end waits for the others, and for its group to close
END_WAIT = timedelta(seconds=30)


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


def own_share(items: Sequence[Item], costs: Sequence[int], accelerator: Processes) -> list[Item]:
    """Those of `items` that this process does, in their order; dealt by what each is to cost."""
    shards = balanced_shards(costs, num_processes(accelerator))
    rank = 0 if accelerator is None else accelerator.process_index
    return [items[place] for place in sorted(shards[rank])]


def sum_over_ranks(array: np.ndarray, accelerator: Processes) -> np.ndarray:
    """The elementwise float64 sum of every rank's `array` (same shape everywhere).

    Added on the host in the order of the ranks, so the same to the last bit on all of them. What
    travels are the bits, as integers: there are accelerators without float64.
    """
    if num_processes(accelerator) == 1:
        return array
    assert accelerator is not None
    everyone = gather(_bits(array).flatten().to(accelerator.device)).cpu()
    return everyone.numpy().view(np.float64).reshape(-1, *array.shape).sum(0)


def merge_over_ranks(array: np.ndarray, accelerator: Processes) -> np.ndarray:
    """As `sum_over_ranks` where one rank at most has a number at a place, and the others 0.0.

    For tables of any size: nothing is held once for each rank. Exact, because the bits of 0.0 are
    those of the integer 0.
    """
    if num_processes(accelerator) == 1:
        return array
    assert accelerator is not None
    merged = reduce(_bits(array).to(accelerator.device), reduction="sum").cpu()
    return merged.numpy().view(np.float64)


def _bits(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64).view(np.int64))


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
                if kind:
                    raise _failure_of(rank, kind, message, is_input)
    if failure is not None:
        raise failure


class FirstError:
    """Errors between collectives that every rank has to join: `with later:` as often as needed.

    The first is remembered, to be raised, under `stop_together`, when the last collective is done.
    """

    error: Exception | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Exception) and self.error is None:
            self.error = error
        return isinstance(error, Exception)


def from_main(processes: Processes, work: Callable[[], Found]) -> Found:
    """What `work` gives on the main process, told to all; only that one does it.

    Every rank must call. Where files are read: on several nodes the others may not see them, and a
    rank that looked later could see something else.

    Raises:
        as `stop_together`: an error of the main process reaches all.
    """
    found: list = [None]
    with stop_together(processes):
        if is_main(processes):
            found = [work()]
    if num_processes(processes) > 1:
        broadcast_object_list(found)
    return found[0]


@contextmanager
def end_together() -> Iterator[None]:
    """The end of a script on several processes: `with end_together(): main()`, and nothing after.

    Raises:
        Exception: what `end_processes` gives.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    failure = end_processes(failure)
    if failure is not None:
        raise failure


def end_processes(
    failure: Exception | None = None, say: Callable[[Exception], None] | None = None
) -> Exception | None:
    """Close the group of processes, so that every rank ends, and all end alike.

    A worker thread of gloo needs the GIL to drop the tensors of a collective, at times long after
    the main thread has waited for it. An interpreter that ends meanwhile unwinds the thread through
    a destructor (SIGABRT, "terminate called without an active exception"), so the thread must be
    joined before. The destructor of the group joins it: without the GIL where Python held the last
    reference, but with the GIL where it was the `Reducer` of a wrapped model, and then both wait
    for ever. Hence wrapped models go first, then the group.

    The first failure is told through the store at which the ranks met, not by a collective: the
    others may be inside of one, which they leave when the failed rank closes its connections.

    Args:
        failure: what this rank stopped with. Its traceback stays, the locals of its frames go.
        say: tells the user; called on the rank whose failure was the first, before any rank ends.

    Returns:
        What this rank has to end with: its own failure, or that of the rank which failed first
        where this one was well or stopped with a RuntimeError, as of a connection closed by
        another. None where all were well. Without a group, `failure`; nothing is said.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return failure
    # the store outlives the group; there is no public way to it
    store = dist.distributed_c10d._get_default_store()
    rank, names = dist.get_rank(), [f"hf_proxy/ended/{n}" for n in range(dist.get_world_size())]
    first = None if failure is None else _first_failure(store, _report(rank, failure))
    if failure is not None:
        if say is not None and first == _report(rank, failure):
            say(failure)
        _drop_locals(failure)
        # a collective that the others never join may hold the group: it is left behind then
        closing = threading.Thread(target=_close_group, daemon=True)
        closing.start()
        closing.join(END_WAIT.total_seconds())
    # a store that its host has taken along tells nothing, and there is none to wait for
    with suppress(RuntimeError):
        store.set(names[rank], "")
        store.wait(names, END_WAIT)
    if failure is None:
        _close_group()
        first = _first_failure(store)
    if first is None or first["rank"] == rank:
        return failure
    if failure is None or isinstance(failure, RuntimeError):
        return _failure_of(**first)
    return failure


def _report(rank: int, failure: Exception) -> dict[str, Any]:
    return {
        "rank": rank,
        "kind": type(failure).__name__,
        "message": str(failure),
        "is_input": isinstance(failure, InputError),
    }


def _failure_of(rank: int, kind: str, message: str, is_input: bool) -> Exception:
    """The error of another rank, for this one to raise."""
    if is_input:
        return InputError(message)
    return RuntimeError(f"rank {rank} stopped with {kind}: {message}")


def _first_failure(store: dist.Store, mine: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """The report of the rank that failed first, `mine` if none did before."""
    with suppress(RuntimeError):
        if mine is not None or store.check(["hf_proxy/failure"]):
            return json.loads(store.compare_set("hf_proxy/failure", "", json.dumps(mine)))
    return mine


def _drop_locals(failure: BaseException | None) -> None:
    """Let go of what the frames of a failure hold: trainers, models, groups."""
    while failure is not None:
        traceback.clear_frames(failure.__traceback__)
        failure = failure.__cause__ or failure.__context__


def _close_group() -> None:
    """Destroy the group with no reference left to it but Python's own, which go with it."""
    gc.collect()  # trainer, accelerator and wrapped model hold each other
    # types are asked, not isinstance, which looks into lazy modules and dead proxies
    for thing in gc.get_objects():
        if issubclass(type(thing), DistributedDataParallel):
            for name in ("logger", "reducer", "process_group"):
                vars(thing).pop(name, None)
        elif type(thing) is FunctionType:
            values = thing.__defaults__ or ()
            # a module such as torch.distributed.nn that was imported while the group stood has it
            # as `group=group.WORLD`; None means the same
            if any(type(value) is dist.ProcessGroup for value in values):
                thing.__defaults__ = tuple(
                    None if type(value) is dist.ProcessGroup else value for value in values
                )
    dist.destroy_process_group()
