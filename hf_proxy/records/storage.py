"""Hashes of content, caches, and files that appear by rename, whole or not at all.

Sets are Arrow files that hold numbers, ids, text and bytes only. Beside each that we write stands
its checksum, as `sha256sum -c` reads it: a byte that has changed since is named, not learnt from.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
from datasets import Dataset, Features
from huggingface_hub import constants

from hf_proxy.records.errors import InputError


def fingerprint(content: Any) -> str:
    """First 16 hex digits of the SHA-256 of `content` as canonical JSON: equal on every machine."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError.at(
            f"cannot be read ({error.strerror})", remedy="check path and rights", source=path
        ) from error


def cache_dir() -> Path:
    """Where alignments and scores are kept between runs: `hf_proxy` in the Hugging Face home."""
    return Path(constants.HF_HOME) / "hf_proxy"


def partial_path(path: Path) -> Path:
    """A name beside `path` that no other process takes, on this host or another, to rename from."""
    return path.with_name(f".{path.name}.{uuid4().hex}")


def write_text(path: Path, text: str) -> None:
    """Write a file by rename, so that no reader ever sees half of it."""
    partial = partial_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:  # its own line names the partial file, which no user knows
        raise InputError.at(
            f"cannot be written ({error.strerror})", remedy="check path and rights", source=path
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def cached_path(name: str) -> Path:
    """Place of a file in the cache of these versions; others may spell a text differently."""
    versions = [version(name) for name in ("hf-proxy", "transformers", "tokenizers")]
    return cache_dir() / fingerprint(versions) / name


def cached_dataset(
    key: str, features: Features, rows: Callable[[], Iterable[dict]], *, anew: bool = False
) -> Dataset:
    """The memory-mapped `Dataset` stored under `key`, built from `rows()` if it is not there whole.

    Rows are written as they come, so memory does not grow with the set. The file appears after
    `rows()` has ended, and is never taken away: several processes may build it at once.

    Args:
        anew: build it whatever is there.
    """
    path = cached_path(f"{key}.arrow")
    if anew or not path.exists() or not is_unchanged(path):
        write_arrow(path, features, rows())
    return Dataset.from_file(str(path))


def write_arrow(path: Path, features: Features, rows: Iterable[dict]) -> None:
    """Write rows as they come to an Arrow file that `Dataset.from_file` maps, by rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    schema = features.arrow_schema
    try:
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            stream = iter(rows)
            while chunk := list(islice(stream, 1000)):
                writer.write_batch(pa.RecordBatch.from_pylist(chunk, schema=schema))
        # first the checksum: a file without one was written by a version that wrote none
        _write_checksum(path, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_arrow(path: Path, features: Features, *, remedy: str) -> Dataset:
    """The rows of a file that `write_arrow` wrote, mapped.

    Raises:
        InputError: it is not as it was written; where an older version left no checksum, it is no
            Arrow file of these columns.
    """
    unchanged = is_unchanged(path)
    if unchanged is False:
        raise InputError.at(
            "it is not as it was written (its checksum differs)", remedy=remedy, source=path
        )
    try:
        rows = Dataset.from_file(str(path))
        if unchanged is None:  # what a flipped byte makes of an offset would be read as memory
            rows.data.validate(full=True)
    except Exception as error:  # the libraries below raise whatever they come upon
        raise InputError.at(
            f"it cannot be read ({type(error).__name__})", remedy=remedy, source=path
        ) from error
    if unchanged is None and rows.features != features:
        raise InputError.at("its columns are not those of such a set", remedy=remedy, source=path)
    if unchanged is None and any(map(_has_nulls, rows.data.columns)):
        raise InputError.at("a value is missing", remedy=remedy, source=path)
    return rows


def is_unchanged(path: Path) -> bool | None:
    """Whether a file is as its checksum says; None where none stands beside it."""
    beside = _checksum_path(path)
    if not beside.exists():
        return None
    return beside.read_bytes().split()[:1] == [file_hash(path).encode()]


def _checksum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _write_checksum(path: Path, content: Path) -> None:
    write_text(_checksum_path(path), f"{file_hash(content)}  {path.name}\n")


def _has_nulls(column: Any) -> bool:
    if column.null_count:
        return True
    return pa.types.is_list(column.type) and any(chunk.values.null_count for chunk in column.chunks)


def save_dataset(dataset: Dataset, folder: str | Path, provenance: Mapping, *, overwrite=False):
    """`save_to_disk` with `provenance.json` inside, by rename.

    Raises:
        InputError: `folder` is there already, and `overwrite` is False or it is no saved set.
    """
    folder = Path(folder)
    check_free(folder, overwrite=overwrite)
    partial = partial_path(folder)
    try:
        dataset.save_to_disk(str(partial))
        stamped = json.dumps(provenance_of(**provenance), indent=2, sort_keys=True)
        (partial / "provenance.json").write_text(stamped)
        for file in partial.glob("*.arrow"):
            _write_checksum(file, file)
        if folder.exists():
            old = partial_path(folder)
            os.replace(folder, old)
            os.replace(partial, folder)
            shutil.rmtree(old)
        else:
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(folder: str | Path, *, overwrite: bool) -> None:
    """Refuse a folder that is there already, unless it may be replaced.

    Commands ask before their work, not only when they write.

    Raises:
        InputError: it is there, and `overwrite` is False or it is no saved set.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise InputError.at(
            "the folder is there already",
            remedy="name another output_dir, or pass --overwrite",
            source=folder,
        )
    # a slip of the keyboard must not cost anyone another folder
    if folder.exists() and not (folder / "dataset_info.json").exists():
        if not folder.is_dir() or any(folder.iterdir()):
            raise InputError.at(
                "something else than a saved set is here",
                remedy="name another output_dir; only sets are overwritten",
                source=folder,
            )


def provenance_of(**content: Any) -> dict[str, Any]:
    """`content` with the date and the versions of the libraries that decide the numbers."""
    libraries = ("hf-proxy", "torch", "transformers", "tokenizers", "datasets", "peft", "numpy")
    return content | {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in libraries},
    }
