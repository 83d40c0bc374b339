"""A chat completion with logprobs into a trace: the one place that knows OpenAI's format.

The probabilities are those of raw tokens. Where the answer is a JSON object, they stand for the
escaped text, so they are carried over to the letters that a reader sees.
"""

import json
import math
from collections.abc import Mapping, Sequence
from json.decoder import scanstring  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hf_proxy.records.errors import InputError, shown
from hf_proxy.records.record import checked
from hf_proxy.records.rows import ZERO_PROBABILITY_LOGPROB
from hf_proxy.traces.completion_records import (
    BatchAnswer,
    Completion,
    CompletionRow,
    Logprobs,
    MessageRecord,
    Messages,
    RequestRecord,
    TokenRecord,
)
from hf_proxy.traces.files import file_rows

_REMEDY = "store the whole response object"


class Dropped(NamedTuple):
    """A row that is left out, and why."""

    reason: str


def trace_of_completion(
    row: Mapping, source: str, index: int, prompts: Mapping[str, str] | None
) -> dict[str, Any] | Dropped:
    """A `Trace` from one chat completion with `logprobs.content`."""
    name = f"{index} (example_id {shown(row.get('example_id', row.get('custom_id')))})"
    place = {"source": source, "row": name}

    def fail(field, problem, remedy):
        return InputError.at(problem, remedy=remedy, field=field, **place)

    found = checked(CompletionRow, row, remedy="mend the row, or drop it", **place)
    example_id = row.get("example_id", found.custom_id)
    response, at = found.response, "response"
    if "custom_id" in row:
        if found.error or not response:
            return Dropped("request failed")
        answer = checked(BatchAnswer, response, field=at, remedy=_REMEDY, **place)
        if answer.status_code != 200:
            return Dropped("request failed")
        response, at = answer.body, "response.body"
    if not isinstance(response, Mapping) or not isinstance(response.get("choices"), list):
        raise fail("response", "not a chat completion", _REMEDY)
    completion = checked(Completion, response, field=at, remedy=_REMEDY, **place)
    if len(completion.choices) != 1:
        raise fail("response.choices", f"{len(completion.choices)} choices", "ask with n = 1")
    (choice,) = completion.choices
    content = choice.message.content if choice.message else None
    if not content:
        return Dropped("no answer (refused or empty)")
    if choice.finish_reason == "length":
        return Dropped("answer cut off (finish_reason length)")
    if prompts is not None and found.custom_id not in prompts:
        raise fail("custom_id", "not in the requests file", "pass the input file of this batch")
    if prompts is not None:
        prompt = prompts[str(found.custom_id)]
    elif found.prompt is not None:
        prompt = found.prompt
    elif isinstance(found.messages, list):
        asked = checked(Messages, row, remedy="store the messages as they were sent", **place)
        prompt = text_of_messages(asked.messages, fail)
    else:
        raise fail("prompt", "it is missing", "add prompt or messages, or pass requests=")
    tokens: Sequence[TokenRecord] | None = None
    if choice.logprobs:
        at = f"{at}.choices[0].logprobs"
        tokens = checked(Logprobs, choice.logprobs, field=at, remedy=_REMEDY, **place).content
    if not tokens:
        raise fail("response.choices.logprobs", "it is missing", "ask with logprobs=true")
    byte_token, logprobs = _spell(content, tokens, fail)
    raw_start, raw_end, is_json = _reasoning_of(content)
    if is_json and raw_end <= raw_start:
        return Dropped("reasoning is empty or not text")
    letters = _decoded_letters(content, raw_start, raw_end) if is_json else None
    trace, spans, trace_logprobs = _spans_of(
        content, raw_start, raw_end, letters, byte_token, logprobs
    )
    return {
        "example_id": str(example_id) if isinstance(example_id, int) else example_id,
        "prompt": prompt,
        "trace": trace,
        "weighting": "logprob",
        "frontier_spans": spans,
        "frontier_logprobs": trace_logprobs,
    }


def prompts_of_requests(path: Path) -> dict[str, str]:
    """By `custom_id` what the input file of a batch asks.

    Raises:
        InputError: it cannot be read, or a row is no request.
    """
    prompts: dict[str, str] = {}
    for index, row in enumerate(file_rows(path)):

        def fail(field, problem, remedy, index=index):
            return InputError.at(problem, remedy=remedy, source=path, row=index, field=field)

        body = row.get("body")
        if "custom_id" not in row or not isinstance(body, Mapping) or "messages" not in body:
            raise fail("body.messages", "not a batch request", "pass the input file of the batch")
        remedy = "pass the input file of the batch"
        request = checked(RequestRecord, row, source=path, row=index, remedy=remedy)
        prompts[request.custom_id] = text_of_messages(request.body.messages, fail)
    return prompts


def _spell(content: str, tokens: Sequence[TokenRecord], fail) -> tuple[np.ndarray, list[float]]:
    """Which token holds each byte of `content`, and the logprob of each token.

    Tokens behind the last byte, such as an end-of-turn mark, are allowed: they spell no letter.
    """
    data = content.encode(errors="surrogatepass")
    byte_token = np.empty(len(data), dtype=np.int64)
    logprobs = []
    end = 0
    for place, token in enumerate(tokens):
        logprob = zero_spelt(token.logprob)
        if logprob is None or not math.isfinite(logprob) or logprob > 0:
            raise fail(
                f"response.choices.logprobs.content[{place}].logprob",
                f"{logprob!r}, expected a finite number <= 0",
                "ask for logprobs again",
            )
        logprobs.append(float(logprob))
        if end == len(data):
            continue
        if token.bytes is None and token.token is None:
            raise fail(
                f"response.choices.logprobs.content[{place}]",
                "neither token nor bytes",
                "the tokens must spell the answer: store them with their bytes",
            )
        raw = token.bytes
        piece = str(token.token).encode(errors="surrogatepass") if raw is None else bytes(raw)
        if data[end : end + len(piece)] != piece:
            raise fail(
                f"response.choices.logprobs.content[{place}]",
                f"the token is {shown(piece)}, the answer goes on with "
                f"{data[end : end + 20]!r} at byte {end}",
                "the tokens must spell the answer: store them with their bytes",
            )
        byte_token[end : end + len(piece)] = place
        end += len(piece)
    if end != len(data):
        raise fail(
            "response.choices.logprobs.content",
            f"the tokens end at byte {end}, the answer has {len(data)}",
            "the tokens must spell the answer: store all of them",
        )
    return byte_token, logprobs


