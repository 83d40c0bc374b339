"""How many kept steps a run has learnt, through its resumes."""

from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState


class LearntSteps(TrainerCallback, ExportableState):
    """Counts kept steps of all processes, each as often as it was learnt, logged or not.

    Attributes:
        total: None where the run goes on from a checkpoint that does not say.
    """

    def __init__(self) -> None:
        self.total: int | None = 0

    def add(self, num_kept: int) -> None:
        """Steps that the optimizer is about to learn."""
        if self.total is not None:
            self.total += num_kept

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": {"total": self.total}}

    def on_train_begin(self, args, state, control, **kwargs):
        """Start from nothing, or from what the checkpoint has counted."""
        name = type(self).__name__
        if state.global_step:
            saved = state.stateful_callbacks.get(name)
            self.total = saved["attributes"]["total"] if saved else None
        else:
            self.total = 0
        # Trainer would look for it at the next checkpoint of a run that began without it
        state.stateful_callbacks.setdefault(name, self.state())
