"""Rows of soft targets into batches whose inputs end at each row's last kept step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class TrajectoryCollator:
    """Rows whose targets are still to be made, as they are, beside their padded ids."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            "input_ids": pad(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad([torch.ones_like(x) for x in ids], batch_first=True),
            "rows": [
                {name: row[name] for name in ("example_id", "input_ids", "prompt_length")}
                for row in rows
            ],
        }


@dataclass
class SoftTargetCollator:
    """`SoftTargets` rows into one batch whose inputs end at each row's last kept step.

    Gives `input_ids [B, T]`, `attention_mask [B, T]` (padded) or `position_ids [1, T]`
    (padding-free), and of the M kept steps: `logit_index [M]`, places in the flattened inputs whose
    logits predict them, `row [M]`, whose they are, and their targets, `step [S]`, `token_id [S]`,
    `prob [S]`; and `example_id` of the rows.

    With `whole` the inputs end before the last token, `logit_index [N]` and `row [N]` are of all N
    completion tokens, `label [N]` are these, and `kept [M]` says which of them are kept steps.
    """

    padding_free: bool
    pad_token_id: int
    whole: bool = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        # what predicts the last kept step is the token before it; a row without any needs but one
        lengths = [max(row["position"], default=1) for row in rows]
        if self.whole:
            lengths = [len(row["input_ids"]) - 1 for row in rows]
        width = max(lengths)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        if not self.padding_free:
            starts = width * np.arange(len(rows))
        ids = [torch.tensor(row["input_ids"][:n]) for row, n in zip(rows, lengths, strict=True)]
        batch: dict[str, Tensor] = {}
        if self.padding_free:
            batch["input_ids"] = torch.cat(ids)[None]
            batch["position_ids"] = torch.cat([torch.arange(n) for n in lengths])[None]
        else:
            pad = torch.nn.utils.rnn.pad_sequence
            batch["input_ids"] = pad(ids, batch_first=True, padding_value=self.pad_token_id)
            batch["attention_mask"] = pad([torch.ones_like(x) for x in ids], batch_first=True)
        index: list[int] = []
        whose: list[int] = []
        sizes: list[int] = []
        labels: list[int] = []
        kept: list[int] = []
        for number, (row, start) in enumerate(zip(rows, starts.tolist(), strict=True)):
            positions = row["position"]
            if self.whole:
                first = row["prompt_length"]
                kept += [len(index) + position - first for position in positions]
                positions = range(first, len(row["input_ids"]))
                labels += row["input_ids"][first:]
            index += [start + position - 1 for position in positions]
            whose += [number] * len(positions)
            sizes += np.diff(row["offset"]).tolist()
        if self.whole:
            batch["label"] = torch.tensor(labels, dtype=torch.int64)
            batch["kept"] = torch.tensor(kept, dtype=torch.int64)
        batch["logit_index"] = torch.tensor(index, dtype=torch.int64)
        batch["row"] = torch.tensor(whose, dtype=torch.int64)
        batch["step"] = torch.repeat_interleave(torch.tensor(sizes, dtype=torch.int64))
        entries = {
            name: np.concatenate([np.asarray(row[name]) for row in rows])
            for name in ("token_id", "prob")
        }
        batch["token_id"] = torch.from_numpy(entries["token_id"].astype(np.int64))
        batch["prob"] = torch.from_numpy(entries["prob"].astype(np.float32))
        return batch | {"example_id": [row["example_id"] for row in rows]}


@dataclass
class PlaceCollator:
    """Places of a fed run as they are; rows of an evaluation by their own collator."""

    collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if "place" in rows[0]:
            return {"place": torch.tensor([row["place"] for row in rows])}
        return self.collate(rows)
