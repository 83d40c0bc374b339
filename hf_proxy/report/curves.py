"""Section of a report on curves: their form, errors beside the controls', residuals."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from hf_proxy.prediction.curve import Y_UNITS, Curve
from hf_proxy.records.scores import METRIC_LABELS
from hf_proxy.report.blocks import (
    Block,
    Download,
    Figure,
    Section,
    Table,
    as_csv,
    counted,
    download_name,
    heading,
    number,
    percent,
    percent_interval,
)
from hf_proxy.report.contents import RunContents
from hf_proxy.report.figures.pages import draw_fit, draw_intervals, draw_points


def curve_section(folders: Sequence[RunContents], downloads: list[Download]) -> Section:
    """Curves of `hf-proxy fit`: whether they beat their controls, and where they err."""
    blocks = []
    for contents in folders:
        for name, curve in contents.curves.items():
            block = Block(heading(contents.name, curve.target or name))
            start, end = curve.x_range
            block.sentences.append(
                f"{curve.form.capitalize()} curve from {METRIC_LABELS[curve.metric]} between "
                f"{start:.4g} and {end:.4g}, {curve.num_points} points of "
                f"{counted(len(curve.runs) or 1, 'run')}, R2 of the fit {curve.fits[0].r2:.3f}."
            )
            block.sentences.append(controls_sentence(curve))
            block.sentences += [f"Note: {warning}." for warning in curve.warnings]
            if curve.statistics is not None:
                block.sentences += [f"Note: {note}." for note in curve.statistics.notes]
            _show_curve(curve, name, block, download_name(contents.name, ""), downloads)
            if curve.statistics is not None:
                _show_errors(curve, block)
            blocks.append(block)
    return Section("curves", "Curves to a large model's accuracy", blocks)


def controls_sentence(curve: Curve) -> str:
    """Whether the proxy beats what knows less, on points held out."""
    if curve.statistics is None:
        return "Too few points to hold any out: whether it beats its controls is not known."
    unit = 100 / Y_UNITS[curve.y_unit]
    said: dict[str, list[str]] = {"beats": [], "ties": [], "loses": []}
    for name, one in curve.statistics.against.items():
        words = f"{name} ({unit * one.test_mae:+.2f}"
        if one.low is None or one.high is None:
            said["ties"].append(f"{words})")
            continue
        words += f" [{unit * one.low:+.2f}, {unit * one.high:+.2f}])"
        kind = "beats" if one.high < 0 else "loses" if one.low > 0 else "ties"
        said[kind].append(words)
    ways = {
        "beats": "it beats",
        "ties": "it cannot be told from",
        "loses": "it is beaten by",
    }
    told = [f"{ways[kind]} {', '.join(names)}" for kind, names in said.items() if names]
    error = f"{unit * curve.statistics.test_mae:.2f} points"
    against = "; its error minus theirs, 90 % interval" if told else ""
    return f"Held out, the proxy errs by {error} on average: {'; '.join(told)}{against}."


def fit_residuals(curve: Curve) -> tuple[list[float], list[float]]:
    """x, and observed minus fitted in points of a percent, of every point that is kept."""
    x = np.array([x for x, _ in curve.points])
    y = np.array([y for _, y in curve.points])
    return x.tolist(), (100 * (y - curve.fits[0](x))).tolist() if len(x) else []


def held_out_residuals(curve: Curve) -> tuple[list[float], list[float]]:
    """Place in the order of training, and observed minus predicted when it was held out."""
    if curve.statistics is None or not curve.points:
        return [], []
    unit = 100 / Y_UNITS[curve.y_unit]
    place = [i for fold in curve.statistics.test_points for i in fold]
    predicted = [unit * value for fold in curve.statistics.predicted for value in fold]
    if max(place, default=-1) >= len(curve.points):
        return [], []  # of points that its record does not hold
    errors = [100 * curve.points[i][1] - p for i, p in zip(place, predicted, strict=True)]
    return [float(i) for i in place], errors


def _show_curve(
    curve: Curve, name: str, block: Block, prefix: str, downloads: list[Download]
) -> None:
    start, end = curve.x_range
    at = [start + (end - start) * i / 6 for i in range(7)]
    read = [curve.predict(x) for x in at]
    rows = [
        [number(x), percent(p.value), percent_interval(p.low, p.high)]
        for x, p in zip(at, read, strict=True)
    ]
    level = f"{read[0].level:.0%}".replace("%", " %")
    label = METRIC_LABELS[curve.metric]
    caption = f"{curve.form} curve, band {level}, pale beyond the points"
    if not curve.points:
        caption += ", which its record does not hold"
    alt = f"{curve.form} curve of accuracy with {len(curve.points)} points: " + "; ".join(
        f"{row[1]} at {row[0]}, {level} interval {row[2]}" for row in (rows[0], rows[-1])
    )
    block.figures.append(Figure(caption, alt, draw_fit(curve, x_label=label)))
    ways: dict[str, tuple[list[float], list[float], str]] = {
        "of the fit": (*fit_residuals(curve), label),
        "held out": (*held_out_residuals(curve), "point, run by run in order of training"),
    }
    for way, (place, residuals, x_label) in ways.items():
        if residuals:
            worst = max(residuals, key=abs)
            alt = (
                f"residuals {way} of {counted(len(residuals), 'point')}: mean absolute "
                f"{np.mean(np.abs(residuals)):.2f} points, largest {worst:+.2f}"
            )
            y_label = "observed - predicted, points"
            drawing = draw_points(place, residuals, x_label=x_label, y_label=y_label, zero=True)
            block.figures.append(Figure(f"residuals {way}", alt, drawing))
    head = (label, "accuracy", f"{level} interval")
    block.tables.append(Table(f"The curve of {curve.target or name}", head, rows))
    flat = [{"x": x} | dataclasses.asdict(p) for x, p in zip(at, read, strict=True)]
    downloads.append(Download(f"{prefix}curve-{name}.csv", as_csv(flat)))


def _show_errors(curve: Curve, block: Block) -> None:
    assert curve.statistics is not None
    unit = 100 / Y_UNITS[curve.y_unit]
    against = curve.statistics.against
    if against:
        low, high = (
            [None if end is None else unit * end for end in ends]
            for ends in zip(*((one.low, one.high) for one in against.values()), strict=True)
        )
        means = [unit * one.test_mae for one in against.values()]
        alt = "; ".join(f"{name} {mean:+.2f}" for name, mean in zip(against, means, strict=True))
        drawing = draw_intervals(
            list(against),
            means,
            low,
            high,
            x_label="held-out error, proxy minus control, points",
            zero=True,
        )
        caption = "against its controls: left of 0 the proxy is better, 90 % intervals"
        block.figures.append(Figure(caption, f"proxy's error minus its own: {alt}", drawing))
    rows = []
    for name, cv in {"proxy": curve.statistics, **curve.statistics.controls}.items():
        difference = "-"
        if one := against.get(name):
            difference = f"{unit * one.test_mae:+.2f}"
            if one.low is not None and one.high is not None:
                difference += f" [{unit * one.low:+.2f}, {unit * one.high:+.2f}]"
        rows.append(
            [name, number(cv.test_r2, 3), number(unit * cv.test_mae, 2), percent(cv.coverage)]
            + [difference]
        )
    head = ("from", "held-out R2", "held-out mean error, points", "in 90 % interval")
    caption = "Error on points held out, beside the controls'"
    block.tables.append(Table(caption, (*head, "proxy's error minus its own"), rows))
