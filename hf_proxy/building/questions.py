"""What is asked: questions, and how often each."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from hf_proxy.answers.questions import gold_text
from hf_proxy.records.errors import InputError, check_unique_ids, shown
from hf_proxy.records.storage import fingerprint


class Question(NamedTuple):
    """A question, and where it is known what a right answer to it is.

    Attributes:
        example_id: its name.
        prompt: the question alone, as the proxy will read it.
        gold: of `grading.gold_answer`; None where there is no answer.
    """

    example_id: str
    prompt: str
    gold: list | None


class Job(NamedTuple):
    """One answer to one question."""

    example_id: str
    question: Question
    sample: int


def read_questions(
    rows: Iterable[Mapping[str, Any]], *, answer_pattern: str | None = None, source: Any = None
) -> list[Question]:
    """Questions of rows with `prompt` and, where they have them, `example_id` and `answer`.

    Args:
        answer_pattern: regular expression whose first group is the answer within `answer`.

    Raises:
        InputError: no rows, a repeated name, a question that is no text, a gold answer that cannot
            be read: all of it before anything is asked.
    """
    found: list[Question] = []
    for number, row in enumerate(rows):
        name = row.get("example_id")
        name = str(number if name is None else name)
        prompt = row.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError.at(
                f"expected text, found {shown(prompt)}",
                remedy="fill it or drop the row",
                source=source,
                row=name,
                field="prompt",
            )
        found.append(Question(name, prompt, _gold(row, answer_pattern, name, source)))
    if not found:
        raise InputError.at("there are no questions", remedy="give at least one", source=source)
    check_unique_ids((question.example_id for question in found), source=source)
    return found


def _gold(row: Mapping[str, Any], pattern: str | None, name: str, source: Any) -> list | None:
    answer = row.get("answer")
    if answer is None:
        return None
    remedy = "fill it, or name another answer column"
    text = gold_text(answer, remedy=remedy, source=source, row=name)
    # sympy takes a second to load
    from hf_proxy.answers.grading import gold_answer

    return gold_answer(text, pattern, row=name, source=source)


def jobs_of(questions: list[Question], num_samples: int) -> list[Job]:
    """Every answer that is wanted, the samples of a question together.

    Raises:
        InputError: two of them would bear one name.
    """
    jobs = [
        Job(
            question.example_id if num_samples == 1 else f"{question.example_id}#{sample}",
            question,
            sample,
        )
        for question in questions
        for sample in range(num_samples)
    ]
    check_unique_ids(job.example_id for job in jobs)
    return jobs


def questions_fingerprint(questions: list[Question]) -> str:
    """Hash of what is asked; gold answers decide nothing of what a frontier writes."""
    return fingerprint([[question.example_id, question.prompt] for question in questions])
