"""Rows of a file, a folder or a hub id as they stand there, and what names their content."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

from hf_proxy.records.errors import InputError
from hf_proxy.records.storage import file_hash, fingerprint

FILE_TYPES = (".jsonl", ".json", ".parquet")


def open_source(source: str, split: str | None) -> tuple[str, Iterable[Mapping]]:
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
        return identity, (row for file in files for row in file_rows(file))
    _no_split(split, source)
    return file_hash(path), file_rows(path)


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


def file_rows(path: Path) -> Iterator[Mapping]:
    """Rows of one `.jsonl`, `.json` or `.parquet` file.

    Raises:
        InputError: it is no such file, or a row is no object.
    """
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
