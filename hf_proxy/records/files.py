"""Files as they lie on a disk: packed by gzip or not, with fields parted by commas or not."""

import csv
import gzip
import io
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from hf_proxy.records.errors import InputError, names

# zlib and EOF errors are no OSError
_TORN = (OSError, EOFError, zlib.error)
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def kind_of(path: str | Path) -> str:
    """The ending that tells what a file holds: of `rows.csv.gz` it is `.csv`."""
    path = Path(path)
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


@contextmanager
def opened(path: Path, *, remedy: str = "check path and rights") -> Iterator[IO[bytes]]:
    """A file of text for reading, unpacked where its name ends in `.gz`, behind its BOM.

    Raises:
        InputError: it cannot be read, also later, while it is read.
    """
    try:
        found: Any = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
        with found as file:
            if file.read(len(BOM_UTF8)) != BOM_UTF8:
                file.seek(0)
            yield file
    except _TORN as error:
        problem = getattr(error, "strerror", None) or f"not a whole gzip file: {error}"
        raise InputError.at(
            f"cannot be read ({problem})",
            remedy=remedy,
            source=path,
        ) from error


def csv_rows(path: Path, *, remedy: str = "check the path") -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and fields of each row of a CSV file, all of them text.

    Raises:
        InputError: it cannot be read, is no UTF-8 or no CSV, or its fields are not parted by
            commas.
    """
    with opened(path, remedy=remedy) as file:
        data = file.read()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError.at(
            f"no UTF-8 text at byte {error.start}", remedy="save the file as UTF-8", source=path
        ) from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        head = list(reader.fieldnames or [])
        check_separator(head, path)
        if len(set(head)) < len(head):
            raise InputError.at(
                f"a column stands twice in {names(head)}", remedy="name each once", source=path
            )
        for row in reader:
            if None in row or None in row.values():
                raise InputError.at(
                    f"other than {len(head)} fields",
                    remedy="mend the line",
                    source=path,
                    row=reader.line_num,
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError.at(
            f"no CSV ({error})", remedy="mend the line", source=path, row=reader.line_num
        ) from error


def csv_head(path: Path) -> list[str]:
    """The columns of a CSV file.

    Raises:
        InputError: as in `csv_rows`, as far as the first line tells.
    """
    with opened(path) as file:
        line = file.readline().decode(errors="replace")
    head = next(csv.reader([line]), [])
    check_separator(head, path)
    return head


def check_separator(head: list[str], path: Path) -> None:
    """Refuse a head of one column that holds another separator, as spreadsheets write it.

    Raises:
        InputError: naming the separator.
    """
    if len(head) != 1:
        return
    for mark, name in _SEPARATORS.items():
        if mark in head[0]:
            shown = "a tab" if mark == "\t" else repr(mark)
            raise InputError.at(
                f"its fields are parted by {name} ({shown}), not by commas",
                remedy="save it with commas, or as .jsonl",
                source=path,
                row=1,
            )
