"""OpenAI's chat completions, and those of vLLM, SGLang, DeepSeek, Together and llama.cpp."""

from collections.abc import Mapping
from typing import Annotated, Any

from hf_proxy.records.record import Record
from hf_proxy.traces.shapes.answer import (
    UNSAID,
    WHOLE,
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

ASK = "ask with logprobs=true (llama-cpp-python: top_logprobs=0 too)"


class ChatLogprobs(TokenLists):
    """`logprobs` of a choice: OpenAI's `content`, DeepSeek's `reasoning_content`, or lists."""

    content: Annotated[list[TokenRecord], Listed] | None = None
    reasoning_content: Annotated[list[TokenRecord], Listed] | None = None


class Message(Record):
    """`message` of a choice."""

    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    thinking: Any = None


class ChatChoice(Record):
    """One answer; whether its tokens are wanted is known once its end has been looked at."""

    message: Message | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class ChatCompletion(Record):
    """A chat completion."""

    choices: list[ChatChoice]


def fits(response: Mapping) -> bool:
    """Whether this is such an answer; stream chunks are taken too, and named."""
    choices = response.get("choices")
    if not isinstance(choices, list):
        return False
    first = choices[0] if choices else None
    return not isinstance(first, Mapping) or "message" in first or "text" not in first


def read(response: Mapping, at: str, place: Place) -> Answer:
    """The answer of a chat completion."""
    check_choices(response, at, place)
    (choice,) = place.checked(ChatCompletion, response, at).choices
    message = choice.message or Message()
    content, reasoning = texts_of(message)
    finish = choice.finish_reason if "finish_reason" in choice.model_fields_set else UNSAID
    answer = Answer([], path(at, "choices[0].logprobs"), content, reasoning, finish=finish)
    if not (content or reasoning) or not choice.logprobs:
        return answer
    logprobs = place.checked(ChatLogprobs, choice.logprobs, answer.field)
    if (tokens := tokens_of_lists(logprobs, answer.field, place)) is not None:
        return answer._replace(tokens=tokens)
    field = path(answer.field, "content")
    apart = None
    if logprobs.reasoning_content:
        apart = tokens_of(logprobs.reasoning_content, f"{answer.field}.reasoning_content", place)
    return answer._replace(
        tokens=tokens_of(logprobs.content or [], field, place),
        field=field,
        reasoning_tokens=apart,
        over_one=count_over_one([*(logprobs.content or []), *(logprobs.reasoning_content or [])]),
    )


def check_choices(response: Mapping, at: str, place: Place) -> None:
    """Refuse what is a piece of an answer, or several of them."""
    choices = response["choices"]
    is_chunk = str(response.get("object")).endswith(".chunk") or any(
        isinstance(choice, Mapping) and "delta" in choice for choice in choices
    )
    if is_chunk:
        raise place.defect(
            "chunks of a stream",
            "a chunk of a streamed answer, not an answer",
            remedy="join the chunks of each answer, or ask without stream",
            field=path(at, "choices"),
        )
    if len(choices) != 1:
        raise place.defect(
            "not one answer",
            f"{len(choices)} choices",
            remedy="ask with n = 1" if choices else WHOLE,
            field=path(at, "choices"),
        )


def texts_of(message: Message) -> tuple[str | None, str | None]:
    """What the server calls the answer and the reasoning; content may be a list of parts."""
    content, thinking = message.content, []
    if isinstance(content, list):
        texts = []
        for part in content:
            if isinstance(part, Mapping) and part.get("type") in ("thinking", "reasoning"):
                thinking.append(_text_of_part(part))
            else:
                texts.append(_text_of_part(part))
        content = "".join(texts)
    others = (message.reasoning, message.thinking)
    reasoning = message.reasoning_content or next((x for x in others if isinstance(x, str)), None)
    return content, reasoning or "".join(thinking) or None


def _text_of_part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        return ""
    inside = next((part[key] for key in ("text", "thinking", "reasoning") if key in part), "")
    if isinstance(inside, list):
        return "".join(_text_of_part(piece) for piece in inside if not isinstance(piece, list))
    return inside if isinstance(inside, str) else ""
