"""Figures over optimizer steps; where there is nothing to see, a sentence stands in their place."""

from collections.abc import Callable, Sequence
from typing import Any

from hf_proxy.report.blocks import Figure, alt_text, is_line, said_instead
from hf_proxy.report.figures.pages import Series, draw_steps


def step_figure(
    label: str,
    steps: Sequence[float],
    values: Sequence[float | None],
    *,
    caption: str | None = None,
    note: str = "",
    low: Sequence[float | None] = (),
    high: Sequence[float | None] = (),
    hollow: Sequence[bool] = (),
    digits: int = 4,
    best: Callable[..., Any] = min,
    zero: bool = False,
) -> Figure | str:
    """One line with its band.

    Args:
        label: quantity with its unit.
        caption: above the figure, and what a sentence in its place begins with; None: the label.
        note: behind the caption, on what is drawn.
        low, high, hollow: of `Series`.
        digits, best: of `alt_text`.
        zero: of `draw_steps`.
    """
    has_band = any(end is not None for end in low)
    lines = (values, low, high) if has_band else (values,)
    if not any(is_line(steps, line, digits=digits) for line in lines):
        said = said_instead(caption or label, steps, values, digits=digits)
        if has_band and low[0] is not None and high[0] is not None:
            said = f"{said[:-1]}; interval {low[0]:.{digits}f} to {high[0]:.{digits}f}."
        return said
    series = Series(label, steps, values, low, high, hollow) if has_band else None
    drawing = draw_steps([series or Series(label, steps, values)], y_label=label, zero=zero)
    alt = alt_text(label, steps, values, digits=digits, best=best)
    if has_band and low[-1] is not None and high[-1] is not None:
        alt += f", interval {low[-1]:.{digits}f} to {high[-1]:.{digits}f}"
    return Figure(f"{caption or label}{note}", alt, drawing)


def several_lines(label: str, series: Sequence[Series], *, digits: int = 4) -> list[Figure | str]:
    """Those that show something in one figure, of the others what they say."""
    shown = [own for own in series if is_line(own.step, own.value, digits=digits)]
    found: list[Figure | str] = [
        said_instead(own.name, own.step, own.value, digits=digits)
        for own in series
        if own not in shown and len(own.step)
    ]
    if shown:
        alts = [alt_text(own.name, own.step, own.value, digits=digits) for own in shown]
        found.append(Figure(label, "; ".join(alts), draw_steps(shown, y_label=label)))
    return found
