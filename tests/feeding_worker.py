"""A run that is fed its own rows, on one process or several."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from helpers.feeding import FEED, Watch, feeding_trainer
from helpers.mining import contrast_lines, make_callback
from helpers.selective import weights_of
from transformers import AutoTokenizer


def work(folder: Path, out: Path) -> dict[str, Any]:
    """What was found; inputs lie in `folder`, runs are left in `out`."""
    accelerator = Accelerator(cpu=True)
    tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))
    callback = make_callback(tokenizer, **FEED)
    batch_size = 4 // accelerator.num_processes
    trainer = feeding_trainer(
        out, tokenizer, [callback], max_steps=5, per_device_train_batch_size=batch_size
    )
    watch = Watch(trainer)
    trainer.train()
    every = gather_object([weights_of(trainer.model).tolist()])
    rows = gather_object(watch.steps)
    steps = sorted({step for step, _ in rows})
    drawn = [[n for at, names in rows if at == step for n in names] for step in steps]
    return {
        "equal across ranks": all(weights == every[0] for weights in every),
        "weights": every[0],
        "rows": [sorted(names) for names in drawn],
        "lines": [line["step"] for line in contrast_lines(out)],
    }
