"""Rows of a source as traces, by their format; those that a server spoilt are counted."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from hf_proxy.records.errors import InputError, names, shown
from hf_proxy.records.record import checked
from hf_proxy.traces.checks import TraceRecord, check_trace, zero_spelt
from hf_proxy.traces.completions import Reading, json_evidence, trace_of_row
from hf_proxy.traces.gold import is_right
from hf_proxy.traces.health import HealthCounter
from hf_proxy.traces.released import masked_row
from hf_proxy.traces.shapes.answer import RowDefect
from hf_proxy.traces.shapes.recognise import shape_of

logger = logging.getLogger(__name__)
FORMATS = ("trace", "text", "openai", "rbridge", "rbridge-mask")
_MEND = "mend the row, or drop it"


def trace_rows(
    raw_rows: Iterable[Any],
    source: str,
    format: str | None,
    columns: Mapping[str, str],
    reading: Reading,
    counter: HealthCounter,
    strict: bool,
    is_typed: bool,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and `Trace` of each row that can be used; the others are counted.

    Raises:
        InputError: a row is malformed, or none can be used; with `strict` the first defect.
    """
    if format == "rbridge":
        _refuse_unread(reading, format, source)
        yield from raw_rows
        return
    first: RowDefect | None = None
    num_made = 0
    for index, raw in enumerate(raw_rows):
        # names of a sibling's fields need not stand here
        named = columns if reading.texts is None else {k: v for k, v in columns.items() if v in raw}
        row = _rename(raw, named, source, index)
        if format is None:
            format = _recognise(row, source)
        if index == 0 and format != "openai":
            _refuse_unread(reading, format, source)
        if format == "openai" and index == 0 and reading.protocol is None:
            reading = _with_protocol(reading, raw_rows, columns)
        try:
            made = _row_of(row, source, index, format, reading, counter, is_typed)
        except RowDefect as defect:
            if strict:
                raise
            logger.info("%s", defect)
            counter.drop(defect.reason, str(index))
            first = first or defect
            continue
        num_made += 1
        yield index, made
    if first is not None and not num_made:
        raise InputError(f"no trace is left of {source}; the first that was dropped: {first}")


def _refuse_unread(reading: Reading, format: str, source: str) -> None:
    """Arguments that say how a server's answer is read do nothing to rows that are none."""
    for name in ("part", "protocol", "requests", "speller", "texts"):
        if getattr(reading, name) is not None:
            raise InputError.at(
                f"rows of format {format} have no use for it",
                remedy="leave it out: it is for servers' answers (format openai)",
                source=source,
                field="tokenizer" if name == "speller" else name,
            )


def _row_of(
    row: Mapping,
    source: str,
    index: int,
    format: str,
    reading: Reading,
    counter: HealthCounter,
    is_typed: bool,
) -> dict[str, Any]:
    if format == "rbridge-mask":
        return masked_row(row, source, index)
    if format != "openai":
        if not is_typed:
            checked(TraceRecord, row, source=source, row=index, remedy=_MEND)
        made = _from_fields(row, index, format)
        counter.told(correct=row.get("correct") if type(row.get("correct")) is bool else None)
        return made
    found = trace_of_row(row, source, index, reading)
    try:
        check_trace(found.row, source=source, index=index)
    except InputError as error:  # a text that is no text is the server's
        raise RowDefect(str(error)) from error
    correct = row.get("correct") if type(row.get("correct")) is bool else None
    if correct is None and reading.graded and found.answer is not None:
        name = f"{index} (example_id {shown(found.row['example_id'])})"
        correct = is_right(found.answer, row.get("answer"), source=source, row=name)
    counter.told(
        part=found.part,
        temperature=found.temperature,
        over_one=found.over_one,
        correct=correct,
    )
    return found.row


def _with_protocol(reading: Reading, raw_rows: Iterable[Any], columns: Mapping) -> Reading:
    """Whether the set is one of JSON answers: most of those that tell are meant as such."""
    votes = [0, 0]
    for index, raw in enumerate(raw_rows):
        try:
            evidence = json_evidence(_rename(raw, columns, "", index))
        except InputError:  # said when the row is read
            continue
        if evidence is not None:
            votes[evidence] += 1
    return replace(reading, protocol="json") if votes[True] > votes[False] else reading


def _rename(raw: Mapping, columns: Mapping[str, str], source: str, index: int) -> dict[str, Any]:
    row = dict(raw)
    for ours, theirs in columns.items():
        if theirs not in raw:
            raise InputError.at(
                f"there is no such field; the row has {names(raw)}",
                remedy="correct columns",
                source=source,
                row=index,
                field=theirs,
            )
        row[ours] = raw[theirs]
    return row


def _recognise(row: Mapping, source: str) -> str:
    if "response" in row:
        return "openai"
    if "prompt" in row and "trace" in row:
        return "trace" if "weighting" in row or "frontier_spans" in row else "text"
    if shape_of(row) is not None:
        return "openai"
    if "question" in row and "reasoning" in row and "frontier_spans" not in row:
        return "rbridge-mask"
    raise InputError.at(
        f"the fields {names(row)} fit no format of {FORMATS}",
        remedy="say which are meant: --columns prompt=question trace=answer, in Python "
        "columns={'prompt': 'question', 'trace': 'answer'}",
        source=source,
        row=0,
    )


def _from_fields(row: Mapping, index: int, format: str) -> dict[str, Any]:
    spans = row.get("frontier_spans") if format == "trace" else None
    logprobs = row.get("frontier_logprobs") if format == "trace" else None
    has_spans = spans is not None and len(spans) > 0
    weighting = row.get("weighting") if format == "trace" else "none"
    example_id = row.get("example_id")
    if example_id is None and format == "text":
        example_id = index
    return {
        "example_id": str(example_id) if isinstance(example_id, int) else example_id,
        "prompt": row.get("prompt"),
        "trace": row.get("trace"),
        "weighting": weighting or ("logprob" if has_spans else "none"),
        "frontier_spans": [] if spans is None else spans,
        "frontier_logprobs": [] if logprobs is None else [zero_spelt(x) for x in logprobs],
    }
