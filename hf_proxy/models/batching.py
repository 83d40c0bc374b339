"""Rows of token ids into batches of about equal cost, right-padded or padding-free."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

# chosen here: 12 traces on one CPU thread took 4.65 s with these two limits and 6.01 s without
LEAST_TOKENS = 512
LEAST_FILL = 0.9  # of the longest row: beyond LEAST_TOKENS padding stays under 10 %


@dataclass(frozen=True)
class TokenBatch:
    """What one forward pass reads, and where its labels' logits will stand.

    Attributes:
        input_ids_BT: int64. Padded on the right with the row's own last token: attention is causal,
            so nothing before it can see the padding and no mask is needed.
        position_ids_BT: int64, restarting at 0 with each row, of a padding-free batch; None if
            padded.
        index_N: int64, places in `input_ids_BT.flatten()` whose logits predict the labels.
        label_N: int64 token ids.
        num_labels: labels of each row, in the order of `rows`; they sum to N.
        rows: which rows these are, as the caller numbers them.
    """

    input_ids_BT: torch.Tensor
    position_ids_BT: torch.Tensor | None
    index_N: torch.Tensor
    label_N: torch.Tensor
    num_labels: list[int]
    rows: list[int]


def group_by_tokens(
    lengths: Sequence[int],
    tokens_per_batch: int,
    *,
    padding_free: bool,
    kinds: Sequence[Hashable] | None = None,
) -> list[list[int]]:
    """Indices of `lengths` in groups of at most `tokens_per_batch` tokens, longest rows first.

    A padded group costs its longest row times its rows, a padding-free one the sum. A single row
    beyond the budget makes a group of its own. Rows much shorter than the longest start a new
    padded group once this one is worth a forward pass. Longest first: what runs out of memory does
    so at once.

    Args:
        kinds: of each row; rows of two kinds never share a group.
    """
    groups: list[list[int]] = []
    cost = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        joins = False
        if groups:
            longest = lengths[groups[-1][0]]
            joined = cost + (lengths[index] if padding_free else longest)
            alike = kinds is None or kinds[index] == kinds[groups[-1][0]]
            joins = (
                joined <= tokens_per_batch
                and alike
                and (padding_free or cost < LEAST_TOKENS or lengths[index] >= LEAST_FILL * longest)
            )
        if joins:
            groups[-1].append(index)
            cost = joined
        else:
            groups.append([index])
            cost = lengths[index]
    return groups


def token_batch(
    rows: Sequence[int],
    input_ids: Sequence[Sequence[int] | np.ndarray],
    label_starts: Sequence[int],
    *,
    padding_free: bool,
) -> TokenBatch:
    """One batch from whole rows of ids.

    Args:
        rows: the caller's numbers of these rows.
        input_ids: ids of each row, context and labels. The last id is a label only: nothing is
            predicted from it, so the forward pass ends before it.
        label_starts: first label position of each row, >= 1.
        padding_free: all rows in one line `[1, T]` with restarting positions; else padded to
            `[B, T]`.
    """
    ids = [torch.tensor(row, dtype=torch.int64) for row in input_ids]
    lengths = [len(row) - 1 for row in ids]
    if padding_free:
        input_ids_BT = torch.cat([row[:-1] for row in ids])[None]
        position_ids_BT = torch.cat([torch.arange(length) for length in lengths])[None]
        offsets = [sum(lengths[:i]) for i in range(len(lengths))]
    else:
        width = max(lengths)
        input_ids_BT = torch.stack(
            [
                torch.cat([row[:-1], row[-2:-1].expand(width - length)])
                for row, length in zip(ids, lengths, strict=True)
            ]
        )
        position_ids_BT = None
        offsets = [width * i for i in range(len(ids))]
    # the logits of position p stand at p - 1
    index_N = torch.cat(
        [
            torch.arange(offset + start - 1, offset + length)
            for offset, start, length in zip(offsets, label_starts, lengths, strict=True)
        ]
    )
    label_N = torch.cat([row[start:] for row, start in zip(ids, label_starts, strict=True)])
    num_labels = [length + 1 - start for start, length in zip(label_starts, lengths, strict=True)]
    return TokenBatch(input_ids_BT, position_ids_BT, index_N, label_N, num_labels, list(rows))
