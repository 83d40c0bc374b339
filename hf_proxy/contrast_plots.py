"""The figure of a set of soft targets: divergence, which steps are kept, and what they say."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context

from hf_proxy.plots import _BLUE, _GREY, _RED, _STYLE, _figure, _save
from hf_proxy.schemas import InputError
from hf_proxy.soft_targets import target_outcome

_TINY = 1e-4  # nats; below, half-precision logits decide more than the models do
_BINS_PER_DECADE = 8
_LARGEST = 100.0  # nats; what is above falls into the last bin
_STEPS_PER_BIN = 8
_MOST_SUPPORT = 12  # sizes above share the last bar
_OUTCOMES = {"same": _BLUE, "flip": _RED, "one token": _GREY}


@rc_context(_STYLE)
def plot_contrast(
    rows: Iterable[Mapping[str, Any]], path: str | Path, *, divergence_beta: float
) -> list[Path]:
    """KL of all steps, kept share by step, support size, and outcome by step, in four panels.

    The rows are read once and not held, so any number of them may stream through.

    Args:
        rows: soft targets, one trajectory each.
        path: without suffix; `.png` and `.svg` are added.
        divergence_beta: the KL, in nats, from which steps were kept; drawn as a line.

    Returns:
        the files written.

    Raises:
        InputError: the rows hold no step.
    """
    decades = round(np.log10(_LARGEST / _TINY))
    edges = np.geomspace(_TINY, _LARGEST, decades * _BINS_PER_DECADE + 1)
    kl_counts = np.zeros(len(edges), np.int64)  # the first bin is below _TINY
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
        place = np.searchsorted(edges, kl, side="right")
        kl_counts += np.bincount(np.minimum(place, len(edges) - 1), minlength=len(edges))
        offset = np.asarray(row["offset"], np.int64)
        sizes = np.minimum(np.diff(offset), _MOST_SUPPORT)
        support_counts += np.bincount(sizes, minlength=_MOST_SUPPORT + 1)[1:]
        seen = _added(seen, np.arange(len(kl)))
        step = np.asarray(row["position"], np.int64) - row["prompt_length"]
        found = np.array(
            [
                target_outcome(row["prob"][a:b], row["expert_logprob"][a:b])
                for a, b in zip(offset[:-1], offset[1:], strict=True)
            ],
            str,
        )
        for name in outcomes:
            outcomes[name] = _added(outcomes[name], step[found == name])
    if not seen.sum():
        raise InputError.at(
            f"none of {num_rows} rows holds a generated step", remedy="give rows that do"
        )
    by_step = {name: np.pad(count, (0, len(seen) - len(count))) for name, count in outcomes.items()}
    num_kept = np.sum([*by_step.values()], axis=0)

    figure = _figure(4.6, 2, 2)
    histogram, share, support, outcome = figure.axes
    _draw_kl(histogram, kl_counts, edges, divergence_beta)
    at = _STEPS_PER_BIN * np.arange(len(seen))
    share.stairs(100 * num_kept / seen, [*at, at[-1] + _STEPS_PER_BIN], baseline=None, color=_BLUE)
    share.axhline(100 * num_kept.sum() / seen.sum(), color=_GREY, lw=0.8, ls=":")
    share.set_ylim(0, None)
    share.set_title(f"kept: {num_kept.sum():,} of {seen.sum():,} steps of {num_rows:,} rows")
    share.set_ylabel("kept, %")

    place = np.arange(1, _MOST_SUPPORT + 1)
    shown = max(4, int(np.max(np.nonzero(support_counts)[0], initial=0)) + 1)
    support.bar(place[:shown], support_counts[:shown], color=_BLUE, width=0.8)
    names = [str(size) for size in place]
    names[-1] += "+"
    support.set_xticks(place[:shown], names[:shown])
    support.set_title("targets of a kept step")
    support.set_xlabel("tokens")
    support.set_ylabel("kept steps")

    low = np.zeros(len(seen))
    for name, colour in _OUTCOMES.items():
        part = np.divide(100.0 * by_step[name], num_kept, out=low * 0, where=num_kept > 0)
        total = by_step[name].sum() / max(1, num_kept.sum())
        label = f"{name} {total:.0%}"
        outcome.bar(at, part, _STEPS_PER_BIN, low, align="edge", color=colour, lw=0, label=label)
        low = low + part
    outcome.set_ylim(0, 100)
    outcome.set_title("does the target prefer the expert's first token?")
    outcome.set_ylabel("of kept steps, %")
    for axes in (share, outcome):
        axes.set_xlim(0, at[-1] + _STEPS_PER_BIN)
        axes.set_xlabel(f"generated step, by {_STEPS_PER_BIN}")
    outcome.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=len(_OUTCOMES))
    return _save(figure, path)


def _draw_kl(axes, counts: np.ndarray, edges: np.ndarray, divergence_beta: float) -> None:
    """The histogram, over its occupied part; the bin of tiny ones stands left of a gap."""
    used = np.nonzero(counts[1:])[0]
    last = edges[used.max() + 1] if len(used) else edges[_BINS_PER_DECADE]
    axes.stairs(counts[1:], edges, fill=True, color=_BLUE)
    axes.stairs(counts[:1], [_TINY / 2.2, _TINY / 1.2], fill=True, color=_GREY)
    axes.axvline(divergence_beta, color=_RED, lw=1)
    axes.annotate(
        f" kept from {divergence_beta:g}",
        (divergence_beta, 1),
        xycoords=("data", "axes fraction"),
        va="top",
        color=_RED,
    )
    axes.set_xscale("log")
    axes.set_xlim(_TINY / 2.6, max(last, 3 * divergence_beta))
    axes.set_title(f"KL of all steps; grey: {counts[0]:,} below {_TINY:g}")
    axes.set_xlabel("KL, expert from amateur, nats")
    axes.set_ylabel("steps")


def _added(counts: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Counts by bin of steps with these steps added, longer where they reach further."""
    more = np.bincount(steps // _STEPS_PER_BIN, minlength=len(counts))
    more[: len(counts)] += counts
    return more
