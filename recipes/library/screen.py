"""Tables on the screen: with bold heads on a terminal, as plain text in a file or a pipe."""

import sys
import textwrap
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_SHORTEST_NAME = 16  # letters that stay of a name that is cut
_GAP = 2  # letters behind each column


def print_table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    words: Collection[str] = (),
    names: Collection[str] = (),
) -> None:
    """Print rows under their heads, each column as wide as its longest cell.

    On a terminal that is too narrow, heads take a line for each word, and where that is not
    enough, names are cut from the left: what tells a checkpoint from another stands at its end.
    Nothing else is cut, and in a file or a pipe nothing at all: a long row runs on in the next
    line, as any other text does.

    Args:
        head: name of each column.
        rows: as many cells as there are columns.
        words: heads of the columns that stand at the left; numbers stand at the right.
        names: of these, the columns of paths and names.
    """
    heads, cells = list(head), [list(row) for row in rows]
    console = Console(file=sys.stdout, highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:  # whose width nobody knows
        if _excess(heads, cells, console.width) > 0:
            heads = [_over_lines(*column) for column in zip(heads, *cells, strict=True)]
        for name in names:
            _cut_names(heads, cells, list(head).index(name), console.width)
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
    for name, shown in zip(head, heads, strict=True):
        side: Literal["left", "right"] = "left" if name in words else "right"
        table.add_column(Text(shown), justify=side, no_wrap=True, vertical="bottom")
    for row in cells:
        # as Text, since a name with brackets would be read as markup
        table.add_row(*(Text(cell) for cell in row))
    widest = console.options.update(width=10**6)
    table.width = console.measure(table, options=widest).maximum  # else rich would cut cells
    with console.capture() as capture:
        console.print(table, crop=False)
    lines = (line.rstrip() for line in capture.get().splitlines())
    print("\n".join(lines), flush=True)


def _sizes(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Letters of the widest line in each column."""
    columns = zip(heads, *rows, strict=True)
    return [
        max(cell_len(line) for text in column for line in text.split("\n")) for column in columns
    ]


def _excess(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> int:
    """Letters by which the rows are wider than the screen."""
    return sum(_sizes(heads, rows)) + _GAP * (len(heads) - 1) - width


def _over_lines(head: str, *cells: str) -> str:
    """A head on as many lines as keep it no wider than its cells; no word is broken."""
    width = max((1, *map(cell_len, cells)))
    return textwrap.fill(head, width, break_long_words=False, break_on_hyphens=False)


def _cut_names(heads: Sequence[str], rows: list[list[str]], column: int, width: int) -> None:
    """Shorten the cells of a column as far as the rows are wider than the screen.

    Names that would be alike then stay whole.
    """
    excess = _excess(heads, rows, width)
    most = max(_sizes(heads, rows)[column] - excess, _SHORTEST_NAME, cell_len(heads[column]))
    whole = [row[column] for row in rows]
    cut = [name if cell_len(name) <= most else f"...{name[3 - most :]}" for name in whole]
    if excess > 0 and len(set(cut)) == len(set(whole)):
        for row, name in zip(rows, cut, strict=True):
            row[column] = name
