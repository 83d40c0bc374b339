"""Reasoning traces with the frontier model's confidence: reading, checking, naming what is wrong.

A trace is text that a frontier model wrote, with spans of UTF-8 bytes, one for each of its tokens,
and their log-probabilities. Source: arXiv 2509.21013, appendix B and C.
"""

import hashlib
import json
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

from hf_proxy.completions import Dropped, text_of_messages, trace_of_completion, zero_spelt
from hf_proxy.schemas import (
    TRACE_FEATURES,
    WEIGHTINGS,
    ZERO_PROBABILITY_LOGPROB,
    InputError,
    cached_dataset,
    cached_path,
    file_hash,
    fingerprint,
    write_text,
)

FORMATS = ("trace", "text", "openai")
FILE_TYPES = (".jsonl", ".json", ".parquet")


def check_trace(row: Mapping, *, source: str | None = None, index: int | None = None) -> None:
    """Refuse a `Trace` row that could not be scored as it says.

    A row of weighting `"logprob"` needs frontier spans that cover every byte of the trace exactly
    once, in order, each with a finite logprob <= 0.

    Raises:
        InputError: naming `source`, the row and the field.
    """
    name = f"{index} (example_id {row.get('example_id')!r})"

    def fail(field: str, problem: str, remedy: str) -> NoReturn:
        raise InputError.at(problem, remedy=remedy, source=source, row=name, field=field)

    for text_field in ("example_id", "prompt", "trace", "weighting"):
        value = row.get(text_field)
        if not isinstance(value, str):
            fail(text_field, f"expected text, found {value!r:.40}", "fill it or drop the row")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            fail(text_field, f"lone surrogate at character {error.start}", "repair the text")
    if not row["example_id"]:
        fail("example_id", "it is empty", "give each row a name of its own")
    if not row["trace"]:
        fail("trace", "it is empty", "drop the row: there is nothing to score")
    if row["weighting"] not in WEIGHTINGS:
        fail("weighting", f"{row['weighting']!r} is not known", f"use one of {WEIGHTINGS}")
    spans, logprobs = row.get("frontier_spans"), row.get("frontier_logprobs")
    spans = [] if spans is None else spans
    logprobs = [] if logprobs is None else logprobs
    num_bytes = len(row["trace"].encode())
    if row["weighting"] == "none":
        if len(spans) or len(logprobs):
            fail("frontier_spans", "weighting 'none' takes no spans", "set weighting 'logprob'")
        return
    end = 0
    for place, (start, stop) in enumerate(spans):
        if row["weighting"] == "logprob" and start != end:
            fail(
                "frontier_spans",
                f"span {place} starts at byte {start}, the one before ends at byte {end}",
                "re-export the trace with the raw tokens of the frontier",
            )
        if not end <= start < stop <= num_bytes:
            fail(
                "frontier_spans",
                f"span {place} is [{start}, {stop}), expected within [{end}, {num_bytes}]",
                "spans are UTF-8 bytes of the trace, ascending, not empty",
            )
        end = stop
    if row["weighting"] == "mask":
        if len(logprobs):
            fail("frontier_logprobs", "weighting 'mask' takes none", "set weighting 'logprob'")
        return
    if end != num_bytes:
        fail(
            "frontier_spans",
            f"spans end at byte {end}, the trace has {num_bytes}",
            "re-export the trace with the raw tokens of the frontier",
        )
    if len(logprobs) != len(spans):
        fail(
            "frontier_logprobs",
            f"{len(logprobs)} logprobs for {len(spans)} spans",
            "give one logprob for each frontier token",
        )
    for place, logprob in enumerate(logprobs):
        if logprob is None:
            fail("frontier_logprobs", f"logprob {place} is missing", "ask for logprobs again")
        if not math.isfinite(logprob) or logprob > 0:
            fail(
                "frontier_logprobs",
                f"logprob {place} is {logprob}, expected a finite number <= 0",
                f"natural logs, p = 0 written {ZERO_PROBABILITY_LOGPROB}",
            )


