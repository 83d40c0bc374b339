"""A mining that a test kills, resumes or spreads over ranks."""

import sys
import time
from pathlib import Path
from typing import Any

from accelerate import PartialState
from helpers.models import sharp_pair
from transformers import AutoTokenizer

from hf_proxy import mine_soft_targets
from hf_proxy.mining import sets


def work(folder: Path, out: Path) -> dict[str, Any]:
    """Mine twelve prompts in batches of two, on all processes; nothing to tell but the set."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    mine_soft_targets(
        *sharp_pair(len(tokenizer)),
        (folder / "prompts.txt").read_text().splitlines(),
        processing_class=tokenizer,
        amateur_processing_class=tokenizer,
        output_dir=out,
        accelerator=PartialState(),
        context="{prompt}\n",
        max_new_tokens=12,
        temperature=1.0,
        batch_size=2,
    )
    return {}


def main(folder: Path, out: Path, num_shards: int) -> None:
    """On this process alone; after so many shards of its own it waits to be killed."""
    write = sets.write_arrow
    written = []

    def counted_write(*args):
        write(*args)
        written.append(args)
        if len(written) == num_shards:
            time.sleep(600)

    sets.write_arrow = counted_write
    work(folder, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
