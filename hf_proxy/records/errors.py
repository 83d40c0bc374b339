"""Bad input, said in one line; names that must be unique."""

from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, said in one line: where, what is wrong, and what to do about it."""

    @classmethod
    def at(cls, problem: str, *, remedy: str, source=None, row=None, field=None) -> "InputError":
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


def check_unique_ids(example_ids: Iterable[str], *, source: str | None = None) -> None:
    """Refuse repeated `example_id`s: results are keyed by them."""
    seen: dict[str, int] = {}
    for index, example_id in enumerate(example_ids):
        if example_id in seen:
            raise InputError.at(
                f"{example_id!r} stands in row {seen[example_id]} and again in row {index}",
                remedy="give each row a name of its own",
                source=source,
                row=index,
                field="example_id",
            )
        seen[example_id] = index
