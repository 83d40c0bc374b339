"""Training on one or two real processes with ContrastCallback attached; started by torchrun."""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from mining_worker import sharp_pair
from peft import LoraConfig
from test_contrast_callback import lines_of, make_callback
from test_mining import PROMPTS
from test_proxy_score import make_trainer, same, state_of
from transformers import AutoTokenizer, set_seed
from trl import SFTConfig, SFTTrainer

from hf_proxy import load_soft_targets
from hf_proxy.models.parallel import end_together


def main():
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == int(sys.argv[2])
    tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))

    def trained(name, attach):
        output = folder / f"{name}-{sys.argv[2]}"
        trainer = make_trainer(output, tokenizer, max_steps=4)
        if attach:
            make_callback(tokenizer, num_prompts=5).attach(trainer)
        set_seed(11)
        trainer.train()
        return output, trainer

    def tuned(name, attach):
        """SFTTrainer with LoRA adapters."""
        set_seed(3)
        trainer = SFTTrainer(
            model=sharp_pair(len(tokenizer))[0],
            args=SFTConfig(
                output_dir=str(folder / f"{name}-{sys.argv[2]}" / "run"),
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
    _, plain = trained("plain", attach=False)
    without = state_of(plain)
    output, watched = trained("watched", attach=True)
    found = {
        "same weights": gather_object([same(without, state_of(watched))]),
        "same adapters": gather_object([adapters]),
    }
    if accelerator.is_main_process:
        lines = lines_of(output)
        first = output / "run" / "hf_proxy" / lines[0]["folder"]
        found["adapter steps"] = [line["step"] for line in lines_of(folder / f"sft-{sys.argv[2]}")]
        found["steps"] = [line["step"] for line in lines]
        found["first set"] = load_soft_targets(first).to_dict()
        found["first row"] = watched.state.log_history[0]
        (folder / f"found-{sys.argv[2]}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    with end_together():
        main()
