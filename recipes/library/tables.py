"""Rows of CSV and JSONL tables, by line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_proxy.records.errors import InputError, names, shown
from hf_proxy.records.files import csv_rows, kind_of
from hf_proxy.records.lines import read_lines
from hf_proxy.records.record import LARGEST, Record

LONGEST_NAME = 200  # letters; a file is named by it


def read_table(path: str | Path, columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Rows of a CSV or JSONL file; the first column is text, the others are numbers."""
    path = Path(path)
    found = []
    for number, row in table_rows(path):
        if set(row) != set(columns):
            raise InputError.at(
                f"columns {names(row)}",
                remedy=f"expected {','.join(columns)}",
                source=path,
                row=number,
            )
        values = [number_of(row[name], path, number, name) for name in columns[1:]]
        found.append((text_of(row[columns[0]], path, number, columns[0]), *values))
    return found


def table_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and content of each row of a CSV or JSONL file."""
    if kind_of(path) == ".jsonl":
        yield from ((line.number, line.content) for line in read_lines(path, Record))
        return
    if kind_of(path) != ".csv":
        raise InputError.at("no table", remedy="expected a .csv or .jsonl file", source=path)
    yield from csv_rows(path)


def text_of(value: Any, path: Path, row: int, field: str) -> str:
    """A field as the name of something.

    Raises:
        InputError: it is none, or one of more than `LONGEST_NAME` letters.
    """
    # a whole number may name a run
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    is_text = isinstance(text, str) and 0 < len(text) <= LONGEST_NAME
    if is_text and not any("\ud800" <= letter <= "\udfff" for letter in text):
        return text
    raise InputError.at(
        f"{shown(value)} is no name", remedy="mend it", source=path, row=row, field=field
    )


def number_of(value: Any, path: Path, row: int, field: str) -> float:
    """A field as a number of at most `LARGEST`.

    Raises:
        InputError: it is none.
    """
    try:
        number = float("nan" if isinstance(value, bool) else value)
        if not abs(number) <= LARGEST:
            raise ValueError("not finite")
        return number
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError.at(
            f"{shown(value)} is no number", remedy="mend it", source=path, row=row, field=field
        ) from error
