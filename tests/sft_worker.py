"""One optimizer step on several processes."""

from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from helpers.selective import (
    TRAINERS,
    make_rows,
    online_trainer,
    selective_trainer,
    update_norm,
    weights_of,
)
from transformers import AutoTokenizer

# on two processes eight rows a step
SHAPE = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}


def work(folder: Path, out: Path) -> dict[str, Any]:
    """What was found; inputs lie in `folder`, runs are left in `out`."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))
    rows = make_rows(tokenizer)
    trainer = selective_trainer(out / "run", tokenizer, rows, **SHAPE)
    trainer.train()
    evaluation = trainer.evaluate(rows)
    weights = weights_of(trainer.model)
    norms = {kind: update_norm(out / kind, tokenizer, kind, **SHAPE) for kind in TRAINERS}
    both = selective_trainer(out / "both", tokenizer, rows, sft_weight=0.3, **SHAPE)
    both.train()
    online = online_trainer(out / "online", tokenizer, select="random", **SHAPE)
    online.train()
    every = gather_object([weights.tolist()])
    return {
        "equal across ranks": all(w == every[0] for w in every),
        "weights": every[0],
        "norms": norms,
        "online": weights_of(online.model).tolist(),
        "online kept": [r["num_kept"] for r in online.state.log_history if "loss" in r],
        "with sft_weight": weights_of(both.model).tolist(),
        "eval_loss": evaluation["eval_loss"],
        "eval_num_kept": evaluation["eval_num_kept"],
    }
