"""A proxy score, and what must be equal for two of them to be compared."""

import json
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, get_args

from datasets import Dataset
from pydantic import model_validator

from hf_proxy.records.record import Count, Number, Record, Text, checked, parse_object
from hf_proxy.records.storage import fingerprint

# of a ProxyScore, for which lower is better, and what they are called
Metric = Literal["value", "trace_nll", "bits_per_byte"]
METRIC_NAMES: dict[str, str] = {
    "value": "rBridge",
    "trace_nll": "R_phi",
    "bits_per_byte": "bits per byte",
}
# the same with their units
METRIC_LABELS = {
    metric: name if metric == "bits_per_byte" else f"{name}, nats per token"
    for metric, name in METRIC_NAMES.items()
}
METRICS: tuple[str, ...] = get_args(Metric)


class ScoreScalars(Record):
    """The numbers of a saved score; see `ProxyScore`."""

    value: Number
    low: Number | None
    high: Number | None
    pooled: Number
    trace_nll: Number
    bits_per_byte: Number
    top1_agreement: Number
    mean_rank: Number
    num_traces: Count
    num_labels: Count
    setting_parts: dict[Text, Text | Count | None]
    model_id: Text | None
    num_parameters: Count
    step: Count | None
    tied_share: Number | None = None
    statistics: dict[Text, Number] = {}
    statistics_pooled: dict[Text, Number] = {}
    zero_weight_traces: dict[Text, Count] = {}
    statistics_parts: dict[Text, Text | Count | None] = {}

    def to_score(self, rows: Dataset) -> "ProxyScore":
        """The score, with the rows of its traces."""
        scalars = {name: getattr(self, name) for name in ScoreScalars.model_fields}
        return ProxyScore(setting=Setting(scalars.pop("setting_parts")), rows=rows, **scalars)


class ScoreRows(Record):
    """Columns of a score's traces; none of them where only the numbers were kept."""

    example_id: list[Text] = []
    weighted_nll_sum: list[Number] = []
    nll_sum: list[Number] = []
    weight_sum: list[Number] = []
    top1_sum: list[Number] | None = None
    rank_sum: list[Number] | None = None
    tied_sum: list[Count] | None = None
    num_labels: list[Count] = []
    num_bytes: list[Count] = []

    @property
    def columns(self) -> dict[str, list]:
        """Those that the file has."""
        found = {name: getattr(self, name) for name in ScoreRows.model_fields}
        return {name: column for name, column in found.items() if column is not None}

    @model_validator(mode="after")
    def _fit(self) -> Self:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns differ in length, {lengths}")
        if len(set(self.example_id)) < len(self.example_id):
            raise ValueError("an example_id stands twice")
        if 0 in self.num_labels or 0 in self.num_bytes:
            raise ValueError("a trace has no labels or no bytes")
        return self


class ScoreRecord(ScoreScalars):
    """A line of `scores.jsonl`: what `ProxyScore.to_json` writes."""

    rows: ScoreRows

    def to_score(self, rows: Dataset | None = None) -> "ProxyScore":
        """The score, with the rows that it holds."""
        columns = self.rows.columns if self.rows.example_id else {}
        return super().to_score(Dataset.from_dict(columns))


