"""Whether an answer is right, where its set knows the gold one."""

from typing import Any

from hf_proxy.answers.questions import QUESTION_SETS
from hf_proxy.records.errors import InputError, shown


def is_right(answer: str, gold: Any, *, source: str, row: str) -> bool:
    """Whether the answer in a text equals the gold one, as mathematics.

    Args:
        gold: text as GSM8K has it (behind `####`), or the answer alone.

    Raises:
        InputError: the gold answer is no text, or cannot be read.
    """
    # sympy takes a second to load, and most sets know no answers
    from hf_proxy.answers.grading import gold_answer, grade

    if isinstance(gold, int | float) and not isinstance(gold, bool):
        gold = str(gold)
    if not isinstance(gold, str):
        raise InputError.at(
            f"expected text, found {shown(gold)}",
            remedy="fill it, or map another column to answer",
            source=source,
            row=row,
            field="answer",
        )
    pattern = QUESTION_SETS["gsm8k"].answer_pattern if "####" in gold else None
    return grade(answer, gold_answer(gold, pattern, row=row, source=source)).correct
