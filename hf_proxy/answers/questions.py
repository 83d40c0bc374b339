"""Well-known sets of questions: their columns, how they are asked, where the gold answer stands."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_proxy.records.errors import InputError, names, shown


def gold_text(answer: Any, *, remedy: str, source: Any = None, row: Any = None) -> str:
    """A gold answer as text; files hold numbers too.

    Raises:
        InputError: it is neither.
    """
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        return str(answer)
    if not isinstance(answer, str):
        raise InputError.at(
            f"expected text, found {shown(answer)}",
            remedy=remedy,
            source=source,
            row=row,
            field="answer",
        )
    return answer


@dataclass(frozen=True)
class QuestionSet:
    r"""How a set of questions is read, asked and graded.

    Attributes:
        hub_id, config, split: of the data set.
        id_column: names a question; None: its row number does.
        prompt_column, answer_column: of the question and of its gold answer.
        answer_pattern: regular expression whose first group is the gold answer within its column;
            None: the whole column.
        solution_column: of a solution by people.
        solution_noise: regular expression of what is no part of that solution.
        template: the prompt, in which `{question}` is replaced.
    """

    hub_id: str
    config: str | None
    split: str
    id_column: str | None
    prompt_column: str
    answer_column: str
    answer_pattern: str | None
    solution_column: str
    solution_noise: str | None
    template: str

    def prompt(self, row: Mapping[str, Any]) -> str:
        """What a model is asked.

        Raises:
            InputError: the row has no such question.
        """
        question = self._text(row, self.prompt_column)
        return self.template.replace("{question}", question)

    def gold(self, row: Mapping[str, Any]) -> str:
        """The column that `grading.gold_answer` reads with `answer_pattern`.

        Raises:
            InputError: the row has none.
        """
        return self._text(row, self.answer_column)

    def _text(self, row: Mapping[str, Any], column: str) -> str:
        value = row.get(column)
        if isinstance(value, str) and value.strip():
            return value
        problem = f"expected text, found {shown(value)}" if column in row else "there is none"
        raise InputError.at(
            problem, remedy=f"name a file of {self.hub_id}; it has {names(row)}", field=column
        )


_BOXED = "{question}\n\nReason step by step, and put the final answer within \\boxed{}."
QUESTION_SETS: dict[str, QuestionSet] = {
    "gsm8k": QuestionSet(
        hub_id="openai/gsm8k",
        config="main",
        split="test",
        id_column=None,
        prompt_column="question",
        answer_column="answer",
        answer_pattern="#### (.+)",
        solution_column="answer",
        solution_noise="<<.*?>>",
        template=_BOXED,
    ),
    "math500": QuestionSet(
        hub_id="HuggingFaceH4/MATH-500",
        config=None,
        split="test",
        id_column="unique_id",
        prompt_column="problem",
        answer_column="answer",
        answer_pattern=None,
        solution_column="solution",
        solution_noise=None,
        template=_BOXED,
    ),
}
