"""What a report tells of: the contents of a run's folder, as types."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_proxy.mining.mining_record import SettingsRecord
from hf_proxy.mining.shards import read_shard
from hf_proxy.prediction.curve import Curve
from hf_proxy.records.scores import ProxyScore


@dataclass(frozen=True)
class MinedSet:
    """Soft targets, whole or as far as they were mined.

    Attributes:
        name: of its folder, within the run.
        settings: what `mining.json` says.
        rules: of it, how steps were kept and what their targets are.
        statistics: of the whole set; None where its mining has not ended.
        rows: the first ones.
        num_batches: files that make the set.
        shards: those that are there.
        tokenizer_at: where its tokenizer may be, the likeliest first.
    """

    name: str
    settings: dict[str, Any]
    rules: SettingsRecord
    statistics: dict[str, Any] | None
    rows: list[dict[str, Any]]
    num_batches: int
    shards: list[Path]
    tokenizer_at: list[str]

    def all_rows(self) -> Iterator[dict[str, Any]]:
        """Every row that is there, one after another.

        Raises:
            InputError: a file cannot be read.
        """
        return shard_rows(self.shards)


@dataclass
class RunContents:
    """What one folder holds; what it does not hold is empty.

    Attributes:
        name: of the folder within the run, empty for the run itself.
        scores, contrast: whole lines of `predictions.jsonl` and of `contrast.jsonl`.
        state: `trainer_state.json` of the newest checkpoint that was written to its end.
        steps_saved: of the checkpoints that are there.
        model_scores: of `hf-proxy score`.
        num_begun, num_batches: models whose answers `hf-proxy accuracy` has begun, and files of
            answers, as long as there is no result.
        provenance: file to its content.
        files: what was read, so that a folder with nothing of ours is told from an empty run.
        notes: what was left out, and why.
    """

    name: str
    scores: list[dict[str, Any]] = field(default_factory=list)
    contrast: list[dict[str, Any]] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    steps_saved: list[int] = field(default_factory=list)
    mined: MinedSet | None = None
    model_scores: list[ProxyScore] = field(default_factory=list)
    ranking: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    accuracy: dict[str, Any] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=list)
    num_begun: int = 0
    num_batches: int = 0
    benchmarks: dict[str, dict[str, Any]] = field(default_factory=dict)
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def shard_rows(shards: list[Path]) -> Iterator[dict[str, Any]]:
    """Rows of the files, one after another."""
    for shard in shards:
        yield from read_shard(shard)
