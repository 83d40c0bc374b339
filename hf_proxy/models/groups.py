"""Which prompts may be written after together, so that each gets what it gets alone."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from hf_proxy.models.access import head_width
from hf_proxy.models.adapters import is_across_rows, num_virtual_tokens
from hf_proxy.models.positions import writing_kinds
from hf_proxy.models.probes import NOISE_FACTOR, OTHER_SHAPE, ordinary_ids, spacings

NUM_ROWS, ROW_TOKENS, PADDING = 3, 11, 6  # of the probe; chosen here

# by model object, and by what can change on it
_moved: weakref.WeakKeyDictionary[nn.Module, dict[tuple, bool]] = weakref.WeakKeyDictionary()


def writing_groups(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    write: Callable[[list[list[int]], LogitsProcessorList, int], Any],
) -> list[list[int]]:
    """Places of `prompts` in groups.

    Virtual tokens stand before the padding and PEFT then counts it as text, and some models count
    padding as places (BART's decoder): such prompts meet only their equals in length. Rotary angles
    of a batch that go by its longest row are those of every row in it.

    Args:
        write: `write(prompts, processors, n)` writes n tokens after prompts in one padded batch.
    """
    lengths = [len(prompt) for prompt in prompts]
    if is_across_rows(model):
        return [[place] for place in range(len(lengths))]
    kinds: list[tuple] = list(writing_kinds(model, lengths, max_new_tokens))
    if len({*lengths}) > 1 and (num_virtual_tokens(model) or _padding_moves(model, write)):
        kinds = [(length,) for length in lengths]
    return [[place for place, own in enumerate(kinds) if own == kind] for kind in sorted({*kinds})]


def _padding_moves(
    model: Any, write: Callable[[list[list[int]], LogitsProcessorList, int], Any]
) -> bool:
    """Whether what a model gives after a prompt moves with the padding in front of it.

    Measured where it matters, in the model's own generation: rows of one length are written after
    with a neighbour of theirs, and with a longer one, twice, the second token from the cache.
    """
    key = (getattr(model.config, "_attn_implementation", None), model.dtype, model.device.type)
    known = _moved.setdefault(model, {})
    if key in known:
        return known[key]
    ids = ordinary_ids(model)
    # a generator of its own: the process's streams stay
    draw = np.random.default_rng(0).integers(len(ids), size=(NUM_ROWS + 3, ROW_TOKENS + PADDING))
    *rows, one, other, long = [[ids[i] for i in row] for row in draw.tolist()]
    rows = [row[:ROW_TOKENS] for row in rows]

    def scores(neighbour: list[int]) -> Tensor:
        seen = _Seen(ids[0], head_width(model))
        write([*rows, neighbour], LogitsProcessorList([seen]), 2)
        return torch.cat([step_BV[:NUM_ROWS] for step_BV in seen.scores])

    beside = scores(one[:ROW_TOKENS])
    noise = _worst_step(spacings(beside - scores(other[:ROW_TOKENS]), model, beside))
    moved = _worst_step(spacings(beside - scores(long), model, beside))
    known[key] = not moved <= max(OTHER_SHAPE, NOISE_FACTOR * noise)
    return known[key]


def _worst_step(moved_P: Tensor) -> float:
    """The step that moved most, by the middle one of its rows.

    An expert chosen otherwise by a rounding moves one row, a place moves all; and a model may read
    a padded prompt well, and go on from it badly (MiniMax's cache).
    """
    return float(moved_P.view(-1, NUM_ROWS).median(1).values.max())


class _Seen(LogitsProcessor):
    """Keeps the scores of each step, and has one token written whatever they are."""

    def __init__(self, token: int, width: int):
        self.scores: list[Tensor] = []
        self.others_V = torch.arange(width) != token

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.scores.append(scores.to(torch.promote_types(scores.dtype, torch.float32), copy=True))
        return scores.masked_fill(self.others_V.to(scores.device), -torch.inf)
