"""A callback's place inside one trainer: in its logged rows, and where its batches are counted.

`Trainer` logs an evaluation's metrics before it calls `on_evaluate`, so a callback alone reaches
best-model selection, early stopping and `state.log_history`, but no reporter.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from transformers import Trainer, TrainerCallback

_EVALUATION_ROW = re.compile(r"eval.*_runtime")


class Attachment:
    """Wraps a trainer's `log` and `get_batch_samples` until `undo`.

    Args:
        trainer: on which the methods are replaced, as attributes of the instance.
        callback: whose place it is; out of the trainer's list (`pop_callback`) it does nothing.
        row: gives what is added to the row of an evaluation.
        guard: what all of our code runs in: the training goes on behind an error that it swallows.

    Attributes:
        num_tokens: of this process's batches, without padding, since it was last set; None: not
            counted, or a batch was none of token ids.
    """

    def __init__(
        self,
        trainer: Trainer,
        callback: TrainerCallback,
        row: Callable[[], Mapping[str, float]],
        guard: Callable[[], AbstractContextManager],
    ):
        self.trainer, self._callback = trainer, callback
        self.num_tokens: int | None = 0
        self._undone = False
        self._wrapped: dict[str, tuple[Any, Any]] = {}  # name: what stood there before, our own
        log, get_batch_samples = trainer.log, trainer.get_batch_samples

        def log_with_row(logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            with guard():
                if self.is_active and any(_EVALUATION_ROW.fullmatch(key) for key in logs):
                    logs.update(row())
            log(logs, *args, **kwargs)

        def counted_batch_samples(*args: Any, **kwargs: Any) -> Any:
            batches, num_items = get_batch_samples(*args, **kwargs)
            if self.is_active and self.num_tokens is not None:
                before, self.num_tokens = self.num_tokens, None
                with guard():
                    counts = [_num_tokens(batch) for batch in batches]
                    known = [count for count in counts if count is not None]
                    self.num_tokens = before + sum(known) if known == counts else None
            return batches, num_items

        for name, own in (("log", log_with_row), ("get_batch_samples", counted_batch_samples)):
            self._wrapped[name] = (vars(trainer).get(name), own)
            setattr(trainer, name, own)

    @property
    def is_active(self) -> bool:
        """Whether the trainer still has the callback."""
        return not self._undone and self._callback in self.trainer.callback_handler.callbacks

    def undo(self) -> None:
        """Give the trainer its own methods back."""
        self._undone = True
        for name, (before, own) in self._wrapped.items():
            if vars(self.trainer).get(name) is not own:
                continue  # another has wrapped ours since: it stays below, and passes all on
            if before is None:
                delattr(self.trainer, name)
            else:
                setattr(self.trainer, name, before)


def _num_tokens(batch: Any) -> int | None:
    """Tokens of a batch without its padding; None of one that is no mapping of ids.

    Trainers that generate hand on lists of prompts, others embeddings.
    """
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
    if not isinstance(ids, Tensor):
        return None
    mask = batch.get("attention_mask")
    if mask is None:
        return ids.numel()
    return int(mask.sum()) if isinstance(mask, Tensor) and mask.shape == ids.shape else None
