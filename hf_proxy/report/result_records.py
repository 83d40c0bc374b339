"""What the files of a finished command hold, as far as a report shows them."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, InstanceOf, model_validator

from hf_proxy.mining.mining_record import Facts, SettingsRecord
from hf_proxy.records.lines import ForetoldRecord, ForetoldSettingRecord
from hf_proxy.records.record import Count, Number, Record, Share
from hf_proxy.records.run_folders import LoggedRow
from hf_proxy.records.scores import Metric

_Name = InstanceOf[str]  # of a model, a problem: whatever their author wrote


class ModelAccuracy(Record):
    """A model's row in `results.json`."""

    model: _Name
    accuracy: Share
    low: Share
    high: Share
    num_correct: Count
    num_problems: Count
    num_cut: Count
    num_without_answer: Count
    tokens_mean: Number


class PairComparison(Record):
    """Two models on the same problems, in `results.json`."""

    a: _Name
    b: _Name
    difference: Number
    low: Number
    high: Number
    only_a: Count
    only_b: Count
    p_value: Share
    detectable: Number | None


class AccuracyRecord(Record):
    """`results.json` of `hf-proxy accuracy`."""

    models: list[ModelAccuracy]
    comparisons: list[PairComparison]
    provenance: dict[str, Any] | None = None


class ForetoldFile(ForetoldRecord):
    """`foretold.json` of `hf-proxy contrast foretell`."""

    sentence: _Name
    settings: list[ForetoldSettingRecord]
    provenance: dict[str, Any] | None = None


class Decisions(Record):
    """Whether an order decides as the large model's does."""

    value: Share
    low: Share | None
    high: Share | None
    num_pairs: Count


class RankingRecord(Record):
    """The order that `hf-proxy rank` gave."""

    order: list[_Name]
    value: list[Number]
    low: list[Number | None]
    high: list[Number | None]
    best_rank: list[Count]
    worst_rank: list[Count]
    metric: Metric
    num_traces: Count
    smallest_difference: Number | None
    decisions: Decisions | None
    kendall_tau: Number | None
    notes: list[_Name]

    @model_validator(mode="after")
    def _fit(self) -> Self:
        lengths = [len(self.value), len(self.low), len(self.high)]
        lengths += [len(self.best_rank), len(self.worst_rank)]
        if {len(self.order)} != set(lengths):
            raise ValueError(f"columns of {lengths} for {len(self.order)} names")
        if self.decisions is not None and self.kendall_tau is None:
            raise ValueError("kendall_tau is missing beside decisions")
        return self


class Saving(Record):
    """What the proxy saved against the baseline."""

    flops: Annotated[Number, Field(gt=0)]
    decision_accuracy: Share
    factor: Number | None
    note: _Name


class RankRecord(Record):
    """`ranking.json`."""

    ranking: RankingRecord | None = None
    selection: "SelectionRecord | None" = None
    compute_saving: list[Saving] | None = None


class BenchmarkFigure(Record):
    """How a table is drawn: which of its columns, of which of its rows.

    `groups`: y with its interval over numbers x, one series for each `by`. `intervals`: the same, a
    line for each name x. `agreement`: lists x against lists y, with the line where they are equal.
    `compute`: as `groups`, over a logarithmic x, with a panel for each label of y in `panel`.
    """

    kind: Literal["groups", "intervals", "agreement", "compute"]
    caption: _Name
    x: _Name
    y: _Name
    x_label: _Name = ""
    y_label: _Name
    low: _Name | None = None
    high: _Name | None = None
    by: _Name | None = None
    panel: _Name | None = None
    zero: bool = True  # of intervals: a line where nothing has changed
    where: dict[_Name, list[_Name | Number]] = {}  # column to the values that are shown


class BenchmarkTable(Record):
    """A table of a benchmark; its cells are of any kind."""

    caption: _Name
    rows: list[dict[str, Any]]
    figures: list[BenchmarkFigure] = []


class Bar(Record):
    """A measured number against what it must reach."""

    what: _Name
    measured: Number
    rule: _Name
    bar: Number
    unit: _Name
    met: bool
    model: _Name


class BenchmarkRecord(Record):
    """A file in the form of `tests/benchmarks/results.py`."""

    benchmark: _Name
    date: _Name
    device: _Name
    processor: _Name
    dtype: _Name
    threads: Count
    models: list[_Name]
    tables: list[BenchmarkTable]
    bars: list[Bar]
    found: _Name = ""  # in a sentence, what came out


class HeldOutRecord(Record):
    """See `HeldOut`."""

    value: Number
    low: Number | None
    high: Number | None
    floor_mean: Number
    floor_high: Number
    p_value: Share
    num_folds: Count
    choices: dict[_Name, Count]
    controls: dict[_Name, Number]


class SelectionRecord(Record):
    """What `hf-proxy rank --select` chose, see `Selection`."""

    scorer: _Name
    tasks_out: HeldOutRecord
    models_out: HeldOutRecord | None
    chosen: dict[_Name, Number]
    held_in: Number
    num_models: Count
    num_tasks: Count
    num_columns: Count
    notes: list[_Name]
    # files of before do not say
    correlations: dict[_Name, dict[_Name, Number]] = {}
    column_floor: Number | None = None


class RunFile(Record):
    """`run.json` of a training command."""

    command: _Name
    asked: dict[str, Any]
    result: dict[str, Any] | None


class TrainingFacts(Record):
    """What `hf-proxy train` says of its training; a loss may well be infinite."""

    optimizer_steps: Count
    losses: list[Annotated[float, Field(allow_inf_nan=True)]]
    kept_steps_trained: Count | None = None
    amateur: _Name | None = None
    targets: SettingsRecord


class SourceFacts(Record):
    """Of the set that it learnt from."""

    facts: Facts = Facts()


class TunedRecord(Record):
    """`provenance.json` of `hf-proxy train`."""

    training: TrainingFacts
    soft_targets: SourceFacts
    arguments: dict[str, Any] = {}
    model: dict[str, Any] = {}
    log_history: list[LoggedRow] = []


class TraceSetRecord(Record):
    """`provenance.json` of a trace set, as far as its rows do not say it."""

    fingerprint: _Name
    counts: dict[str, Any] = {}
    health: dict[str, Any] = {}
    parameters: dict[str, Any] = {}


class StampFacts(Record):
    """What a mined set says of its expert."""

    expert: Any = None


class StampRecord(Record):
    """`provenance.json` of any command, as far as it is not shown as it stands."""

    facts: StampFacts = StampFacts()
