"""Soft targets as `hf-proxy contrast show` shows them: wherever a report finds them too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from datasets import Dataset, concatenate_datasets

from hf_proxy.mining.mining_record import SettingsRecord
from hf_proxy.mining.sets import load_soft_targets
from hf_proxy.mining.shards import read_shard
from hf_proxy.recipes.library.checkpoints import find_checkpoints, find_tokenizer, load_tokenizer
from hf_proxy.records.errors import InputError
from hf_proxy.records.record import read_json
from hf_proxy.report.mining import tokenizer_of_set
from hf_proxy.report.reading import find_set, read_set

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ShownSet(NamedTuple):
    """A set, whole or as far as it was mined.

    Attributes:
        rows: those that are there.
        tokenizer: of the expert.
        rules: how steps were kept.
        facts: what its miner was told of models and data.
        statistics: of the whole set; None where its mining has not ended.
        notes: what a reader should know of it.
    """

    rows: Dataset
    tokenizer: PreTrainedTokenizerBase
    rules: SettingsRecord
    facts: dict[str, Any]
    statistics: dict[str, Any] | None
    notes: list[str]


def open_set(source: str, tokenizer: str | None) -> ShownSet:
    """The set that a folder is, or the newest of a run, with its tokenizer.

    Args:
        tokenizer: a model of it; None: the one that the set names, or one of its run.

    Raises:
        InputError: there is no set, no row or no tokenizer, or a file is not as it was written.
    """
    folder = Path(source)
    place = find_set(folder)
    if place is None:
        load_soft_targets(folder)  # says what it misses
        raise AssertionError(f"a set in {folder} that was not found")
    # a callback's set names no model: its run has one
    inside = [above for above in place.parents if above.name == "hf_proxy"][:1]
    mined = read_set(place, inside[0].parent if inside else place, 0)
    notes = [] if place == folder else [f"the set shown is {place}"]
    if mined.statistics is not None:
        rows = load_soft_targets(place)
    elif mined.shards:
        rows = concatenate_datasets([read_shard(shard) for shard in mined.shards])
        notes.append(
            f"its mining has not ended: {len(mined.shards)} of {mined.num_batches} batches are here"
        )
    else:
        raise InputError.at(
            "its mining has written no row yet", remedy="let it go on", source=place
        )
    if tokenizer is not None:
        found = load_tokenizer(find_checkpoints(tokenizer)[-1])
    else:
        own, why = tokenizer_of_set(mined, find_tokenizer, None)
        if own is None:
            problem, _, remedy = why.rpartition("; ")
            raise InputError.at(problem, remedy=remedy, source=place)
        found = own
    stamp = place / "provenance.json"
    facts = read_json(stamp).get("facts", {}) if stamp.is_file() else {}
    return ShownSet(rows, found, mined.rules, facts, mined.statistics, notes)
