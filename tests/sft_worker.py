"""One optimizer step on one or two real processes; started by torchrun."""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from test_sft import (
    TRAINERS,
    make_online_trainer,
    make_rows,
    make_trainer,
    update_norm,
    weights_of,
)
from transformers import AutoTokenizer

from hf_proxy.models.parallel import end_together


def main():
    folder, world_size, batch_size, accumulation = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == world_size
    tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))
    trainer = make_trainer(
        folder / f"run-{world_size}",
        tokenizer,
        make_rows(tokenizer),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
    )
    trainer.train()
    trainer_evaluation = trainer.evaluate(make_rows(tokenizer))
    weights = weights_of(trainer.model)
    shape = {
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": accumulation,
    }
    norms = {
        kind: update_norm(folder / f"{kind}-{world_size}", tokenizer, kind, **shape)
        for kind in TRAINERS
    }
    both = make_trainer(
        folder / f"both-{world_size}", tokenizer, make_rows(tokenizer), sft_weight=0.3, **shape
    )
    both.train()
    online = make_online_trainer(folder / f"online-{world_size}", tokenizer, **shape)
    online.train()
    every = gather_object([weights.tolist()])
    if accelerator.is_main_process:
        found = {
            "equal across ranks": all(w == every[0] for w in every),
            "weights": every[0],
            "norms": norms,
            "online": weights_of(online.model).tolist(),
            "online kept": [r["num_kept"] for r in online.state.log_history if "loss" in r],
            "with sft_weight": weights_of(both.model).tolist(),
            "eval_loss": trainer_evaluation["eval_loss"],
            "eval_num_kept": trainer_evaluation["eval_num_kept"],
        }
        (folder / f"found-{world_size}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    with end_together():
        main()
