"""Training with ContrastCallback attached, on one process or several."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from helpers.mining import PROMPTS, contrast_lines, make_callback
from helpers.models import sharp_pair
from helpers.trainers import plain_trainer, same, state_of
from peft import LoraConfig
from transformers import AutoTokenizer, set_seed
from trl import SFTConfig, SFTTrainer

from hf_proxy import load_soft_targets


def work(folder: Path, out: Path) -> dict[str, Any]:
    """What was found; inputs lie in `folder`, runs are left in `out`."""
    accelerator = Accelerator(cpu=True)
    tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))

    def trained(name, attach):
        trainer = plain_trainer(out / name, tokenizer, max_steps=4)
        if attach:
            make_callback(tokenizer, num_prompts=5).attach(trainer)
        set_seed(11)
        trainer.train()
        return trainer

    def tuned(name, attach):
        """SFTTrainer with LoRA adapters."""
        set_seed(3)
        trainer = SFTTrainer(
            model=sharp_pair(len(tokenizer))[0],
            args=SFTConfig(
                output_dir=str(out / name / "run"),
                max_steps=3,
                per_device_train_batch_size=2,
                learning_rate=0.1,
                bf16=False,
                use_cpu=True,
                save_strategy="no",
            ),
            train_dataset=Dataset.from_list(
                [{"prompt": prompt, "completion": " 42."} for prompt in PROMPTS * 4]
            ),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
        )
        if attach:
            make_callback(tokenizer, num_prompts=5).attach(trainer)
        set_seed(11)
        trainer.train()
        return trainer

    adapters = same(state_of(tuned("sft-plain", False)), state_of(tuned("sft", True)))
    without = state_of(trained("plain", attach=False))
    watched = trained("watched", attach=True)
    found = {
        "same weights": gather_object([same(without, state_of(watched))]),
        "same adapters": gather_object([adapters]),
    }
    if accelerator.is_main_process:
        lines = contrast_lines(out / "watched")
        first = out / "watched" / "run" / "hf_proxy" / lines[0]["folder"]
        found["adapter steps"] = [line["step"] for line in contrast_lines(out / "sft")]
        found["steps"] = [line["step"] for line in lines]
        found["first set"] = load_soft_targets(first).to_dict()
        found["first row"] = watched.state.log_history[0]
    return found
