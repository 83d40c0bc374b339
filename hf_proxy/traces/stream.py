"""A server's tokens against the text that they spell: which of them holds each byte.

Servers send pieces of a letter as U+FFFD, or as nothing until the letter is whole; cut the text at
a stop string that ends inside a token; strip blanks. What the neighbours of such a piece fix is
mended here, for every shape; what they leave open is refused.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hf_proxy.records.rows import ZERO_PROBABILITY_LOGPROB
from hf_proxy.traces.shapes.answer import Token

_LOST = "\ufffd".encode()  # what a server writes for a piece of a letter
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]*")
_MOST_BYTES = 4  # of a letter
BLANKS = b" \t\r\n\f\v"


class Unspelt(ValueError):
    """The tokens do not spell the text; says where and why.

    Attributes:
        token: number of the token at which it shows.
        reason: what such rows are counted under.
    """

    def __init__(self, token: int, problem: str, reason: str = "tokens do not spell the answer"):
        super().__init__(problem)
        self.token = token
        self.reason = reason


class _Unit(NamedTuple):
    """A run of bytes of one token, or one piece of a letter that it does not tell (None)."""

    data: bytes | None
    token: int
    special: bool

    @property
    def size(self) -> int:
        return len(_LOST) if self.data is None else len(self.data)


class Spelling(NamedTuple):
    """Text with the source of each of its bytes, an index into `Stream.logprobs`."""

    data: bytes
    source: np.ndarray  # [bytes]
    end: int  # in the bytes of the stream


class Stream:
    """The tokens of an answer in order.

    Attributes:
        data: their bytes joined, an untold piece of a letter as U+FFFD.
        logprobs: of each token, and behind them means over pieces of one letter.
    """

    def __init__(self, tokens: Sequence[Token]):
        self.logprobs: list[float | None] = [token.logprob for token in tokens]
        self._units: list[_Unit] = []
        for number, token in enumerate(tokens):
            parts = (token.data or b"").split(_LOST)
            for place, part in enumerate(parts):
                if place:
                    self._units.append(_Unit(None, number, token.special))
                if part or len(parts) == 1:
                    self._units.append(_Unit(part, number, token.special))
        sizes = [unit.size for unit in self._units]
        self._start = [0, *np.cumsum(sizes, dtype=np.int64).tolist()]
        self.data = b"".join(_LOST if unit.data is None else unit.data for unit in self._units)

    def letters(self, start: int, end: int) -> bytes:
        """Bytes `[start, end)` without special tokens.

        Raises:
            Unspelt: a piece of a letter stands there that no text tells.
        """
        found = []
        for place in range(bisect_right(self._start, start) - 1, len(self._units)):
            at, unit = self._start[place], self._units[place]
            if at >= end:
                break
            if unit.special or at + unit.size <= start:
                continue
            if unit.data is None:
                raise Unspelt(
                    unit.token, "a piece of a letter that no text tells", "pieces of letters"
                )
            found.append(unit.data[max(start - at, 0) : end - at])
        return b"".join(found)

    def locate(self, text: bytes, start: int = 0, *, skip_marks: bool = False) -> Spelling:
        """The text at byte `start`, behind blanks that a server has stripped from it.

        Args:
            skip_marks: also behind a few tokens, whatever they are: marks that no one told of.

        Raises:
            Unspelt: the tokens spell something else there.
        """
        blanks = len(self.data[start:]) - len(self.data[start:].lstrip(BLANKS))
        own_blanks = len(text) - len(text.lstrip(BLANKS))
        starts = [start]
        if blanks > own_blanks:
            starts.append(start + blanks - own_blanks)
        if skip_marks:
            found = self.data.find(text, start)
            first = bisect_right(self._start, start)
            starts += [found] if found >= 0 else self._start[first : first + 16]
        failure: Unspelt | None = None
        for place in starts:
            try:
                return self.match(text, place)
            except Unspelt as error:
                failure = failure or error
        assert failure is not None
        raise failure

    def match(self, text: bytes, start: int = 0) -> Spelling:
        """The text at byte `start`; tokens behind it are allowed: they spell no letter.

        Raises:
            Unspelt: the tokens spell something else there.
        """
        source = np.empty(len(text), dtype=np.int64)
        place = bisect_right(self._start, start) - 1
        # empty units at `start` may be pieces of its first letter
        while place > 0 and self._start[place - 1] == start:
            place -= 1
        skip = start - self._start[min(place, len(self._units))]
        at = 0
        empty: list[int] = []  # tokens that came before their letter was whole
        end = start
        while at < len(text):
            if place >= len(self._units):
                last = len(self.logprobs) - 1
                raise Unspelt(last, f"the tokens end at byte {at}, the answer has {len(text)}")
            unit = self._units[place]
            if unit.data is None:
                at, place, empty = self._hidden(text, at, place, source)
                skip, end = 0, self._start[place]
                continue
            piece, skip = unit.data[skip:], 0
            wanted = text[at : at + len(piece)]
            if not piece:
                empty += [] if unit.special else [unit.token]
            elif piece.startswith(wanted):
                source[at : at + len(wanted)] = unit.token
                self._join_letter(text, at, len(wanted), [*empty, unit.token], source)
                at, empty = at + len(wanted), []
                end = self._start[place] + unit.size - (len(piece) - len(wanted))
            elif not unit.special:
                raise Unspelt(
                    unit.token,
                    f"the token is {piece[:40]!r}, the answer goes on with "
                    f"{text[at : at + 20]!r} at byte {at}",
                )
            place += 1
        return Spelling(text, source, end)

    def _join_letter(
        self, text: bytes, at: int, size: int, tokens: list[int], source: np.ndarray
    ) -> None:
        """The letter at `at` is made of these tokens, all but the last of them without text.

        A letter of n bytes has at most n pieces; one of a single byte has no other.
        """
        letter = _letter_size(text[at])
        pieces = tokens[-letter:]
        if len(pieces) > 1 and letter <= size:
            source[at : at + letter] = self._mean(pieces)

    def _hidden(
        self, text: bytes, at: int, place: int, source: np.ndarray
    ) -> tuple[int, int, list[int]]:
        """Bytes that a run of untold pieces stands for, fixed by what follows the run.

        Returns:
            where text and units go on, and pieces whose letter follows whole.
        """
        run, behind = place, b""
        while run < len(self._units) and self._units[run].data is None:
            run += 1
        next_known = run
        while next_known < len(self._units) and len(behind) <= len(text) - at:
            unit = self._units[next_known]
            if unit.data is None:
                break
            behind += b"" if unit.special else unit.data
            next_known += 1
        tokens = [unit.token for unit in self._units[place:run]]
        lost = _LOST * len(tokens)
        if text.startswith(lost, at):  # the letter itself
            for number, token in enumerate(tokens):
                source[at + 3 * number : at + 3 * number + 3] = token
            return at + len(lost), run, []
        limit = _BEYOND_ASCII.match(text, at)
        most = min(limit.end() - at if limit else 0, _MOST_BYTES * len(tokens))
        fitting = [
            size
            for size in range(most + 1)
            if (size == 0 or size >= len(tokens))
            and _is_border(text, at + size)
            and (behind or at + size == len(text))
            and behind.startswith(text[at + size : at + size + len(behind)])
        ]
        if len(fitting) != 1:
            raise Unspelt(
                tokens[0],
                f"{len(tokens)} pieces of letters (U+FFFD) whose place "
                f"{text[at : at + 20]!r} does not fix",
                "pieces of letters",
            )
        (size,) = fitting
        if size == len(tokens):
            source[at : at + size] = tokens
        elif size and _letter_size(text[at]) == size:
            source[at : at + size] = self._mean(tokens)
        elif size:
            raise Unspelt(
                tokens[0],
                f"{len(tokens)} pieces of letters (U+FFFD) for {size} bytes of several letters",
                "pieces of letters",
            )
        return at + size, run, tokens if size == 0 else []

    def _mean(self, tokens: Sequence[int]) -> int:
        """A source of its own: the mean of these tokens' probabilities."""
        values = [valid_logprob(self.logprobs[token]) for token in tokens]
        known = [value for value in values if value is not None]
        mean = math.fsum(map(math.exp, known)) / len(tokens)
        logprob = math.log(mean) if mean > 0 else ZERO_PROBABILITY_LOGPROB
        self.logprobs.append(min(logprob, 0.0) if len(known) == len(values) else None)
        return len(self.logprobs) - 1


def valid_logprob(value: float | None) -> float | None:
    """A logprob as a trace holds it: p = 0 in the one spelling, p = 1 without the rounding of
    servers (up to 1e-4 above); None where it is none.
    """
    if value is None or math.isnan(value) or value > 1e-4:
        return None
    return ZERO_PROBABILITY_LOGPROB if value == -math.inf else min(float(value), 0.0)


def _letter_size(lead: int) -> int:
    """Bytes of the UTF-8 letter that begins with this one."""
    return 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4


def _is_border(text: bytes, at: int) -> bool:
    return at >= len(text) or text[at] & 0xC0 != 0x80
