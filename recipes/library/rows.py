"""Rows of a file or a hub data set, with the columns that a recipe needs."""

from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError

from hf_proxy.answers.grading import answer_text
from hf_proxy.records.errors import InputError
from hf_proxy.records.files import csv_head, kind_of
from hf_proxy.records.lines import read_lines
from hf_proxy.records.record import Record
from hf_proxy.tokens.messages import is_messages
from hf_proxy.traces.files import saved_set

_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


def load_rows(
    source: str, columns: dict[str, str], *, config: str | None = None, split: str = "train"
) -> Dataset:
    """The rows of `source`.

    Args:
        source: `.jsonl`, `.json`, `.parquet` or `.csv` file, packed (`.gz`) or not, `save_to_disk`
            folder, or a hub id.
        columns: column to the setting that names it, for the message.
        config, split: of a hub id.

    Raises:
        InputError: no such file, nothing in it that can be read, or a column is missing.
    """
    path = Path(source)
    kind = _BUILDERS.get(kind_of(path))
    if kind is not None and not path.exists():
        raise InputError.at("there is no such file", remedy="check the path", source=path)
    is_saved = path.is_dir() and (path / "state.json").exists()
    if path.exists() and not is_saved and (kind is None or path.is_dir()):
        raise InputError.at(
            "a folder" if path.is_dir() else f"file type {path.suffix!r} is not read",
            remedy=f"name a file: {', '.join(_BUILDERS)}, or a save_to_disk folder",
            source=path,
        )
    if kind == "csv":
        csv_head(path)  # one that spreadsheets parted by semicolons would be a single column
    try:
        if is_saved:
            rows = saved_set(path)
        elif kind is not None:
            rows = load_dataset(kind, data_files=str(path), split="train")
        else:
            rows = load_dataset(source, config, split=split)
        is_empty = not len(rows)
    except StopIteration:  # of a file without a line
        is_empty = True
    except (OSError, ValueError, DatasetsError) as error:
        raise _unreadable(path if kind else None, source, error) from error
    if is_empty:
        raise InputError.at("it holds no rows", remedy="name another file", source=source)
    for column, setting in columns.items():
        if column not in rows.column_names:
            raise InputError.at(
                f"there is no such column; it has {rows.column_names}",
                remedy=f"set {setting}",
                source=source,
                field=column,
            )
    return rows


def check_text(rows: Dataset, source: str, *columns: str) -> None:
    """Refuse a row where one of these columns is neither text nor a list of chat messages.

    Raises:
        InputError: naming row and field.
    """
    for column in columns:
        for number, value in enumerate(rows[column]):
            if not isinstance(value, str) and not is_messages(value):
                raise InputError.at(
                    f"expected text, found {value!r:.40}",
                    remedy="fill it or drop the row",
                    source=source,
                    row=number,
                    field=column,
                )


def _unreadable(path: Path | None, source: str, error: Exception) -> InputError:
    """What is wrong with a file or a hub id that `load_dataset` refused."""
    if path is None:
        return InputError.at(
            f"neither a file nor a hub data set that can be had ({type(error).__name__})",
            remedy="check the path; offline, only data sets already in the cache are found",
            source=source,
        )
    if kind_of(path) == ".jsonl":
        try:
            for _ in read_lines(path, Record):
                pass
        except InputError as found:  # which line it is
            return found
    cause = " ".join(str(error.__cause__ or error).split())
    return InputError.at(
        f"it cannot be read as {kind_of(path)} ({cause:.160})",
        remedy="mend the file, or save it again; rows need equal columns of equal types",
        source=path,
    )


def load_prompts(
    source: str,
    column: str,
    num_prompts: int | None = None,
    *,
    answers: tuple[str, str | None] | None = None,
) -> Dataset:
    """Rows of `prompt`, of `example_id` where there is one, and of `answer` where it is asked for.

    Args:
        column: of the prompt, as `prompt_column` names it.
        num_prompts: the first so many; None: all.
        answers: their column and pattern, see `answer_text`; None: none are read.

    Raises:
        InputError: see `load_rows`; an answer without a match.
    """
    columns = {column: "prompt_column"}
    if answers is not None:
        columns[answers[0]] = "answer_column"
    rows = load_rows(source, columns)
    if num_prompts is not None:
        rows = rows.select(range(min(num_prompts, len(rows))))
    check_text(rows, source, column)
    named = ["example_id"] if "example_id" in rows.column_names else []
    texts = [] if answers is None else [str(text) for text in rows[answers[0]]]
    names = rows["example_id"] if named else range(len(rows))
    rows = rows.select_columns(list(dict.fromkeys([column, *named])))
    rows = rows if column == "prompt" else rows.rename_column(column, "prompt")
    if answers is None:
        return rows
    return rows.add_column(
        "answer",
        [
            answer_text(text, answers[1], row=str(name), source=source)
            for name, text in zip(names, texts, strict=True)
        ],
    )


def check_answer_flags(config: Any, only_correct: bool) -> None:
    """Refuse flags of answers that nobody reads.

    Args:
        config: with `answer_column` and `answer_pattern`.

    Raises:
        InputError: naming the field.
    """
    if only_correct:
        return
    for name in ("answer_column", "answer_pattern"):
        if getattr(config, name) != type(config).__dataclass_fields__[name].default:
            raise InputError.at(
                "it is read with only_correct only", remedy="add --only_correct true", field=name
            )


def load_problems(
    source: str,
    question_column: str,
    answer_column: str | None,
    num_problems: int | None = None,
    *,
    without_answers: str | None = None,
) -> Dataset:
    """Rows of `example_id`, `prompt` and, where a column is named, `answer`.

    Args:
        question_column, answer_column: as the flags of these names say; None: without answers.
        num_problems: the first so many; None: all.
        without_answers: what a user can ask for who has no answers, for the message.

    Raises:
        InputError: see `load_rows`.
    """
    columns = {question_column: "question_column"}
    if answer_column is not None:
        instead = "" if without_answers is None else f", or {without_answers} where there is none"
        columns[answer_column] = f"answer_column{instead}"
    rows = load_rows(source, columns)
    if num_problems is not None:
        rows = rows.select(range(min(num_problems, len(rows))))
    check_text(rows, source, question_column)
    named = "example_id" in rows.column_names
    found = {
        "example_id": [str(i) for i in (rows["example_id"] if named else range(len(rows)))],
        "prompt": list(rows[question_column]),
    }
    if answer_column is not None:
        found["answer"] = list(rows[answer_column])
    return Dataset.from_dict(found)
