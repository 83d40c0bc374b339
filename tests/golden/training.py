"""Golden outputs of the contrast way: mined sets, trainings, what callbacks write."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from golden.world import PROMPTS, TRACES, make_model, make_traces, read_json, read_lines, weights_of
from transformers import (
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from hf_proxy import (
    SelectiveSFTConfig,
    SelectiveSFTTrainer,
    align_traces,
    contrast,
    fit_curve,
    load_metric,
    load_soft_targets,
    mine_soft_targets,
    score_traces,
)
from hf_proxy.callbacks import ContrastCallback, ProxyScoreCallback


def mined(folder: Path, tokenizer, small: bool) -> tuple[dict[str, Any], Dataset]:
    """Soft targets, their folder's records, the contrast metric; and the set to train on."""
    dtype = torch.float64 if small else torch.float32
    kind = "gpt2" if small else "llama"
    expert = make_model(tokenizer, kind, 5, dtype=dtype, sharpness=4)
    amateur = make_model(tokenizer, kind, 5, layers=1, dtype=dtype, sharpness=3)
    settings: dict[str, dict[str, Any]] = {"greedy": {}}
    if not small:
        settings["sampled"] = {"temperature": 1.0, "seed": 4, "parity": "official"}
        settings["chat"] = {"context": "chat", "contrast_temperature": 0.7, "batch_size": 3}
    found: dict[str, Any] = {}
    for name, changes in settings.items():
        own = folder / f"mined-{name}"
        arguments: dict[str, Any] = {
            "processing_class": tokenizer,
            "amateur_processing_class": tokenizer,
            "output_dir": own,
            "context": "{prompt}\n",
            "max_new_tokens": 8 if small else 14,
            "batch_size": 2,
            "divergence_beta": 0.4,
        } | changes
        rows = mine_soft_targets(expert, amateur, PROMPTS, **arguments)
        found[name] = {"rows": rows, "statistics": read_json(own / "statistics.json")}
        found[name]["metric"] = load_metric("contrast").compute(predictions=rows.to_list())
        if not small:
            for record in ("mining", "provenance"):
                found[name][record] = read_json(own / f"{record}.json")
    draws = np.random.RandomState(9)
    logits = (torch.from_numpy(6 * (draws.random_sample((7, 11)) - 0.5)) for _ in range(2))
    kept = contrast(*logits, divergence_beta=0.5)
    found["contrast"] = {**vars(kept), "offset": kept.offset}
    del found["contrast"]["num_entries_N"]  # what offset counts up
    return found, load_soft_targets(folder / "mined-greedy")


def sft(folder: Path, tokenizer, rows: Dataset, small: bool) -> dict[str, Any]:
    """Losses and weights of `SelectiveSFTTrainer`: on a set, on the batch as it comes, fed."""
    dtype = torch.float64 if small else torch.float32
    kind = "gpt2" if small else "llama"
    amateur = make_model(tokenizer, kind, 7, layers=1, dtype=dtype, sharpness=3)
    ways: dict[str, dict[str, Any]] = {"set": {"eval_strategy": "steps", "eval_steps": 2}}
    if not small:
        ways["sft_weight"] = {"sft_weight": 0.3, "gradient_accumulation_steps": 2}
        ways["packed"] = {"padding_free": True}
        ways["online"] = {"divergence_beta": 0.2}
        ways["fed"] = {"data_seed": 5}
    found = {}
    for name, changes in ways.items():
        settings: dict[str, Any] = {
            "output_dir": str(folder / f"sft-{name}"),
            "max_steps": 4,
            "per_device_train_batch_size": 2,
            "learning_rate": 0.05 if small else 1e-3,
            "optim": "sgd" if small else "adamw_torch",
            "bf16": False,
            "use_cpu": True,
            "save_strategy": "no",
            "logging_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
        } | changes
        more: dict[str, Any] = {"train_dataset": None if name == "fed" else rows}
        if name == "set":
            more["eval_dataset"] = rows
        if name == "online":
            more |= {"amateur": amateur, "amateur_processing_class": tokenizer}
        if name == "fed":
            more["callbacks"] = [make_contrast(amateur, tokenizer, feed=True)]
        set_seed(2)
        trainer = SelectiveSFTTrainer(
            model=make_model(tokenizer, kind, 5, dtype=dtype, sharpness=4),
            args=SelectiveSFTConfig(**settings),
            processing_class=tokenizer,
            **more,
        )
        trainer.train()
        weights = weights_of(trainer.model, hashed=not small)
        found[name] = {"log_history": trainer.state.log_history, "weights": weights}
    return found


def make_contrast(amateur, tokenizer, **changes) -> ContrastCallback:
    settings: dict[str, Any] = {
        "amateur_processing_class": tokenizer,
        "num_prompts": 3,
        "context": "{prompt}\n",
        "max_new_tokens": 6,
        "batch_size": 2,
        "divergence_beta": 1.0,
    }
    return ContrastCallback(amateur, PROMPTS, **settings | changes)


def watched(folder: Path, tokenizer, small: bool) -> dict[str, Any]:
    """A training with both callbacks: the logged rows and the lines of their files."""
    dtype = torch.float64 if small else torch.float32
    kind = "gpt2" if small else "llama"
    traces = make_traces(folder, number=3)
    setting = score_traces(
        make_model(tokenizer, kind, 7, dtype=dtype), align_traces(traces, tokenizer)
    ).setting
    x = np.linspace(1.0, 9.0, 12)
    y = 0.9 - 0.08 * x + 0.01 * np.sin(3 * x)
    curve = fit_curve(x, y, setting=setting, target="big", proxy="small", forms=("linear",))
    amateur = make_model(tokenizer, kind, 7, layers=1, dtype=dtype, sharpness=3)
    callbacks = [ProxyScoreCallback(traces, curves=[curve]), make_contrast(amateur, tokenizer)]
    ids = [tokenizer(prompt + 2 * trace)["input_ids"][:12] for prompt, trace in TRACES]
    rows = Dataset.from_list([{"input_ids": row, "labels": row} for row in ids])
    dropout = {} if small else {"attention_dropout": 0.2}
    set_seed(3)
    trainer = Trainer(
        model=make_model(tokenizer, kind, 7, dtype=dtype, sharpness=4, **dropout),
        args=TrainingArguments(
            output_dir=str(folder / "watched"),
            max_steps=4,
            per_device_train_batch_size=2,
            learning_rate=0.05 if small else 1e-3,
            optim="sgd" if small else "adamw_torch",
            eval_strategy="steps",
            eval_steps=2,
            save_strategy="no",
            logging_steps=1,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=rows,
        eval_dataset=rows.select([0, 1]),
        processing_class=tokenizer,
        data_collator=default_data_collator,
    )
    for callback in callbacks:
        callback.attach(trainer)
    trainer.train()
    lines = {
        name: read_lines(folder / "watched" / "hf_proxy" / f"{name}.jsonl")
        for name in ("predictions", "contrast")
    }
    for line in lines["predictions"]:
        for found in line["predictions"].values():
            del found["transfer"]  # it names the run
    if small:  # one weight's last bit changes the checksum
        for line in lines["contrast"]:
            del line["mining"]["expert"]
    return {
        "log_history": trainer.state.log_history,
        "weights": weights_of(trainer.model, hashed=not small),
        **lines,
    }
