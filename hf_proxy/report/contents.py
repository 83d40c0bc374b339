"""What a report tells of: the contents of a run's folder, as types."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_proxy.mining.mining_record import SettingsRecord
from hf_proxy.mining.shards import read_shard
from hf_proxy.prediction.curve import Curve
from hf_proxy.records.scores import ProxyScore
from hf_proxy.report.result_records import RunFile, TunedRecord
from hf_proxy.traces.health import TraceHealth


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


@dataclass(frozen=True)
class TraceSet:
    """A saved set of traces.

    Attributes:
        health: counted over its rows.
        fingerprint: of its rows, which settings of scores name.
        parameters: of the command that made it, with its `source`.
        counts: what that command dropped and kept.
    """

    health: TraceHealth
    fingerprint: str
    parameters: dict[str, Any]
    counts: dict[str, Any]


@dataclass
class RunContents:
    """What one folder holds; what it does not hold is empty.

    Attributes:
        name: of the folder within the run, empty for the run itself.
        scores, contrast: whole lines of `predictions.jsonl` and of `contrast.jsonl`.
        state: `trainer_state.json` of the newest checkpoint that was written to its end, else what
            a finished training says of its log.
        steps_saved: of the checkpoints that are there.
        model_scores: of `hf-proxy score`.
        run: `run.json` of a training command.
        tuned: what `hf-proxy train` says of its training.
        traces: the set that the folder is.
        foretold: `foretold.json` of `hf-proxy contrast foretell`.
        num_begun, num_batches: sets of answers that a command has begun, and files of answers, as
            long as there is no result.
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
    foretold: dict[str, Any] = field(default_factory=dict)
    run: RunFile | None = None
    tuned: TunedRecord | None = None
    traces: TraceSet | None = None
    items: list[dict[str, Any]] = field(default_factory=list)
    num_begun: int = 0
    num_batches: int = 0
    benchmarks: dict[str, dict[str, Any]] = field(default_factory=dict)
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def asked(self) -> dict[str, Any]:
        """Flags of the training command; empty where none of ours ran."""
        return {} if self.run is None else self.run.asked

    @property
    def steps_done(self) -> tuple[int | None, int | None]:
        """Optimizer steps that are known to be done, and how many there are to be."""
        logged = [line["step"] for line in (*self.scores, *self.contrast)]
        done = [*logged, *([self.state["global_step"]] if self.state.get("global_step") else [])]
        most = self.state.get("max_steps") or self.asked.get("max_steps")
        is_known = isinstance(most, int) and most > 0
        return max(done, default=None), most if is_known else None

    @property
    def is_unfinished(self) -> bool:
        """Whether it is known that a command still writes here, or was stopped."""
        if self.run is not None:
            return self.run.result is None
        if self.num_begun or (self.mined is not None and self.mined.statistics is None):
            return True
        done, most = self.steps_done
        return done is not None and most is not None and done < most


def shard_rows(shards: list[Path]) -> Iterator[dict[str, Any]]:
    """Rows of the files, one after another."""
    for shard in shards:
        yield from read_shard(shard)
