"""What a report is made of: sections of blocks, tables whose numbers can be taken away as CSV."""

import csv
import io
import math
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
    """Cells as text; the first column names the row.

    Attributes:
        is_detail: it opens only when asked for, however short it is.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_detail: bool = False

    @property
    def folded(self) -> bool:
        """Whether it opens only when asked for."""
        return self.is_detail or len(self.rows) > OPEN_ROWS


@dataclass
class Block:
    """One thing under a heading of its own; an empty title has none.

    Attributes:
        sentences: as paragraphs.
        texts: title and text that opens when asked for, as it was written.
        views: trajectories with their tokens, numbered through the page.
        is_detail: it opens only when asked for: one of many alike, of several folders.
    """

    title: str = ""
    sentences: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    views: list[tuple[int, Any]] = field(default_factory=list)
    is_detail: bool = False

    def show(self, figure: "Figure | str") -> None:
        """Add a figure, or the sentence that says all that it would have shown."""
        if isinstance(figure, str):
            self.sentences.append(figure)
        else:
            self.figures.append(figure)


class Section(NamedTuple):
    """A heading of the page, with what stands under it; without a block it is left out.

    Attributes:
        id: names its place in the page.
    """

    id: str
    title: str
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


def short_name(name: Any) -> str:
    """A model or a file as a page names it: a hub id, or the last two parts of a path."""
    parts = [part for part in str(name).replace("\\", "/").split("/") if part]
    return "/".join(parts[-2:]) if parts else str(name)


def short_names(names: Iterable[Any]) -> list[str]:
    """`short_name` of each, or the names as they are where two would be one."""
    full = [str(name) for name in names]
    short = [short_name(name) for name in full]
    return short if len(set(short)) == len(set(full)) else full


def p_text(p: float) -> str:
    """A p value; below a thousandth more digits say nothing."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def counted(count: int, noun: str = "step", several: str | None = None) -> str:
    """A count with its noun; `several` where that does not end in s."""
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"


def alt_text(
    label: str,
    steps: Sequence[float],
    values: Sequence[float | None],
    *,
    digits: int = 4,
    best: Callable[..., Any] = min,
) -> str:
    """A line over steps in words, for those who do not see it; `best` is `min` or `max`."""
    points = _points(steps, values)
    if not points:
        return f"{label}: nothing"
    (first, at), (last, end) = points[0], points[-1]
    if len(points) == 1:
        return f"{label}: {first:.{digits}f} at step {at}, the only one"
    extreme, where = best(points, key=lambda point: point[0])
    words = "lowest" if best is min else "highest"
    return (
        f"{label} over steps: {first:.{digits}f} at step {at}, {words} {extreme:.{digits}f} at "
        f"step {where}, {last:.{digits}f} at the last, step {end}"
    )


def is_line(steps: Sequence[float], values: Sequence[float | None], *, digits: int = 4) -> bool:
    """Whether there is anything to see: points that differ, in the digits told or relatively."""
    seen = [value for value, _ in _points(steps, values)]
    if len({round(value, digits) for value in seen}) > 1:
        return True
    return bool(seen) and max(seen) - min(seen) > 1e-3 * max(map(abs, seen))


def said_instead(
    label: str, steps: Sequence[float], values: Sequence[float | None], *, digits: int = 4
) -> str:
    """The sentence in place of a line that `is_line` says is none."""
    points = _points(steps, values)
    if not points:
        return f"{label}: no number at any of {counted(len(steps))}."
    (value, step) = points[0]
    if len(points) == 1:
        return f"{label}: {value:.{digits}f} at step {step}, the only one."
    return f"{label}: {value:.{digits}f} at each of {counted(len(points))}."


def _points(steps: Sequence[float], values: Sequence[float | None]) -> list[tuple[float, float]]:
    both = zip(values, steps, strict=True)
    return [(value, step) for value, step in both if value is not None and math.isfinite(value)]
