"""Rows of a file, a folder or a hub id as they stand there, and what names their content."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

from hf_proxy.records.errors import InputError, shown
from hf_proxy.records.files import csv_rows, kind_of
from hf_proxy.records.lines import raw_lines
from hf_proxy.records.record import parse_json, read_bytes
from hf_proxy.records.storage import file_hash, fingerprint, is_unchanged

FILE_TYPES = (".jsonl", ".json", ".parquet", ".csv")  # all but .parquet also packed, as .jsonl.gz
_ANEW = "save it again, or name another"
_AGAIN = "the file may be cut off: write it again"


def open_source(source: str, split: str | None) -> tuple[str, Iterable[Mapping]]:
    """What names the content of `source`, and its rows."""
    path = Path(source)
    if not path.exists():
        if (
            kind_of(path) in FILE_TYPES
            or source.startswith((".", "/", "~"))
            or source.count("/") > 1
        ):
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
            dataset = saved_set(path)
            if split is not None:
                dataset = _split(dataset, split, source)
            return fingerprint([identity, split]), _one_split(dataset, source)
        _no_split(split, source)
        files = [file for file in files if kind_of(file) in FILE_TYPES]
        if not files:
            raise InputError.at(
                "the folder holds no set",
                remedy=f"expected {' or '.join(FILE_TYPES)} files",
                source=source,
            )
        return identity, FileRows(files)
    _no_split(split, source)
    return file_hash(path), FileRows([path])


class FileRows:
    """Rows of files, read anew each time they are asked for."""

    def __init__(self, files: Sequence[Path]):
        self._files = files

    def __iter__(self) -> Iterator[Mapping]:
        return (row for file in self._files for row in file_rows(file))


def saved_set(folder: Path) -> Dataset | DatasetDict:
    """What `save_to_disk` wrote: mapped, and every value of it one that may be read."""
    for path in sorted(folder.rglob("*.arrow")):
        if is_unchanged(path) is False:
            raise InputError.at(
                "it is not as it was written (its checksum differs)", remedy=_ANEW, source=path
            )
    try:
        found = load_from_disk(str(folder))
        for dataset in found.values() if isinstance(found, DatasetDict) else [found]:
            dataset.data.validate(full=True)
            dataset[:1]  # features that do not fit their columns
    except Exception as error:  # the libraries below raise whatever they come upon
        raise InputError.at(
            f"no saved set can be read ({type(error).__name__})", remedy=_ANEW, source=folder
        ) from error
    return found


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
    """Rows of one `.jsonl`, `.json`, `.csv` or `.parquet` file, all but the last packed or not.

    Raises:
        InputError: it is no such file, or a row is no object.
    """
    kind = kind_of(path)
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
    elif kind == ".csv":
        yield from (row for _, row in csv_rows(path))
    elif kind == ".json":
        content = parse_json(read_bytes(path), source=path, remedy=_AGAIN)
        if not isinstance(content, list):
            raise InputError.at(
                "expected a list of rows", remedy="for one object a line use .jsonl", source=path
            )
        for index, row in enumerate(content):
            yield _mapping(row, path, index)
    elif kind == ".jsonl":
        # rows count from 0, as everywhere in datasets; an editor's lines do not
        for index, (number, line) in enumerate(raw_lines(path)):
            row = parse_json(line, source=path, row=index, line=number, remedy=_AGAIN)
            yield _mapping(row, path, index)
    else:
        raise InputError.at(
            f"file type {path.suffix!r} is not read",
            remedy=f"use {' or '.join(FILE_TYPES)}",
            source=path,
        )


def _parquet_rows(path: Path) -> Iterator[Mapping]:
    try:
        for batch in pq.ParquetFile(path, page_checksum_verification=True).iter_batches():
            batch.validate(full=True)
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError.at(
            f"no Parquet file ({type(error).__name__})",
            remedy="write it again, or name another",
            source=path,
        ) from error


def _mapping(row: Any, path: Path, index: int) -> Mapping:
    if not isinstance(row, Mapping):
        raise InputError.at(
            f"expected an object, found {shown(row)}",
            remedy="one JSON object per row",
            source=path,
            row=index,
        )
    return row
