"""What a trace row must be, and the hash of a set of them."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NoReturn

import numpy as np
from pydantic import Field

from hf_proxy.records.errors import InputError, shown
from hf_proxy.records.record import Record
from hf_proxy.records.rows import WEIGHTINGS, ZERO_PROBABILITY_LOGPROB
from hf_proxy.records.storage import fingerprint

_Span = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=2, max_length=2)]


class TraceRecord(Record):
    """A row of a file as far as `check_trace` takes its types for granted.

    A missing logprob, or one that is no finite number, is named there by its place.
    """

    example_id: str | int | None = None
    prompt: Any = None
    trace: Any = None
    weighting: Any = None
    frontier_spans: Annotated[list[_Span], Field(fail_fast=True)] | None = None
    frontier_logprobs: (
        Annotated[list[Annotated[float, Field(allow_inf_nan=True)] | None], Field(fail_fast=True)]
        | None
    ) = None


def check_trace(row: Mapping, *, source: str | None = None, index: int | None = None) -> None:
    """Refuse a `Trace` row that could not be scored as it says.

    A row of weighting `"logprob"` needs frontier spans that cover every byte of the trace exactly
    once, in order, each with a finite logprob <= 0.

    Raises:
        InputError: naming `source`, the row and the field.
    """
    name = f"{index} (example_id {shown(row.get('example_id'))})"

    def fail(field: str, problem: str, remedy: str) -> NoReturn:
        raise InputError.at(problem, remedy=remedy, source=source, row=name, field=field)

    for text_field in ("example_id", "prompt", "trace", "weighting"):
        value = row.get(text_field)
        if not isinstance(value, str):
            fail(text_field, f"expected text, found {shown(value)}", "fill it or drop the row")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            fail(text_field, f"lone surrogate at character {error.start}", "repair the text")
    if not row["example_id"]:
        fail("example_id", "it is empty", "give each row a name of its own")
    if not row["trace"]:
        fail("trace", "it is empty", "drop the row: there is nothing to score")
    if row["weighting"] not in WEIGHTINGS:
        fail("weighting", f"{shown(row['weighting'])} is not known", f"use one of {WEIGHTINGS}")
    spans, logprobs = row.get("frontier_spans"), row.get("frontier_logprobs")
    spans = [] if spans is None else spans
    logprobs = [] if logprobs is None else logprobs
    num_bytes = len(row["trace"].encode())
    if row["weighting"] == "none":
        if len(spans) or len(logprobs):
            fail("frontier_spans", "weighting 'none' takes no spans", "set weighting 'logprob'")
        return
    end = 0
    for place, (start, stop) in enumerate(spans):
        if row["weighting"] == "logprob" and start != end:
            fail(
                "frontier_spans",
                f"span {place} starts at byte {start}, the one before ends at byte {end}",
                "re-export the trace with the raw tokens of the frontier",
            )
        if not end <= start < stop <= num_bytes:
            fail(
                "frontier_spans",
                f"span {place} is [{start}, {stop}), expected within [{end}, {num_bytes}]",
                "spans are UTF-8 bytes of the trace, ascending, not empty",
            )
        end = stop
    if row["weighting"] == "mask":
        if len(logprobs):
            fail("frontier_logprobs", "weighting 'mask' takes none", "set weighting 'logprob'")
        return
    if end != num_bytes:
        fail(
            "frontier_spans",
            f"spans end at byte {end}, the trace has {num_bytes}",
            "re-export the trace with the raw tokens of the frontier",
        )
    if len(logprobs) != len(spans):
        fail(
            "frontier_logprobs",
            f"{len(logprobs)} logprobs for {len(spans)} spans",
            "give one logprob for each frontier token",
        )
    for place, logprob in enumerate(logprobs):
        if logprob is None:
            fail("frontier_logprobs", f"logprob {place} is missing", "ask for logprobs again")
        if not math.isfinite(logprob) or logprob > 0:
            fail(
                "frontier_logprobs",
                f"logprob {place} is {logprob}, expected a finite number <= 0",
                f"natural logs, p = 0 written {ZERO_PROBABILITY_LOGPROB}",
            )


def zero_spelt(value: Any) -> Any:
    """A logprob as written, p = 0 in the one spelling; anything else goes on to `check_trace`."""
    # Arrow takes no whole number beyond 2**53 for a logprob
    value = float(value) if isinstance(value, int) else value
    return ZERO_PROBABILITY_LOGPROB if value == -math.inf else value


def traces_fingerprint(rows: Iterable[Mapping]) -> str:
    """Hash of the rows' content, sorted by `example_id`: equal for any order, path or machine."""
    digests = {}
    for row in rows:
        digest = hashlib.sha256()
        for text_field in ("example_id", "prompt", "trace", "weighting"):
            data = row[text_field].encode()
            digest.update(len(data).to_bytes(8, "little") + data)
        digest.update(np.asarray(row.get("frontier_spans") or [], "<i4").tobytes())
        digest.update(np.asarray(row.get("frontier_logprobs") or [], "<f8").tobytes())
        digests[row["example_id"]] = digest.hexdigest()
    return fingerprint(sorted(digests.items()))
