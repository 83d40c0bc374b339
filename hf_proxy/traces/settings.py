"""What decides an alignment beside the traces and the tokenizer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

UNITS = ("letter", "byte")
MINMAX_OVER = ("trace", "dataset", None)
TOO_LONG = ("error", "drop")
TRACE_CONTEXT = "{prompt}\n"  # what stands before a trace where nothing else is said


@dataclass(frozen=True, kw_only=True)
class AlignmentSettings:
    """What decides a weight beside the traces and the tokenizer; see `align_traces`.

    The defaults of every function, callback and recipe that takes one of these are read here.
    """

    context: str | Callable[[Mapping], str] = TRACE_CONTEXT
    context_name: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    unit: str = "letter"  # published
    minmax_over: str | None = "trace"  # published
    max_length: int | None = None
    too_long: str = "error"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unit must be one of {UNITS}, not {self.unit!r}")
        if self.minmax_over not in MINMAX_OVER:
            raise ValueError(
                f"minmax_over must be 'trace', 'dataset' or None, not {self.minmax_over!r}"
            )
        if self.too_long not in TOO_LONG:
            raise ValueError(f"too_long must be 'error' or 'drop', not {self.too_long!r}")
        if callable(self.context) and not self.context_name:
            raise ValueError("a context function needs context_name=, which the setting records")
