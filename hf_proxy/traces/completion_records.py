"""What OpenAI's servers answer, as far as we read it: completions, batch output, batch requests."""

from typing import Annotated, Any

from pydantic import Field

from hf_proxy.records.record import Record

_Byte = Annotated[int, Field(ge=0, le=255)]


class CompletionRow(Record):
    """A row with a completion in it: its own, or as a batch gave it back."""

    example_id: str | int | None = None
    custom_id: str | None = None
    prompt: str | None = None
    messages: Any = None
    response: Any = None
    error: Any = None


class BatchAnswer(Record):
    """`response` of a line of batch output."""

    status_code: int | None = None
    body: Any = None


class TokenRecord(Record):
    """One token of an answer; a logprob that is none, or no number at most 0, is named later."""

    token: str | None = None
    bytes: Annotated[list[_Byte], Field(fail_fast=True)] | None = None
    logprob: Annotated[float, Field(allow_inf_nan=True)] | None = None


class Logprobs(Record):
    """`logprobs` of a choice."""

    content: Annotated[list[TokenRecord], Field(fail_fast=True)] | None = None


class AnswerRecord(Record):
    """`message` of a choice."""

    content: str | None = None


class Choice(Record):
    """One answer; whether its tokens are wanted is known once its end has been looked at."""

    message: AnswerRecord | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class Completion(Record):
    """A chat completion."""

    choices: list[Choice]


class MessageRecord(Record):
    """A message of a chat; content that is neither text nor parts of it is named later."""

    role: str | None = None
    content: Any = None


class Messages(Record):
    """The messages of a chat."""

    messages: list[MessageRecord]


class RequestRecord(Record):
    """A line of a batch's input file."""

    custom_id: str
    body: Messages
