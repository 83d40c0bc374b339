"""Servers with a shape of their own: Ollama, llama.cpp, Text Generation Inference, Gemini."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from hf_proxy.records.record import Record
from hf_proxy.traces.shapes.answer import (
    UNSAID,
    Answer,
    Listed,
    Logprob,
    Place,
    Settings,
    Token,
    TokenId,
    TokenRecord,
    count_over_one,
    data_of,
    path,
    tokens_of,
)
from hf_proxy.traces.shapes.chat import Message, texts_of


class OllamaAnswer(Record):
    """Ollama's `/api/generate` (`response`) or `/api/chat` (`message`)."""

    response: str | None = None
    thinking: str | None = None
    message: Message | None = None
    logprobs: Annotated[list[TokenRecord], Listed] | None = None
    done_reason: str | None = None


def fits_ollama(response: Mapping) -> bool:
    """Whether this is Ollama's answer."""
    is_text = isinstance(response.get("response"), str)
    return is_text or ("message" in response and "choices" not in response)


def read_ollama(response: Mapping, at: str, place: Place) -> Answer:
    """Ollama's answer, its thinking apart."""
    found = place.checked(OllamaAnswer, response, at)
    content, reasoning = texts_of(found.message or Message())
    field = path(at, "logprobs")
    return Answer(
        tokens_of(found.logprobs or [], field, place),
        field,
        found.response or content,
        found.thinking or reasoning,
        finish=found.done_reason or UNSAID,
        over_one=count_over_one(found.logprobs or []),
    )


class LlamaToken(TokenRecord):
    """A token of llama.cpp; `prob` where probabilities after sampling were asked for."""

    prob: Any = None


class LlamaAnswer(Record):
    """llama.cpp's `/completion`."""

    content: str | None = None
    completion_probabilities: Annotated[list[LlamaToken], Listed] | None = None
    stop_type: str | None = None
    stopped_limit: bool | None = None
    generation_settings: Settings | None = None


def fits_llama(response: Mapping) -> bool:
    """Whether this is llama.cpp's own answer."""
    return "completion_probabilities" in response


def read_llama(response: Mapping, at: str, place: Place) -> Answer:
    """The answer of llama.cpp's own server."""
    found = place.checked(LlamaAnswer, response, at)
    field = path(at, "completion_probabilities")
    records = found.completion_probabilities or []
    if any(record.logprob is None and record.prob is not None for record in records):
        raise place.defect(
            "probabilities after sampling",
            "probabilities after sampling (prob), not the model's",
            remedy="ask without post_sampling_probs",
            field=f"{field}[0].prob",
        )
    finish = {"none": None}.get(found.stop_type or "", found.stop_type or UNSAID)
    settings = found.generation_settings
    return Answer(
        tokens_of(records, field, place),
        field,
        found.content,
        finish="length" if found.stopped_limit else finish,
        temperature=settings.temperature if settings else None,
        over_one=count_over_one(records),
    )


class TGIToken(Record):
    """A token of Text Generation Inference."""

    id: TokenId | None = None
    text: str
    logprob: Logprob | None = None
    special: bool = False


class TGIDetails(Record):
    """`details` of an answer."""

    finish_reason: str | None = None
    tokens: Annotated[list[TGIToken], Listed] | None = None


class TGIAnswer(Record):
    """Text Generation Inference's `/generate`."""

    generated_text: str | None = None
    details: TGIDetails


def fits_tgi(response: Mapping) -> bool:
    """Whether this is Text Generation Inference's answer."""
    return isinstance(response.get("details"), Mapping)


def read_tgi(response: Mapping, at: str, place: Place) -> Answer:
    """The answer of `/generate`; special tokens are no letters."""
    found = place.checked(TGIAnswer, response, at)
    details = found.details
    said = "finish_reason" in details.model_fields_set
    tokens = [Token(data_of(t.text), t.logprob, t.special, t.id) for t in details.tokens or []]
    return Answer(
        tokens,
        path(at, "details.tokens"),
        found.generated_text,
        finish=details.finish_reason if said else UNSAID,
    )


class GeminiPart(Record):
    """A part of Gemini's answer."""

    text: str | None = None
    thought: bool | None = None


class GeminiContent(Record):
    """`content` of a candidate."""

    parts: list[GeminiPart] | None = None


class GeminiToken(Record):
    """A token of Gemini, as JSON and as its Python client spell it."""

    token: str | None = None
    logprob: Logprob | None = Field(default=None, alias="logProbability")
    logprob_of_client: Logprob | None = Field(default=None, alias="log_probability")


class GeminiLogprobs(Record):
    """`logprobsResult` of a candidate."""

    chosen: Annotated[list[GeminiToken], Listed] | None = Field(
        default=None, alias="chosenCandidates"
    )
    chosen_of_client: Annotated[list[GeminiToken], Listed] | None = Field(
        default=None, alias="chosen_candidates"
    )


class GeminiCandidate(Record):
    """One answer of Gemini."""

    content: GeminiContent | None = None
    finish: str | None = Field(default=None, alias="finishReason")
    finish_of_client: str | None = Field(default=None, alias="finish_reason")
    logprobs: GeminiLogprobs | None = Field(default=None, alias="logprobsResult")
    logprobs_of_client: GeminiLogprobs | None = Field(default=None, alias="logprobs_result")


class GeminiAnswer(Record):
    """Gemini's `generateContent`."""

    candidates: list[GeminiCandidate]


def fits_gemini(response: Mapping) -> bool:
    """Whether this is Gemini's answer."""
    return isinstance(response.get("candidates"), list)


def read_gemini(response: Mapping, at: str, place: Place) -> Answer:
    """Gemini's one candidate; parts marked as thought are its reasoning."""
    candidates = place.checked(GeminiAnswer, response, at).candidates
    if len(candidates) != 1:
        raise place.defect(
            "not one answer",
            f"{len(candidates)} candidates",
            remedy="ask with candidateCount = 1",
            field=path(at, "candidates"),
        )
    (found,) = candidates
    parts = (found.content.parts if found.content else None) or []
    logprobs = found.logprobs or found.logprobs_of_client or GeminiLogprobs()
    field = path(at, "candidates[0].logprobsResult.chosenCandidates")
    records = [
        TokenRecord.model_construct(
            token=token.token,
            bytes=None,
            logprob=token.logprob if token.logprob is not None else token.logprob_of_client,
        )
        for token in logprobs.chosen or logprobs.chosen_of_client or []
    ]
    return Answer(
        tokens_of(records, field, place),
        field,
        "".join(part.text or "" for part in parts if not part.thought),
        "".join(part.text or "" for part in parts if part.thought) or None,
        finish=found.finish or found.finish_of_client or UNSAID,
    )
