"""Foretelling on all processes, with a folder and without, and watching a training."""

from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from helpers.models import sharp_pair
from transformers import AutoTokenizer

from hf_proxy import foretell_gain


def work(folder: Path, out: Path) -> dict[str, Any]:
    """What each process was told."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    prompts = (folder / "prompts.txt").read_text().splitlines()
    problems = Dataset.from_dict({"prompt": prompts, "answer": list(map(str, range(12)))})
    pair = sharp_pair(len(tokenizer))
    found = [
        foretell_gain(
            *pair,
            problems,
            processing_class=tokenizer,
            amateur_processing_class=tokenizer,
            divergence_beta=[0.4, 0.1],
            output_dir=place,
            accelerator=PartialState(),
            context="{prompt}\n",
            max_new_tokens=12,
            batch_size=2,
        )
        for place in (None, out)
    ]
    return {"told": gather_object([str(one) for one in found])}
