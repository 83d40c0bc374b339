"""vLLM's `prompt_logprobs`: the probabilities of text that was sent as the prompt."""

from collections.abc import Mapping
from typing import Annotated

from hf_proxy.records.record import Record
from hf_proxy.traces.shapes.answer import (
    Answer,
    Listed,
    Logprob,
    Place,
    Token,
    TokenId,
    data_of,
    path,
)


class PromptToken(Record):
    """One candidate for a place of the prompt."""

    logprob: Logprob | None = None
    decoded_token: str | None = None


class PromptLogprobs(Record):
    """What vLLM puts beside the answer, or into its choice."""

    prompt_logprobs: Annotated[list[dict[str, PromptToken] | None], Listed]
    prompt_token_ids: Annotated[list[TokenId], Listed] | None = None


def _home(response: Mapping) -> tuple[Mapping, str] | None:
    choices = response.get("choices")
    first = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
    for found, at in ((response, ""), (first, "choices[0]")):
        if isinstance(found, Mapping) and found.get("prompt_logprobs"):
            return found, at
    return None


def fits(response: Mapping) -> bool:
    """Whether this is such an answer."""
    return _home(response) is not None


def read(response: Mapping, at: str, place: Place) -> Answer:
    """The prompt's own tokens; which of them are context is known by the row's texts."""
    home, inside = _home(response) or (response, "")
    # the ids stand beside the answer also where the probabilities stand in its choice
    whole = {"prompt_token_ids": response.get("prompt_token_ids"), **home}
    found = place.checked(PromptLogprobs, whole, path(at, inside))
    field = path(at, inside, "prompt_logprobs")
    ids = found.prompt_token_ids
    if ids is not None and len(ids) != len(found.prompt_logprobs):
        raise place.defect(
            "tokens and logprobs differ in number",
            f"{len(found.prompt_logprobs)} places for {len(ids)} prompt_token_ids",
            remedy="store the whole response object",
            field=field,
        )
    tokens = []
    for number, candidates in enumerate(found.prompt_logprobs):
        id = None if ids is None else ids[number]
        if not candidates:  # nothing predicts the first
            tokens.append(Token(None, None, id=id))
            continue
        # the prompt's own token stands first, before the likeliest ones
        key = next(iter(candidates)) if id is None else str(id)
        if key not in candidates:
            raise place.defect(
                "the prompt's token has no logprob",
                f"token {key} of the prompt is not among those of its place",
                remedy="store the whole response object",
                field=f"{field}[{number}]",
            )
        token = candidates[key]
        data = None if token.decoded_token is None else data_of(token.decoded_token)
        known_id = id if id is not None else int(key) if key.isdecimal() and len(key) < 10 else None
        tokens.append(Token(data, token.logprob, id=known_id))
    return Answer(tokens, field, None, has_context=True)
