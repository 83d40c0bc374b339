"""Minings for the jobs of helpers/sharded.py: an expert in shards, an amateur loaded beside it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from helpers.sharded import ASSETS, assert_sharded, state_of_rank, whole_state_dict
from sharded_jobs import lora, sft_trainer
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from hf_proxy import SelectiveSFTConfig, SelectiveSFTTrainer, load_soft_targets, mine_soft_targets
from hf_proxy.callbacks import ContrastCallback
from hf_proxy.mining import miner

# five prompts in batches of two: one rank has two batches, the other one; texts end at 17 or 25
SETTINGS = {"num_prompts": 5, "batch_size": 2, "max_new_tokens": 32}
COLUMNS = ("example_id", "input_ids", "position", "kl", "token_id", "prob")
_LINES = (ASSETS / "problems.jsonl").read_text().splitlines()
CONTEXT = {"context": "{prompt}\n", "system_prompt": None}
PROMPTS = [json.loads(line)["prompt"] for line in _LINES[:45:5]]


def contrast_callback(**changes: Any) -> ContrastCallback:
    """The amateur by its folder: it is loaded after the training's arguments were made."""
    settings = SETTINGS | CONTEXT | changes
    return ContrastCallback(str(ASSETS / "amateur"), PROMPTS, **settings)


def sets_of(folder: Path) -> dict[str, Any]:
    """Of each mined set its rows, and what it says of the models."""
    found = {}
    for place in sorted(folder.iterdir()):
        rows = load_soft_targets(place)
        said = json.loads((place / "mining.json").read_text())
        found[place.name] = {
            "rows": {name: list(rows[name]) for name in COLUMNS},
            "models": [said["expert"], said["amateur"]],
        }
    return found


def watched(
    out: Path, setup: str, *, with_contrast: bool = True, mining: Any = (), **arguments: Any
) -> dict[str, Any]:
    """A training that is mined before its first step and at its evaluation.

    Args:
        mining: changes of the callback's arguments.
        arguments: of `sft_trainer`.
    """
    callbacks = [contrast_callback(**dict(mining))] if with_contrast else []
    trainer = sft_trainer(out, callbacks=callbacks, **arguments)
    set_seed(11)
    trainer.train()
    found = assert_sharded(trainer, setup) | state_of_rank(trainer)
    if with_contrast:
        found["sets"] = sets_of(out / "run" / "hf_proxy" / "soft_targets")
        devices = {str(p.device) for p in callbacks[0].amateur.parameters()}
        assert devices == {"cpu"} and all(p.numel() for p in callbacks[0].amateur.parameters())
    return found


def selective(
    out: Path,
    setup: str,
    *,
    how: str = "fed",
    with_lora: bool = False,
    mined: str = "",
    mining: Any = (),
    **arguments: Any,
) -> dict[str, Any]:
    """Some updates of SelectiveSFTTrainer; the whole weights go to `out`/whole.pt.

    Args:
        how: "fed" by its own minings, "online" with an amateur.
        mined: a set beside `out`, of which "online" reads the trajectories.
    """
    out.mkdir(parents=True, exist_ok=True)
    settings = {
        "output_dir": str(out / "run"),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "bf16": False,
        "gradient_checkpointing": False,
        "activation_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 3,
    } | arguments
    args = SelectiveSFTConfig(**settings)
    set_seed(1)
    own: dict[str, Any] = {}
    if how == "fed":
        changes = {"feed": True, "strategy": "steps", "steps": 1} | dict(mining)
        own["callbacks"] = [contrast_callback(**changes)]
    else:
        own["train_dataset"] = load_soft_targets(mined)
        own["amateur"] = AutoModelForCausalLM.from_pretrained(ASSETS / "amateur")
    trainer = SelectiveSFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(ASSETS / "expert", dtype=torch.float32),
        args=args,
        processing_class=AutoTokenizer.from_pretrained(ASSETS / "expert"),
        peft_config=lora() if with_lora else None,
        **own,
    )
    trainer.train()
    whole = whole_state_dict(trainer)
    if PartialState().is_main_process:
        torch.save(whole, out / "whole.pt")
    figures = ("loss", "num_kept", "kept_accuracy")
    found = assert_sharded(trainer, setup)
    found["log"] = [
        {name: row[name] for name in figures if name in row}
        for row in trainer.state.log_history
        if "loss" in row
    ]
    if how == "fed":
        found["sets"] = sets_of(out / "run" / "hf_proxy" / "soft_targets")
    return found


def before_training(out: Path, setup: str, **settings: Any) -> dict[str, Any]:
    """An expert that was loaded for a sharded training, and is mined before it has an engine."""
    from trl import SFTConfig

    # held: of DeepSpeed only a weak reference says that it is on
    arguments = SFTConfig(output_dir=str(out / "run"), report_to="none", bf16=False)
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "expert")
    expert, amateur = (
        AutoModelForCausalLM.from_pretrained(ASSETS / name) for name in ("expert", "amateur")
    )
    values = sum(p.numel() for p in amateur.parameters())
    own = {name: value for name, value in SETTINGS.items() if name != "num_prompts"} | settings
    mine_soft_targets(
        expert.eval(),
        amateur.eval(),
        PROMPTS[:5],
        processing_class=tokenizer,
        output_dir=out / "sets" / "mined",
        accelerator=PartialState(),
        **CONTEXT,
        **own,
    )
    assert arguments.output_dir
    return {"sets": sets_of(out / "sets"), "values": values}


def failing(out: Path, setup: str, *, mining: Any = ()) -> dict[str, Any]:
    """What a training with the callback stops with on each rank."""
    trainer = sft_trainer(out, callbacks=[contrast_callback(**dict(mining))], max_steps=1)
    try:
        trainer.train()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"error": ""}


def broken(out: Path, setup: str, *, gather: str) -> dict[str, Any]:
    """One rank alone meets a logit that is not finite, while the other has more to do."""
    found = miner.contrast_steps

    def not_finite(*args: Any) -> Any:
        steps = found(*args)
        bad = float("nan")
        return replace(steps, kl_N=steps.kl_N * bad, expert_entropy_N=steps.expert_entropy_N * bad)

    if PartialState().process_index == 1:
        miner.contrast_steps = not_finite
    try:
        return failing(out, setup, mining={"gather": gather})
    finally:
        miner.contrast_steps = found
