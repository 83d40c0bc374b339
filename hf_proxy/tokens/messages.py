"""Prompts and completions that are lists of chat messages, as servers and TRL have them."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_proxy.records.errors import InputError, shown
from hf_proxy.records.record import Record, checked

_SYSTEM = ("system", "developer")
_ROLES = (*_SYSTEM, "user", "assistant")
_AS_SENT = "store the messages as they were sent"


class MessageRecord(Record):
    """A message of a chat; content that is neither text nor parts of it is named later."""

    role: str | None = None
    content: Any = None


class Messages(Record):
    """The messages of a chat."""

    messages: list[MessageRecord]


def is_messages(value: Any) -> bool:
    """Whether a prompt or a completion is a list of messages rather than text."""
    return (
        isinstance(value, Sequence) and bool(value) and all(isinstance(m, Mapping) for m in value)
    )


def turns_of(prompt: Sequence[Mapping], place: Mapping[str, Any]) -> list[dict[str, str]]:
    """The turns of a prompt, which ends before the answer.

    Args:
        place: `source`, `row` and `field` of the message.

    Raises:
        InputError: a role that is none of a chat without tools, content that is not text, an
            answer at the end.
    """
    turns = []
    for number, message in enumerate(_checked(prompt, place)):
        if message.role not in _ROLES:
            raise InputError.at(
                f"message {number} has the role {shown(message.role)}",
                remedy=f"use one of {', '.join(_ROLES)}",
                **place,
            )
        turns.append({"role": message.role, "content": _content(message, number, place)})
    if turns[-1]["role"] == "assistant":
        raise InputError.at(
            "its last message is the assistant's, so there is nothing to answer",
            remedy="end the prompt with the user's",
            **place,
        )
    return turns


def text_of_prompt(prompt: Any, place: Mapping[str, Any]) -> Any:
    """A prompt as text: its messages', see `text_of_messages`; what is no list comes as it is."""
    return text_of_messages(_checked(prompt, place), place) if is_messages(prompt) else prompt


def text_of_completion(completion: Any, place: Mapping[str, Any]) -> Any:
    """A completion as text: that of its one message; what is no list comes as it is.

    Raises:
        InputError: several messages, or one that is not the assistant's or not text.
    """
    if not is_messages(completion):
        return completion
    messages = _checked(completion, place)
    if len(messages) != 1 or messages[0].role != "assistant":
        raise InputError.at(
            f"expected one message of the assistant, found {len(messages)} of "
            f"{shown(messages[0].role)}",
            remedy="drop the row, or give the text",
            **place,
        )
    return _content(messages[0], 0, place)


def text_of_messages(messages: Sequence[MessageRecord], place: Mapping[str, Any]) -> str:
    """What was asked: every message but the system's, a blank line between.

    Raises:
        InputError: a message that is not text.
    """
    asked = [(n, m) for n, m in enumerate(messages) if m.role not in _SYSTEM]
    return "\n\n".join(_content(message, number, place) for number, message in asked)


def _checked(messages: Sequence[Mapping], place: Mapping[str, Any]) -> list[MessageRecord]:
    content = {"messages": list(messages)}
    place = {name: value for name, value in place.items() if name != "field"}
    return checked(Messages, content, remedy=_AS_SENT, **place).messages


def _content(message: MessageRecord, number: int, place: Mapping[str, Any]) -> str:
    content = message.content
    if isinstance(content, list):
        content = "".join(_part(part, number, place) for part in content)
    if not isinstance(content, str):
        raise InputError.at(
            f"content is {shown(content)}",
            remedy="expected text",
            **{"field": "messages", **place},
        )
    return content


def _part(part: Any, number: int, place: Mapping[str, Any]) -> str:
    """The text of one part of a message."""
    if isinstance(part, Mapping) and part.get("type") in ("text", "input_text"):
        text = part.get("text")
        if isinstance(text, str):
            return text
    raise InputError.at(
        "a part is not text",
        remedy="only text can be scored",
        **{**place, "field": f"messages[{number}].content"},
    )
