"""Rows of CSV and JSONL tables, by line."""

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_proxy.records.errors import InputError


def read_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number and content of each line of a JSONL file."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(error, path) from error
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            content = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError.at(
                f"no JSON ({error})", remedy="mend or drop the line", source=path, row=number
            ) from error
        if not isinstance(content, dict):
            raise InputError.at("no JSON object", remedy="mend it", source=path, row=number)
        yield number, content


def read_table(path: str | Path, columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Rows of a CSV or JSONL file; the first column is text, the others are numbers."""
    path = Path(path)
    found = []
    for number, row in table_rows(path):
        if set(row) != set(columns):
            raise InputError.at(
                f"columns {sorted(map(str, row))}",
                remedy=f"expected {','.join(columns)}",
                source=path,
                row=number,
            )
        values = [number_of(row[name], path, number, name) for name in columns[1:]]
        found.append((str(row[columns[0]]), *values))
    return found


def table_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and content of each row of a CSV or JSONL file."""
    if path.suffix == ".jsonl":
        yield from read_lines(path)
        return
    if path.suffix != ".csv":
        raise InputError.at("no table", remedy="expected a .csv or .jsonl file", source=path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(error, path) from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for row in reader:
        if None in row or None in row.values():
            raise InputError.at(
                f"other than {len(reader.fieldnames or [])} fields",
                remedy="mend the line",
                source=path,
                row=reader.line_num,
            )
        yield reader.line_num, row


def unreadable(error: OSError | UnicodeDecodeError, path: Path) -> InputError:
    """What to say of a file that cannot be read as text."""
    if isinstance(error, OSError):
        problem, remedy = f"cannot be read ({error.strerror})", "check the path"
    else:
        problem, remedy = f"no UTF-8 text at byte {error.start}", "save the file as UTF-8"
    return InputError.at(problem, remedy=remedy, source=path)


def number_of(value: Any, path: Path, row: int, field: str) -> float:
    """A field as a finite number.

    Raises:
        InputError: it is none.
    """
    try:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError("not finite")
        return number
    except (TypeError, ValueError) as error:
        raise InputError.at(
            f"{value!r} is no number", remedy="mend it", source=path, row=row, field=field
        ) from error
