"""Right or wrong, by math-verify."""

import re
from dataclasses import dataclass
from typing import Any

from math_verify import parse, verify

from hf_proxy.records.errors import InputError


@dataclass(frozen=True)
class Grade:
    """What became of one answer.

    Attributes:
        correct: whether it equals the gold answer, as mathematics.
        answer: as it was found in the text; None where there is none.
    """

    correct: bool
    answer: str | None


def gold_answer(text: str, pattern: str | None, *, row: str, source: Any = None) -> list:
    """The expression that an answer column stands for.

    Args:
        text: of the column.
        pattern: regular expression whose first group is the answer; the last match counts. None:
            the whole text.

    Raises:
        InputError: there is no match, or nothing that could be read as mathematics.
    """
    found = text
    if pattern is not None:
        matches = list(re.finditer(pattern, text))
        if not matches:
            raise InputError.at(
                f"no {pattern!r} in {text[-40:]!r}",
                remedy="set answer_pattern to what stands before the result",
                source=source,
                row=row,
            )
        found = matches[-1][1]
    gold = parse(f"${found.strip()}$")
    if not gold:
        raise InputError.at(
            f"{found!r:.60} cannot be read as mathematics",
            remedy="correct it or drop the row",
            source=source,
            row=row,
        )
    return gold


def grade(text: str, gold: list) -> Grade:
    r"""Hold the answer in `text` (in `\boxed{}`, else the last expression) against `gold`."""
    found = parse(text)
    return Grade(bool(found) and bool(verify(gold, found)), str(found[-1]) if found else None)
