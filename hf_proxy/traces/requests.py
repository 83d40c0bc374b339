"""What was asked: by a row, or by a line of a batch's input file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hf_proxy.records.errors import InputError
from hf_proxy.records.record import Record, checked
from hf_proxy.tokens.messages import MessageRecord, text_of_messages
from hf_proxy.traces.files import file_rows
from hf_proxy.traces.shapes.answer import Settings

_INPUT_FILE = "pass the input file of the batch"


class RequestBody(Settings):
    """What a request asks, in the words of the API that it is for."""

    messages: list[MessageRecord] | None = None
    prompt: str | None = None
    input: str | list[MessageRecord] | None = None


class RequestRecord(Record):
    """A line of a batch's input file."""

    custom_id: str
    body: RequestBody


class Request(NamedTuple):
    """What was asked, and at which temperature where that is told."""

    prompt: str
    temperature: float | None


def requests_of(path: Path) -> dict[str, Request]:
    """By `custom_id` what the input file of a batch asks.

    Raises:
        InputError: it cannot be read, or a row is no request.
    """
    requests: dict[str, Request] = {}
    for index, row in enumerate(file_rows(path)):
        place = {"source": path, "row": index}
        body = row.get("body")
        kinds = ("messages", "prompt", "input")
        if "custom_id" not in row or not isinstance(body, Mapping) or not set(kinds) & set(body):
            raise InputError.at(
                "not a batch request", remedy=_INPUT_FILE, field="body.messages", **place
            )
        request = checked(RequestRecord, row, remedy=_INPUT_FILE, **place)
        prompt = prompt_of(request.body, place)
        if prompt is None:
            raise InputError.at("it is missing", remedy=_INPUT_FILE, field="body.messages", **place)
        requests[request.custom_id] = Request(prompt, request.body.temperature)
    return requests


def prompt_of(asked: RequestBody, place: Mapping[str, Any]) -> str | None:
    """The text of a request; None where it has none."""
    for found in (asked.prompt, asked.messages, asked.input):
        if isinstance(found, str):
            return found
        if found is not None:
            return text_of_messages(found, place)
    return None
