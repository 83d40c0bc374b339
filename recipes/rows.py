"""Rows of a file or a hub data set, with the columns that a recipe needs."""

from pathlib import Path

from datasets import Dataset, load_dataset

from hf_proxy.schemas import InputError

_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


def load_rows(source: str, columns: dict[str, str]) -> Dataset:
    """The split "train" of `source`.

    Args:
        source: `.jsonl`, `.json`, `.parquet` or `.csv` file, or a hub id.
        columns: column to the setting that names it, for the message.

    Raises:
        InputError: no such file, or a column is missing.
    """
    path = Path(source)
    kind = _BUILDERS.get(path.suffix)
    if kind is not None and not path.exists():
        raise InputError.at("there is no such file", remedy="check the path", source=path)
    if kind is not None:
        rows = load_dataset(kind, data_files=str(path), split="train")
    else:
        rows = load_dataset(source, split="train")
    for column, setting in columns.items():
        if column not in rows.column_names:
            raise InputError.at(
                f"there is no such column; it has {rows.column_names}",
                remedy=f"set {setting}",
                source=source,
                field=column,
            )
    return rows


def load_prompts(source: str, column: str, num_prompts: int | None = None) -> Dataset:
    """Rows of `prompt`, and of `example_id` where there is one.

    Args:
        column: of the prompt, as `prompt_column` names it.
        num_prompts: the first so many; None: all.

    Raises:
        InputError: see `load_rows`.
    """
    rows = load_rows(source, {column: "prompt_column"})
    if num_prompts is not None:
        rows = rows.select(range(min(num_prompts, len(rows))))
    named = ["example_id"] if "example_id" in rows.column_names else []
    rows = rows.select_columns(list(dict.fromkeys([column, *named])))
    return rows if column == "prompt" else rows.rename_column(column, "prompt")
