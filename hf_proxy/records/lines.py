"""JSONL files: their lines' types, and the one reader and writer of them.

A line ends in a newline byte and in nothing else: text may hold every other letter that Python
takes for the end of a line.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, Self, TypeVar

from pydantic import Field, InstanceOf, model_validator

from hf_proxy.records.files import opened
from hf_proxy.records.record import (
    Count,
    Number,
    Positive,
    Record,
    Share,
    Text,
    checked,
    parse_object,
    read_bytes,
)
from hf_proxy.records.scores import Metric
from hf_proxy.records.storage import write_text

L = TypeVar("L", bound=Record)


class PredictionRecord(Record):
    """An accuracy that a curve read from a score, in fractions."""

    value: Number
    low: Number
    high: Number
    level: Share
    extrapolated: bool


class ExtrapolationRecord(Record):
    """See `Extrapolation`."""

    value: Number
    low: Number
    high: Number
    level: Share


class ForecastRecord(Record):
    """See `Forecast`; its controls are left alone."""

    horizon: Positive
    last: Positive
    proxy: ExtrapolationRecord
    limit: Number
    factor: Number
    exponent: Number
    accuracy: ExtrapolationRecord | None
    num_points: Count
    notes: list[Text] = []
    metric: Metric | None = None  # that the law is of; files of before do not say


class LogLine(Record):
    """What every line of a callback says first."""

    name: Text
    step: Count


class RunLine(LogLine):
    """A line with the run that it belongs to."""

    run_id: Text
    tokens_seen: Count | None = None


class ScoreLine(LogLine):
    """`predictions.jsonl`: one scoring of the model in training."""

    value: Number
    low: Number | None
    high: Number | None
    trace_nll: Number
    bits_per_byte: Number
    predictions: dict[Text, PredictionRecord]
    forecasts: dict[Text, ForecastRecord] = {}
    seconds: Number = 0.0
    model_id: Text | None = None
    num_traces: Count | None = None
    num_labels: Count | None = None
    setting: Text | None = None


class JoinedLine(ScoreLine):
    """One that is held against results of another model."""

    run_id: Text
    tokens_seen: Annotated[Number, Field(ge=0)] | None
    setting_parts: dict[Text, Text | Count | None]
    num_parameters: Count


class ForetoldSettingRecord(Record):
    """What contrastive decoding foretold; without right answers there are no figures."""

    divergence_beta: Number
    plausibility_alpha: Number
    gain: Number | None
    low: Number | None
    high: Number | None
    p: Share | None
    verdict: Literal["go", "away", "no evidence"] | None
    expert_accuracy: Share | None
    amateur_accuracy: Share | None
    accuracy: Share | None
    agreement: Share
    num_problems: Count
    num_cut: Count

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = "gain low high p verdict expert_accuracy amateur_accuracy accuracy".split()
        absent = [getattr(self, name) is None for name in names]
        if any(absent) != all(absent):
            raise ValueError("some of its figures are there and some are not")
        return self


class ForetoldRecord(ForetoldSettingRecord):
    """The same with the sentences that belong beside it."""

    notes: list[Text]


class ContrastLine(LogLine):
    """`contrast.jsonl`: one mining of the model in training."""

    num_kept: Count
    num_steps: Count
    kept_share: Share | None
    kl_mean: Number | None
    top1_agreement: Share | None
    support_size: Number | None
    flip_rate: Share | None
    foretold: ForetoldRecord | None = None
    seconds: Number = 0.0


class FedLine(LogLine):
    """One whose rows a resumed run may have to take up."""

    num_kept: Count
    folder: Annotated[str, Field(pattern=r"^soft_targets/[\w-]+$")]


class ItemLine(Record):
    """`items.jsonl`: one answer to one problem. Its text is a model's, so anything."""

    model: InstanceOf[str]
    example_id: InstanceOf[str]
    correct: bool
    gold: InstanceOf[str]
    text: InstanceOf[str]
    answer: InstanceOf[str] | None = None


class Line(NamedTuple, Generic[L]):
    """One line: its number from 1, what it says as a model, and all of it as it stands."""

    number: int
    record: L
    content: dict[str, Any]


def raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each line that holds anything, as they come: memory stays flat.

    A byte order mark before the first is no part of it, as in `read_bytes`; `.gz` is unpacked.

    Raises:
        InputError: the file cannot be read.
    """
    with opened(path, remedy="check the path") as file:
        yield from ((n, line) for n, line in enumerate(file, 1) if line.strip())


def read_lines(
    path: str | Path, model: type[L], *, remedy: str = "mend or drop the line"
) -> Iterator[Line[L]]:
    """Lines of a JSONL file that is whole, one after another; empty ones hold nothing.

    Raises:
        InputError: the file cannot be read, or a line is no object or does not fit the model.
    """
    path = Path(path)
    for number, line in raw_lines(path):
        content = parse_object(line, source=path, line=number, remedy=remedy)
        place = f"{path}, line {number}"
        yield Line(number, checked(model, content, source=place, remedy=remedy), content)


def read_log(path: Path, model: type[L]) -> tuple[list[Line[L]], bool]:
    """Lines of a file that a run writes line by line, none where there is no file.

    A last line without its newline is what was being written when the machine died, or still is: it
    is none, whatever it holds. An empty line was written by nobody.

    Returns:
        the lines, and whether something stands behind them.

    Raises:
        InputError: as in `read_lines`.
    """
    if not path.is_file():
        return [], False
    *lines, rest = read_bytes(path).split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        content = parse_object(line, source=path, line=number)
        place = f"{path}, line {number}"
        found.append(Line(number, checked(model, content, source=place), content))
    return found, bool(rest.strip())


def keep_lines(path: Path, numbers: Iterable[int]) -> None:
    """Rewrite a file with these of its lines, byte for byte, by rename."""
    lines = read_bytes(path).split(b"\n")
    write_text(path, "".join(lines[number - 1].decode() + "\n" for number in numbers))


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSONL file by rename.

    Raises:
        ValueError: a number is not finite.
    """
    write_text(path, "".join(map(_line, rows)))


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line, on the disk before this returns.

    Raises:
        ValueError: a number is not finite.
    """
    line = _line(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(dict(row), allow_nan=False) + "\n"
