"""Tables on the screen: with bold heads on a terminal, as plain text in a file or a pipe."""

import sys
from collections.abc import Collection, Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_SHORTEST_NAME = 16  # letters that stay of a name that is cut


def print_table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    words: Collection[str] = (),
    names: Collection[str] = (),
) -> None:
    """Print rows under their heads, each column as wide as its longest cell.

    On a terminal that is too narrow, names are cut from the left: what tells a checkpoint from
    another stands at its end. Nothing else is cut, and in a file or a pipe nothing at all: a long
    row runs on in the next line, as any other text does.

    Args:
        head: name of each column.
        rows: as many cells as there are columns.
        words: heads of the columns that stand at the left; numbers stand at the right.
        names: of these, the columns of paths and names.
    """
    cells = [list(row) for row in rows]
    console = Console(file=sys.stdout, highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:  # whose width nobody knows
        for name in names:
            _cut_names(head, cells, list(head).index(name), console.width)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in head:
        table.add_column(Text(name), justify="left" if name in words else "right", no_wrap=True)
    for row in cells:
        # as Text, since a name with brackets would be read as markup
        table.add_row(*(Text(cell) for cell in row))
    widest = console.options.update(width=10**6)
    table.width = console.measure(table, options=widest).maximum  # else rich would cut cells
    with console.capture() as capture:
        console.print(table, crop=False)
    lines = (line.rstrip() for line in capture.get().splitlines())
    print("\n".join(lines), flush=True)


def _cut_names(
    head: Sequence[str], rows: list[list[str]], column: int, width: int, gap: int = 2
) -> None:
    """Shorten the cells of a column as far as the rows are wider than the screen.

    Names that would be alike then stay whole.
    """
    sizes = [max(map(cell_len, (name, *cells))) for name, *cells in zip(head, *rows, strict=True)]
    excess = sum(sizes) + gap * len(sizes) - width
    most = max(sizes[column] - excess, _SHORTEST_NAME, cell_len(head[column]))
    whole = [row[column] for row in rows]
    cut = [name if cell_len(name) <= most else f"...{name[3 - most :]}" for name in whole]
    if excess > 0 and len(set(cut)) == len(set(whole)):
        for row, name in zip(rows, cut, strict=True):
            row[column] = name
