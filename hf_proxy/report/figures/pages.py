"""The figures of a report: each drawn twice, for a light and for a dark page, as one data URI."""

import base64
import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes

from hf_proxy.prediction.curve import Curve
from hf_proxy.report.figures.curves import draw_curve, frame_points
from hf_proxy.report.figures.sets import Panel
from hf_proxy.report.figures.style import (
    COLUMN_WIDTH,
    DARK,
    LIGHT,
    Palette,
    draw_band,
    new_figure,
)

_HEIGHT = 2.5  # inches
_MOST_NAME = 28  # letters of a name beside an interval
_DASHES = ("-", "--", ":")  # lines are told apart without colours too
_MANY_STEPS = 40  # more points would be a thick line


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


def draw_steps(
    series: Sequence[Series], *, y_label: str, x_label: str = "optimizer step", zero: bool = False
) -> Drawing:
    """Lines with their bands over optimizer steps.

    Args:
        y_label: quantity with its unit.
        zero: a line where nothing has changed.
    """

    def draw(axes: Axes, palette: Palette) -> None:
        for own, colour, dash in zip(series, palette.series * 9, _DASHES * 9, strict=False):
            step, value = np.asarray(own.step, float), finite_floats(own.value)
            axes.plot(step, value, dash, color=colour, label=own.name)
            if len(step) <= _MANY_STEPS:
                hollow = np.array(own.hollow or [False] * len(step), bool)
                axes.plot(step[~hollow], value[~hollow], "o", color=colour)
                axes.plot(step[hollow], value[hollow], "o", color=colour, mfc="none")
            if own.low:
                draw_band(
                    axes, step, finite_floats(own.low), finite_floats(own.high), colour=colour
                )
        if zero:
            axes.axhline(0, color=palette.soft, lw=0.8)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.locator_params(axis="x", integer=True)
        axes.grid(axis="y")
        if len(series) > 1:
            axes.legend()

    return draw_twice(draw, _HEIGHT)


def draw_intervals(
    names: Sequence[str],
    value: Sequence[float],
    low: Sequence[float | None],
    high: Sequence[float | None],
    *,
    x_label: str,
    zero: bool = False,
    hollow: Sequence[bool] = (),
    chance: tuple[float, float] | None = None,
) -> Drawing:
    """A point and its interval for each name, the first on top.

    Args:
        zero: a line where two things are alike.
        hollow: those that are there to be held against.
        chance: what chance reaches, from and to.
    """

    def draw(axes: Axes, palette: Palette) -> None:
        place, at = np.arange(len(names)), finite_floats(value)
        error = np.array([at - finite_floats(low), finite_floats(high) - at])
        error = np.where(np.isfinite(error), np.maximum(error, 0), 0)
        empty = np.array(hollow or [False] * len(names), bool)
        for own, colour in ((~empty, palette.series[0]), (empty, palette.soft)):
            axes.errorbar(at[own], place[own], xerr=error[:, own], fmt="o", color=colour)
        if zero:
            axes.axvline(0, color=palette.soft, lw=0.8)
        if chance is not None:
            axes.axvspan(*chance, color=palette.series[1], alpha=0.14, lw=0)
            for edge in chance:
                axes.axvline(edge, color=palette.series[1], lw=0.8, ls=":")
        axes.set_yticks(place, [_short_name(name) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(x_label)
        axes.grid(axis="x")

    return draw_twice(draw, 0.7 + 0.28 * len(names))


def draw_bars(
    labels: Sequence[str], counts: Sequence[float], *, x_label: str, y_label: str
) -> Drawing:
    """A bar for each label, left to right."""

    def draw(axes: Axes, palette: Palette) -> None:
        place = np.arange(len(labels))
        axes.bar(place, counts, color=palette.series[0], width=0.85)
        axes.set_xticks(place, labels)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(axis="y")

    return draw_twice(draw, _HEIGHT)


def draw_fit(curve: Curve, *, x_label: str) -> Drawing:
    """A curve in percent with its band and, where its record holds them, its points."""

    def draw(axes: Axes, palette: Palette) -> None:
        draw_curve(axes, curve.fits, *curve.x_range, unit=100, colour=palette.series[0])
        x = np.array([x for x, _ in curve.points] or curve.x_range)
        y = np.array([y for _, y in curve.points] or curve.fits[0](x))
        if curve.points:
            axes.scatter(x, 100 * y, color=palette.ink, alpha=0.8, lw=0, zorder=3)
        frame_points(axes, 100 * y)
        axes.set_xlabel(x_label)
        axes.set_ylabel("accuracy, %")
        axes.grid(axis="y")

    return draw_twice(draw, _HEIGHT)


def draw_points(
    x: Sequence[float], y: Sequence[float], *, x_label: str, y_label: str, zero: bool = False
) -> Drawing:
    """Points and nothing else."""

    def draw(axes: Axes, palette: Palette) -> None:
        if zero:
            axes.axhline(0, color=palette.soft, lw=0.8)
        axes.plot(x, y, "o", color=palette.series[0])
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(axis="y")

    return draw_twice(draw, _HEIGHT)


def draw_panel(panel: Panel) -> Drawing:
    """One of the figures of a mined set."""
    return draw_twice(panel.draw, _HEIGHT)


def draw_twice(
    draw: Callable[[Axes, Palette], None], height: float, num_panels: int = 1
) -> Drawing:
    """What `draw` puts on axes, for both colour schemes.

    Args:
        draw: gets the first axes; the panels below it are those of the same figure.
        height: inches.
        num_panels: axes one above the other, of one x.
    """
    light = svg_of(draw, LIGHT, height, num_panels)
    pages = [
        f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
        for svg in (light, darkened(light))
    ]
    return Drawing(pages[0], pages[1], round(96 * COLUMN_WIDTH), round(96 * height))


def svg_of(
    draw: Callable[[Axes, Palette], None], palette: Palette, height: float, num_panels: int = 1
) -> str:
    """The figure as SVG."""
    # a dollar sign in a name is a dollar sign
    style: Any = palette.style() | {"text.parse_math": False}
    with rc_context(style), warnings.catch_warnings():
        # a reader's own fonts draw the letters, so those that ours lacks do no harm
        warnings.filterwarnings("ignore", message="Glyph")
        figure = new_figure(height, num_panels, 1, width=COLUMN_WIDTH, sharex=True)
        draw(figure.axes[0], palette)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def darkened(svg: str) -> str:
    """A figure in the colours of the dark page: layout takes long, and is the same."""
    dark = dict(zip(LIGHT.colours, DARK.colours, strict=True))
    in_colours = re.compile("|".join(dark))
    return re.sub(
        r'style="[^"]*"',
        lambda style: in_colours.sub(lambda colour: dark[colour[0]], style[0]),
        svg,
    )


def finite_floats(values: Sequence[float | None]) -> np.ndarray:
    """Float64, NaN where there is no finite number."""
    array = np.array([np.nan if value is None else value for value in values], float)
    return np.where(np.isfinite(array), array, np.nan)


def _short_name(name: str) -> str:
    """The end of a name, which tells a path from its neighbours, without what is no letter."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return shown if len(shown) <= _MOST_NAME else f"...{shown[3 - _MOST_NAME :]}"
