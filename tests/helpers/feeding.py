"""A run that is fed its own rows."""

from transformers import TrainerCallback

from helpers.models import sharp_pair
from helpers.selective import selective_trainer

FEED = {"feed": True, "strategy": "steps", "steps": 3, "num_prompts": 5, "temperature": 0.0}


def feeding_trainer(folder, tokenizer, callbacks, **changes):
    settings = {
        "max_steps": 8,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.05,
        "save_strategy": "steps",
        "save_steps": 2,
        "model": sharp_pair(len(tokenizer))[0],
    }
    rows = changes.pop("rows", None)
    return selective_trainer(
        folder / "run", tokenizer, rows, callbacks=callbacks, **settings | changes
    )


class Watch(TrainerCallback):
    """Notes which rows each optimizer step learns from."""

    def __init__(self, trainer, stop_at=None):
        self.steps, self.stop_at = [], stop_at
        collate = trainer._collate

        def noted(rows):
            self.steps.append((trainer.state.global_step, [row["example_id"] for row in rows]))
            return collate(rows)

        trainer._collate = noted
        trainer.add_callback(self)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.stop_at:
            raise KeyboardInterrupt
