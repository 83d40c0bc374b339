"""The one look of all figures. Drawn without pyplot, so nothing of a user's session changes."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PAGE_WIDTH = 8.6  # inches; 860 pixels
COLUMN_WIDTH = 4.4  # so narrow that a phone shows the letters at their size


class Palette(NamedTuple):
    """Colours of one page, told apart by lightness too; 4.5:1 and more against the page.

    Attributes:
        ink: letters and points.
        soft: what stands behind.
        line: grids.
        series: one after another; the first is what a figure is about, the second is held
            against it.
    """

    ink: str
    soft: str
    line: str
    series: tuple[str, ...]

    @property
    def colours(self) -> tuple[str, ...]:
        """All of them, in one order."""
        return (self.ink, self.soft, self.line, *self.series)

    def style(self) -> dict[str, Any]:
        """Settings of matplotlib for figures in these colours."""
        return {
            "font.size": 8,
            "axes.titlesize": 8.5,
            "figure.titlesize": 7.5,
            "lines.linewidth": 1.4,
            "lines.markersize": 4,
            "grid.linewidth": 0.6,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "text.color": self.ink,
            "axes.edgecolor": self.soft,
            "axes.labelcolor": self.ink,
            "xtick.color": self.soft,
            "ytick.color": self.soft,
            "xtick.labelcolor": self.ink,
            "ytick.labelcolor": self.ink,
            "grid.color": self.line,
            "svg.hashsalt": "hf-proxy",  # equal figures are equal files
            "svg.fonttype": "none",
        }


LIGHT = Palette("#1a202c", "#5a6577", "#d9dee6", ("#2b6cb0", "#b3541e", "#2f7d4f", "#6b46c1"))
DARK = Palette("#e4e8ee", "#9aa5b4", "#343b46", ("#7ab3f0", "#f0a868", "#7fd0a0", "#c4a7f5"))
STYLE: Any = LIGHT.style()  # of figures that are files
BLUE, RED, *_ = LIGHT.series
GREY = LIGHT.soft


def new_figure(
    height: float, rows: int, columns: int, *, width: float = PAGE_WIDTH, **shared
) -> Figure:
    """A figure of `rows * columns` axes; `width` and `height` in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.subplots(rows, columns, **shared)
    return figure


def draw_band(
    axes: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, *, colour: str, pale: bool = False
) -> None:
    """An interval along x: filled so that grids show through, with edges that can be seen.

    The fill alone has too little contrast against the page. `pale`: where it promises less.
    """
    axes.fill_between(x, low, high, color=colour, alpha=0.08 if pale else 0.16, lw=0)
    for edge in (low, high):
        axes.plot(x, edge, color=colour, lw=0.7, ls=":" if pale else "-")


def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Write `path.png` and `path.svg`; equal figures are equal files."""
    base = Path(path)
    base.parent.mkdir(parents=True, exist_ok=True)
    files = [base.with_name(f"{base.name}.{kind}") for kind in ("png", "svg")]
    figure.savefig(files[0], dpi=100)
    figure.savefig(files[1], metadata={"Date": None})
    return files
