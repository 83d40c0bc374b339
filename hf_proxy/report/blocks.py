"""What a report is made of: sections of blocks, tables whose numbers can be taken away as CSV."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hf_proxy.report.figures.pages import Drawing

OPEN_ROWS = 20  # a longer table is folded


class Figure(NamedTuple):
    """A figure with what it says in words, for those who do not see it."""

    caption: str
    alt: str
    drawing: Drawing


class Table(NamedTuple):
    """Cells as text; the first column names the row."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def folded(self) -> bool:
        """Whether it is so long that it opens only when asked for."""
        return len(self.rows) > OPEN_ROWS


@dataclass
class Block:
    """One thing under a heading of its own; an empty title has none.

    Attributes:
        sentences: as paragraphs.
        texts: title and text that opens when asked for, as it was written.
        views: trajectories with their tokens, numbered through the page.
    """

    title: str = ""
    sentences: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    views: list[tuple[int, Any]] = field(default_factory=list)


class Section(NamedTuple):
    """A heading of the page, with what stands under it.

    Attributes:
        id: names its place in the page.
        absent: what is said in one line where there is no block.
    """

    id: str
    title: str
    absent: str
    blocks: list[Block]


class Download(NamedTuple):
    """Numbers to take away; `content` is text."""

    name: str
    content: str


def number(value: Any, digits: int = 4) -> str:
    """A number as a reader wants it; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def interval(low: float | None, high: float | None, digits: int = 4) -> str:
    """`low .. high`, or a dash."""
    return "-" if low is None or high is None else f"{low:.{digits}f} .. {high:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as percent."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def percent_interval(low: float | None, high: float | None) -> str:
    """`low .. high` of fractions, as percent."""
    return "-" if low is None or high is None else f"{100 * low:.1f} .. {100 * high:.1f} %"


def as_csv(rows: Iterable[dict[str, Any]]) -> str:
    """Rows with all their columns, at full precision."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def heading(folder: str, name: str) -> str:
    """What something is called, behind the folder that it comes from, if there are several."""
    return ": ".join(word for word in (folder, name) if word)


def download_name(folder: str, name: str) -> str:
    """Of a download, told apart where there are several folders."""
    return f"{folder}-{name}" if folder else name


def is_number(value: Any) -> bool:
    """Whether it is one, as JSON has them."""
    return isinstance(value, float | int)


def cell_text(value: Any) -> str:
    """Whatever JSON holds, as the text of a cell."""
    return number(value) if value is None or is_number(value) else str(value)


def alt_text(label: str, steps, values, *, digits: int = 4, best: Callable[..., Any] = min) -> str:
    """A line over steps in words, for those who do not see it; `best` is `min` or `max`."""
    points = [(value, step) for value, step in zip(values, steps, strict=True) if value is not None]
    if not points:
        return f"{label}: nothing"
    (first, at), (last, end) = points[0], points[-1]
    extreme, where = best(points, key=lambda point: point[0])
    words = "lowest" if best is min else "highest"
    return (
        f"{label} over steps: {first:.{digits}f} at step {at}, {words} {extreme:.{digits}f} at "
        f"step {where}, {last:.{digits}f} at the last, step {end}"
    )
