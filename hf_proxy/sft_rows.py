"""Rows of soft targets as the trainer reads them: checked before the first step, then batched."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_proxy.schemas import InputError
from hf_proxy.soft_targets import check_row
from hf_proxy.spelling import tokenizer_fingerprint

logger = logging.getLogger(__name__)

_SUM_TOLERANCE = 1e-4  # of the stored fp32 probabilities of one step


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
    """

    padding_free: bool
    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        # what predicts the last kept step is the token before it; a row without any needs but one
        lengths = [max(row["position"], default=1) for row in rows]
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
        index, whose, sizes = [], [], []
        for number, (row, start) in enumerate(zip(rows, starts.tolist(), strict=True)):
            index += [start + position - 1 for position in row["position"]]
            whose += [number] * len(row["position"])
            sizes += np.diff(row["offset"]).tolist()
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


def with_kept_steps(rows: Dataset, name: str, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """The rows that teach something; a set that was mined with another tokenizer is refused."""
    wanted = {"example_id", "input_ids", "prompt_length", "position", "offset", "token_id", "prob"}
    if missing := sorted(wanted - set(rows.column_names or ())):
        raise InputError.at(
            f"columns {missing} are missing",
            remedy="give rows of mine_soft_targets",
            source=name,
        )
    mined = _mined_with(rows)
    if mined is not None and mined != tokenizer_fingerprint(tokenizer):
        raise InputError.at(
            "it was mined with another tokenizer",
            remedy="train the model it was mined from",
            source=name,
        )
    kept = [place for place, position in enumerate(rows["position"]) if len(position)]
    if not kept:
        raise InputError.at(
            "no row has a kept step", remedy="mine more, or lower divergence_beta", source=name
        )
    if len(kept) < len(rows):
        logger.info("%s: %d of %d rows have no kept step", name, len(rows) - len(kept), len(rows))
        rows = rows.select(kept)
    return rows


def trajectories_of(rows: Dataset, name: str) -> Dataset:
    """The rows without the columns of earlier targets."""
    wanted = ["example_id", "input_ids", "prompt_length"]
    if missing := [column for column in wanted if column not in (rows.column_names or ())]:
        raise InputError.at(
            f"columns {missing} are missing",
            remedy="give ids of prompt and completion, as in rows of mine_soft_targets",
            source=name,
        )
    for row in rows.select_columns(wanted):
        if not 1 <= row["prompt_length"] < len(row["input_ids"]):
            raise InputError.at(
                f"{row['prompt_length']} of {len(row['input_ids'])} ids are the prompt",
                remedy="give each row a prompt and a completion",
                source=name,
                row=row["example_id"],
                field="prompt_length",
            )
    return rows.select_columns(wanted)


def _mined_with(rows: Dataset) -> str | None:
    """Fingerprint of the tokenizer, as `load_soft_targets` notes it in the set's description."""
    try:
        return json.loads(rows.info.description)["tokenizer"]
    except (ValueError, KeyError, TypeError):
        return None


def check_rows(rows: Dataset, name: str, vocabulary: int) -> None:
    """Refuse rows that this model cannot learn from.

    Raises:
        InputError: an id beyond the vocabulary, columns that do not fit each other, a target that
            does not sum to 1.
    """
    for row in rows:
        check_row(row)
        offset = np.asarray(row["offset"])
        tokens, prob = np.asarray(row["token_id"]), np.asarray(row["prob"])
        sums = np.add.reduceat(prob, offset[:-1])
        for column, wrong, problem in (
            ("input_ids", not 0 <= min(row["input_ids"]) <= max(row["input_ids"]) < vocabulary, ""),
            ("token_id", not 0 <= tokens.min() <= tokens.max() < vocabulary, ""),
            ("prob", (prob < 0).any(), "a probability is negative"),
            ("prob", np.abs(sums - 1).max() > _SUM_TOLERANCE, "a target does not sum to 1"),
        ):
            if wrong:
                raise InputError.at(
                    problem or f"an id is beyond the model's vocabulary of {vocabulary}",
                    remedy="train on rows as mine_soft_targets wrote them, with their own model",
                    source=name,
                    row=row["example_id"],
                    field=column,
                )