def check_unique_ids(example_ids: Iterable[str], *, source: str | None = None) -> None:
    """Refuse repeated `example_id`s: results are keyed by them."""
    seen: dict[str, int] = {}
    for index, example_id in enumerate(example_ids):
        if example_id in seen:
            raise InputError.at(
                f"{example_id!r} stands in row {seen[example_id]} and again in row {index}",
                remedy="give each row a name of its own",
                source=source,
                row=index,
                field="example_id",
            )
        seen[example_id] = index


def traces_fingerprint(rows: Iterable[Mapping]) -> str:
    """Hash of the rows' content, sorted by `example_id`: equal for any order, path or machine."""
    digests = {}
    for row in rows:
        digest = hashlib.sha256()
        for text_field in ("example_id", "prompt", "trace", "weighting"):
            data = row[text_field].encode()
            digest.update(len(data).to_bytes(8, "little") + data)
        digest.update(np.asarray(row.get("frontier_spans") or [], "<i4").tobytes())
        digest.update(np.asarray(row.get("frontier_logprobs") or [], "<f8").tobytes())
        digests[row["example_id"]] = digest.hexdigest()
    return fingerprint(sorted(digests.items()))


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
    prompts = None if requests is None else _prompts_by_custom_id(requests)
    identity, raw_rows = _open(str(source), split)
    wanted = [identity, format, columns, None if requests is None else file_hash(Path(requests))]
    key = f"traces-{fingerprint(wanted)}"
    dropped: Counter[str] = Counter()

    def rows() -> Iterator[dict[str, Any]]:
        chosen = format
        for index, raw in enumerate(raw_rows):
            row = _rename(raw, columns, str(source), index)
            chosen = chosen or _recognise(row, str(source))
            if chosen == "openai":
                made = trace_of_completion(row, str(source), index, prompts)
            else:
                made = _from_fields(row, index, chosen)
            if isinstance(made, Dropped):
                dropped[made.reason] += 1
                continue
            check_trace(made, source=str(source), index=index)
            yield made
        write_text(dropped_path, json.dumps(dropped))  # there before the rows are

    dropped_path = cached_path(f"{key}.dropped.json")
    traces = cached_dataset(key, TRACE_FEATURES, rows)
    check_unique_ids(traces["example_id"], source=str(source))
    dropped_counts = json.loads(dropped_path.read_text())
    if not len(traces):
        raise InputError.at(
            f"no trace is left, dropped: {dropped_counts}" if dropped_counts else "it is empty",
            remedy="name another",
            source=source,
        )
    return traces, dropped_counts


def _open(source: str, split: str | None) -> tuple[str, Iterable[Mapping]]:
    """What names the content of `source`, and its rows."""
    path = Path(source)
    if not path.exists():
        if path.suffix in FILE_TYPES or source.startswith((".", "/", "~")) or source.count("/") > 1:
            raise InputError.at("there is no such file", remedy="check the path", source=source)
        try:
            found = load_dataset(source, split=split)
        except (OSError, ValueError, DatasetsError) as error:
            raise InputError.at(
                "neither a file, a folder nor a hub data set that can be had "
                f"({type(error).__name__})",
                remedy="check path and split; offline, only data sets already in the cache are "
                "found",
                source=source,
            ) from error
        dataset = _one_split(found, source)
        return dataset._fingerprint, dataset
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        identity = fingerprint([[file.name, file_hash(file)] for file in files])
        if any(file.name in ("state.json", "dataset_dict.json") for file in files):
            dataset = load_from_disk(source)
            if split is not None:
                dataset = _split(dataset, split, source)
            return fingerprint([identity, split]), _one_split(dataset, source)
        _no_split(split, source)
        files = [file for file in files if file.suffix in FILE_TYPES]
        if not files:
            raise InputError.at(
                "the folder holds no set",
                remedy=f"expected {' or '.join(FILE_TYPES)} files",
                source=source,
            )
        return identity, (row for file in files for row in _file_rows(file))
    _no_split(split, source)
    return file_hash(path), _file_rows(path)


