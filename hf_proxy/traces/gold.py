"""Whether an answer is right, where its set knows the gold one."""

from typing import Any

from hf_proxy.answers.questions import QUESTION_SETS, gold_text


def is_right(answer: str, gold: Any, *, source: str, row: str) -> bool:
    """Whether the answer in a text equals the gold one, as mathematics.

    Args:
        gold: text as GSM8K has it (behind `####`), or the answer alone.

    Raises:
        InputError: the gold answer is no text, or cannot be read.
    """
    # sympy takes a second to load, and most sets know no answers
    from hf_proxy.answers.grading import gold_answer, grade

    remedy = "fill it, or map another column to answer"
    text = gold_text(gold, remedy=remedy, source=source, row=row)
    pattern = QUESTION_SETS["gsm8k"].answer_pattern if "####" in text else None
    return grade(answer, gold_answer(text, pattern, row=row, source=source)).correct
