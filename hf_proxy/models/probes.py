"""What a model lets a token see, measured on the model itself: its future, other rows of its line.

Neither is a matter of an architecture's name, signature or attention implementation: masks are
built in a hundred ways, and some drop `position_ids` without a word. So known tokens are changed,
and the logits that must not notice are read.

What is found is kept for each model object and holds while its weights move: whether a token
reaches another is decided by masks and by the order of operations, the weights only say how much
of it arrives. Where these weights let nothing arrive at all (a first step from zeros), nothing was
shown, and nothing is kept.
"""

import logging
import math
import re
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_proxy.models.adapters import active_config, needs_rows_apart
from hf_proxy.models.batching import TokenBatch
from hf_proxy.models.logits import read_logits
from hf_proxy.models.parallel import Processes, merge_over_ranks, num_processes
from hf_proxy.models.positions import length_kinds, window_of
from hf_proxy.records.errors import InputError

logger = logging.getLogger(__name__)

# spacings of the dtype at the largest logit. Two forwards of one shape differ by none, unless what
# changed arrives, or experts share their work; of two shapes, by rounding
SAME_SHAPE, OTHER_SHAPE = 1, 8
NOISE_FACTOR = 4  # times what is measured of the model's own rounding, where that is more
# chosen here: prime, so that it ends inside a block of any model that looks ahead within blocks
ROW_TOKENS = 23
PAST_WINDOW = 8  # tokens of a row beyond the window that it must outrun
NUM_FIRST, NUM_LAST = 8, 24  # positions of a row that are read: [32, V] in place of [T, V]
NUM_BEFORE = 8  # positions in front of the change that a model that looks ahead would move
_WINDOWS = re.compile("window|chunk|block_size|local_attention|conv_kernel|l_cache")

