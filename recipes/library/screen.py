"""Tables on the screen: with bold heads on a terminal, as plain text in a file or a pipe."""

import sys
from collections.abc import Collection, Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, words: Collection[str] = ()
) -> None:
    """Print rows under their heads, each column as wide as its longest cell.

    No cell is cut, whatever the width of the screen: a long row runs on in the next line, as any
    other text does.

    Args:
        head: name of each column.
        rows: as many cells as there are columns.
        words: heads of the columns that stand at the left; numbers stand at the right.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in head:
        table.add_column(Text(name), justify="left" if name in words else "right", no_wrap=True)
    for row in rows:
        # as Text, since a name with brackets would be read as markup
        table.add_row(*(Text(cell) for cell in row))
    console = Console(file=sys.stdout, highlight=False)
    widest = console.options.update(width=10**6)
    table.width = console.measure(table, options=widest).maximum  # else rich would cut cells
    with console.capture() as capture:
        console.print(table, crop=False)
    lines = (line.rstrip() for line in capture.get().splitlines())
    print("\n".join(lines), flush=True)
