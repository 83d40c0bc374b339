"""Training on one or two real processes with ContrastCallback attached; started by torchrun."""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from test_contrast_callback import lines_of, make_callback
from test_proxy_score import make_trainer, same, state_of
from transformers import AutoTokenizer, set_seed

from hf_proxy import load_soft_targets


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

    _, plain = trained("plain", attach=False)
    without = state_of(plain)
    output, watched = trained("watched", attach=True)
    found = {"same weights": gather_object([same(without, state_of(watched))])}
    if accelerator.is_main_process:
        lines = lines_of(output)
        first = output / "run" / "hf_proxy" / lines[0]["folder"]
        found["steps"] = [line["step"] for line in lines]
        found["first set"] = load_soft_targets(first).to_dict()
        found["first row"] = watched.state.log_history[0]
        (folder / f"found-{sys.argv[2]}.json").write_text(json.dumps(found))
    watched.accelerator.wait_for_everyone()
    watched.accelerator.end_training()


if __name__ == "__main__":
    main()
