"""Rows that a run mines for itself: from the callback that mines to the trainer that learns."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_proxy.mining.sets import load_soft_targets
from hf_proxy.records.errors import InputError
from hf_proxy.tokens.tokenizers import tokenizer_fingerprint
from hf_proxy.training.rows import with_kept_steps

ONLY_FED = (
    "ContrastCallback(feed=True) gives rows to a SelectiveSFTTrainer only; use that one, or "
    "feed=False to watch"
)


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


class Feeding:
    """What a callback that mines and the trainer that learns from it both hold.

    The trainer calls `accept` before its training begins and `draw` at each step. The callback
    calls `begin` and `end` with the run, and `put` after each mining that keeps a step.

    Args:
        mined_with: settings of the mining, by the names of `SelectiveSFTConfig`'s fields.
    """

    def __init__(self, mined_with: Mapping[str, Any]) -> None:
        self.mined_with = dict(mined_with)
        self._tokenizer: PreTrainedTokenizerBase | None = None  # of the trainer that accepted
        self._keep_all = False
        self._check: Callable[[Dataset, str], None] | None = None
        self._rows: FedRows | None = None
        self._source: Path | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no mining of the run has given rows yet."""
        return self._rows is None

    def accept(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        keep_all: bool,
        check: Callable[[Dataset, str], None],
    ) -> None:
        """The trainer takes the rows of the run that is about to begin.

        Args:
            tokenizer: the trainer's.
            keep_all: rows without a kept step teach too (`sft_weight`).
            check: `check(rows, name)` refuses rows that its model cannot learn from.
        """
        self._tokenizer, self._keep_all, self._check = tokenizer, keep_all, check

    def begin(self, tokenizer: PreTrainedTokenizerBase, source: Path) -> None:
        """A run begins, without rows.

        Args:
            tokenizer: that the rows will be mined with.
            source: file that says what was mined, for errors.

        Raises:
            ValueError: no trainer has accepted, or one with another tokenizer or chat template.
        """
        if self._tokenizer is None:
            raise InputError(ONLY_FED)
        require_same_tokenizer(self._tokenizer, tokenizer)
        self._rows, self._source = None, source

    def end(self) -> None:
        """The run is over: the next one's trainer has to accept anew."""
        self._tokenizer = None

    def put(self, folder: Path, number: int, step: int) -> None:
        """The rows of a mining, read from its shards: on resume there is nothing else.

        Args:
            folder: of the set, on every process.
            number, step: see `FedRows`.
        """
        assert self._tokenizer is not None
        rows = with_kept_steps(
            load_soft_targets(folder), str(folder), self._tokenizer, keep_all=self._keep_all
        )
        if self._check is not None:
            self._check(rows, f"train_dataset {folder}")
        self._rows = FedRows(rows, number, step)

    def draw(self, step: int, num_rows: int, seed: int) -> list[dict[str, Any]]:
        """See `FedRows`.

        Raises:
            InputError: no mining of the run has kept a step yet.
        """
        if self._rows is None:
            raise InputError.at(
                "no mining of this run has kept a step yet, so there is nothing to train on",
                remedy="lower divergence_beta, or mine more num_prompts",
                source=self._source,
            )
        return self._rows.draw(step, num_rows, seed)


def require_same_tokenizer(
    trainers: PreTrainedTokenizerBase, callbacks: PreTrainedTokenizerBase
) -> None:
    """Refuse to mine with one tokenizer and to train with another.

    Raises:
        InputError: they differ, or their chat templates do.
    """
    one, other = (
        (tokenizer_fingerprint(own), str(own.chat_template)) for own in (trainers, callbacks)
    )
    if one != other:
        raise InputError(
            "the callback's processing_class is not the trainer's (tokenizer or chat template), so "
            "its rows would be another model's; leave it out, it is taken from the trainer"
        )


def check_feeders(callbacks: Iterable[Any] | None, *, is_fed: bool, has_amateur: bool) -> None:
    """Refuse what no callback that is added later could make right.

    Args:
        callbacks: that the trainer is made with.
        is_fed, has_amateur: see `feeding_for`.

    Raises:
        ValueError: there are too many that feed, or an amateur beside them.
    """
    found = _feedings(callbacks or ())
    if len(found) > int(is_fed) or (is_fed and has_amateur):
        raise _wrong_number(len(found), is_fed=is_fed, has_amateur=has_amateur)


def feeding_for(callbacks: Iterable[Any], *, is_fed: bool, has_amateur: bool) -> Feeding | None:
    """The one that the callbacks of a trainer hold, where it learns from what they mine.

    Args:
        is_fed: the trainer has no train_dataset.
        has_amateur: it makes targets itself.

    Raises:
        ValueError: none or several where there must be one, or one where there must be none.
    """
    found = _feedings(callbacks)
    if len(found) != int(is_fed) or (is_fed and has_amateur):
        raise _wrong_number(len(found), is_fed=is_fed, has_amateur=has_amateur)
    return found[0] if found else None


def _feedings(callbacks: Iterable[Any]) -> list[Feeding]:
    held = (getattr(callback, "feeding", None) for callback in callbacks)
    return [feeding for feeding in held if isinstance(feeding, Feeding)]


def _wrong_number(number: int, *, is_fed: bool, has_amateur: bool) -> InputError:
    return InputError(
        f"{number} callbacks with feed=True, train_dataset {'' if is_fed else 'not '}None, "
        f"amateur {'not ' if has_amateur else ''}None: rows come from a train_dataset, or from "
        "one ContrastCallback(feed=True), which has the amateur, with train_dataset=None"
    )
