"""Which trajectories have the right answer, as `hf-proxy accuracy` grades."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_proxy.answers.grading import gold_answer, grade, text_to_grade
from hf_proxy.records.errors import InputError

Answers = Mapping[str, list]  # by example_id, as `gold_answer` reads them


def read_answers(rows: Any, names: Sequence[str], source: str | None = None) -> list[list]:
    """The right answer of each row, read from its column `answer`.

    Args:
        rows: `Dataset`.
        names: of the rows, for messages.

    Raises:
        InputError: there is no such column, or in it one that cannot be read as mathematics.
    """
    if not isinstance(rows, Dataset) or "answer" not in rows.column_names:
        raise InputError.at(
            "it keeps trajectories with the right answer, and none is known",
            remedy="give rows with a column 'answer'",
            source=source,
            field="only_correct",
        )
    texts = ["" if text is None else str(text) for text in rows["answer"]]
    return [
        gold_answer(text, None, row=name, source=source)
        for name, text in zip(names, texts, strict=True)
    ]


def is_correct(
    tokenizer: PreTrainedTokenizerBase, prompt: list[int], trajectory: list[int], gold: list
) -> bool:
    """Whether a trajectory ends in the right answer; one that was cut is graded as it is."""
    return grade(text_to_grade(tokenizer, prompt, trajectory), gold).correct
