"""What every record of ours is made of: a model of its fields, read from JSON, or refused.

Fields are checked, never converted: a number in quotes is text, `true` is no number. Fields that a
model does not know are left alone, so that files of other versions load.
"""

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from hf_proxy.records.errors import InputError, shown
from hf_proxy.records.files import opened

LARGEST = 1e30  # no quantity of ours comes near it, and its square is a number
MOST_NESTED = 200  # brackets within brackets; no file of ours has ten
REMEDY = "mend it, or take it away"


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"lone surrogate at character {error.start}") from error
    return text


Text = Annotated[str, AfterValidator(_whole)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]


class Record(BaseModel):
    """Base of all models of what stands in a file."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


R = TypeVar("R", bound=Record)


def parse_json(
    data: bytes, *, source: Any, row: Any = None, line: int | None = None, remedy: str = REMEDY
) -> Any:
    """The value that JSON text holds.

    Args:
        source: the file, for messages.
        row: of the set, where the text is one.
        line: of the file, where the text is one.

    Raises:
        InputError: it is no UTF-8 or no JSON, or nests deeper than `MOST_NESTED`.
    """
    try:
        return from_json(data)
    except ValueError:  # it knows no lone surrogates, and its messages no lines
        pass
    if line is not None and row is None:
        source = f"{source}, line {line}"
    try:
        content = json.loads(data.decode())
        _check_depth(content)
        return content
    except UnicodeDecodeError as error:
        problem, remedy = f"no UTF-8 text at byte {error.start}", "save the file as UTF-8"
    except json.JSONDecodeError as error:
        where = f"character {error.colno}"
        if row is not None or line is None:
            where = f"line {error.lineno if line is None else line}, {where}"
        problem = f"no JSON from {where} on ({error.msg})"
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        problem = f"no JSON of ours ({reason})"
    raise InputError.at(problem, remedy=remedy, source=source, row=row)


def parse_object(data: bytes, **place: Any) -> dict[str, Any]:
    """`parse_json` of an object.

    Raises:
        InputError: it is something else.
    """
    content = parse_json(data, **place)
    if isinstance(content, dict):
        return content
    line = place.pop("line", None)
    if line is not None and place.get("row") is None:
        place["source"] = f"{place['source']}, line {line}"
    raise InputError.at(f"expected an object, found {shown(content)}", **{"remedy": REMEDY} | place)


def checked(model: type[R], content: Any, **place: Any) -> R:
    """`content` as a model.

    Args:
        place: `source`, `row`, `field` and `remedy` of the message.

    Raises:
        InputError: it does not fit.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise InputError.of(error, content, **{"remedy": REMEDY} | place) from error


def read_bytes(path: Path, remedy: str = "check path and rights") -> bytes:
    """A whole file of text, without the mark that Windows' editors put before it (BOM).

    One whose name ends in `.gz` is unpacked.

    Raises:
        InputError: it cannot be read.
    """
    with opened(path, remedy=remedy) as file:
        return file.read()


def read_json(path: Path, *, remedy: str = REMEDY) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    return parse_object(read_bytes(path, remedy), source=path, remedy=remedy)


def read_record(path: Path, model: type[R], *, remedy: str = REMEDY) -> R:
    """A JSON file as a model.

    Raises:
        InputError: the file cannot be read, or does not fit.
    """
    return checked(model, read_json(path, remedy=remedy), source=path, remedy=remedy)


def _check_depth(content: Any) -> None:
    level, depth = [content], 0
    while level:
        depth += 1
        if depth > MOST_NESTED:
            raise RecursionError
        level = [
            inside
            for value in level
            if isinstance(value, list | dict)
            for inside in (value.values() if isinstance(value, dict) else value)
        ]
