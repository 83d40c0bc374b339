"""Sets of reasoning traces from every format that is known, each row checked, none lost unsaid.

A trace is text that a frontier model wrote, with spans of UTF-8 bytes, one for each of its tokens,
and their log-probabilities. Source: arXiv 2509.21013, appendix B and C.
"""

import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_proxy.records.errors import InputError, check_unique_ids, names
from hf_proxy.records.record import Count, Record, checked, read_record
from hf_proxy.records.rows import TRACE_FEATURES
from hf_proxy.records.storage import cached_dataset, cached_path, file_hash, fingerprint, write_text
from hf_proxy.traces.checks import TraceRecord, check_trace
from hf_proxy.traces.completions import (
    Dropped,
    prompts_of_requests,
    trace_of_completion,
    zero_spelt,
)
from hf_proxy.traces.files import open_source

FORMATS = ("trace", "text", "openai")
_MEND = "mend the row, or drop it"


class DroppedRecord(Record):
    """How many rows were left out by reason, in the cache beside those that were kept."""

    dropped: dict[str, Count]


def load_traces(
    source: str | Path,
    *,
    format: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    requests: str | Path | None = None,
) -> Dataset:
    """Reasoning traces from a file, folder or hub id, as a `Dataset` of `Trace` rows.

    Args:
        source: `.jsonl`, `.json` (a list of rows) or `.parquet` file, a folder of those, a
            `save_to_disk` folder, or the id of a dataset on the hub.
        format: `"trace"` (the fields of `TRACE_FEATURES`), `"text"` (prompt and trace without
            probabilities: every weight is 1), `"openai"` (chat completions with logprobs, one per
            row or as batch output). None: recognised from the columns of the first row.
        split: which split of a dataset that has several.
        columns: our field to the name it has in `source`, as `{"prompt": "question"}`.
        requests: input file of an OpenAI batch, for the prompts; joined by `custom_id`.

    Returns:
        `Dataset` with `TRACE_FEATURES`. Rows without an `example_id` in format `"text"` get their
        row number. Completions that hold no usable answer (request failed, cut off, refused) are
        dropped, with a warning that counts them by reason.

    Raises:
        InputError: the first malformed row, by file, row, field and remedy.
    """
    traces, dropped = read_traces(
        source, format=format, split=split, columns=columns, requests=requests
    )
    if dropped:
        counts = ", ".join(f"{count} x {reason}" for reason, count in sorted(dropped.items()))
        warnings.warn(f"{source}: rows dropped: {counts}", stacklevel=2)
    return traces


def read_traces(
    source: str | Path,
    *,
    format: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    requests: str | Path | None = None,
) -> tuple[Dataset, dict[str, int]]:
    """What `load_traces` does, giving the number of rows dropped by reason beside the rows."""
    columns = dict(columns or {})
    if format is not None and format not in FORMATS:
        raise InputError.at(
            f"format {format!r} is not known", remedy=f"use one of {FORMATS}", source=source
        )
    mappable = ("example_id", "prompt", "trace", "messages", "response")
    if unknown := sorted(set(columns) - set(mappable)):
        raise InputError.at(
            f"columns maps {unknown}, which no format reads",
            remedy=f"map one of {mappable}",
            source=source,
        )
    prompts = None if requests is None else prompts_of_requests(Path(requests))
    identity, raw_rows = open_source(str(source), split)
    wanted = [identity, format, columns, None if requests is None else file_hash(Path(requests))]
    key = f"traces-{fingerprint(wanted)}"
    dropped: Counter[str] = Counter()
    is_typed = getattr(raw_rows, "features", None) == TRACE_FEATURES and not columns

    def rows() -> Iterator[dict[str, Any]]:
        chosen = format
        for index, raw in enumerate(raw_rows):
            row = _rename(raw, columns, str(source), index)
            chosen = chosen or _recognise(row, str(source))
            if chosen == "openai":
                made = trace_of_completion(row, str(source), index, prompts)
            else:
                if not is_typed:
                    place = {"source": source, "row": index, "remedy": _MEND}
                    checked(TraceRecord, row, **place)
                made = _from_fields(row, index, chosen)
            if isinstance(made, Dropped):
                dropped[made.reason] += 1
                continue
            check_trace(made, source=str(source), index=index)
            yield made
        write_text(dropped_path, json.dumps({"dropped": dropped}))  # there before the rows are

    dropped_path = cached_path(f"{key}.dropped.json")
    traces = cached_dataset(key, TRACE_FEATURES, rows, anew=_dropped(dropped_path) is None)
    check_unique_ids(traces["example_id"], source=str(source))
    dropped_counts = _dropped(dropped_path) or {}
    if not len(traces):
        raise InputError.at(
            f"no trace is left, dropped: {dropped_counts}" if dropped_counts else "it is empty",
            remedy="name another",
            source=source,
        )
    return traces, dropped_counts


def _dropped(path: Path) -> dict[str, int] | None:
    """The counts that a cache holds; None where it holds none, or none that can be read."""
    try:
        return dict(read_record(path, DroppedRecord).dropped)
    except InputError:
        return None


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
