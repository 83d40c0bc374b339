r"""Answers in the paper's JSON protocol: the value of a key, letter by letter, with its raw bytes.

The probabilities are those of raw tokens, so they stand for the escaped text. Models write LaTeX
with a lone backslash: `\frac` is a form feed and "rac" to a JSON reader. Source: arXiv 2509.21013,
appendix B and C.
"""

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import NamedTuple

# commands of LaTeX that begin with a letter that JSON reads as an escape; \b and \f are never meant
_LATEX = re.compile(
    r"\\(?:[bf][A-Za-z]"
    r"|t(?:ext\w*|imes|heta|an|anh|au|o|op|riangle\w*|frac|herefore|ilde|ag)(?![A-Za-z])"
    r"|r(?:ho|ight\w*|angle|ceil|floor|m|ef|oot)(?![A-Za-z])"
    r"|n(?:eq|eg|abla|ot|otin|mid|ewline|onumber|olimits|leq|geq|subseteq|parallel|exists"
    r"|rightarrow|Rightarrow)(?![A-Za-z]))"
)
_KEY = re.compile(r"""["'](?:reasoning|final_answer)["']\s*:""")


class Letter(NamedTuple):
    """A letter, and the raw characters `[start, end)` that spell it."""

    text: str
    start: int
    end: int


class JsonAnswer(NamedTuple):
    """Where the values of a JSON answer stand in its raw text.

    Attributes:
        spans: by key the raw characters `[start, end)` of its value; of text those inside its
            quotes.
        is_text: by key whether the value is text.
    """

    spans: dict[str, tuple[int, int]]
    is_text: dict[str, bool]

    def letters(self, content: str, key: str) -> list[Letter]:
        """Letters of a value; none where it is missing, empty, an object or null."""
        start, end = self.spans.get(key, (0, 0))
        if self.is_text.get(key):
            return _decoded(content, start, end)
        return [Letter(content[at], at, at + 1) for at in range(start, end)]


def has_scaffold(content: str) -> bool:
    """Whether an answer was meant as the protocol's JSON, whatever became of it."""
    brace = content.find("{")
    return brace >= 0 and _KEY.search(content, brace) is not None


def read_json_answer(content: str) -> JsonAnswer | None:
    """The values of an answer that is a JSON object with `reasoning`, bare or in a code fence.

    None: it is none. The raw text is read, not what a parser makes of it.
    """
    start = content.find("{")
    if start < 0 or content[:start].strip() not in ("", "```", "```json"):
        return None
    decoder = json.JSONDecoder(strict=False)
    try:
        if "reasoning" not in decoder.raw_decode(content, start)[0]:
            return None
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets as deep
        return None
    spans, is_text = {}, {}
    place = start
    while content[place] != "}":
        key, place = scanstring(content, content.index('"', place + 1) + 1, False)
        place = content.index(":", place) + 1
        while content[place].isspace():
            place += 1
        value, end = decoder.raw_decode(content, place)
        # the last one wins, as in every JSON reader
        is_text[key] = isinstance(value, str)
        spans[key] = (place + 1, end - 1) if is_text[key] else (place, end)
        if value is None or isinstance(value, list | dict):
            spans[key] = (0, 0)
        place = end
        while content[place].isspace():
            place += 1
    return JsonAnswer(spans, is_text)


def _decoded(content: str, start: int, end: int) -> list[Letter]:
    """Each letter of a JSON string; a lone backslash before LaTeX is one, as it was written."""
    letters = []
    place = start
    while place < end:
        size = 1
        if content[place] == "\\" and not _LATEX.match(content, place, end):
            size = 6 if content[place + 1] == "u" else 2
            text = json.loads(f'"{content[place : place + size]}"', strict=False)
        else:
            text = content[place]
        if "\ud800" <= text <= "\udbff" and content[place + 6 : place + 8] == "\\u":
            pair = json.loads(f'"{content[place : place + 12]}"')
            if len(pair) == 1:
                text, size = pair, 12
        letters.append(Letter(text, place, place + size))
        place += size
    return letters


def control_letter(text: str) -> str | None:
    """A control letter that no reasoning holds: what a broken escape leaves."""
    found = re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", text)
    return found[0] if found else None