def _reasoning_of(content: str) -> tuple[int, int, bool]:
    """Characters `[start, end)` of the raw text to score, and whether a JSON string holds them.

    The value of `reasoning` where the answer is a JSON object (bare or in a code fence) that has
    one, else the whole answer. An empty range: there is a `reasoning`, but it is no text.
    """
    start = content.find("{")
    if start < 0 or content[:start].strip() not in ("", "```", "```json"):
        return 0, len(content), False
    decoder = json.JSONDecoder(strict=False)
    try:
        if "reasoning" not in decoder.raw_decode(content, start)[0]:
            return 0, len(content), False
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets as deep
        return 0, len(content), False
    found = (0, 0)
    place = start
    while content[place] != "}":
        key, place = scanstring(content, content.index('"', place + 1) + 1, False)
        place = content.index(":", place) + 1
        while content[place].isspace():
            place += 1
        value, end = decoder.raw_decode(content, place)
        if key == "reasoning":  # the last one wins, as in every JSON reader
            found = (place + 1, end - 1) if isinstance(value, str) else (0, 0)
        place = end
        while content[place].isspace():
            place += 1
    return *found, True


def _decoded_letters(content: str, start: int, end: int) -> list[tuple[str, int, int]]:
    """Each letter of a JSON string with the raw characters `[start, end)` that spell it."""
    letters = []
    place = start
    while place < end:
        size = 1
        if content[place] == "\\":
            size = 6 if content[place + 1] == "u" else 2
        text = json.loads(f'"{content[place : place + size]}"', strict=False)
        if "\ud800" <= text <= "\udbff" and content[place + 6 : place + 8] == "\\u":
            pair = json.loads(f'"{content[place : place + 12]}"')
            if len(pair) == 1:
                text, size = pair, 12
        letters.append((text, place, place + size))
        place += size
    return letters


def _spans_of(
    content: str,
    start: int,
    end: int,
    letters: list[tuple[str, int, int]] | None,
    byte_token: np.ndarray,
    logprobs: list[float],
) -> tuple[str, list[list[int]], list[float]]:
    """The decoded trace, and its frontier spans with their logprobs.

    A letter written as an escape sequence carries the mean probability of the sequence's raw bytes;
    it has a span of its own where those belong to several tokens.
    """
    size_of = [len(letter.encode(errors="surrogatepass")) for letter in content[:end]]
    raw_byte = np.concatenate([[0], np.cumsum(size_of, dtype=np.int64)])
    if letters is None:
        letters = [(content[i], i, i + 1) for i in range(start, end)]
    spans: list[list[int]] = []
    span_logprobs: list[float] = []
    last_token = None
    at = 0

    def add(size: int, token: Any, logprob: float) -> None:
        nonlocal at, last_token
        if token is not None and token == last_token:
            spans[-1][1] += size
        else:
            spans.append([at, at + size])
            span_logprobs.append(logprob)
        at += size
        last_token = token

    for letter, raw_start, raw_end in letters:
        tokens = byte_token[raw_byte[raw_start] : raw_byte[raw_end]].tolist()
        if letter == content[raw_start:raw_end]:
            for token in tokens:
                add(1, token, logprobs[token])
        elif len(set(tokens)) == 1:
            add(len(letter.encode(errors="surrogatepass")), tokens[0], logprobs[tokens[0]])
        else:
            mean = math.fsum(math.exp(logprobs[token]) for token in tokens) / len(tokens)
            logprob = math.log(mean) if mean > 0 else ZERO_PROBABILITY_LOGPROB
            add(len(letter.encode(errors="surrogatepass")), None, min(logprob, 0.0))
    return "".join(letter for letter, _, _ in letters), spans, span_logprobs


def text_of_messages(messages: Sequence[MessageRecord], fail) -> str:
    """What was asked: every message but the system's, a blank line between."""
    texts = []
    for place, message in enumerate(messages):
        if message.role in ("system", "developer"):
            continue
        content = message.content
        if isinstance(content, list):
            parts = [_part(part, place, fail) for part in content]
            content = "".join(parts)
        if not isinstance(content, str):
            raise fail("messages", f"content is {shown(content)}", "expected text")
        texts.append(content)
    return "\n\n".join(texts)


def _part(part: Any, place: int, fail) -> str:
    """The text of one part of a message."""
    if isinstance(part, Mapping) and part.get("type") == "text":
        text = part.get("text")
        if isinstance(text, str):
            return text
    raise fail(f"messages[{place}].content", "a part is not text", "only text can be scored")


def zero_spelt(value: Any) -> Any:
    """A logprob as written, p = 0 in the one spelling; anything else goes on to `check_trace`."""
    # Arrow takes no whole number beyond 2**53 for a logprob
    value = float(value) if isinstance(value, int) else value
    return ZERO_PROBABILITY_LOGPROB if value == -math.inf else value
