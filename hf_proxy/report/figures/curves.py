"""Figures at the width of a README: the curve and its controls, residuals, a ranking, compute.

Each is written as PNG and as SVG. Drawn without pyplot, so nothing of a user's session changes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes

from hf_proxy.intervals import LEVEL
from hf_proxy.prediction.averaging import fit_forms, predict
from hf_proxy.prediction.cross_validation import MEAN
from hf_proxy.prediction.curve import Y_UNITS, Curve
from hf_proxy.prediction.decisions import compute_saving
from hf_proxy.prediction.forms import Fit
from hf_proxy.prediction.ranking import Ranking
from hf_proxy.records.scores import METRIC_LABELS
from hf_proxy.report.figures.style import (
    BLUE,
    GREY,
    LIGHT,
    RED,
    STYLE,
    draw_band,
    new_figure,
    save_figure,
)


@rc_context(STYLE)
def plot_curve(
    curve: Curve,
    x: Sequence[float],
    y: Sequence[float],
    path: str | Path,
    *,
    controls: Mapping[str, Sequence[float]] | None = None,
    groups: Sequence[str] | None = None,
) -> list[Path]:
    """Points, curve and 90 % band; beside them the same for each control, with its error.

    Args:
        curve: as fitted to these points.
        x, y: [n], y in the curve's `y_unit`.
        path: without suffix; `.png` and `.svg` are added.
        controls: name to [n], as given to `fit_curve`.
        groups: [n], run of each point, for the colour.

    Returns:
        the files written.
    """
    panels = {METRIC_LABELS[curve.metric]: np.asarray(x, float)}
    panels |= {name: np.asarray(values, float) for name, values in (controls or {}).items()}
    y_percent = 100 * np.asarray(y, float) / Y_UNITS[curve.y_unit]
    figure = new_figure(3.6, 1, len(panels), sharey=True)
    maes = {}
    if curve.statistics is not None:
        found = {name: cv.test_mae for name, cv in curve.statistics.controls.items()}
        unit = 100 / Y_UNITS[curve.y_unit]
        maes = {name: unit * mae for name, mae in found.items()}
        maes[METRIC_LABELS[curve.metric]] = unit * curve.statistics.test_mae
    for number, (axes, (name, values)) in enumerate(zip(figure.axes, panels.items(), strict=True)):
        fits = (
            curve.fits
            if number == 0
            else fit_forms(
                [f.form for f in curve.fits],
                values,
                y_percent,
                (100 * curve.chance, 100.0),
                None if groups is None else np.array(groups),
            )[0]
        )
        if fits:
            unit, colour = (100.0, BLUE) if number == 0 else (1.0, GREY)
            draw_curve(axes, fits, values.min(), values.max(), unit=unit, colour=colour)
        for run in sorted(set(groups or [""])):
            own = np.array([True] * len(values) if groups is None else [g == run for g in groups])
            axes.scatter(
                values[own],
                y_percent[own],
                zorder=3,
                label=run,
                alpha=0.8,
                color=LIGHT.ink if groups is None else None,
                lw=0,
            )
        mae = f"\nheld-out error {maes[name]:.2f} points" if name in maes else ""
        form = fits[0].form if fits else "no form fits"
        axes.set_title(f"{form}{mae}")
        axes.set_xlabel(name)
    frame_points(figure.axes[0], y_percent)
    figure.axes[0].set_ylabel(f"{curve.target or 'target'} accuracy, %")
    if MEAN in maes:
        note = f"error of the mean {maes[MEAN]:.2f} points; band 90 %, pale beyond the points"
        figure.suptitle(note, color=GREY)
    return save_figure(figure, path)


def draw_curve(
    axes: Axes, fits: Sequence[Fit], low: float, high: float, *, unit: float, colour: str
) -> None:
    """The best form over the points' range and a little beyond, with its 90 % band, pale beyond.

    Args:
        low, high: smallest and largest x of the points.
        unit: what one of the fits' y is on these axes: 100 for fractions in percent.
    """
    margin = 0.08 * (high - low)
    at = np.linspace(low - margin, high + margin, 300)
    if any(fit.form == "logarithmic" for fit in fits):
        at = at[at > 0]
    value, lower, upper, outside = predict(fits, at, LEVEL)
    axes.plot(at, unit * value, color=colour)
    for where, pale in ((~outside, False), (at < low, True), (at > high, True)):
        draw_band(
            axes, at[where], unit * lower[where], unit * upper[where], colour=colour, pale=pale
        )


def frame_points(axes: Axes, y: np.ndarray) -> None:
    """Show y and a quarter of its range around it; a band beyond the points may reach anywhere."""
    spread = np.ptp(y)
    axes.set_ylim(y.min() - 0.25 * spread, y.max() + 0.25 * spread)


@rc_context(STYLE)
def plot_residuals(
    curve: Curve, x: Sequence[float], y: Sequence[float], path: str | Path
) -> list[Path]:
    """Observed minus curve over x, and observed minus held-out prediction in order of training."""
    unit = 100 / Y_UNITS[curve.y_unit]
    x_array, y_percent = np.asarray(x, float), unit * np.asarray(y, float)
    figure = new_figure(2.8, 1, 2, sharey=True)
    left, right = figure.axes
    left.scatter(x_array, y_percent - 100 * curve.fits[0](x_array), color=BLUE)
    left.set_xlabel(METRIC_LABELS[curve.metric])
    left.set_title(f"of the fit ({curve.form})")
    left.set_ylabel("observed - predicted, points")
    right.set_xlabel("point, in order of training")
    right.set_title("held out")
    if curve.statistics is None:
        right.text(0.5, 0.5, "too few points to hold out", transform=right.transAxes, ha="center")
    else:
        shown = {"proxy": (curve.statistics, BLUE, "o")}
        shown |= {
            name: (cv, colour, "x")
            for (name, cv), colour in zip(
                curve.statistics.controls.items(),
                [*LIGHT.series[1:], GREY] * 3,
                strict=False,
            )
            if name != MEAN
        }
        for name, (cv, colour, marker) in shown.items():
            place = np.concatenate([np.array(test) for test in cv.test_points])
            error = y_percent[place] - unit * np.concatenate(cv.predicted)
            right.scatter(place, error, color=colour, marker=marker, label=name)
        figure.legend(loc="outside lower right", ncols=len(shown))
    for axes in figure.axes:
        axes.axhline(0, color=LIGHT.ink, lw=0.6)
    return save_figure(figure, path)


@rc_context(STYLE)
def plot_ranking(ranking: Ranking, path: str | Path) -> list[Path]:
    """Each name's score with its 90 % interval, best on top, and the places it may hold."""
    num = len(ranking.order)
    figure = new_figure(0.9 + 0.28 * num, 1, 1)
    (axes,) = figure.axes
    place = np.arange(num)
    value = np.array(ranking.value)
    error = np.array([value - np.array(ranking.low), np.array(ranking.high) - value])
    axes.errorbar(value, place, xerr=np.maximum(error, 0), fmt="o", color=BLUE)
    axes.set_yticks(place, ranking.order)
    axes.set_ylim(num - 0.5, -0.5)
    axes.set_xlabel(
        f"{METRIC_LABELS[ranking.metric]}, lower is better; {ranking.num_traces} traces"
    )
    for i in range(num):
        best, worst = ranking.best_rank[i], ranking.worst_rank[i]
        text = f"place {best}" if best == worst else f"places {best} to {worst}"
        axes.annotate(text, (1.01, i), xycoords=("axes fraction", "data"), va="center", color=GREY)
    return save_figure(figure, path)


