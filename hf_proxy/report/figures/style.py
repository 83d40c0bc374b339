"""The one look of all figures. Drawn without pyplot, so nothing of a user's session changes."""

from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WIDTH = 8.6  # inches; 860 pixels
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "hf-proxy",  # equal figures are equal files
    "svg.fonttype": "none",
}
METRIC_NAMES = {
    "value": "rBridge (nats per token)",
    "trace_nll": "R_phi (nats per token)",
    "bits_per_byte": "bits per byte",
}


class Colours(NamedTuple):
    """Of a figure: what it is about, what stands behind it, what is held against it."""

    main: str
    soft: str
    other: str


COLOURS = Colours("#2b6cb0", "#718096", "#c05621")
BLUE, GREY, RED = COLOURS


def new_figure(height: float, rows: int, columns: int, **shared) -> Figure:
    """A figure of `rows * columns` axes, `height` in inches, at the width of a page."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.subplots(rows, columns, **shared)
    return figure


def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Write `path.png` and `path.svg`; equal figures are equal files."""
    base = Path(path)
    base.parent.mkdir(parents=True, exist_ok=True)
    files = [base.with_name(f"{base.name}.{kind}") for kind in ("png", "svg")]
    figure.savefig(files[0], dpi=100)
    figure.savefig(files[1], metadata={"Date": None})
    return files
