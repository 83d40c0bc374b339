"""One process of a mining that a test kills, resumes or spreads over ranks."""

import sys
import time
from pathlib import Path

from accelerate import PartialState
from tiny_models import make_model
from transformers import AutoTokenizer

from hf_proxy import mine_soft_targets
from hf_proxy.mining import sets
from hf_proxy.models.parallel import end_together


def sharp_pair(num_tokens: int):
    """Two architectures of other depth, sure of themselves; the expert's head is padded."""
    pair = (
        make_model("llama", num_tokens + 7),
        make_model("qwen2", num_tokens, num_hidden_layers=1, tie_word_embeddings=False),
    )
    for model in pair:
        model.lm_head.weight.data *= 6
    return pair


def main(folder: Path, output: Path, seconds_per_batch: float) -> None:
    """Mine twelve prompts in batches of two; slow enough to be killed in between."""
    write = sets.write_arrow

    def slow_write(*args):
        write(*args)
        time.sleep(seconds_per_batch)

    sets.write_arrow = slow_write
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    prompts = (folder / "prompts.txt").read_text().splitlines()
    state = PartialState()
    mine_soft_targets(
        *sharp_pair(len(tokenizer)),
        prompts,
        processing_class=tokenizer,
        amateur_processing_class=tokenizer,
        output_dir=output,
        accelerator=state,
        context="{prompt}\n",
        max_new_tokens=12,
        temperature=1.0,
        batch_size=2,
    )


if __name__ == "__main__":
    with end_together():
        main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