# by model object: what was found, under which circumstances
_found: weakref.WeakKeyDictionary[nn.Module, dict[tuple, Any]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class _Sight:
    """How far a logit moved, in spacings.

    Attributes:
        ahead: with later tokens of its row.
        behind: with earlier ones.
        noise: with another row of its batch, which no model sees.
    """

    ahead: float
    behind: float
    noise: float

    @property
    def is_causal(self) -> bool:
        """Whether what moved with later tokens is rounding."""
        return not self.ahead > max(SAME_SHAPE, NOISE_FACTOR * self.noise)

    @property
    def sees(self) -> bool:
        """Whether these weights let anything arrive at all."""
        return self.behind > max(SAME_SHAPE, NOISE_FACTOR * self.noise)


def require_causal(model: Any, *, device: torch.device, processes: Processes = None) -> None:
    """Refuse a model in which a later token moves an earlier logit.

    Args:
        model: as `scoring_mode` yields it.
        processes: where each forward is a collective, all that take part; every one must call.

    Raises:
        InputError: it looks ahead.
    """
    sight = _sight(model, device, processes)
    if not sight.is_causal:
        raise InputError.at(
            f"{type(model).__name__} is not causal: a later token moves an earlier logit by "
            f"{sight.ahead:.3g} spacings of its precision, so it has no next-token probabilities",
            remedy="give a causal language model (of the BERT kinds: one with is_decoder=True)",
        )


def why_not_packed(
    model: Any, *, longest: int, device: torch.device, processes: Processes = None
) -> str:
    """Why rows in one line, told apart by restarting positions, do not stay apart; "" if they do.

    Two rows stand in one line. With another first row the logits of the second may not move, and
    must be those that it has in a line of its own.

    Args:
        model: as `scoring_mode` yields it.
        longest: tokens of the longest line to come; a window that no line outruns is left alone.
        processes: see `require_causal`.
    """
    if needs_rows_apart(model):
        kind = active_config(model).peft_type.value
        return f"{type(model).__name__} with an adapter of type {kind} takes a line for one row"
    num_tokens = _row_tokens(model, longest)
    sees = _sight(model, device, processes).sees
    key = (*_circumstances(model, device, processes), "packed", num_tokens)
    known = _found.setdefault(model, {})
    if key in known:
        return known[key]
    worst, moved_by = _worst(_packed_moved(model, num_tokens, device), processes)
    found = ""
    if worst > 1:
        moved = f" (logits move by {moved_by:.3g} spacings)" if math.isfinite(moved_by) else ""
        attention = getattr(model.config, "_attn_implementation", None)
        found = (
            f"{type(model).__name__} with attention {attention!r} cannot tell packed rows "
            f"apart{moved}"
        )
    if sees:
        known[key] = found
    return found


def _sight(model: Any, device: torch.device, processes: Processes) -> _Sight:
    """Whether logits move with later tokens, and whether with earlier ones."""
    key = (*_circumstances(model, device, processes), "sight")
    known = _found.setdefault(model, {})
    if key in known:
        return known[key]
    window = window_of(model)
    num_tokens = ROW_TOKENS if window is None else min(ROW_TOKENS, window // 2)
    if num_tokens < 1:
        return _Sight(0.0, 0.0, 0.0)
    row, later, other = _rows(model, num_tokens)
    other[-1] = later[-1]  # its own token stays, so only what it sees can move its logit
    places = [*range(max(0, num_tokens - NUM_BEFORE), num_tokens), 2 * num_tokens - 1]
    here, there, beside = (
        _head_output(model, [row + tail, neighbour], None, places, device)
        for tail, neighbour in (
            (later, later + row),
            (other, later + row),
            (later, other + row),
        )
    )
    moved = spacings(here - there, model, here)
    noise = spacings(here - beside, model, here)
    # the middle one of the positions before the change: what looks ahead moves them all, while
    # an expert chosen otherwise by a rounding moves one
    ahead = float(moved[:-1].median())
    sight = _Sight(*_worst([ahead, float(moved[-1]), float(noise.median())], processes))
    if sight.sees:
        known[key] = sight
    return sight


def _packed_moved(model: Any, num_tokens: int, device: torch.device) -> list[float]:
    """How far the second row of a line is moved by the first, or by standing there.

    Every rank runs the same forwards.

    Returns:
        the worse of the two in parts of what it may move, and in spacings; infinite where the model
        does not take such a line.
    """
    row, first, other = _rows(model, num_tokens)
    positions = [*range(num_tokens)] * 2
    here = sorted({*range(min(NUM_FIRST, num_tokens))} | {*range(num_tokens)[-NUM_LAST:]})
    behind = [num_tokens + place for place in here]
    # more tokens behind it round it otherwise, as the line will; unless they turn its angles too
    window = window_of(model)
    kinds = length_kinds(model, [num_tokens, 2 * num_tokens])
    longer = kinds[0] == kinds[1] and (window is None or 2 * num_tokens <= window)
    try:
        alone = _head_output(model, [row], None, here, device)
        beside = _head_output(model, [row + first] if longer else [row, first], None, here, device)
        packed = _head_output(model, [first + row], positions, behind, device)
        with_other = _head_output(model, [other + row], positions, behind, device)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        logger.info("%s takes no packed line: %s", type(model).__name__, error)
        return [math.inf, math.inf]
    shape, stands, leaks = (
        float(spacings(one - two, model, alone).max())
        for one, two in ((alone, beside), (alone, packed), (packed, with_other))
    )
    if math.isnan(stands + leaks):
        return [math.inf, math.inf]
    may_leak, may_stand = (max(s, NOISE_FACTOR * shape) for s in (SAME_SHAPE, OTHER_SHAPE))
    return [max(leaks / may_leak, stands / may_stand), max(leaks, stands)]


def _head_output(
    model: Any,
    lines: list[list[int]],
    positions: list[int] | None,
    places: list[int],
    device: torch.device,
) -> Tensor:
    """What the head gives at some places of the first line, `[P, V]`."""
    width = len(lines[0])
    index_N = torch.tensor([*places, *range(2 * width - 1, len(lines) * width, width)])
    batch = TokenBatch(
        torch.tensor(lines),
        None if positions is None else torch.tensor([positions]),
        index_N,
        torch.zeros_like(index_N),
        [len(places)] + [1] * (len(lines) - 1),
        list(range(len(lines))),
    )
    parts: list[Tensor] = []

    def keep(head_CV: Tensor, where: slice) -> None:
        parts.append(head_CV.to(torch.promote_types(head_CV.dtype, torch.float32), copy=True))

    read_logits(model, batch, keep, device=device)
    return torch.cat(parts)[: len(places)]


def spacings(moved_PV: Tensor, model: Any, logits_PV: Tensor) -> Tensor:
    """The largest move at each place, in spacings of the coarsest dtype at the largest logit."""
    # many models round to float32 in their norms, whatever the dtype of their weights
    dtypes = {torch.float32, model.dtype, *(p.dtype for p in model.parameters())}
    if torch.is_autocast_enabled(logits_PV.device.type):
        dtypes.add(torch.get_autocast_dtype(logits_PV.device.type))
    # of 8 bits and less are only weights, which are unpacked before they compute
    eps = max(torch.finfo(d).eps for d in dtypes if d.is_floating_point and d.itemsize > 1)
    size = logits_PV.abs()
    largest = size[size < 1e30].max() if bool((size < 1e30).any()) else size.new_tensor(1.0)
    return moved_PV.abs().amax(-1) / (eps * largest).clamp(min=torch.finfo(torch.float32).tiny)


def _worst(numbers: list[float], processes: Processes) -> list[float]:
    """The largest of each number over the ranks, on every rank, so that all decide alike."""
    ranks = num_processes(processes)
    if ranks == 1:
        return numbers
    assert processes is not None
    of_ranks = np.zeros((ranks, len(numbers)))
    of_ranks[processes.process_index] = numbers
    return merge_over_ranks(of_ranks, processes).max(0).tolist()


def _circumstances(model: Any, device: torch.device, processes: Processes) -> tuple:
    """What besides the weights decides it and can change on one object."""
    return (
        getattr(model.config, "_attn_implementation", None),
        str(getattr(model, "active_adapter", None)) if hasattr(model, "peft_config") else None,
        getattr(model, "_adapters_disabled", None),
        model.dtype,
        device.type,
        num_processes(processes),
    )


def _row_tokens(model: Any, longest: int) -> int:
    """Tokens of a row that outruns the model's smallest window, where lines will."""
    windows = [w for w in _windows(model.config.to_dict()) if 1 < w < longest]
    short = max(1, min(ROW_TOKENS, longest // 2))  # no line of two outruns what no line will
    num_tokens = max(short, min(windows, default=-PAST_WINDOW) + PAST_WINDOW)
    window = window_of(model)
    return num_tokens if window is None else min(num_tokens, window)


def _windows(entries: Any) -> Iterator[int]:
    """Every number of a config that says how far something reaches."""
    for name, value in entries.items():
        if isinstance(value, dict):
            yield from _windows(value)
        elif _WINDOWS.search(str(name)):
            values = value if isinstance(value, list) else [value]
            yield from (v for v in values if type(v) is int)


def _rows(model: Any, num_tokens: int) -> tuple[list[int], list[int], list[int]]:
    """Three rows of ordinary ids; the last two differ at every place."""
    ids = ordinary_ids(model)
    # a generator of its own: the process's streams stay
    row, one = np.random.default_rng(0).integers(len(ids), size=(2, num_tokens)).tolist()
    other = [(place + max(1, len(ids) // 2)) % len(ids) for place in one]
    return [ids[i] for i in row], [ids[i] for i in one], [ids[i] for i in other]


def ordinary_ids(model: Any) -> list[int]:
    """Ids that the model reads and on which its config acts in no way of its own."""
    size = getattr(model.get_input_embeddings(), "num_embeddings", None)
    size = size or model.config.get_text_config().vocab_size
    special = set(_ids_with_a_meaning(model.config.to_dict()))
    return [token for token in range(min(size, 4096)) if token not in special] or [0]


def _ids_with_a_meaning(entries: Any) -> Iterator[int]:
    """Ids that a config gives a role (padding, ends, images), on which a model may act."""
    for name, value in entries.items():
        if isinstance(value, dict):
            yield from _ids_with_a_meaning(value)
        elif re.search("_(id|ids|index|idx)$", str(name)):
            values = value if isinstance(value, list) else [value]
            yield from (v for v in values if type(v) is int)