@rc_context(STYLE)
def plot_compute(
    proxy: Sequence[tuple[float, float]],
    baseline: Sequence[tuple[float, float]],
    path: str | Path,
) -> list[Path]:
    """Decision accuracy against compute, with the frontiers and the factors between them."""
    figure = new_figure(3.6, 1, 1)
    (axes,) = figure.axes
    savings = compute_saving(proxy, baseline)
    for points, colour, name in ((baseline, GREY, "baseline"), (proxy, BLUE, "proxy")):
        flops, reached = np.array(sorted(points)).T
        axes.scatter(flops, reached, color=colour, label=name, zorder=3)
        # the frontier as the factors read it: ln(FLOPs) linear in decision accuracy
        own = np.array([(p.flops, p.decision_accuracy) for p in compute_saving(points, points)])
        axes.plot(*own.T, color=colour)
    for number, saving in enumerate(savings):
        if saving.factor is not None:
            end = saving.flops * saving.factor
            axes.plot(
                [saving.flops, end], [saving.decision_accuracy] * 2, color=RED, lw=0.8, ls=":"
            )
            middle = np.sqrt(saving.flops * end)
            above = (0, -9) if number % 2 else (0, 2)
            axes.annotate(
                f"{saving.factor:.1f} times",
                (middle, saving.decision_accuracy),
                xytext=above,
                textcoords="offset points",
                color=RED,
            )
    axes.set_xscale("log")
    axes.set_xlabel("training compute of the small models, FLOPs")
    axes.set_ylabel("decision accuracy")
    axes.legend(loc="lower right")
    return save_figure(figure, path)
