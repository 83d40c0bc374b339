"""A small Trainer, and what can be told of a training after it."""

import json
import random

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from helpers.models import make_model
from hf_proxy.recipes.library.carry_chains import problems


def texts(count, seed=5):
    rows = problems(random.Random(seed))
    return [" ".join(next(rows).values()) for _ in range(count)]


def plain_trainer(
    tmp_path, tokenizer, *, callbacks=(), streaming=False, datasets=None, **arguments
):
    """Six steps of a tiny Llama with dropout, evaluated and saved every two."""
    set_seed(3)
    model = make_model("llama", len(tokenizer), attention_dropout=0.2)

    def rows(count, seed):
        ids = tokenizer(texts(count, seed))["input_ids"]
        return Dataset.from_list([{"input_ids": row[:24], "labels": row[:24]} for row in ids])

    train = rows(24, 5)
    settings = {
        "output_dir": str(tmp_path / "run"),
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    } | arguments
    return Trainer(
        model=model,
        args=TrainingArguments(**settings),
        train_dataset=train.to_iterable_dataset() if streaming else train,
        eval_dataset=rows(4, 6) if datasets is None else datasets(rows),
        processing_class=tokenizer,
        data_collator=default_data_collator,
        callbacks=list(callbacks),
    )


def lines_of(tmp_path, name="run"):
    path = tmp_path / name / "hf_proxy" / "predictions.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def state_of(trainer):
    """Everything that training has changed, bit for bit."""
    optimizer = trainer.optimizer
    optimizer = getattr(optimizer, "optimizer", optimizer).state_dict()["state"]
    return {
        "weights": [p.detach().clone() for p in trainer.model.parameters()],
        "optimizer": [value.clone() for entry in optimizer.values() for value in entry.values()],
        "torch": [torch.get_rng_state()],
        "python": [torch.tensor(random.getstate()[1])],
        "numpy": [torch.from_numpy(np.random.get_state()[1].astype(np.int64))],
    }


def same(a, b):
    return [
        name
        for name in a
        if len(a[name]) == len(b[name])
        and all(torch.equal(x, y) for x, y in zip(a[name], b[name], strict=True))
    ] == list(a)


class Careless(TrainerCallback):
    """Draws one number from the global stream, as making a DataLoader iterator does."""

    def on_evaluate(self, args, state, control, **kwargs):
        torch.rand(1)
