"""Greedy answers of a model to every problem, in rounds that go on where they stopped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from accelerate import Accelerator
from pydantic import Field
from tqdm.auto import tqdm

from hf_proxy.models.access import scoring_mode
from hf_proxy.models.generation import end_ids_of, generate
from hf_proxy.models.parallel import is_main, num_processes, require_equal, stop_together
from hf_proxy.models.positions import window_of
from hf_proxy.recipes.library.checkpoints import Checkpoint
from hf_proxy.records.errors import InputError
from hf_proxy.records.record import Record, checked, parse_json, read_bytes, read_json
from hf_proxy.records.storage import fingerprint, write_text
from hf_proxy.tokens.prompts import Prompts, check_lengths

# answers end at very different lengths: after each round those that have ended make room
TOKENS_PER_ROUND = 128
_Id = Annotated[int, Field(ge=0, lt=2**31)]


class AnswerRecord(Record):
    """What one problem got in one round."""

    example_id: str
    ids: Annotated[list[_Id], Field(min_length=1, max_length=TOKENS_PER_ROUND)]
    ended: bool


class BatchRecord(Record):
    """A file of answers: those of one batch in one round."""

    answers: list[AnswerRecord]


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
) -> dict[str, tuple[list[int], bool]]:
    """By name the new ids, and whether the answer came to its end.

    In rounds: one batch of one round is one file that appears whole, and the batches of a round are
    dealt to the ranks; the next round takes those that have not ended, in the order of the prompts.
    So the answers are the same wherever the run was interrupted.

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
        "tokens_per_round": TOKENS_PER_ROUND,
    }
    own = folder / "generations" / fingerprint(content)
    with stop_together(accelerator):
        if is_main(accelerator):
            write_text(own / "settings.json", json.dumps(content, indent=2))
    given = dict(zip(prompts.example_id, prompts.input_ids, strict=True))
    found: dict[str, list[int]] = {name: [] for name in given}
    ended: set[str] = set()
    model: Any = None
    for number, start in enumerate(range(0, max_new_tokens, TOKENS_PER_ROUND)):
        open_names = [name for name in given if name not in ended]
        size = batch_size
        batches = [open_names[i : i + size] for i in range(0, len(open_names), size)]
        files = [own / f"round-{number:03d}" / f"{b:06d}.json" for b in range(len(batches))]
        missing = [b for b, file in enumerate(files) if not file.exists()]
        # a rank that looked later would see the others' files and deal differently
        require_equal(
            fingerprint(missing),
            accelerator,
            what="the set of missing batches",
            remedy="put output_dir on a disk that all ranks share, and start again",
        )
        with stop_together(accelerator):
            mine = missing[accelerator.process_index :: num_processes(accelerator)]
            if mine and model is None:
                model = load()
                check_lengths(prompts, max_new_tokens, window_of(model))
            length = min(TOKENS_PER_ROUND, max_new_tokens - start)
            for b in tqdm(
                mine,
                desc=f"Answers, tokens {start + 1} to {start + length}",
                unit=" batches",
                leave=False,
                disable=None if is_main(accelerator) else True,
            ):
                with scoring_mode(model) as bare:
                    written = generate(
                        bare,
                        [given[name] + found[name] for name in batches[b]],
                        processing_class=tokenizer,
                        max_new_tokens=length,
                        temperature=0.0,
                        seed=[0],
                    )
                    ends = end_ids_of(bare, tokenizer)
                rows = [
                    {"example_id": name, "ids": ids, "ended": ids[-1] in ends}
                    for name, ids in zip(batches[b], written, strict=True)
                ]
                write_text(files[b], json.dumps(rows))
        accelerator.wait_for_everyone()
        with stop_together(accelerator):
            for file, names in zip(files, batches, strict=True):
                for row in _read_batch(file, names):
                    found[row.example_id] += row.ids
                    if row.ended:
                        ended.add(row.example_id)
        if len(ended) == len(given):
            break
    return {name: (ids, name in ended) for name, ids in found.items()}


def _read_batch(path: Path, names: list[str]) -> list[AnswerRecord]:
    """The answers that a file holds to these problems.

    Raises:
        InputError: it holds others, or none.
    """
    remedy = "delete it, and the same line writes it again"
    content = parse_json(read_bytes(path), source=path, remedy=remedy)
    rows = checked(BatchRecord, {"answers": content}, source=path, remedy=remedy).answers
    if [row.example_id for row in rows] != names:
        raise InputError.at("it answers other problems", remedy=remedy, source=path)
    return rows
