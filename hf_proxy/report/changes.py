"""How a score has changed since its first step, trace by trace where the traces' sums were kept.

The interval of a score is the spread over traces, which all steps share: bands of it hide a change
that every single trace shows. So the change has an interval of its own, or none.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hf_proxy.intervals import bootstrap_interval
from hf_proxy.records.errors import InputError
from hf_proxy.records.record import checked
from hf_proxy.records.scores import METRIC_NAMES, METRICS, ProxyScore, ScoreRecord
from hf_proxy.report.blocks import number
from hf_proxy.scoring.comparison import paired_terms

MOST_STEPS = 24  # each takes a bootstrap of 2,000 draws for each metric
PAIRED = "90 % intervals, paired"
NOT_KEPT = (
    "Changes stand here without an interval: the sums of single traces were not kept "
    "(per_trace=True keeps them)."
)


class Changes(NamedTuple):
    """Metrics minus what they were at the first step, [steps] each.

    Attributes:
        steps: the first, the last and those between, at most `MOST_STEPS`.
        value: metric to differences, in its unit; the first is 0.
        low, high: metric to ends of their 90 % intervals, paired by trace; None where there is
            none.
        num_traces: pairs behind each.
        why_not: why some step has no interval, as a sentence; empty where all have one.
    """

    steps: list[int]
    value: dict[str, list[float]]
    low: dict[str, list[float | None]]
    high: dict[str, list[float | None]]
    num_traces: int | None
    why_not: str

    def last_in_words(self, metric: str) -> str:
        """The change at the last step with its interval."""
        low, high = self.low[metric][-1], self.high[metric][-1]
        words = f"{self.value[metric][-1]:+.4f}"
        return words if low is None or high is None else f"{words} [{low:+.4f}, {high:+.4f}]"


def changes_of(lines: Sequence[dict[str, Any]]) -> Changes:
    """Changes along lines of one name and setting, in the order of their steps."""
    shown = [lines[i] for i in evenly_spaced(len(lines))]
    first = shown[0]
    value = {m: [float(line[m] - first[m]) for line in shown] for m in METRICS}
    low: dict[str, list[float | None]] = {metric: [0.0] for metric in METRICS}
    high: dict[str, list[float | None]] = {metric: [0.0] for metric in METRICS}
    why_not, start = "", _score(first)
    for line in shown[1:]:
        now = _score(line)
        for metric in METRICS:
            ends: tuple[float | None, float | None] = (None, None)
            if start is None or now is None:
                why_not = NOT_KEPT
            else:
                try:
                    delta, weight, _ = paired_terms(now, start, metric)
                    ends = bootstrap_interval(delta, weight)
                except InputError as reason:
                    why_not = f"Changes stand here without an interval: {reason}."
            low[metric].append(ends[0])
            high[metric].append(ends[1])
    steps = [line["step"] for line in shown]
    return Changes(steps, value, low, high, first.get("num_traces"), why_not)


def change_sentence(changes: Changes) -> str:
    """The change of each metric from the first step to the last."""
    start, end = changes.steps[0], changes.steps[-1]
    each = "; ".join(f"{METRIC_NAMES[m]} {changes.last_in_words(m)}" for m in METRICS)
    paired = "" if changes.why_not else f" ({PAIRED} over {number(changes.num_traces)} traces)"
    return f"From step {start} to step {end}: {each}{paired}."


def evenly_spaced(num: int, most: int = MOST_STEPS) -> list[int]:
    """Places of at most `most` of `num` lines, the first and the last among them."""
    return sorted({round(float(at)) for at in np.linspace(0, num - 1, min(num, most))})


def _score(line: dict[str, Any]) -> ProxyScore | None:
    """The score with its traces, where the line holds them."""
    if not line.get("rows"):
        return None
    source = f"predictions.jsonl, step {line['step']}"
    return checked(ScoreRecord, line, source=source).to_score()
