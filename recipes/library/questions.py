"""Questions of a file, a saved set or a well-known one, in the columns that building reads."""

from datasets import Dataset

from hf_proxy.answers.questions import QUESTION_SETS, QuestionSet
from hf_proxy.recipes.library.rows import load_rows
from hf_proxy.records.errors import InputError


def load_questions(
    source: str | None,
    *,
    known: str | None,
    question_column: str | None,
    answer_column: str | None,
    num_questions: int | None,
) -> tuple[Dataset, str]:
    """Rows of `prompt`, and of `example_id` and `answer` where they are known; and their source.

    Args:
        source: `.jsonl`, `.json`, `.parquet` or `.csv` file, `save_to_disk` folder or hub id; None:
            the hub id of the well-known set.
        known: name of a well-known set, whose columns these are.
        question_column, answer_column: other columns than its; without a set `question` is asked,
            and no answer is known.
        num_questions: the first so many; None: all.

    Raises:
        InputError: neither source nor set, no such column, what `load_rows` refuses.
    """
    shape: QuestionSet | None = None if known is None else QUESTION_SETS[known]
    if source is None and shape is None:
        raise InputError.at(
            "it is missing", remedy="name a file, a folder or a hub id", field="questions"
        )
    question = question_column or (shape.prompt_column if shape else "question")
    answer = answer_column or (shape.answer_column if shape else None)
    columns = {question: "question_column"} | ({answer: "answer_column"} if answer else {})
    if source is None:
        assert shape is not None
        name, rows = (
            shape.hub_id,
            load_rows(shape.hub_id, columns, config=shape.config, split=shape.split),
        )
    else:
        name, rows = source, load_rows(source, columns)
    if num_questions is not None:
        rows = rows.select(range(min(num_questions, len(rows))))
    own_id = shape.id_column if shape and shape.id_column in rows.column_names else None
    wanted = {question: "prompt", own_id or "example_id": "example_id"}
    if answer:
        wanted[answer] = "answer"
    content = {ours: rows[theirs] for theirs, ours in wanted.items() if theirs in rows.column_names}
    return Dataset.from_dict({ours: list(values) for ours, values in content.items()}), name
