"""What a trainer takes of soft targets, and what it refuses before the first step."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_proxy.mining.correctness import is_correct
from hf_proxy.mining.soft_targets import check_soft_targets
from hf_proxy.records.errors import InputError
from hf_proxy.records.storage import fingerprint
from hf_proxy.tokens.tokenizers import tokenizer_fingerprint

logger = logging.getLogger(__name__)
_SUM_TOLERANCE = 1e-4  # of the stored fp32 probabilities of one step


def for_each_set(given: Any, name: str, use: Callable[[Any, str], Any]) -> Any:
    """`use(rows, name)` of one set, or of each of several that have names."""
    if isinstance(given, Mapping):
        return {key: use(rows, f"{name} {key!r}") for key, rows in given.items()}
    return use(given, name)


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
    _check_mined_with(rows, name, tokenizer)
    kept = [place for place, position in enumerate(rows["position"]) if len(position)]
    if not kept:
        raise InputError.at(
            "no row has a kept step", remedy="mine more, or lower divergence_beta", source=name
        )
    if len(kept) < len(rows) and not keep_all:
        logger.info("%s: %d of %d rows have no kept step", name, len(rows) - len(kept), len(rows))
        rows = rows.select(kept)
    return rows


def _check_mined_with(rows: Dataset, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a set of another tokenizer or chat template, where it says whose it is."""
    mined = _mining_hashes(rows)
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


def trajectories_of(rows: Dataset, name: str, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """The rows without the columns of earlier targets; see `with_kept_steps` of another's."""
    wanted = ["example_id", "input_ids", "prompt_length"]
    if missing := [column for column in wanted if column not in (rows.column_names or ())]:
        raise InputError.at(
            f"columns {missing} are missing",
            remedy="give ids of prompt and completion, as in rows of mine_soft_targets",
            source=name,
        )
    _check_mined_with(rows, name, tokenizer)
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


def with_right_answers(
    rows: Dataset, answers: Sequence[list], name: str, tokenizer: PreTrainedTokenizerBase
) -> Dataset:
    """The trajectories whose answer is right, counted in the log.

    Args:
        answers: what is right, row by row, see `read_answers`.
    """
    kept = [
        place
        for place, (row, gold) in enumerate(zip(rows, answers, strict=True))
        if is_correct(
            tokenizer,
            row["input_ids"][: row["prompt_length"]],
            row["input_ids"][row["prompt_length"] :],
            gold,
        )
    ]
    if not kept:
        raise InputError.at(
            f"none of {len(rows)} trajectories has the right answer",
            remedy="give others, or leave out only_correct",
            source=name,
            field="only_correct",
        )
    logger.info("%s: %d of %d rows dropped: wrong answer", name, len(rows) - len(kept), len(rows))
    return rows.select(kept)


def _mining_hashes(rows: Dataset) -> dict[str, str | None]:
    """Hashes of tokenizer and template, as `load_soft_targets` notes them in the description."""
    try:
        return dict(json.loads(rows.info.description))
    except (ValueError, TypeError):
        return {}


def check_longest(rows: Dataset, name: str, window: int | None, max_length: int | None) -> None:
    """Refuse a row that would have to be cut.

    Args:
        window: how far the model's positions reach; None: unknown.
        max_length: most tokens of a row; None: as the model's window.

    Raises:
        InputError: naming the row.
    """
    for limit, what in ((window, "the model's window"), (max_length, "max_length")):
        if limit is None:
            continue
        for row in rows.select_columns(["example_id", "input_ids"]):
            if len(row["input_ids"]) > limit:
                raise InputError.at(
                    f"{len(row['input_ids'])} tokens are more than {what} of {limit}",
                    remedy="drop the row: none is cut here",
                    source=name,
                    row=row["example_id"],
                    field="input_ids",
                )


def check_trainable(rows: Dataset, name: str, vocabulary: int, width: int) -> None:
    """Refuse rows that this model cannot learn from.

    Args:
        vocabulary: rows of its input embedding, for the ids that it reads.
        width: rows of its output head, for those that it predicts.

    Raises:
        InputError: an id beyond the vocabulary, columns that do not fit each other, a target that
            does not sum to 1.
    """
    for row in rows:
        check_soft_targets(row)
        tokens, prob = np.asarray(row["token_id"], dtype=np.int64), np.asarray(row["prob"])
        first, last = tokens.min(initial=0), tokens.max(initial=0)
        # a row without kept steps has no sums
        sums = np.add.reduceat(prob, np.asarray(row["offset"][:-1], dtype=np.int64))
        furthest = np.abs(sums - 1).max(initial=0)
        ids, completion = row["input_ids"], row["input_ids"][row["prompt_length"] :]
        beyond = "an id is beyond the model's vocabulary of"
        for column, wrong, problem in (
            ("input_ids", not 0 <= min(ids) <= max(ids) < vocabulary, f"{beyond} {vocabulary}"),
            ("input_ids", max(completion) >= width, f"{beyond} {width} (its output head's)"),
            ("token_id", not 0 <= first <= last < width, f"{beyond} {width}"),
            ("prob", (prob < 0).any(), "a probability is negative"),
            ("prob", furthest > _SUM_TOLERANCE, "a target does not sum to 1"),
        ):
            if wrong:
                raise InputError.at(
                    problem,
                    remedy="train on rows as mine_soft_targets wrote them, with their own model",
                    source=name,
                    row=row["example_id"],
                    field=column,
                )
