"""Answers to problems: which are right, and which are the same."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from hf_proxy.answers.grading import gold_answer, grade, same_answer
from hf_proxy.answers.texts import text_to_grade
from hf_proxy.mining.verdicts import Graded
from hf_proxy.models.rounds import Written
from hf_proxy.records.errors import InputError


def read_gold(rows: Dataset, names: list[str], pattern: str | None) -> dict[str, list]:
    """By name what is right.

    Raises:
        InputError: a problem has no right answer that can be read.
    """
    remedy = "give each problem its right answer, or pass verdict=False for the agreement alone"
    if "answer" not in rows.column_names:
        raise InputError.at(
            f"no verdict without right answers: there is no such column, only {rows.column_names}",
            remedy=remedy,
            field="answer",
        )
    texts = list(rows["answer"])
    empty = [name for name, text in zip(names, texts, strict=True) if text is None or text == ""]
    if empty:
        raise InputError.at(
            "no verdict without right answers: this one is empty",
            remedy=remedy,
            row=empty[0],
            field="answer",
        )
    pairs = zip(names, texts, strict=True)
    return {name: gold_answer(str(text), pattern, row=name) for name, text in pairs}


def texts_of(
    names: Sequence[str],
    given: Mapping[str, list[int]],
    answers: Mapping[str, Written],
    tokenizer: Any,
) -> list[str]:
    """What was written behind each prompt, as it is graded."""
    return [text_to_grade(tokenizer, given[name], answers[name].ids) for name in names]


def grade_answers(
    who: str,
    names: Sequence[str],
    texts: Sequence[str],
    answers: Mapping[str, Written],
    greedy: Sequence[str],
    gold: Mapping[str, list] | None,
) -> tuple[Graded, list[dict[str, Any]]]:
    """One way of decoding, problem by problem.

    Args:
        who: its name.
        texts: of `texts_of`, in the order of `names`.
        greedy: those of the expert's greedy decoding.
        gold: right answers; None: there are none.

    Returns:
        the same as arrays, and as rows of `items.jsonl`, none of them without right answers.
    """
    ended = np.array([answers[name].ended for name in names])
    agrees = np.array([same_answer(*pair) for pair in zip(texts, greedy, strict=True)])
    if gold is None:
        return Graded(None, ended, agrees), []
    grades = [grade(text, gold[name]) for name, text in zip(names, texts, strict=True)]
    items = [
        {
            "model": who,
            "example_id": name,
            "correct": found.correct,
            "answer": found.answer,
            "gold": str(gold[name][-1]),
            "num_tokens": len(answers[name].ids),
            "ended": answers[name].ended,
            "text": text,
        }
        for name, text, found in zip(names, texts, grades, strict=True)
    ]
    return Graded(np.array([found.correct for found in grades]), ended, agrees), items
