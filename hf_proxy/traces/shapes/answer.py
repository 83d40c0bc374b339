"""What every reader of a server's shape gives: an answer as its tokens, and what is wrong with it.

A reader takes the object that a server sent, as a mapping, and knows nothing of files, prompts or
parts: tokens become text, and text becomes a trace, in one place for all of them.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import Field

from hf_proxy.records.errors import InputError
from hf_proxy.records.record import Record, checked

WHOLE = "store the whole response object, as the server sent it"
UNSAID = ""  # an end that the server's shape does not tell
_TOKEN_ID = re.compile(r"token_id:(\d{1,9})")
_SPELT_BYTES = re.compile(r"bytes:((?:\\x[0-9a-fA-F]{2})+)")
_OVER_ONE = 1.001  # probabilities of alternatives are rounded by servers
R = TypeVar("R", bound=Record)


class RowDefect(InputError):
    """Something that a server did to one row: it costs this row, never the file.

    `reason` is what rows of the same defect are counted under.
    """

    reason = "malformed answer"


class Token(NamedTuple):
    """One token of a server's answer.

    Attributes:
        data: the bytes it stands for; None where only `id` tells.
        logprob: nats, as it was sent; None where there is none.
        special: said by the server to spell no letter.
        id: in the vocabulary of the server's tokenizer, where that is all there is.
    """

    data: bytes | None
    logprob: float | None
    special: bool = False
    id: int | None = None


class Answer(NamedTuple):
    """An answer as a server gave it.

    Attributes:
        tokens: all that have a logprob, in order; with `has_context` the prompt's before them.
        field: key path of the tokens, for messages.
        content: the text that the server calls the answer; None where it gives none.
        reasoning: the text that it calls reasoning.
        reasoning_tokens: those of the reasoning, where they come apart from the answer's.
        finish: why it ended; None where the server says that it does not know.
        has_context: whether the prompt stands before the answer in `tokens` and `content`.
        temperature: of the sampling, where it is told.
        over_one: tokens whose alternatives' probabilities sum to more than 1.
    """

    tokens: Sequence[Token]
    field: str
    content: str | None = None
    reasoning: str | None = None
    reasoning_tokens: Sequence[Token] | None = None
    finish: str | None = UNSAID
    has_context: bool = False
    temperature: float | None = None
    over_one: int = 0


@dataclass(frozen=True)
class Place:
    """A row of a set, for messages."""

    source: str | None
    row: str | int | None

    def defect(
        self, reason: str, problem: str, *, remedy: str, field: str | None = None
    ) -> RowDefect:
        """The defect of this row, with its line."""
        where = {"source": self.source, "row": self.row, "field": field or None}
        error = RowDefect.at(problem, remedy=remedy, **where)
        error.reason = reason
        return error

    def checked(self, model: type[R], content: Any, field: str, remedy: str = WHOLE) -> R:
        """`content` as a model.

        Raises:
            RowDefect: it does not fit.
        """
        try:
            return checked(
                model, content, source=self.source, row=self.row, field=field, remedy=remedy
            )
        except InputError as error:
            raise RowDefect(str(error)) from error


Byte = Annotated[int, Field(ge=0, le=255)]
Logprob = Annotated[float, Field(allow_inf_nan=True)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Listed = Field(fail_fast=True)  # of a list of thousands the first that is wrong is said


class TokenRecord(Record):
    """A token as OpenAI writes it; what is wrong with its logprob is said where it is needed."""

    token: str | None = None
    bytes: Annotated[list[Byte], Listed] | None = None
    logprob: Logprob | None = None
    top_logprobs: Any = None


class TokenLists(Record):
    """Tokens as the older completions API writes them: one list for each of their fields."""

    tokens: Annotated[list[str | None], Listed] | None = None
    token_logprobs: Annotated[list[Logprob | None], Listed] | None = None
    token_ids: Annotated[list[TokenId], Listed] | None = None
    text_offset: Annotated[list[int], Listed] | None = None


class Settings(Record):
    """What a response repeats of its request."""

    temperature: Annotated[float, Field(ge=0, le=1000)] | None = None


def path(*parts: str) -> str:
    """Key path of parts, the empty ones left out."""
    return ".".join(part for part in parts if part)


def token_of(record: TokenRecord, field: str, place: Place) -> Token:
    """A token record as its bytes, or as the id that stands in their place."""
    text = record.token
    if text is not None and (found := _TOKEN_ID.fullmatch(text)):
        return Token(None, record.logprob, id=int(found[1]))
    if record.bytes is not None and (record.bytes or not text):
        return Token(bytes(record.bytes), record.logprob)
    if text is None:
        raise place.defect(
            "tokens without text",
            "neither token nor bytes",
            remedy="the tokens must spell the answer: store them with their bytes",
            field=field,
        )
    return Token(data_of(text), record.logprob)


def data_of(text: str) -> bytes:
    r"""The bytes of a token's text; `bytes:\xe2\x80` is how the older API writes half a letter."""
    if found := _SPELT_BYTES.fullmatch(text):
        return bytes.fromhex(found[1].replace("\\x", ""))
    return text.encode(errors="surrogatepass")


def tokens_of(records: Sequence[TokenRecord], field: str, place: Place) -> list[Token]:
    """Token records as tokens."""
    return [token_of(record, f"{field}[{i}]", place) for i, record in enumerate(records)]


def tokens_of_lists(lists: TokenLists, field: str, place: Place) -> list[Token] | None:
    """Tokens of parallel lists; None where there are none."""
    if not lists.tokens:
        return None
    if lists.token_logprobs is None or len(lists.token_logprobs) != len(lists.tokens):
        found = "none" if lists.token_logprobs is None else len(lists.token_logprobs)
        raise place.defect(
            "tokens and logprobs differ in number",
            f"{found} token_logprobs for {len(lists.tokens)} tokens",
            remedy=WHOLE,
            field=field,
        )
    records = (
        TokenRecord.model_construct(token=text, logprob=logprob, bytes=None)
        for text, logprob in zip(lists.tokens, lists.token_logprobs, strict=True)
    )
    return tokens_of(list(records), f"{field}.tokens", place)


def count_over_one(records: Sequence[TokenRecord]) -> int:
    """Tokens whose alternatives sum to more than 1: no probabilities of the model's."""
    count = 0
    for record in records:
        if not isinstance(record.top_logprobs, list):
            continue
        values: list[Any] = [
            v.get("logprob") for v in record.top_logprobs if isinstance(v, Mapping)
        ]
        numbers = [v for v in values if type(v) in (int, float) and -1e4 < v <= 0]
        count += math.fsum(map(math.exp, numbers)) > _OVER_ONE
    return count
