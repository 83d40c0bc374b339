"""Bad input, said in one line; names that must be unique."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:  # a program that reads no file need not load it
    from pydantic import ValidationError

_LONGEST_SHOWN = 40  # letters of a value in a message
# pydantic's word for what is wrong: what was expected, in ours
_EXPECTED = {
    "model_type": "an object",
    "dict_type": "an object",
    "list_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "finite_number": "a finite number",
}
# the same of a limit: its name in pydantic's context, and what it is in words
_LIMITS = {
    "greater_than_equal": ("ge", "at least"),
    "less_than_equal": ("le", "at most"),
    "greater_than": ("gt", "more than"),
    "less_than": ("lt", "less than"),
}


class InputError(ValueError):
    """Bad input, said in one line: where, what is wrong, and what to do about it."""

    @classmethod
    def at(cls, problem: str, *, remedy: str, source=None, row=None, field=None) -> Self:
        """The error that names its place.

        Args:
            problem: what was expected and what came.
            remedy: what the user can do.
            source, row, field: file or set, row (number or name) and field, as far as known.
        """
        named = (("", source), ("row ", row), ("field ", field))
        where = ", ".join(f"{word}{value}" for word, value in named if value is not None)
        line = f"{where}: {problem}; {remedy}" if where else f"{problem}; {remedy}"
        return cls(" ".join(line.split()))

    @classmethod
    def of(
        cls, error: "ValidationError", content: Any, *, remedy: str, source=None, row=None, field=""
    ) -> "InputError":
        """The error for the first thing in which `content` does not fit its model.

        Args:
            content: what was validated.
            remedy, source, row: as in `at`.
            field: key path of `content` within its file.
        """
        found = error.errors(include_url=False)
        first = found[0]
        *above, name = _path_within(content, first["loc"]) or [""]
        if first["type"] == "missing":
            gone = [e["loc"][-1] for e in found if e["type"] == "missing"]
            gone = [key for key in gone if (*first["loc"][:-1], key) in [e["loc"] for e in found]]
            problem = "it is missing"
            if len(gone) > 1:
                problem, name = f"{', '.join(map(str, gone))} missing", ""
        elif first["type"] == "value_error":  # a validator of our own says it all
            problem = str(first["ctx"]["error"])
        else:
            known = first["msg"].removeprefix("Input should be ")
            expected = _EXPECTED.get(first["type"], known)
            if first["type"] in _LIMITS:
                limit, words = _LIMITS[first["type"]]
                expected = f"{words} {first['ctx'][limit]}"
            problem = f"expected {expected}, found {shown(first['input'])}"
        path = _joined([*([field] if field else []), *above, *([name] if name != "" else [])])
        return cls.at(problem, remedy=remedy, source=source, row=row, field=path or None)


def shown(value: Any) -> str:
    """A value as a message shows it: short, whatever it is."""
    try:
        text = repr(value) if _is_small(value) else type(value).__name__
    except (ValueError, RecursionError):  # a whole number of thousands of digits
        text = "a number with too many digits"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def names(keys: Iterable[Any]) -> str:
    """Keys as a message lists them, in order, not more than a line can hold."""
    known = sorted(map(str, keys))
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    return ", ".join(f"{key:.{_LONGEST_SHOWN}}" for key in known[:20]) + more


def check_unique_ids(example_ids: Iterable[str], *, source: str | None = None) -> None:
    """Refuse repeated `example_id`s: results are keyed by them."""
    seen: dict[str, int] = {}
    for index, example_id in enumerate(example_ids):
        if example_id in seen:
            raise InputError.at(
                f"{shown(example_id)} stands in row {seen[example_id]} and again in row {index}",
                remedy="give each row a name of its own",
                source=source,
                row=index,
                field="example_id",
            )
        seen[example_id] = index


def _is_small(value: Any) -> bool:
    """Whether its text is short enough to be made at all."""
    if isinstance(value, str | bytes):
        return len(value) < 10_000
    if isinstance(value, Mapping | list | tuple):
        inside = value.values() if isinstance(value, Mapping) else value
        return len(value) < 10 and not any(isinstance(v, Mapping | list | tuple) for v in inside)
    return True


def _path_within(content: Any, loc: tuple[int | str, ...]) -> list[int | str]:
    """A place of pydantic's without the names of a union's members, which no file holds."""
    path = []
    for place, part in enumerate(loc):
        if isinstance(content, Mapping) and (part in content or place == len(loc) - 1):
            content = content.get(part)
        elif isinstance(content, list | tuple) and isinstance(part, int) and part < len(content):
            content = content[part]
        else:
            continue
        path.append(part)
    return path


def _joined(path: list[int | str]) -> str:
    """`a.b[2].c`."""
    text = ""
    for part in path:
        part = f"[{part}]" if isinstance(part, int) else f".{part}"
        text += part
    return text.removeprefix(".")
