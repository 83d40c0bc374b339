"""OpenAI's Responses API."""

from collections.abc import Mapping
from typing import Annotated, Any

from hf_proxy.records.record import Record
from hf_proxy.traces.shapes.answer import (
    UNSAID,
    Answer,
    Listed,
    Place,
    Settings,
    Token,
    TokenRecord,
    count_over_one,
    path,
    tokens_of,
)


class ContentPart(Record):
    """A part of an output item."""

    type: str | None = None
    text: str | None = None
    logprobs: Annotated[list[TokenRecord], Listed] | None = None


class OutputItem(Record):
    """A message, the reasoning before it, or a call."""

    type: str | None = None
    content: list[ContentPart] | None = None
    status: str | None = None


class Response(Settings):
    """A response."""

    output: list[OutputItem]
    status: str | None = None
    incomplete_details: Any = None


def fits(response: Mapping) -> bool:
    """Whether this is such an answer."""
    return isinstance(response.get("output"), list)


def read(response: Mapping, at: str, place: Place) -> Answer:
    """Messages joined to one answer, reasoning items to one reasoning."""
    found = place.checked(Response, response, at)
    texts: dict[bool, str] = {False: "", True: ""}
    tokens: dict[bool, list[Token]] = {False: [], True: []}
    over_one = 0
    for number, item in enumerate(found.output):
        if item.type not in (None, "message", "reasoning"):
            continue
        for place_in, part in enumerate(item.content or []):
            field = path(at, f"output[{number}].content[{place_in}].logprobs")
            is_thinking = item.type == "reasoning"
            texts[is_thinking] += part.text or ""
            tokens[is_thinking] += tokens_of(part.logprobs or [], field, place)
            over_one += count_over_one(part.logprobs or [])
    details = found.incomplete_details
    reason = details.get("reason") if isinstance(details, Mapping) else None
    return Answer(
        tokens[False],
        path(at, "output"),
        texts[False],
        texts[True] or None,
        tokens[True] or None,
        finish=reason if isinstance(reason, str) else found.status or UNSAID,
        temperature=found.temperature,
        over_one=over_one,
    )
