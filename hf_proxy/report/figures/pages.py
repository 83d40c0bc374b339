"""The figures of a report: each drawn twice, for a light and for a dark page, as one data URI."""

import base64
import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_proxy.prediction.curve import Curve
from hf_proxy.report.figures.curves import draw_curve, frame_points
from hf_proxy.report.figures.sets import Panel
from hf_proxy.report.figures.style import Colours

_WIDTH, _HEIGHT = 4.4, 2.5  # inches; so narrow that a phone shows the letters at their size
_MOST_NAME = 28  # letters of a name beside an interval


class _Palette(NamedTuple):
    ink: str
    soft: str
    line: str
    colours: tuple[str, ...]


# told apart by lightness and by the dash too; 4.5:1 and more against their page
_PALETTES = {
    "light": _Palette("#1a202c", "#5a6577", "#d9dee6", ("#2b6cb0", "#b3541e", "#2f7d4f")),
    "dark": _Palette("#e4e8ee", "#9aa5b4", "#343b46", ("#7ab3f0", "#f0a868", "#7fd0a0")),
}
_DASHES = ("-", "--", ":")


class Series(NamedTuple):
    """One line over steps; what is not finite is a gap.

    Attributes:
        name: for the legend, where there are several.
        low, high: its band, if it has one.
        hollow: points that are to be read with care.
    """

    name: str
    step: Sequence[float]
    value: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    hollow: Sequence[bool] = ()


class Drawing(NamedTuple):
    """The same figure for both colour schemes, and its size in CSS pixels."""

    light: str
    dark: str
    width: int
    height: int


def draw_steps(series: Sequence[Series], *, y_label: str) -> Drawing:
    """Lines with their bands over optimizer steps.

    Args:
        y_label: quantity with its unit.
    """

    def draw(figure: Figure, palette: _Palette) -> None:
        axes = figure.subplots()
        for own, colour, dash in zip(series, palette.colours * 9, _DASHES * 9, strict=False):
            step, value = np.asarray(own.step, float), _floats(own.value)
            few = len(step) <= 40  # more points would be a thick line
            axes.plot(step, value, dash, color=colour, lw=1.4, label=own.name)
            if few:
                hollow = np.array(own.hollow or [False] * len(step), bool)
                axes.plot(step[~hollow], value[~hollow], "o", color=colour, ms=3.5)
                axes.plot(step[hollow], value[hollow], "o", color=colour, ms=4, mfc="none")
            if own.low:
                axes.fill_between(
                    step, _floats(own.low), _floats(own.high), color=colour, alpha=0.2, lw=0
                )
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(y_label)
        axes.locator_params(axis="x", integer=True)
        axes.grid(axis="y", color=palette.line, lw=0.6)
        if len(series) > 1:
            axes.legend()

    return _drawn(draw, _HEIGHT)


def draw_intervals(
    names: Sequence[str],
    value: Sequence[float],
    low: Sequence[float | None],
    high: Sequence[float | None],
    *,
    x_label: str,
) -> Drawing:
    """A point and its interval for each name, the first on top."""

    def draw(figure: Figure, palette: _Palette) -> None:
        axes = figure.subplots()
        place, at = np.arange(len(names)), _floats(value)
        error = np.array([at - _floats(low), _floats(high) - at])
        error = np.where(np.isfinite(error), np.maximum(error, 0), 0)
        colour = palette.colours[0]
        axes.errorbar(at, place, xerr=error, fmt="o", color=colour, ms=4, lw=1.4)
        axes.set_yticks(place, [_short(name) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(x_label)
        axes.grid(axis="x", color=palette.line, lw=0.6)

    return _drawn(draw, 0.7 + 0.28 * len(names))


def draw_fit(curve: Curve, *, x_label: str) -> Drawing:
    """A curve in percent with its band and, where its record holds them, its points."""

    def draw(figure: Figure, palette: _Palette) -> None:
        axes = figure.subplots()
        draw_curve(axes, curve.fits, *curve.x_range, unit=100, colour=palette.colours[0])
        x = np.array([x for x, _ in curve.points] or curve.x_range)
        y = np.array([y for _, y in curve.points] or curve.fits[0](x))
        if curve.points:
            axes.scatter(x, 100 * y, s=14, color=palette.ink, alpha=0.8, lw=0, zorder=3)
        frame_points(axes, 100 * y)
        axes.set_xlabel(x_label)
        axes.set_ylabel("accuracy, %")
        axes.grid(axis="y", color=palette.line, lw=0.6)

    return _drawn(draw, _HEIGHT)


def draw_panel(panel: Panel) -> Drawing:
    """One of the figures of a mined set."""

    def draw(figure: Figure, palette: _Palette) -> None:
        own = Colours(palette.colours[0], palette.soft, palette.colours[1])
        panel.draw(figure.subplots(), own)

    return _drawn(draw, _HEIGHT)


def _drawn(draw: Callable[[Figure, _Palette], None], height: float) -> Drawing:
    pages = {}
    for name, palette in _PALETTES.items():
        style: Any = {
            "font.size": 8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "text.color": palette.ink,
            "axes.edgecolor": palette.soft,
            "axes.labelcolor": palette.ink,
            "xtick.color": palette.soft,
            "ytick.color": palette.soft,
            "xtick.labelcolor": palette.ink,
            "ytick.labelcolor": palette.ink,
            "axes.axisbelow": True,
            "legend.frameon": False,
            "text.parse_math": False,  # a dollar sign in a name is a dollar sign
            "svg.hashsalt": "hf-proxy",  # equal figures are equal files
            "svg.fonttype": "none",
        }
        with rc_context(style), warnings.catch_warnings():
            # a reader's own fonts draw the letters, so those that ours lacks do no harm
            warnings.filterwarnings("ignore", message="Glyph")
            figure = Figure(figsize=(_WIDTH, height), layout="constrained")
            FigureCanvasAgg(figure)
            draw(figure, palette)
            file = io.BytesIO()
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        coded = base64.b64encode(file.getvalue()).decode()
        pages[name] = f"data:image/svg+xml;base64,{coded}"
    return Drawing(pages["light"], pages["dark"], round(96 * _WIDTH), round(96 * height))


def _floats(values: Sequence[float | None]) -> np.ndarray:
    array = np.array([np.nan if value is None else value for value in values], float)
    return np.where(np.isfinite(array), array, np.nan)


def _short(name: str) -> str:
    """The end of a name, which tells a path from its neighbours, without what is no letter."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return shown if len(shown) <= _MOST_NAME else f"...{shown[3 - _MOST_NAME :]}"
