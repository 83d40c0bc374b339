"""A run that is fed its own rows, on one or two real processes; started by torchrun."""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from test_contrast_callback import lines_of, make_callback
from test_feeding import FEED, Watch, make_trainer
from test_sft import weights_of
from transformers import AutoTokenizer

from hf_proxy.models.parallel import end_together


def main():
    folder, world_size = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == world_size
    tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))
    output = folder / f"fed-{world_size}"
    callback = make_callback(tokenizer, **FEED)
    batch_size = 4 // world_size
    trainer = make_trainer(
        output, tokenizer, [callback], max_steps=5, per_device_train_batch_size=batch_size
    )
    watch = Watch(trainer)
    trainer.train()
    every = gather_object([weights_of(trainer.model).tolist()])
    rows = gather_object(watch.steps)
    if accelerator.is_main_process:
        steps = sorted({step for step, _ in rows})
        drawn = [[n for at, names in rows if at == step for n in names] for step in steps]
        found = {
            "equal across ranks": all(weights == every[0] for weights in every),
            "weights": every[0],
            "rows": [sorted(names) for names in drawn],
            "lines": [line["step"] for line in lines_of(output)],
        }
        (folder / f"found-{world_size}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    with end_together():
        main()
