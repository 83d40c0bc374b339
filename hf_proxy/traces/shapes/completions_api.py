"""The older completions API (OpenAI, vLLM, SGLang, Together, llama.cpp), with `echo` or without."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from hf_proxy.records.record import Record
from hf_proxy.traces.shapes.answer import (
    UNSAID,
    Answer,
    Listed,
    Place,
    TokenLists,
    TokenRecord,
    count_over_one,
    path,
    tokens_of,
    tokens_of_lists,
)
from hf_proxy.traces.shapes.chat import check_choices

_Count = Annotated[int, Field(ge=0, le=2**53)]


class TextLogprobs(TokenLists):
    """`logprobs` of a choice, in lists, or as a chat has them."""

    content: Annotated[list[TokenRecord], Listed] | None = None


class TextChoice(Record):
    """One answer."""

    text: str | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class Usage(Record):
    """Tokens of a request."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None


class TextCompletion(Record):
    """A completion."""

    choices: list[TextChoice]
    usage: Usage | None = None


def fits(response: Mapping) -> bool:
    """Whether this is such an answer."""
    choices = response.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return isinstance(first, Mapping) and "text" in first


def read(response: Mapping, at: str, place: Place, prompt: str | None = None) -> Answer:
    """The answer of a completion; with `echo` its prompt is context."""
    check_choices(response, at, place)
    completion = place.checked(TextCompletion, response, at)
    (choice,) = completion.choices
    finish = choice.finish_reason if "finish_reason" in choice.model_fields_set else UNSAID
    answer = Answer([], path(at, "choices[0].logprobs"), choice.text, finish=finish)
    if not choice.text or not choice.logprobs:
        return answer
    logprobs = place.checked(TextLogprobs, choice.logprobs, answer.field)
    tokens = tokens_of_lists(logprobs, answer.field, place)
    if tokens is None:
        field = path(answer.field, "content")
        tokens = tokens_of(logprobs.content or [], field, place)
        answer = answer._replace(field=field, over_one=count_over_one(logprobs.content or []))
    echoed = bool(prompt) and choice.text.startswith(str(prompt))
    if echoed and tokens and tokens[0].logprob is not None:
        # an answer may begin as its prompt does; only a first token without probability is sure
        usage = completion.usage
        if usage is not None and usage.completion_tokens is not None:
            echoed = len(tokens) > usage.completion_tokens
        if logprobs.text_offset and logprobs.text_offset[0] >= len(str(prompt)):
            echoed = False
    return answer._replace(tokens=tokens, has_context=echoed)
