"""The sibling of a set whose rows hold ids and logprobs: prompts and texts by the sample's id."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_proxy.records.errors import InputError, names, shown
from hf_proxy.records.record import checked
from hf_proxy.tokens.messages import Messages, text_of_messages
from hf_proxy.traces.completions import Text
from hf_proxy.traces.files import open_source
from hf_proxy.traces.rows import PROMPT_FIELDS, TRACE_FIELDS

_IDS = ("example_id", "sample_uuid", "uuid", "id", "custom_id")


def texts_of(path: Path, columns: Mapping[str, str]) -> dict[str, Text]:
    """By id the prompt and the text of each sample.

    Args:
        columns: names of `example_id`, `prompt` and `trace` where they are none of the usual ones.

    Raises:
        InputError: it cannot be read, or a row has no id or no text.
    """
    found: dict[str, Text] = {}
    for index, row in enumerate(open_source(str(path), None)[1]):
        place = {"source": path, "row": index}
        example_id = _value(row, columns.get("example_id"), _IDS)
        if not isinstance(example_id, str | int) or isinstance(example_id, bool):
            raise _missing("example_id", row, place)
        prompt = _value(row, columns.get("prompt"), PROMPT_FIELDS)
        if prompt is None and isinstance(row.get("messages"), list):
            asked = checked(Messages, row, remedy="store the messages as they were sent", **place)
            prompt = text_of_messages(asked.messages, place)
        text = _value(row, columns.get("trace"), TRACE_FIELDS)
        for name, value in (("prompt", prompt), ("trace", text)):
            if value is not None and not isinstance(value, str):
                raise InputError.at(
                    f"expected text, found {shown(value)}",
                    remedy="fill it or drop the row",
                    field=name,
                    **place,
                )
        if text is None:
            raise _missing("trace", row, place)
        found[str(example_id)] = Text(prompt, text)
    return found


def _value(row: Mapping, named: str | None, known: tuple[str, ...]) -> Any:
    names_in = (named,) if named is not None else known
    return next((row[name] for name in names_in if row.get(name) is not None), None)


def _missing(name: str, row: Mapping, place: Mapping[str, Any]) -> InputError:
    return InputError.at(
        f"there is none; the row has {names(row)}",
        remedy=f"map it: columns={{'{name}': ...}}",
        field=name,
        **place,
    )