@dataclass(frozen=True)
class Setting:
    """What must be equal for two scores to be compared.

    `parts` maps traces, num_traces, tokenizer, context, unit, minmax_over, max_length and divisor
    to text or hashes of content; `hash` is the fingerprint of them all.
    """

    parts: dict[str, Any]

    @property
    def hash(self) -> str:
        return fingerprint(self.parts)

    def differing(self, other: "Setting") -> list[str]:
        """`name: mine != theirs` for each part that differs."""
        names = sorted(set(self.parts) | set(other.parts))
        return [
            f"{name}: {self.parts.get(name)!r} != {other.parts.get(name)!r}"
            for name in names
            if self.parts.get(name) != other.parts.get(name)
        ]

    def incomparable(self, other: "Setting", metric: str) -> tuple[list[str], str]:
        """Why a metric of two settings does not compare.

        `"bits_per_byte"` asks only that traces and context be equal, so it compares across
        tokenizers; in chats each may have its own template, not one rendered in two ways.

        Returns:
            the differing parts, empty if it compares, and a note on what to keep in mind.
        """
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {METRICS}, not {metric!r}")
        differing, note = self.differing(other), ""
        if metric == "bits_per_byte":
            differing = [part for part in differing if part.startswith(("traces:", "context:"))]
            chats = [str(s.parts.get("context")).split() for s in (self, other)]
            # one template and tokenizer, two texts: of another day, or told something else
            is_one = chats[0][:2] == chats[1][:2]
            is_one &= self.parts.get("tokenizer") == other.parts.get("tokenizer")
            if chats[0][:1] == chats[1][:1] == ["chat"] and not is_one:
                differing = [part for part in differing if not part.startswith("context:")]
                note = "each model saw the prompt in its own chat template"
        return differing, note


@dataclass(frozen=True)
class ProxyScore:
    """One model on one trace set. NLLs in nats per token; lower is better.

    Attributes:
        value: rBridge, mean over traces of `weighted_nll_sum / divisor`.
        low, high: 90 % interval of `value`, percentile bootstrap over traces; None for one
            or two.
        pooled: the same sums, divided once over all traces.
        trace_nll: R_phi, mean over traces of `nll_sum / num_labels`: rBridge with all weights 1.
        bits_per_byte: summed NLL over summed bytes, in bits; the one number that compares across
            tokenizers.
        top1_agreement: share of all labels that come first; a tie of n counts 1 / n.
        mean_rank: mean over all labels of 1 + the number of tokens that outrank it + half of those
            that tie with it.
        setting: what was scored and how; see `Setting`.
        step: training step of the weights, where known.
        rows: `Dataset`, per trace, sorted by `example_id`: `example_id, weighted_nll_sum, nll_sum,
            weight_sum, top1_sum, rank_sum, tied_sum, num_labels, num_bytes`.
        tied_share: share of all labels that another token ties with: the two numbers above are
            expectations over these. None in scores of a version that counted ties as wins.
        statistics: name to mean over traces of the statistics of `hf_proxy.scoring.statistics`:
            `ce`, `freq_top5` and so on. Empty in scores of a version that had none.
        statistics_pooled: the same over all labels at once.
        zero_weight_traces: weighting to the number of traces in which all its weights are 0.
        statistics_parts: how much of a trace they are of and what the frequencies are of; see
            `statistics_setting`.
    """

    value: float
    low: float | None
    high: float | None
    pooled: float
    trace_nll: float
    bits_per_byte: float
    top1_agreement: float
    mean_rank: float
    num_traces: int
    num_labels: int
    setting: Setting
    model_id: str | None
    num_parameters: int
    step: int | None
    rows: Dataset
    tied_share: float | None = None
    statistics: dict[str, float] = field(default_factory=dict)
    statistics_pooled: dict[str, float] = field(default_factory=dict)
    zero_weight_traces: dict[str, int] = field(default_factory=dict)
    statistics_parts: dict[str, Any] = field(default_factory=dict)

    @property
    def statistics_setting(self) -> Setting:
        """What must be equal for two statistics to be compared."""
        return Setting(self.setting.parts | self.statistics_parts)

    def scalars(self) -> dict[str, Any]:
        """Everything but `rows`, ready for JSON; the setting as its hash and parts."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rows"}
        return values | {"setting": self.setting.hash, "setting_parts": self.setting.parts}

    def to_json(self) -> str:
        """All of it as JSON text; `from_json` gives back an equal score."""
        return json.dumps(self.scalars() | {"rows": self.rows.to_dict()}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "ProxyScore":
        """The score that `to_json` wrote.

        Raises:
            InputError: it is none.
        """
        content = parse_object(text.encode(errors="surrogatepass"), source="score")
        return checked(ScoreRecord, content, source="score").to_score()
