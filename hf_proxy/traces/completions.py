"""A server's answer with log-probabilities into a trace, whatever shape it came in.

Readers of shapes give tokens; here the part that is scored is chosen, and each of its letters gets
the probability of the token that holds it. Problems of a row's own fields (its prompt, its id) are
the user's and stop the file; what a server did to an answer costs that row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hf_proxy.records.errors import InputError, shown
from hf_proxy.records.record import Record, checked
from hf_proxy.tokens.messages import Messages, is_messages, text_of_messages, text_of_prompt
from hf_proxy.tokens.pieces import IdSpeller
from hf_proxy.traces.json_answers import control_letter, has_scaffold, read_json_answer
from hf_proxy.traces.parts import behind_context, parts_of
from hf_proxy.traces.requests import Request, RequestBody, prompt_of
from hf_proxy.traces.selection import answer_text, choose, spans_of
from hf_proxy.traces.shapes.answer import UNSAID, WHOLE, Answer, Place, Token
from hf_proxy.traces.shapes.chat import ASK
from hf_proxy.traces.shapes.recognise import read_answer

_ENDS = {
    "stop", "eos", "eos_token", "stop_sequence", "stop_string", "stop_token", "stop_word", "word",
    "end_turn", "end_of_turn", "completed", "done", "tool_calls",
}  # fmt: skip
NO_LOGPROBS = "no log-probabilities"  # the reason under which such rows are counted
_NAMES = ("example_id", "custom_id", "sample_uuid", "uuid")


class CompletionRow(Record):
    """A row with a completion in it: its own, or as a batch gave it back."""

    example_id: str | int | None = None
    custom_id: str | None = None
    prompt: Any = None
    query: str | None = None
    trace: str | None = None
    messages: Any = None
    request: RequestBody | None = None
    response: Any = None
    error: Any = None


class BatchAnswer(Record):
    """`response` of a line of batch output."""

    status_code: int | None = None
    body: Any = None


class Text(NamedTuple):
    """What a sibling set says of a sample."""

    prompt: str | None
    text: str | None


@dataclass(frozen=True)
class Reading:
    """How rows of servers' answers are read.

    Attributes:
        part: `"reasoning"`, `"answer"`, `"all"`; None: the reasoning, of an answer without any the
            answer.
        protocol: `"json"`: an answer that is no JSON object with `reasoning` is dropped; `"text"`:
            answers are taken as they stand; None: as `"json"` where an answer was meant as JSON.
        speller: of the server's tokenizer, for tokens that came as ids.
        requests: of a batch, by `custom_id`.
        texts: of a sibling set, by the sample's id.
        graded: whether rows hold a gold `answer`, which answers are held against.
    """

    part: str | None = None
    protocol: str | None = None
    speller: IdSpeller | None = None
    requests: Mapping[str, Request] | None = None
    texts: Mapping[str, Text] | None = field(default=None, repr=False)
    graded: bool = False


class TraceOfRow(NamedTuple):
    """A `Trace` row, and what is told of it beyond that: `answer` is the text of its result."""

    row: dict[str, Any]
    part: str
    temperature: float | None
    over_one: int
    answer: str | None


def trace_of_row(row: Mapping, source: str, index: int, reading: Reading) -> TraceOfRow:
    """A trace from one row that holds a server's answer.

    Args:
        row: `example_id`, `prompt` or `messages`, and `response`; a line of batch output; or a row
            that is the response itself.
        source, index: for messages, and for the name of a row without one.

    Raises:
        RowDefect: the answer is not whole, or not what its server says it is.
        InputError: the row's own fields are wrong, or there is no prompt.
    """
    named = next((row[name] for name in _NAMES if row.get(name) is not None), None)
    name = f"{index} (example_id {shown(named)})"
    place = Place(source, name)
    where = {"source": source, "row": name}
    found = checked(CompletionRow, row, remedy="mend the row, or drop it", **where)
    response, at = _response_of(row, found, place)
    example_id = named
    for inside in ("id", "responseId", "response_id"):
        if example_id is None and isinstance(response.get(inside), str | int):
            example_id = response[inside]
    if example_id is None:
        example_id = f"{_stem(source)}-{index}"
    example_id = str(example_id) if isinstance(example_id, int) else example_id
    text = _sibling_of(reading.texts, named, where)
    prompt, temperature = _asked(row, found, reading, text, response, where)
    answer = read_answer(response, at, place, prompt)
    known = found.trace if found.trace is not None else text.text if text else None
    _check_end(answer, known, place)
    if not answer.tokens and not answer.reasoning_tokens:
        raise place.defect(NO_LOGPROBS, "it is missing", remedy=ASK, field=answer.field)
    answer = _spelt(answer, reading.speller, place)
    if text is not None and text.text is not None and answer.content is None:
        answer = answer._replace(content=text.text)
    if answer.has_context:
        chosen, part = [behind_context(answer, prompt, known, place)], "answer"
        letters, written = None, None
    else:
        parts = parts_of(answer, place)
        chosen, letters, part = choose(parts, answer, reading.part, reading.protocol, place)
        written = answer_text(parts, reading.protocol)
    trace, spans, logprobs = spans_of(chosen, letters, place)
    if (letter := control_letter(trace)) is not None and letters is not None:
        raise place.defect(
            "bad format",
            f"the reasoning holds {letter!r}: an escape that was not meant as one",
            remedy="ask for JSON whose backslashes are doubled",
            field=chosen[0].field,
        )
    return TraceOfRow(
        {
            "example_id": example_id,
            "prompt": prompt,
            "trace": trace,
            "weighting": "logprob",
            "frontier_spans": spans,
            "frontier_logprobs": logprobs,
        },
        part,
        temperature if temperature is not None else answer.temperature,
        answer.over_one,
        written,
    )


def json_evidence(row: Mapping) -> bool | None:
    """Whether a row's answer was meant as JSON of the protocol; None: it tells nothing.

    An answer behind thinking, and one that cannot be read, tell nothing of the set.
    """
    try:
        found = checked(CompletionRow, row)
        place = Place(None, None)
        response, at = _response_of(row, found, place)
        answer = read_answer(response, at, place)
        _check_end(answer, None, place)
    except InputError:
        return None
    content = answer.content
    if answer.has_context or not content or answer.reasoning or answer.reasoning_tokens:
        return None
    parsed = read_json_answer(content)
    if parsed is not None:
        start, end = parsed.spans["reasoning"]
        return True if parsed.is_text["reasoning"] and start < end else None
    return has_scaffold(content) if not content.lstrip().startswith("<think>") else None


def _stem(source: str) -> str:
    name = source.rstrip("/").rsplit("/", 1)[-1].removesuffix(".gz")
    return name.rsplit(".", 1)[0] if "." in name else name


def _response_of(row: Mapping, found: CompletionRow, place: Place) -> tuple[Mapping, str]:
    """What the server sent, and its key path."""
    response, at = found.response, "response"
    if "custom_id" in row:
        failed = place.defect("request failed", "the request failed", remedy="ask again", field=at)
        if found.error or not response:
            raise failed
        answer = place.checked(BatchAnswer, response, at)
        if answer.status_code != 200:
            raise failed
        response, at = answer.body, "response.body"
    if isinstance(response, list) and len(response) == 1:
        response, at = response[0], f"{at}[0]"
    if isinstance(response, str) or ("response" not in row and "custom_id" not in row):
        return row, ""
    if not isinstance(response, Mapping):
        raise place.defect("no answer of a known shape", "no response", remedy=WHOLE, field=at)
    return response, at


def _sibling_of(texts: Mapping[str, Text] | None, named: Any, where: dict) -> Text | None:
    if texts is None:
        return None
    found = texts.get(str(named))
    if found is None:
        raise InputError.at(
            f"{shown(named)} is not in the set of texts",
            remedy="pass the sibling set of this one as texts",
            field=next(iter(_NAMES)),
            **where,
        )
    return found


def _asked(
    row: Mapping,
    found: CompletionRow,
    reading: Reading,
    text: Text | None,
    response: Mapping,
    where: dict,
) -> tuple[str, float | None]:
    """The prompt, and the temperature where the request tells it."""
    temperature = found.request.temperature if found.request else None
    if reading.requests is not None:
        request = reading.requests.get(str(found.custom_id))
        if request is None:
            raise InputError.at(
                "not in the requests file",
                remedy="pass the input file of this batch",
                field="custom_id",
                **where,
            )
        return request
    prompt = found.prompt if found.prompt is not None else found.query
    if prompt is not None and not isinstance(prompt, str):
        if not is_messages(prompt):
            raise InputError.at(
                f"expected text, found {shown(prompt)}",
                remedy="mend the row, or drop it",
                field="prompt",
                **where,
            )
        prompt = text_of_prompt(prompt, where)
    if prompt is None and isinstance(found.messages, list):
        asked = checked(Messages, row, remedy="store the messages as they were sent", **where)
        prompt = text_of_messages(asked.messages, where)
    if prompt is None and found.request is not None:
        prompt = prompt_of(found.request, where)
    if prompt is None and text is not None:
        prompt = text.prompt
    if prompt is None:
        remedy = "add prompt or messages, or pass requests= (or texts=)"
        if response is row:  # it does not tell what was asked
            remedy = (
                'the row is a bare answer: wrap it as {"example_id": ..., "prompt": ..., '
                '"response": ANSWER}, or pass requests= (or texts=)'
            )
        raise InputError.at(
            "it is missing",
            remedy=remedy,
            field="prompt",
            **where,
        )
    return prompt, temperature


def _check_end(answer: Answer, known: str | None, place: Place) -> None:
    """Refuse an answer that did not end by itself, or that holds nothing."""
    given = answer.content or answer.reasoning or answer.reasoning_tokens
    if not given and (answer.content is not None or not answer.tokens):
        raise place.defect(
            "no answer (refused or empty)",
            "no answer (refused or empty)",
            remedy="ask again",
            field=answer.field,
        )
    end = answer.finish
    if end == UNSAID or (answer.has_context and (known is not None or answer.content is None)):
        return
    word = str(end).lower().removeprefix("finishreason.").removeprefix("finish_reason_")
    if end is None or word not in _ENDS:
        said = "null" if end is None else end
        reason = f"answer cut off (finish_reason {said:.40})"
        raise place.defect(
            reason, reason, field=answer.field,
            remedy="ask again, into another output_dir; where it was length, with more "
            "max_new_tokens",
        )  # fmt: skip


def _spelt(answer: Answer, speller: IdSpeller | None, place: Place) -> Answer:
    """The answer with the bytes of tokens that came as ids."""
    missing = [token.id for token in answer.tokens if token.data is None and token.id is not None]
    if not missing or (speller is None and answer.has_context):
        return answer
    if speller is None:
        raise place.defect(
            "tokens came as ids",
            "the tokens are ids, without text",
            remedy="name the server's tokenizer (tokenizer=, --tokenizer)",
            field=answer.field,
        )
    spelt = speller.spell(missing)
    if isinstance(spelt, str):
        raise place.defect(
            "tokens came as ids", spelt, remedy="name the server's tokenizer", field=answer.field
        )
    pieces = iter(spelt)
    tokens: list[Token] = []
    for token in answer.tokens:
        if token.data is None and token.id is not None:
            piece = next(pieces)
            token = token._replace(data=piece.data, special=piece.is_special)
        tokens.append(token)
    return answer._replace(tokens=tokens)
