"""Greedy answers of a model to every problem, in rounds that go on where they stopped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from hf_proxy.models import rounds
from hf_proxy.models.access import scoring_mode
from hf_proxy.models.generation import end_ids_of, generate
from hf_proxy.models.parallel import is_main, stop_together
from hf_proxy.models.positions import window_of
from hf_proxy.models.rounds import Written, write_in_rounds
from hf_proxy.recipes.library.checkpoints import Checkpoint
from hf_proxy.records.record import read_json
from hf_proxy.records.storage import fingerprint, write_text
from hf_proxy.tokens.prompts import Prompts, check_lengths


def end_settings(checkpoint: Checkpoint, tokenizer: Any) -> list[Any]:
    """What decides where a text ends: the tokenizer's word, and the model's own config of it."""
    found: list[Any] = [tokenizer.eos_token_id]
    for folder in (checkpoint.folder, checkpoint.base):
        path = folder / "generation_config.json" if folder else None
        if path is not None and path.exists():
            found.append(read_json(path).get("eos_token_id"))
    return found


def answer_problems(
    load: Callable[[], Any],
    tokenizer: Any,
    prompts: Prompts,
    folder: Path,
    content: dict[str, Any],
    accelerator: Accelerator,
    *,
    max_new_tokens: int,
    batch_size: int,
) -> dict[str, Written]:
    """By name the greedy answers, see `write_in_rounds`.

    Args:
        load: gives the model, where there is anything left to answer.
        folder: the answers go to a folder of their own in it, named by all that decides them.
        content: what decides them beside the arguments here, as the weights' fingerprint.
        max_new_tokens: most tokens of an answer.
        batch_size: prompts answered together.
    """
    content = content | {
        "prompts": fingerprint([prompts.example_id, prompts.input_ids]),
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
        "tokens_per_round": rounds.TOKENS_PER_ROUND,
    }
    own = folder / "generations" / fingerprint(content)
    with stop_together(accelerator):
        if is_main(accelerator):
            write_text(own / "settings.json", json.dumps(content, indent=2))
    loaded: list[Any] = []

    def write(texts: list[list[int]], length: int) -> list[Written]:
        if not loaded:
            loaded.append(load())
            check_lengths(prompts, max_new_tokens, window_of(loaded[0]))
        with scoring_mode(loaded[0]) as bare:
            written = generate(
                bare,
                texts,
                processing_class=tokenizer,
                max_new_tokens=length,
                temperature=0.0,
                seed=[0],
            )
            ends = end_ids_of(bare, tokenizer)
        return [Written(ids, ids[-1] in ends) for ids in written]

    return write_in_rounds(
        write,
        dict(zip(prompts.example_id, prompts.input_ids, strict=True)),
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        accelerator=accelerator,
        folder=own,
    )
