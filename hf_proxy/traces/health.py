"""What a set of traces is worth: what was dropped, and signs that its probabilities are none.

Some servers give only 0 and 1, some scale by the temperature, many cut answers: a score of such a
set is a number all the same.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from hf_proxy.records.errors import InputError
from hf_proxy.records.record import Count, Record, Text

MOST_EXACT = 0.95  # share of probabilities that are exactly 0 or 1, beyond which none is meant
_SUSPECT = 0.5
_NAMED_ROWS = 5  # of each reason
_BINS = 10


class TraceHealth(Record):
    """Counts over a set of traces, as `hf-proxy traces check` prints them.

    Attributes:
        rows: that were kept.
        tokens, letters: of the traces.
        letters_without_probability: those of other weightings than `"logprob"`.
        unweighted: rows that have neither probabilities nor a mask.
        zeros, ones: tokens whose probability is exactly 0 or 1.
        histogram: tokens by tenths of probability.
        duplicates: rows whose prompt and trace stand in an earlier row.
        longest: bytes of prompt and trace together, of the longest row.
        dropped: rows that were left out, by reason.
        dropped_rows: the first of them by reason.
        parts: rows by the part that is scored, of sets whose answers have parts.
        temperatures: rows by the temperature that their requests tell.
        over_one: tokens whose alternatives' probabilities sum to more than 1.
        right, wrong: rows whose answer is known to be so.
    """

    rows: Count = 0
    tokens: Count = 0
    letters: Count = 0
    letters_without_probability: Count = 0
    unweighted: Count = 0
    zeros: Count = 0
    ones: Count = 0
    histogram: Annotated[list[Count], Field(min_length=_BINS, max_length=_BINS)] = [0] * _BINS
    duplicates: Count = 0
    longest: Count = 0
    dropped: dict[str, Count] = {}
    dropped_rows: dict[str, list[Text]] = {}
    parts: dict[str, Count] = {}
    temperatures: dict[str, Count] = {}
    over_one: Count = 0
    right: Count = 0
    wrong: Count = 0

    @property
    def exact_share(self) -> float:
        """Share of probabilities that are exactly 0 or 1."""
        return (self.zeros + self.ones) / self.tokens if self.tokens else 0.0

    def check(self, source: Any) -> None:
        """Refuse a set whose score would mean nothing.

        Raises:
            InputError: nearly all probabilities are exactly 0 or 1.
        """
        if self.exact_share > MOST_EXACT:
            raise InputError.at(
                f"{self.exact_share:.1%} of the probabilities are exactly 0 or 1, so none is the "
                "model's own",
                remedy="ask a server that gives them, or import the set with --allow_degenerate",
                source=source,
                field="frontier_logprobs",
            )

    def remarks(self) -> list[str]:
        """What a user should know before the set is scored; empty for one that is sound."""
        found = []
        for reason, count in sorted(self.dropped.items()):
            rows = ", ".join(self.dropped_rows.get(reason, []))
            more = ", ..." if count > _NAMED_ROWS else ""
            found.append(f"rows dropped: {count} x {reason} (row {rows}{more})")
        if len(self.parts) > 1:
            found.append(f"parts differ: {_counts(self.parts)}")
        if self.exact_share > _SUSPECT:
            found.append(f"{self.exact_share:.0%} of the probabilities are exactly 0 or 1")
        if self.over_one:
            found.append(f"{self.over_one} tokens whose alternatives sum to more than 1")
        # at 0 the frontier is greedy, as the paper has it
        scaled = {t: n for t, n in self.temperatures.items() if float(t) not in (0.0, 1.0)}
        if scaled:
            found.append(f"temperature {_counts(scaled)}: probabilities may be scaled by it")
        return found

    def line(self) -> str:
        """The set in one line."""
        parts = [f"{self.rows} traces", f"{self.letters} letters"]
        if self.tokens:
            parts += [f"{self.tokens} tokens", f"{self.exact_share:.1%} of p exactly 0 or 1"]
        if self.letters_without_probability:
            weight = " (their tokens weigh 1)" if self.unweighted else ""
            parts.append(f"{self.letters_without_probability} letters without p{weight}")
        if self.duplicates:
            parts.append(f"{self.duplicates} duplicates")
        if self.right or self.wrong:
            parts.append(f"answers {self.right} right, {self.wrong} wrong")
        return "; ".join([", ".join(parts), *self.remarks()])


class HealthCounter:
    """Counts as rows go by."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(
            (
                "rows", "tokens", "letters", "letters_without_probability", "unweighted", "zeros",
                "ones", "duplicates", "longest", "over_one", "right", "wrong",
            ),
            0,
        )  # fmt: skip
        self._histogram = np.zeros(_BINS, dtype=np.int64)
        self._named: dict[str, dict[str, int]] = {"dropped": {}, "parts": {}, "temperatures": {}}
        self._dropped_rows: dict[str, list[str]] = {}
        self._seen: set[int] = set()

    def add(self, row: Mapping[str, Any]) -> None:
        """A `Trace` row that is kept."""
        sums = self._sums
        sums["rows"] += 1
        sums["letters"] += len(row["trace"])
        size = len(row["prompt"].encode()) + len(row["trace"].encode())
        sums["longest"] = max(sums["longest"], size)
        known = hash((row["prompt"], row["trace"]))
        sums["duplicates"] += known in self._seen
        self._seen.add(known)
        sums["tokens"] += len(row["frontier_spans"]) if row["weighting"] == "logprob" else 0
        if row["weighting"] != "logprob":
            sums["letters_without_probability"] += len(row["trace"])
            sums["unweighted"] += row["weighting"] == "none"
            return
        probability = np.exp(np.asarray(row["frontier_logprobs"], dtype=np.float64))
        sums["zeros"] += int((probability == 0).sum())
        sums["ones"] += int((probability == 1).sum())
        tenths = np.minimum((probability * _BINS).astype(np.int64), _BINS - 1)
        self._histogram += np.bincount(tenths, minlength=_BINS)

    def told(
        self,
        *,
        part: str | None = None,
        temperature: float | None = None,
        over_one: int = 0,
        correct: bool | None = None,
    ) -> None:
        """What a row's server or source tells of it."""
        for name, value in (("parts", part), ("temperatures", temperature)):
            if value is not None:
                counts = self._named[name]
                counts[str(value)] = counts.get(str(value), 0) + 1
        self._sums["over_one"] += over_one
        if correct is not None:
            self._sums["right" if correct else "wrong"] += 1

    def drop(self, reason: str, row: str) -> None:
        """A row that is left out."""
        self._named["dropped"][reason] = self._named["dropped"].get(reason, 0) + 1
        rows = self._dropped_rows.setdefault(reason, [])
        if len(rows) < _NAMED_ROWS:
            rows.append(row)

    def health(self) -> TraceHealth:
        """What was counted."""
        content = {
            **self._sums,
            **self._named,
            "histogram": self._histogram.tolist(),
            "dropped_rows": self._dropped_rows,
        }
        return TraceHealth.model_validate(content)


def health_of(rows: Iterable[Mapping[str, Any]]) -> TraceHealth:
    """Counts over rows that are there already."""
    counter = HealthCounter()
    for row in rows:
        counter.add(row)
    return counter.health()


def _counts(named: Mapping[str, int]) -> str:
    return ", ".join(f"{name} x {count}" for name, count in sorted(named.items()))
