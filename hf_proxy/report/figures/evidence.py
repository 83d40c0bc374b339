"""Figures of what a benchmark measured over settings: groups of intervals, and agreement."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from hf_proxy.report.figures.pages import Drawing, draw_twice, finite_floats
from hf_proxy.report.figures.style import Palette

_HEIGHT = 2.9  # inches; a legend stands below
_MARKS = ("o", "s", "^", "D", "v", "P")  # series are told apart without colours too
_DODGE = 0.14  # between series that share an x, of the way to the next x
_TICKS = 6  # at most so many measured x are written out
_STEP = 1.07  # the same on a logarithmic x: times


class Group(NamedTuple):
    """One series: numbers x, and y with their intervals, of equal length."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float | None]
    high: Sequence[float | None]


class Pairs(NamedTuple):
    """What was said, and what came."""

    x: Sequence[float]
    y: Sequence[float]


def draw_groups(groups: Mapping[str, Group], *, x_label: str, y_label: str) -> Drawing:
    """Points with intervals over x, series side by side, joined in thin lines.

    The values of x stand at equal distances: they are settings, and some lie close together.
    """

    def draw(axes: Axes, palette: Palette) -> None:
        every = sorted({x for group in groups.values() for x in group.x})
        for number, (name, group) in enumerate(groups.items()):
            x = np.array([every.index(x) for x in group.x], float)
            x += _DODGE * (number - (len(groups) - 1) / 2)
            _draw_series(axes, palette, number, name, x, group)
        axes.axhline(0, color=palette.soft, lw=0.8)
        axes.set_xticks(np.arange(len(every)), [f"{x:g}" for x in every])
        _finish(axes, x_label, y_label, len(groups))

    return draw_twice(draw, _HEIGHT)


def draw_over_compute(
    panels: Mapping[str, Mapping[str, Group]], *, x_label: str, y_label: str
) -> Drawing:
    """Points with intervals over a logarithmic x that panels share, one above the other.

    Args:
        panels: label of each one's y, `y_label` where it is empty, to its series.
    """

    def draw(axes: Axes, palette: Palette) -> None:
        names = list(dict.fromkeys(name for groups in panels.values() for name in groups))
        every = cast(Figure, axes.figure).axes
        measured = sorted({x for own in panels.values() for group in own.values() for x in group.x})
        for own, (label, groups) in zip(every, panels.items(), strict=True):
            for name, group in groups.items():
                number = names.index(name)
                # beside each other where several are of one compute
                x = np.asarray(group.x, float) * _STEP ** (number - (len(names) - 1) / 2)
                _draw_series(own, palette, number, name, x, group)
            own.set_xscale("log")
            # plain numbers: powers of ten would be set as mathematics, which our letters are not
            own.xaxis.set_major_formatter(lambda x, _: f"{x:.2g}")
            own.xaxis.set_minor_formatter(NullFormatter())
            if len(measured) <= _TICKS:  # else powers of ten, of which a short range has one
                own.set_xticks(measured, minor=False)
                own.minorticks_off()
            own.set_ylabel(label or y_label)
            own.grid(axis="y")
            own.label_outer()
        every[-1].set_xlabel(x_label)
        if len(names) > 1:
            axes.figure.legend(loc="outside lower center", ncols=2)

    return draw_twice(draw, 1.1 + 1.8 * len(panels), len(panels))


def draw_agreement(groups: Mapping[str, Pairs], *, x_label: str, y_label: str) -> Drawing:
    """Points, with the line on which both are equal."""

    def draw(axes: Axes, palette: Palette) -> None:
        every = np.array([v for pairs in groups.values() for side in pairs for v in side], float)
        ends = [float(every.min()), float(every.max())]
        axes.plot(ends, ends, color=palette.soft, lw=0.8, ls="--")
        for number, (name, pairs) in enumerate(groups.items()):
            mark, colour = _MARKS[number % len(_MARKS)], palette.series[number % 4]
            axes.plot(pairs.x, pairs.y, mark, color=colour, mfc="none", label=name)
        axes.axhline(0, color=palette.soft, lw=0.5)
        axes.axvline(0, color=palette.soft, lw=0.5)
        _finish(axes, x_label, y_label, len(groups))

    return draw_twice(draw, _HEIGHT)


def _draw_series(
    axes: Axes, palette: Palette, number: int, name: str, x: np.ndarray, group: Group
) -> None:
    y = np.asarray(group.y, float)
    error = np.array([y - finite_floats(group.low), finite_floats(group.high) - y])
    axes.errorbar(
        x,
        y,
        yerr=np.nan_to_num(error),
        fmt=_MARKS[number % len(_MARKS)],
        color=palette.series[number % len(palette.series)],
        elinewidth=1,
        ls="-",
        lw=0.6,
        label=name,
    )


def _finish(axes: Axes, x_label: str, y_label: str, num_groups: int) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(axis="y")
    if num_groups > 1:
        axes.figure.legend(loc="outside lower center", ncols=2)
