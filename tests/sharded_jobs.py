"""Trainings for the jobs of helpers/sharded.py: SFTTrainer on the assets of the recipes."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from helpers.sharded import ASSETS, assert_sharded, state_of_rank
from helpers.trainers import Careless
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import SFTConfig, SFTTrainer

from hf_proxy import load_traces
from hf_proxy.callbacks import ProxyScoreCallback


def prompt_rows(count: int) -> Dataset:
    """Prompts and completions, all different."""
    rows = []
    for i in range(count):
        prompt = f"Start with {i}. Double it. Add {i % 7}. What do you get?"
        completion = f" {i} times 2 is {2 * i}. {2 * i} plus {i % 7} is {2 * i + i % 7}."
        rows.append({"prompt": prompt, "completion": completion})
    return Dataset.from_list(rows)


def lora() -> Any:
    """A small adapter."""
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def sft_trainer(out: Path, *, with_lora: bool = False, callbacks=(), **arguments) -> SFTTrainer:
    """Four steps, evaluated and saved every two."""
    settings = {
        "output_dir": str(out / "run"),
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "bf16": False,
        "gradient_checkpointing": False,
        "activation_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 5,
    } | arguments
    args = SFTConfig(**settings)  # before the model: ZeRO-3 shards it while it loads
    set_seed(7)
    rows = prompt_rows(40)
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(ASSETS / "expert", dtype=torch.float32),
        args=args,
        train_dataset=rows.select(range(36)),
        eval_dataset=rows.select(range(36, 40)),
        processing_class=AutoTokenizer.from_pretrained(ASSETS / "expert"),
        peft_config=lora() if with_lora else None,
        callbacks=list(callbacks),
    )


def sft(
    out: Path,
    setup: str,
    *,
    watch: str = "",
    num_traces: int = 5,
    resume: str | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """One training.

    Args:
        watch: "score", with ProxyScoreCallback; "careless", with a callback that draws a number.
        resume: a checkpoint's folder, beside `out`.
        arguments: of `sft_trainer`.

    Returns:
        `state_of_rank`, what `assert_sharded` gives, and the `scores` that were logged.
    """
    callbacks = [Careless()] if watch == "careless" else []
    trainer = sft_trainer(out, callbacks=callbacks, **arguments)
    if watch == "score":
        traces = load_traces(str(ASSETS / "traces.parquet")).select(range(num_traces))
        ProxyScoreCallback(traces, tokens_per_batch=256).attach(trainer)
    set_seed(11)
    trainer.train(resume_from_checkpoint=str(out.parent / resume) if resume else None)
    scores = [
        row["eval_rbridge_nll"] for row in trainer.state.log_history if "eval_rbridge_nll" in row
    ]
    best = trainer.state.best_model_checkpoint
    return (
        assert_sharded(trainer, setup) | state_of_rank(trainer) | {"scores": scores, "best": best}
    )
