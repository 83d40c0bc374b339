"""Rows of soft targets as the trainer reads them: checked before the first step, then batched."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_proxy.schemas import InputError, fingerprint
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


@dataclass(frozen=True)
class FedRows:
    """What one mining of a run gives to train on.

    Attributes:
        rows: those with a kept step.
        number: of the mining, from 0.
        step: optimizer steps done when they were mined.
    """

    rows: Dataset
    number: int
    step: int

    def draw(self, step: int, num_rows: int, seed: int) -> list[dict[str, Any]]:
        """The rows of optimizer step `step` (from 0), `num_rows` on all processes together.

        Each row once, in an order of (seed, number), then each once more in another; a function of
        these numbers alone, so that a resumed run draws what it would have drawn.
        """
        first = (step - self.step) * num_rows
        places: list[int] = []
        while len(places) < num_rows:
            lap, start = divmod(first + len(places), len(self.rows))
            order = np.random.default_rng([seed, self.number, lap]).permutation(len(self.rows))
            places += order[start : start + num_rows - len(places)].tolist()
        return [self.rows[place] for place in places]


def with_kept_steps(
    rows: Dataset, name: str, tokenizer: PreTrainedTokenizerBase, *, keep_all: bool = False
) -> Dataset:
    """The rows that teach something; a set of another tokenizer or chat template is refused.

    Args:
        keep_all: rows without a kept step teach too (`sft_weight`).
    """
    wanted = {"example_id", "input_ids", "prompt_length", "position", "offset", "token_id", "prob"}
    if missing := sorted(wanted - set(rows.column_names or ())):
        raise InputError.at(
            f"columns {missing} are missing",
            remedy="give rows of mine_soft_targets",
            source=name,
        )
    mined = _mined_with(rows)
    template = mined.get("chat_template")
    for what, theirs, ours in (
        ("tokenizer", mined.get("tokenizer"), tokenizer_fingerprint(tokenizer)),
        ("chat template", template, fingerprint(str(tokenizer.chat_template))),
    ):
        if theirs is not None and theirs != ours:
            raise InputError.at(
                f"it was mined with another {what}",
                remedy="train the model it was mined from, with the same processing_class",
                source=name,
            )
    kept = [place for place, position in enumerate(rows["position"]) if len(position)]
    if not kept:
        raise InputError.at(
            "no row has a kept step", remedy="mine more, or lower divergence_beta", source=name
        )
    if len(kept) < len(rows) and not keep_all:
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


def _mined_with(rows: Dataset) -> dict[str, str | None]:
    """Hashes of tokenizer and template, as `load_soft_targets` notes them in the description."""
    try:
        return dict(json.loads(rows.info.description))
    except (ValueError, TypeError):
        return {}


def check_rows(rows: Dataset, name: str, vocabulary: int) -> None:
    """Refuse rows that this model cannot learn from.

    Raises:
        InputError: an id beyond the vocabulary, columns that do not fit each other, a target that
            does not sum to 1.
    """
    for row in rows:
        check_row(row)
        tokens, prob = np.asarray(row["token_id"], dtype=np.int64), np.asarray(row["prob"])
        first, last = tokens.min(initial=0), tokens.max(initial=0)
        # a row without kept steps has no sums
        sums = np.add.reduceat(prob, np.asarray(row["offset"][:-1], dtype=np.int64))
        furthest = np.abs(sums - 1).max(initial=0)
        for column, wrong, problem in (
            ("input_ids", not 0 <= min(row["input_ids"]) <= max(row["input_ids"]) < vocabulary, ""),
            ("token_id", not 0 <= first <= last < vocabulary, ""),
            ("prob", (prob < 0).any(), "a probability is negative"),
            (
                "prob",
                furthest > _SUM_TOLERANCE,
                "a target does not sum to 1",
            ),
        ):
            if wrong:
                raise InputError.at(
                    problem or f"an id is beyond the model's vocabulary of {vocabulary}",
                    remedy="train on rows as mine_soft_targets wrote them, with their own model",
                    source=name,
                    row=row["example_id"],
                    field=column,
                )
