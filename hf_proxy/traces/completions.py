"""A chat completion with logprobs into a trace: the one place that knows OpenAI's format.

The probabilities are those of raw tokens. Where the answer is a JSON object, they stand for the
escaped text, so they are carried over to the letters that a reader sees.
"""

import json
import math
from collections.abc import Iterable, Mapping
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, NamedTuple

import numpy as np

from hf_proxy.records.errors import InputError
from hf_proxy.records.rows import ZERO_PROBABILITY_LOGPROB


class Dropped(NamedTuple):
    """A row that is left out, and why."""

    reason: str


def trace_of_completion(
    row: Mapping, source: str, index: int, prompts: Mapping[str, str] | None
) -> dict[str, Any] | Dropped:
    """A `Trace` from one chat completion with `logprobs.content`."""
    example_id = row.get("example_id", row.get("custom_id"))
    name = f"{index} (example_id {example_id!r})"

    def fail(field, problem, remedy):
        return InputError.at(problem, remedy=remedy, source=source, row=name, field=field)

    response = row.get("response")
    if "custom_id" in row:
        if row.get("error") or not response or response.get("status_code") != 200:
            return Dropped("request failed")
        response = response.get("body")
    if not isinstance(response, Mapping) or not isinstance(response.get("choices"), list):
        raise fail("response", "not a chat completion", "store the whole response object")
    if len(response["choices"]) != 1:
        raise fail("response.choices", f"{len(response['choices'])} choices", "ask with n = 1")
    (choice,) = response["choices"]
    content = (choice.get("message") or {}).get("content")
    if not content:
        return Dropped("no answer (refused or empty)")
    if choice.get("finish_reason") == "length":
        return Dropped("answer cut off (finish_reason length)")
    if prompts is not None and row.get("custom_id") not in prompts:
        raise fail("custom_id", "not in the requests file", "pass the input file of this batch")
    if prompts is not None:
        prompt = prompts[row["custom_id"]]
    elif row.get("prompt") is not None:
        prompt = row["prompt"]
    elif isinstance(row.get("messages"), list):
        prompt = text_of_messages(row["messages"], fail)
    else:
        raise fail("prompt", "it is missing", "add prompt or messages, or pass requests=")
    tokens = (choice.get("logprobs") or {}).get("content")
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


def _spell(content: str, tokens: list[Mapping], fail) -> tuple[np.ndarray, list[float]]:
    """Which token holds each byte of `content`, and the logprob of each token.

    Tokens behind the last byte, such as an end-of-turn mark, are allowed: they spell no letter.
    """
    data = content.encode(errors="surrogatepass")
    byte_token = np.empty(len(data), dtype=np.int64)
    logprobs = []
    end = 0
    for place, token in enumerate(tokens):
        logprob = zero_spelt(token.get("logprob"))
        if logprob is None or not math.isfinite(logprob) or logprob > 0:
            raise fail(
                f"response.choices.logprobs.content[{place}].logprob",
                f"{logprob!r}, expected a finite number <= 0",
                "ask for logprobs again",
            )
        logprobs.append(float(logprob))
        if end == len(data):
            continue
        raw = token.get("bytes")
        piece = bytes(raw) if raw is not None else str(token.get("token")).encode()
        if data[end : end + len(piece)] != piece:
            raise fail(
                f"response.choices.logprobs.content[{place}]",
                f"the token is {piece!r}, the answer goes on with {data[end : end + 20]!r} at "
                f"byte {end}",
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
    except json.JSONDecodeError:
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


def text_of_messages(messages: Iterable[Mapping], fail) -> str:
    """What was asked: every message but the system's, a blank line between."""
    texts = []
    for message in messages:
        if message.get("role") in ("system", "developer"):
            continue
        content = message.get("content")
        if isinstance(content, list):
            if any(part.get("type") != "text" for part in content):
                raise fail("messages", "a part is not text", "only text can be scored")
            content = "".join(part["text"] for part in content)
        if not isinstance(content, str):
            raise fail("messages", f"content is {content!r:.40}", "expected text")
        texts.append(content)
    return "\n\n".join(texts)


def zero_spelt(value: Any) -> Any:
    """A logprob as written, p = 0 in the one spelling; anything else goes on to `check_trace`."""
    return ZERO_PROBABILITY_LOGPROB if value == -math.inf else value
