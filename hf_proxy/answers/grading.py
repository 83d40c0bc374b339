"""Right or wrong, by math-verify."""

import re
from dataclasses import dataclass
from typing import Any

from math_verify import parse, verify

from hf_proxy.answers.finding import (
    behind_thinking,
    choice_in,
    choice_of_text,
    is_thinking_mark,
    last_boxes,
    opens_thinking,
    plain_numbers,
)
from hf_proxy.records.errors import InputError


@dataclass(frozen=True)
class Grade:
    """What became of one answer.

    Attributes:
        correct: whether it equals the gold answer, as mathematics or by its letter.
        answer: as it was found in the text; None where there is none.
    """

    correct: bool
    answer: str | None


def answer_text(text: str, pattern: str | None, *, row: str, source: Any = None) -> str:
    """The part of an answer column that is the answer.

    Args:
        text: of the column.
        pattern: regular expression whose first group is the answer; the last match counts. None:
            the whole text.

    Raises:
        InputError: there is no match.
    """
    if pattern is None:
        return text
    matches = list(re.finditer(pattern, text))
    if not matches:
        raise InputError.at(
            f"no {pattern!r} in {text[-40:]!r}",
            remedy="set answer_pattern to what stands before the result",
            source=source,
            row=row,
        )
    return matches[-1][1]


def gold_answer(text: str, pattern: str | None, *, row: str, source: Any = None) -> list:
    """The expression that an answer column stands for.

    Args:
        text, pattern: see `answer_text`.

    Raises:
        InputError: there is no match, or nothing that could be read as mathematics.
    """
    found = answer_text(text, pattern, row=row, source=source)
    inside = found.strip()
    if len(inside) > 1 and inside[0] == inside[-1] == "$":
        inside = inside.strip("$").strip()
    gold = parse(f"${plain_numbers(inside, whole=True)}$")
    if not gold:
        raise InputError.at(
            f"{found!r:.60} cannot be read as mathematics",
            remedy="correct it or drop the row",
            source=source,
            row=row,
        )
    return gold


def grade(text: str, gold: list) -> Grade:
    r"""Hold the answer in `text` (in the last `\boxed{}`, else the last expression) against `gold`.

    Thinking is no answer: what stands between `<think>` and `</think>` is left out, and what stands
    behind a `<think>` that is never closed. Where `gold` is a letter of choice, the letter counts.
    """
    text = behind_thinking(text)
    boxes = [plain_numbers(box.strip(), whole=True) for box in last_boxes(text)]
    letter = choice_in(str(gold[-1]))
    if letter is not None:
        found_letter = choice_in(boxes[-1]) if boxes else choice_of_text(text)
        if found_letter is not None:
            return Grade(found_letter == letter, found_letter)
    if not boxes:
        found = parse(plain_numbers(text))
        return Grade(bool(found) and bool(verify(gold, found)), str(found[-1]) if found else None)
    found = parse(rf"\boxed{{{boxes[-1]}}}")
    correct = bool(found) and bool(verify(gold, found))
    if not correct and len(boxes) > 1:
        # parts of one answer: no part alone equals a gold answer that has several
        parts = parse("$" + ", ".join(boxes) + "$")
        correct = bool(verify(gold, parts)) and len(getattr(gold[0], "args", ())) > 1
    return Grade(correct, str(found[-1]) if found else None)


def text_to_grade(tokenizer: Any, prompt: list[int], ids: list[int]) -> str:
    """What a model wrote, with every mark of thinking.

    Some tokenizers count such marks among the special tokens, which a text is shown without; some
    templates open the thinking at the end of the prompt.
    """
    special = {id: str(t) for id, t in tokenizer.added_tokens_decoder.items() if t.special}
    marks = {id for id, token in special.items() if is_thinking_mark(token)}
    if marks & set(ids):
        shown = [id for id in ids if id in marks or id not in special]
        text = str(tokenizer.decode(shown, skip_special_tokens=False))
    else:
        text = str(tokenizer.decode(ids, skip_special_tokens=True))
    opened = opens_thinking(str(tokenizer.decode(prompt, skip_special_tokens=False)))
    return f"<think>{text}" if opened else text
