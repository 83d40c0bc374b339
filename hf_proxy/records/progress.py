"""How far long work has come: one bar on a terminal, a line every half minute in a log file."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import NamedTuple, Self

from tqdm.auto import tqdm

SECONDS_PER_LINE = 30.0
SECONDS_PER_BEAT = 1.0  # one batch of a large model may take minutes, in which the clock goes on
# amounts may be shares of an answer, which nobody reads to the last digit
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}, "
_BAR += "{rate_fmt}{postfix}]"


class _Manner(NamedTuple):
    told_from: float  # on the clock
    has_bar: bool


_manner: ContextVar[_Manner | None] = ContextVar("manner", default=None)


@contextmanager
def told_after(seconds: float, *, has_bar: bool = True) -> Iterator[None]:
    """Within it nothing is told until so long has passed, whatever the number of works.

    Args:
        seconds: from now; the first line comes then, and not after `SECONDS_PER_LINE`.
        has_bar: False: lines on a terminal too.
    """
    before = _manner.set(_Manner(time.monotonic() + seconds, has_bar))
    try:
        yield
    finally:
        _manner.reset(before)


class Progress:
    """A context manager that tells of work done on standard error, with rate and time left.

    On a terminal one bar that goes when the work is done; elsewhere at most one line in
    `SECONDS_PER_LINE`, so that short work says nothing. Both come whether or not anything was done
    meanwhile: a bar that stands still looks like a program that hangs.

    Args:
        total: of the work, in units.
        what: is done, as `Scoring`.
        unit: as `tokens`.
        is_shown: False: nothing is told, as on all processes but the main one.
        done: work that an earlier run has done.
    """

    def __init__(
        self, total: float, what: str, unit: str, *, is_shown: bool = True, done: float = 0
    ):
        self._total, self._what, self._unit = total, what, unit
        self._done, self._start_at = done, done
        begun = time.monotonic()
        manner = _manner.get()
        has_bar = sys.stderr.isatty() and (manner is None or manner.has_bar)
        self._is_line = is_shown and not has_bar
        self._told_from = begun if manner is None else manner.told_from
        self._next = begun + SECONDS_PER_LINE if manner is None else manner.told_from
        self._is_shown = is_shown
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=what,
            unit=f" {unit}",
            unit_scale=True,
            leave=False,
            bar_format=_BAR,
            delay=max(0, self._told_from - begun),
            disable=not is_shown or self._is_line,
        )
        self._begun = begun

    def update(self, amount: float) -> None:
        """So much more is done."""
        self._done += amount
        self._bar.update(amount)
        self._tell()

    def _tell(self) -> None:
        """The next line of a log file, where it is due."""
        with self._lock:
            now = time.monotonic()
            if self._is_line and now >= self._next:
                self._next = now + SECONDS_PER_LINE
                print(self._line(now - self._begun), file=sys.stderr, flush=True)

    def _beat(self) -> None:
        """What is told while nothing is done."""
        while not self._ended.wait(SECONDS_PER_BEAT):
            self._tell()
            if time.monotonic() >= self._told_from:
                self._bar.refresh()

    def _line(self, seconds: float) -> str:
        rate = (self._done - self._start_at) / seconds
        left = tqdm.format_interval((self._total - self._done) / rate) if rate > 0 else "?"
        return (
            f"{self._what}: {self._done:,.0f} of {self._total:,.0f} {self._unit} "
            f"({self._done / self._total:.0%}), {_shown(rate)} {self._unit}/s, {left} left"
        )

    def __enter__(self) -> Self:
        if self._is_shown:
            self._beats.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._is_shown:
            self._beats.join()
        self._bar.close()


def _shown(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
