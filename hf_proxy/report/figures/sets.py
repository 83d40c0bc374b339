"""The figure of a set of soft targets: divergence, which steps are kept, and what they say."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes

from hf_proxy.mining.soft_targets import target_outcome
from hf_proxy.records.errors import InputError
from hf_proxy.report.figures.style import LIGHT, STYLE, Palette, new_figure, save_figure

_TINY_KL = 1e-4  # nats; below, half-precision logits decide more than the models do
_BINS_PER_DECADE = 8
_LARGEST_KL = 100.0  # nats; what is above falls into the last bin
_KL_EDGES = np.geomspace(
    _TINY_KL, _LARGEST_KL, round(np.log10(_LARGEST_KL / _TINY_KL)) * _BINS_PER_DECADE + 1
)
_STEPS_PER_BIN = 8
_MOST_SUPPORT = 12  # sizes above share the last bar
_OUTCOMES = ("same", "flip", "one token")


class Panel(NamedTuple):
    """One of the four figures of a set.

    Attributes:
        alt: what it shows, in words.
        draw: puts it on axes, in the colours of a page.
        is_said: the words say all that it shows.
    """

    title: str
    alt: str
    draw: Callable[[Axes, Palette], None]
    is_said: bool = False


class _Counts(NamedTuple):
    """Steps of all rows, by bin.

    Attributes:
        kl: [bins + 1], of all steps by their KL; the first is below the first edge.
        support: [sizes], of kept steps by the number of their tokens.
        seen: all steps by their place in the trajectory.
        outcomes: kept steps by what their target says, then by place, as long as `seen`.
    """

    num_rows: int
    kl: np.ndarray
    support: np.ndarray
    seen: np.ndarray
    outcomes: dict[str, np.ndarray]

    @property
    def kept(self) -> np.ndarray:
        """Kept steps by place."""
        return np.sum([*self.outcomes.values()], axis=0)


@rc_context(STYLE)
def plot_contrast(
    rows: Iterable[Mapping[str, Any]], path: str | Path, *, divergence_beta: float | None
) -> list[Path]:
    """KL of all steps, kept share by step, support size, and outcome by step, in four panels.

    The rows are read once and not held, so any number of them may stream through.

    Args:
        rows: soft targets, one trajectory each.
        path: without suffix; `.png` and `.svg` are added.
        divergence_beta: the KL, in nats, from which steps were kept; drawn as a line. None: they
            were chosen otherwise.

    Returns:
        the files written.

    Raises:
        InputError: the rows hold no step.
    """
    panels = contrast_panels(rows, divergence_beta=divergence_beta)
    figure = new_figure(4.6, 2, 2)
    for axes, panel in zip(figure.axes, panels, strict=True):
        panel.draw(axes, LIGHT)
        axes.set_title(panel.title)
    return save_figure(figure, path)


def contrast_panels(
    rows: Iterable[Mapping[str, Any]], *, divergence_beta: float | None
) -> list[Panel]:
    """What `plot_contrast` draws, panel by panel, for a page with colours of its own."""
    counts = _count_steps(rows)
    num_steps, num_kept = int(counts.seen.sum()), int(counts.kept.sum())
    middle = int(np.searchsorted(np.cumsum(counts.kl), num_steps / 2))
    half = f"{_KL_EDGES[min(middle, len(_KL_EDGES) - 1)]:.2g}"
    share = 100 * counts.kept / counts.seen
    highest = int(np.argmax(share))
    sizes = ", ".join(
        f"{count:,} of {size}" for size, count in _support_sizes(counts).items() if count
    )
    outcomes = ", ".join(f"{name} {one:.0%}" for name, one in _outcome_shares(counts).items())
    return [
        Panel(
            f"KL of all steps; grey: {counts.kl[0]:,} below {_TINY_KL:g}",
            f"KL of {num_steps:,} steps: half of them below {half} nats, {num_kept:,} kept"
            + ("" if divergence_beta is None else f", from {divergence_beta:g} on"),
            partial(_draw_kl, counts, divergence_beta),
        ),
        Panel(
            f"kept: {num_kept:,} of {num_steps:,} steps of {counts.num_rows:,} rows",
            f"kept by generated step: {share[0]:.1f} % of the first {_STEPS_PER_BIN}, highest "
            f"{share[highest]:.1f} % from step {_STEPS_PER_BIN * highest} on, {share[-1]:.1f} % at "
            "the end",
            partial(_draw_share, counts),
            len(set(share.tolist())) < 2,
        ),
        Panel(
            "targets of a kept step",
            f"kept steps by number of tokens: {sizes or 'none'}",
            partial(_draw_support, counts),
            int(np.count_nonzero(counts.support)) < 2,
        ),
        Panel(
            "does the target prefer the expert's first token?",
            f"kept steps by what their target prefers: {outcomes}",
            partial(_draw_outcome, counts),
            sum(bool(own.any()) for own in counts.outcomes.values()) < 2,
        ),
    ]


def _count_steps(rows: Iterable[Mapping[str, Any]]) -> _Counts:
    kl_counts = np.zeros(len(_KL_EDGES), np.int64)
    support_counts = np.zeros(_MOST_SUPPORT, np.int64)
    # by bin of steps, as long as the longest row so far
    seen = np.zeros(0, np.int64)
    outcomes = {name: np.zeros(0, np.int64) for name in _OUTCOMES}
    num_rows = 0
    for row in rows:
        num_rows += 1
        kl = np.asarray(row["kl"], float)
        if np.isnan(kl).any():
            raise InputError.at(
                "not a number", remedy="mine it anew", row=row["example_id"], field="kl"
            )
        place = np.searchsorted(_KL_EDGES, kl, side="right")
        kl_counts += np.bincount(np.minimum(place, len(_KL_EDGES) - 1), minlength=len(_KL_EDGES))
        offset = np.asarray(row["offset"], np.int64)
        sizes = np.minimum(np.diff(offset), _MOST_SUPPORT)
        support_counts += np.bincount(sizes, minlength=_MOST_SUPPORT + 1)[1:]
        seen = _add_steps(seen, np.arange(len(kl)))
        step = np.asarray(row["position"], np.int64) - row["prompt_length"]
        found = np.array(
            [
                target_outcome(row["prob"][a:b], row["expert_logprob"][a:b])
                for a, b in zip(offset[:-1], offset[1:], strict=True)
            ],
            str,
        )
        for name in outcomes:
            outcomes[name] = _add_steps(outcomes[name], step[found == name])
    if not seen.sum():
        raise InputError.at(
            f"none of {num_rows} rows holds a generated step", remedy="give rows that do"
        )
    by_step = {name: np.pad(count, (0, len(seen) - len(count))) for name, count in outcomes.items()}
    return _Counts(num_rows, kl_counts, support_counts, seen, by_step)


def _support_sizes(counts: _Counts) -> dict[str, int]:
    """Number of kept steps by the name of their support size."""
    names = [str(size) for size in range(1, _MOST_SUPPORT)] + [f"{_MOST_SUPPORT}+"]
    return dict(zip(names, counts.support.tolist(), strict=True))


def _outcome_shares(counts: _Counts) -> dict[str, float]:
    """Of all kept steps, by outcome."""
    num_kept = max(1, counts.kept.sum())
    return {name: count.sum() / num_kept for name, count in counts.outcomes.items()}


def _draw_kl(counts: _Counts, divergence_beta: float | None, axes: Axes, palette: Palette) -> None:
    """The histogram, over its occupied part; the bin of tiny ones stands left of a gap."""
    used = np.nonzero(counts.kl[1:])[0]
    last = _KL_EDGES[used.max() + 1] if len(used) else _KL_EDGES[_BINS_PER_DECADE]
    axes.stairs(counts.kl[1:], _KL_EDGES, fill=True, color=palette.series[0])
    axes.stairs(counts.kl[:1], [_TINY_KL / 2.2, _TINY_KL / 1.2], fill=True, color=palette.soft)
    if divergence_beta is not None:
        axes.axvline(divergence_beta, color=palette.series[1], lw=1)
        axes.annotate(
            f"kept from {divergence_beta:g}",
            (divergence_beta, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            va="top",
            color=palette.series[1],
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")  # powers would be formulas, which a report has not
    axes.set_xlim(_TINY_KL / 2.6, max(last, 3 * (divergence_beta or 0)))
    axes.set_xlabel("KL, expert from amateur, nats")
    axes.set_ylabel("steps")


def _draw_share(counts: _Counts, axes: Axes, palette: Palette) -> None:
    edges = _STEPS_PER_BIN * np.arange(len(counts.seen) + 1)
    share = 100 * counts.kept / counts.seen
    axes.stairs(share, edges, baseline=None, color=palette.series[0])
    mean = 100 * counts.kept.sum() / counts.seen.sum()
    axes.axhline(mean, color=palette.soft, lw=0.8, ls=":")
    axes.set_ylim(0, None)
    axes.set_ylabel("kept, %")
    _set_step_axis(counts, axes)


def _draw_support(counts: _Counts, axes: Axes, palette: Palette) -> None:
    shown = max(4, int(np.max(np.nonzero(counts.support)[0], initial=0)) + 1)
    place = np.arange(1, shown + 1)
    axes.bar(place, counts.support[:shown], color=palette.series[0], width=0.8)
    axes.set_xticks(place, [*_support_sizes(counts)][:shown])
    axes.set_xlabel("tokens")
    axes.set_ylabel("kept steps")


def _draw_outcome(counts: _Counts, axes: Axes, palette: Palette) -> None:
    at = _STEPS_PER_BIN * np.arange(len(counts.seen))
    low = np.zeros(len(counts.seen))
    own = zip(_OUTCOMES, (palette.series[0], palette.series[1], palette.soft), strict=True)
    for name, colour in own:
        part = 100.0 * counts.outcomes[name]
        part = np.divide(part, counts.kept, out=low * 0, where=counts.kept > 0)
        label = f"{name} {_outcome_shares(counts)[name]:.0%}"
        axes.bar(at, part, _STEPS_PER_BIN, low, align="edge", color=colour, lw=0, label=label)
        low = low + part
    axes.set_ylim(0, 100)
    axes.set_ylabel("of kept steps, %")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=len(_OUTCOMES))
    _set_step_axis(counts, axes)


def _set_step_axis(counts: _Counts, axes: Axes) -> None:
    axes.set_xlim(0, _STEPS_PER_BIN * len(counts.seen))
    axes.set_xlabel(f"generated step, by {_STEPS_PER_BIN}")


def _add_steps(counts: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Counts by bin of steps with these steps added, longer where they reach further."""
    more = np.bincount(steps // _STEPS_PER_BIN, minlength=len(counts))
    more[: len(counts)] += counts
    return more
