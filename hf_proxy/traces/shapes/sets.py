"""Rows of released sets: ids with logprobs, and the documents of an evaluation harness."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from hf_proxy.records.record import Record
from hf_proxy.traces.shapes.answer import (
    Answer,
    Listed,
    Logprob,
    Place,
    Token,
    TokenId,
    TokenRecord,
    path,
    tokens_of,
)

_Offset = Annotated[int, Field(ge=0, lt=2**31)]


class IdRow(Record):
    """Ids and logprobs of one sample; its text may stand in a sibling set."""

    token_ids: Annotated[list[TokenId], Listed]
    logprobs: Annotated[list[Logprob | None], Listed]


def fits_ids(row: Mapping) -> bool:
    """Whether this is a row of ids."""
    return "token_ids" in row and "logprobs" in row


def read_ids(row: Mapping, at: str, place: Place) -> Answer:
    """Tokens by their ids alone."""
    found = place.checked(IdRow, row, at, "correct the row, or drop it")
    if len(found.token_ids) != len(found.logprobs):
        raise place.defect(
            "tokens and logprobs differ in number",
            f"{len(found.logprobs)} logprobs for {len(found.token_ids)} ids",
            remedy="correct the row, or drop it",
            field=path(at, "logprobs"),
        )
    pairs = zip(found.token_ids, found.logprobs, strict=True)
    return Answer([Token(None, logprob, id=id) for id, logprob in pairs], path(at, "token_ids"))


class Specific(Record):
    """What a lighteval task keeps of the frontier."""

    frontier_logprobs: Annotated[list[TokenRecord], Listed]
    reasoning_byte_start: _Offset | None = None
    reasoning_byte_end: _Offset | None = None


class LightevalRow(Record):
    """A document of the lighteval fork that computes rBridge."""

    choices: list[str] | None = None
    specific: Specific


def fits_lighteval(row: Mapping) -> bool:
    """Whether this is such a document."""
    specific = row.get("specific")
    return isinstance(specific, Mapping) and "frontier_logprobs" in specific


def read_lighteval(row: Mapping, at: str, place: Place) -> Answer:
    """The bytes of the response that the row calls reasoning; all of it where it names none."""
    found = place.checked(LightevalRow, row, at).specific
    field = path(at, "specific.frontier_logprobs")
    tokens = tokens_of(found.frontier_logprobs, field, place)
    data = b"".join(token.data or b"" for token in tokens)
    start = found.reasoning_byte_start or 0
    end = len(data) if found.reasoning_byte_end is None else found.reasoning_byte_end
    try:
        text = data[start:end].decode() if start < end <= len(data) else None
    except UnicodeDecodeError:
        text = None
    if text is None:
        raise place.defect(
            "reasoning is not where it is said to be",
            f"bytes {start} to {end} are no text of a response of {len(data)} bytes",
            remedy="correct reasoning_byte_start and reasoning_byte_end",
            field=path(at, "specific.reasoning_byte_start"),
        )
    # cut into the tokens that hold it: no reader of parts may look for another
    inside: list[Token] = []
    at_byte = 0
    for token in tokens:
        piece = token.data or b""
        low, high = max(start - at_byte, 0), min(end - at_byte, len(piece))
        if low < high or (not piece and start <= at_byte < end):
            inside.append(token._replace(data=piece[low:high]))
        at_byte += len(piece)
    return Answer(inside, field, None, text, inside)
