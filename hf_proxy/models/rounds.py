"""Texts that models write to every prompt of a set, in rounds that go on where they stopped."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from accelerate.utils import gather_object
from pydantic import Field

from hf_proxy.models.disks import require_shared
from hf_proxy.models.parallel import (
    Processes,
    from_main,
    is_main,
    num_processes,
    own_share,
    stop_together,
)
from hf_proxy.records.errors import InputError
from hf_proxy.records.progress import Progress
from hf_proxy.records.record import Record, checked, parse_json, read_bytes
from hf_proxy.records.storage import write_text

# texts end at very different lengths: after each round those that have ended make room
TOKENS_PER_ROUND = 128
_Id = Annotated[int, Field(ge=0, lt=2**31)]


class AnswerRecord(Record):
    """What one prompt got in one round."""

    example_id: str
    ids: Annotated[list[_Id], Field(min_length=1, max_length=TOKENS_PER_ROUND)]
    ended: bool


class BatchRecord(Record):
    """A file of answers: those of one batch in one round."""

    answers: list[AnswerRecord]


@dataclass(frozen=True)
class Written:
    """What stands behind one prompt.

    Attributes:
        ids: new ones, that which ends the text included.
        ended: whether it came to its end.
    """

    ids: list[int]
    ended: bool


def write_in_rounds(
    write: Callable[[list[list[int]], int], list[Written]],
    prompts: Mapping[str, list[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    accelerator: Processes = None,
    folder: Path | None = None,
    what: str = "Answers",
) -> dict[str, Written]:
    """By name what was written, the same on every rank.

    The batches of a round are dealt to the ranks; the next round takes those that have not ended,
    in the order of the prompts. In a folder one batch of one round is one file that appears whole,
    so the texts are the same wherever the run was interrupted.

    Args:
        write: new texts behind some prompts, of at most so many tokens.
        prompts: ids by name.
        max_new_tokens: most tokens of a text.
        batch_size: prompts written to together.
        folder: of this set of texts alone, which nothing else has decided; None: keep no files.
        what: what the texts are, for the progress bar.
    """
    if folder is not None:
        require_shared(folder, accelerator)
    with Progress(len(prompts), what, "answers", is_shown=is_main(accelerator)) as progress:
        return _rounds(
            write, prompts, max_new_tokens, batch_size, accelerator, folder, progress.update
        )


def _rounds(
    write: Callable[[list[list[int]], int], list[Written]],
    prompts: Mapping[str, list[int]],
    max_new_tokens: int,
    batch_size: int,
    accelerator: Processes,
    folder: Path | None,
    advance: Callable[[float], None],
) -> dict[str, Written]:
    """The rounds of `write_in_rounds`.

    Args:
        advance: told of the share of answers that is done. One that ends is done, whatever it was
            allowed; one that does not has come on by the length of the round.
    """
    found: dict[str, list[int]] = {name: [] for name in prompts}
    ended: set[str] = set()
    for number, start in enumerate(range(0, max_new_tokens, TOKENS_PER_ROUND)):
        open_names = [name for name in prompts if name not in ended]
        batches = [open_names[i : i + batch_size] for i in range(0, len(open_names), batch_size)]
        files = [_file(folder, number, b) for b in range(len(batches))]

        def absent(files: list[Path | None] = files) -> list[int]:
            return [b for b, file in enumerate(files) if file is None or not file.exists()]

        # a rank that looked later would see the others' files and deal differently
        missing = from_main(accelerator, absent)
        length = min(TOKENS_PER_ROUND, max_new_tokens - start)
        new: list[tuple[str, Written]] = []
        told: set[int] = set()
        with stop_together(accelerator):
            widths = [max(len(prompts[n]) + len(found[n]) for n in batches[b]) for b in missing]
            costs = [
                len(batches[b]) * (width + length) for b, width in zip(missing, widths, strict=True)
            ]
            for b in own_share(missing, costs, accelerator):
                texts = write([prompts[name] + found[name] for name in batches[b]], length)
                own = list(zip(batches[b], texts, strict=True))
                advance(_share(texts, start, length, max_new_tokens))
                told.add(b)
                file = files[b]
                if file is None:
                    new += own
                else:
                    rows = [{"example_id": name} | vars(text) for name, text in own]
                    write_text(file, json.dumps(rows))
        if folder is None and num_processes(accelerator) > 1:
            new = gather_object(new)
        with stop_together(accelerator):
            for b, (file, names) in enumerate(zip(files, batches, strict=True)):
                if file is not None:
                    there = _read_batch(file, names)
                    new += there
                    if b not in told:  # another rank, or an earlier run
                        texts = [text for _, text in there]
                        advance(_share(texts, start, length, max_new_tokens))
        for name, text in new:
            found[name] += text.ids
            if text.ended:
                ended.add(name)
        if len(ended) == len(prompts):
            break
    return {name: Written(ids, name in ended) for name, ids in found.items()}


def _share(texts: list[Written], start: int, length: int, most: int) -> float:
    """By how many answers the work has come on."""
    return sum((most - start if text.ended else length) / most for text in texts)


def _file(folder: Path | None, number: int, batch: int) -> Path | None:
    return None if folder is None else folder / f"round-{number:03d}" / f"{batch:06d}.json"


def _read_batch(path: Path, names: list[str]) -> list[tuple[str, Written]]:
    """The answers that a file holds to these problems.

    Raises:
        InputError: it holds others, or none.
    """
    remedy = "delete it, and the same line writes it again"
    content = parse_json(read_bytes(path), source=path, remedy=remedy)
    rows = checked(BatchRecord, {"answers": content}, source=path, remedy=remedy).answers
    if [row.example_id for row in rows] != names:
        raise InputError.at("it answers other problems", remedy=remedy, source=path)
    return [(row.example_id, Written(row.ids, row.ended)) for row in rows]
