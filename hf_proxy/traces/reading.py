"""Sets of reasoning traces from every format that is known, each row checked, none lost unsaid.

A trace is text that a frontier model wrote, with spans of UTF-8 bytes, one for each of its tokens,
and their log-probabilities. Source: arXiv 2509.21013, appendix B and C.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_proxy.records.errors import InputError, check_unique_ids
from hf_proxy.records.record import Record, read_record
from hf_proxy.records.rows import TRACE_FEATURES
from hf_proxy.records.storage import cached_dataset, cached_path, file_hash, fingerprint, write_text
from hf_proxy.tokens.pieces import IdSpeller
from hf_proxy.tokens.tokenizers import load_tokenizer, tokenizer_fingerprint
from hf_proxy.traces.checks import check_trace
from hf_proxy.traces.completions import Reading
from hf_proxy.traces.files import open_source
from hf_proxy.traces.health import HealthCounter, TraceHealth
from hf_proxy.traces.released import TOKEN_FIELDS, ReleasedTraces, logprob_files
from hf_proxy.traces.requests import requests_of
from hf_proxy.traces.rows import FORMATS, trace_rows
from hf_proxy.traces.selection import PARTS, PROTOCOLS
from hf_proxy.traces.texts import texts_of

logger = logging.getLogger(__name__)
_FIELDS = ("example_id", "prompt", "trace", "messages", "response", "answer")


class SavedParameters(Record):
    """What a saved set was imported with, as far as it decides whether it is read."""

    allow_degenerate: bool = False


class SavedProvenance(Record):
    """`provenance.json` of a set, as far as reading needs it."""

    parameters: SavedParameters = SavedParameters()


def load_traces(
    source: str | Path,
    *,
    format: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    part: str | None = None,
    strict: bool = False,
    requests: str | Path | None = None,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    texts: str | Path | None = None,
) -> Dataset:
    """Reasoning traces from a file, folder or hub id, as a `Dataset` of `Trace` rows.

    Args:
        source: `.jsonl`, `.json` (a list of rows) or `.parquet` file, a folder of those, a
            `save_to_disk` folder, or the id of a dataset on the hub.
        format: `"trace"` (the fields of `TRACE_FEATURES`), `"text"` (prompt and trace without
            probabilities: every weight is 1), `"openai"` (any server's answers with logprobs, each
            recognised for itself, one per row or as batch output), `"rbridge"` (the released array
            of completions with its logprob files), `"rbridge-mask"` (key steps between `<span>`
            marks). None: recognised from the columns of the first row.
        split: which split of a dataset that has several.
        columns: our field to the name it has in `source`, as `{"prompt": "question"}`; of format
            `"rbridge"` also `token_example_id`, `position`, `token`, `bytes`, `logprob` of its
            logprob files. `answer`: the gold answer, by which right and wrong ones are counted.
        part: of an answer, `"reasoning"`, `"answer"` or `"all"`. None: the reasoning where there is
            one, the answer of a model that gives none.
        strict: raise at the first row that a server spoilt. False: such rows are dropped.
        requests: input file of an OpenAI batch, for the prompts; joined by `custom_id`.
        tokenizer: the server's, or its folder or hub id, for tokens that came as ids.
        texts: file with prompts and texts of a set whose rows hold ids and logprobs; joined by id.

    Returns:
        `Dataset` with `TRACE_FEATURES`. Rows without an `example_id` in formats of text get their
        row number; answers that of the server, else `<file stem>-<row>`. Answers that cannot be
        used (request failed, cut off, refused, not spelt by their tokens) are dropped, with a
        warning that counts them by reason and names the first.

    Raises:
        InputError: the first malformed row, by file, row, field and remedy; more than 95 % of the
            probabilities are exactly 0 or 1 (`hf-proxy traces import --allow_degenerate`).
    """
    traces, health = read_traces(
        source,
        format=format,
        split=split,
        columns=columns,
        part=part,
        strict=strict,
        requests=requests,
        tokenizer=tokenizer,
        texts=texts,
    )
    if health.remarks():
        warnings.warn(f"{source}: {health.line()}", stacklevel=2)
    else:
        logger.info("%s: %s", source, health.line())
    return traces


def read_traces(
    source: str | Path,
    *,
    format: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    part: str | None = None,
    strict: bool = False,
    requests: str | Path | None = None,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    texts: str | Path | None = None,
    protocol: str | None = None,
    allow_degenerate: bool = False,
) -> tuple[Dataset, TraceHealth]:
    """What `load_traces` does, giving the health of the set beside its rows.

    Args:
        protocol: `"json"`: answers that are no JSON object are dropped; `"text"`: all are taken as
            they stand. None: as `"json"` where most answers are such objects.
        allow_degenerate: read a set of probabilities that are all 0 or 1.
    """
    columns = dict(columns or {})
    _check_arguments(str(source), format, columns, part, protocol)
    if format is None and is_released(Path(source)):
        format = "rbridge"
    asked = None if requests is None else requests_of(Path(requests))
    if tokenizer is not None and not isinstance(tokenizer, PreTrainedTokenizerBase):
        tokenizer = load_tokenizer(tokenizer)
    sibling = None if texts is None else texts_of(Path(texts), columns)
    raw_rows: Iterable[Any]
    if format == "rbridge":
        raw_rows = ReleasedTraces(str(source), columns)
        identity = raw_rows.identity
    else:
        identity, raw_rows = open_source(str(source), split)
    wanted = [
        identity, format, columns, part, strict, protocol,
        *(None if path is None else file_hash(Path(path)) for path in (requests, texts)),
        None if tokenizer is None else tokenizer_fingerprint(tokenizer),
    ]  # fmt: skip
    is_typed = getattr(raw_rows, "features", None) == TRACE_FEATURES and not columns
    key = f"traces-{fingerprint([*wanted, Path(source).name])}"
    health_path = cached_path(f"{key}.health.json")

    def rows() -> Iterator[dict[str, Any]]:
        counter = HealthCounter()
        speller = None if tokenizer is None else IdSpeller(tokenizer)
        reading = Reading(part, protocol, speller, asked, sibling, "answer" in columns)
        made = trace_rows(
            raw_rows, str(source), format, columns, reading, counter, strict, is_typed
        )
        for index, row in made:
            check_trace(row, source=str(source), index=index)
            counter.add(row)
            yield row
        # there before the rows are
        write_text(health_path, counter.health().model_dump_json())

    traces = cached_dataset(key, TRACE_FEATURES, rows, anew=_health(health_path) is None)
    check_unique_ids(traces["example_id"], source=str(source))
    health = _health(health_path) or TraceHealth()
    if not len(traces):
        raise InputError.at("it is empty", remedy="name another", source=source)
    if not (allow_degenerate or _is_allowed(Path(source))):
        health.check(source)
    return traces, health


def is_released(path: Path) -> bool:
    """Whether this is an array of completions with its logprob files beside it."""
    return path.suffix == ".json" and path.is_file() and bool(logprob_files(path))


def _health(path: Path) -> TraceHealth | None:
    """What a cache holds; None where it holds none, or none that can be read."""
    try:
        return read_record(path, TraceHealth)
    except InputError:
        return None


def _is_allowed(folder: Path) -> bool:
    """Whether a set was imported with the word that its probabilities are all 0 or 1."""
    with suppress(InputError):
        path = folder / "provenance.json"
        return path.is_file() and read_record(path, SavedProvenance).parameters.allow_degenerate
    return False


def _check_arguments(
    source: str, format: str | None, columns: Mapping, part: str | None, protocol: str | None
) -> None:
    for name, value, known in (
        ("format", format, FORMATS),
        ("part", part, PARTS),
        ("protocol", protocol, PROTOCOLS),
    ):
        if value is not None and value not in known:
            raise InputError.at(
                f"{name} {value!r} is not known", remedy=f"use one of {known}", source=source
            )
    mappable = (*_FIELDS, *(TOKEN_FIELDS if format == "rbridge" else ()))
    if unknown := sorted(set(columns) - set(mappable)):
        raise InputError.at(
            f"columns maps {unknown}, which no format reads",
            remedy=f"map one of {mappable}",
            source=source,
        )