def _split(dataset: Any, split: str, source: str) -> Dataset:
    if not isinstance(dataset, DatasetDict):
        if str(dataset.split) != split:
            _no_split(split, source)
        return dataset
    if split not in dataset:
        raise InputError.at(
            f"there is no split {split!r}", remedy=f"it has {', '.join(dataset)}", source=source
        )
    return dataset[split]


def _no_split(split: str | None, source: str) -> None:
    if split is not None:
        raise InputError.at(
            f"there is no split {split!r} here", remedy="leave split out", source=source
        )


def _one_split(dataset: Any, source: str) -> Dataset:
    if isinstance(dataset, Mapping):
        if len(dataset) > 1:
            raise InputError.at(
                f"it has several splits: {sorted(dataset)}", remedy="pass split=", source=source
            )
        (dataset,) = dataset.values()
    return dataset


def _file_rows(path: Path) -> Iterator[Mapping]:
    if path.suffix == ".parquet":
        try:
            file = pq.ParquetFile(path)
        except pa.ArrowException as error:
            raise InputError.at(
                "no Parquet file", remedy="write it again, or name another", source=path
            ) from error
        for batch in file.iter_batches():
            yield from batch.to_pylist()
    elif path.suffix == ".json":
        content = _parse_json(path.read_bytes(), path, None)
        if not isinstance(content, list):
            raise InputError.at(
                "expected a list of rows", remedy="for one object a line use .jsonl", source=path
            )
        for index, row in enumerate(content):
            yield _mapping(row, path, index)
    elif path.suffix == ".jsonl":
        with path.open("rb") as file:
            filled = ((number, line) for number, line in enumerate(file, 1) if line.strip())
            for index, (number, line) in enumerate(filled):
                yield _mapping(_parse_json(line, path, index, number), path, index)
    else:
        raise InputError.at(
            f"file type {path.suffix!r} is not read",
            remedy=f"use {' or '.join(FILE_TYPES)}",
            source=path,
        )


def _parse_json(data: bytes, path: Path, index: int | None, line: int | None = None) -> Any:
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise InputError.at(
            f"no UTF-8 text at byte {error.start}",
            remedy="save the file as UTF-8",
            source=path,
            row=index,
        ) from error
    except json.JSONDecodeError as error:
        # rows count from 0, as everywhere in datasets; an editor's lines do not
        where = f"line {error.lineno if line is None else line}, character {error.colno}"
        raise InputError.at(
            f"no JSON from {where} on ({error.msg})",
            remedy="the file may be cut off: write it again",
            source=path,
            row=index,
        ) from error


def _mapping(row: Any, path: Path, index: int) -> Mapping:
    if not isinstance(row, Mapping):
        raise InputError.at(
            f"expected an object, found {row!r:.40}",
            remedy="one JSON object per row",
            source=path,
            row=index,
        )
    return row


def _rename(raw: Mapping, columns: Mapping[str, str], source: str, index: int) -> dict[str, Any]:
    row = dict(raw)
    for ours, theirs in columns.items():
        if theirs not in raw:
            raise InputError.at(
                f"there is no such field; the row has {sorted(raw)}",
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
        f"the fields {sorted(row)} fit no format of {FORMATS}",
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


def _prompts_by_custom_id(requests: str | Path) -> dict[str, str]:
    path = Path(requests)
    file_hash(path)  # the readable error
    prompts = {}
    for index, row in enumerate(_file_rows(path)):

        def fail(field, problem, remedy, index=index):
            return InputError.at(problem, remedy=remedy, source=path, row=index, field=field)

        body = row.get("body")
        if "custom_id" not in row or not isinstance(body, Mapping) or "messages" not in body:
            raise fail("body.messages", "not a batch request", "pass the input file of the batch")
        prompts[row["custom_id"]] = text_of_messages(body["messages"], fail)
    return prompts
