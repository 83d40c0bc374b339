"""Which part of an answer is scored, and the trace that its letters make."""

import math
from collections.abc import Sequence
from typing import Any

from hf_proxy.records.rows import ZERO_PROBABILITY_LOGPROB
from hf_proxy.traces.json_answers import JsonAnswer, Letter, has_scaffold, read_json_answer
from hf_proxy.traces.parts import Part, Parts
from hf_proxy.traces.shapes.answer import Answer, Place
from hf_proxy.traces.stream import valid_logprob

PARTS = ("reasoning", "answer", "all")
PROTOCOLS = ("json", "text")
_JOINED = "\n\n"  # between a reasoning and an answer that came apart


def answer_text(parts: Parts, protocol: str | None) -> str | None:
    """The text in which the result stands, decoded; None where there is no answer."""
    if parts.answer is None:
        return None
    content = parts.answer.spelling.data.decode(errors="surrogatepass")
    parsed = None if protocol == "text" else read_json_answer(content)
    if parsed is None:
        return content
    return "".join(letter.text for letter in parsed.letters(content, "final_answer")) or None


def choose(
    parts: Parts, answer: Answer, part: str | None, protocol: str | None, place: Place
) -> tuple[list[Part], list[Letter] | None, str]:
    """The parts that are scored, the letters of JSON where that holds them, and their name.

    Raises:
        RowDefect: the part is not there, or not with log-probabilities.
    """
    content = parts.answer.spelling.data.decode(errors="surrogatepass") if parts.answer else None
    parsed = None if content is None or protocol == "text" else read_json_answer(content)
    bad = protocol == "json" and (parsed is None or parts.marked)
    if parsed is None and content is not None and protocol is None:
        bad = has_scaffold(content) and parts.reasoning is None
    if bad:
        raise place.defect(
            "bad format",
            "not the JSON object that was asked for",
            remedy="ask again, or read it with protocol text",
            field=answer.field,
        )
    if part == "all":
        return _all_of(parts), None, "all"
    if part != "answer" and parts.has_reasoning:
        if parts.reasoning is None:
            raise place.defect(
                "reasoning without log-probabilities",
                "the reasoning came without log-probabilities",
                remedy="ask for those of the reasoning too, or score the answer (part answer)",
                field=answer.field,
            )
        return [parts.reasoning], None, "reasoning"
    if part == "reasoning" and parsed is None:
        raise place.defect(
            "no reasoning",
            "there is no reasoning apart from the answer",
            remedy="score the answer (part answer)",
            field=answer.field,
        )
    if parts.answer is None:
        raise place.defect(
            "no answer (refused or empty)",
            "reasoning only, no answer",
            remedy="ask again, with more tokens",
            field=answer.field,
        )
    if parsed is not None and content is not None:
        return [parts.answer], _value(parsed, content, part, answer, place), part or "reasoning"
    return [parts.answer], None, "answer"


def _value(
    parsed: JsonAnswer, content: str, part: str | None, answer: Answer, place: Place
) -> list[Letter]:
    """Letters of the value that is scored."""
    key = "final_answer" if part == "answer" else "reasoning"
    letters = parsed.letters(content, key)
    if not letters or (key == "reasoning" and not parsed.is_text[key]):
        raise place.defect(
            f"{key} is empty or not text",
            f"{key} is empty or not text",
            remedy="ask again",
            field=answer.field,
        )
    return letters


def _all_of(parts: Parts) -> list[Part]:
    """Reasoning and answer; where they came apart, a blank line that goes with the answer."""
    found = [part for part in (parts.reasoning, parts.answer) if part is not None]
    if len(found) < 2:
        return found
    first, second = found
    if parts.between is not None:
        return [first, Part(parts.between, second.stream, second.field), second]
    spelling = second.spelling
    source = [int(spelling.source[0])] * len(_JOINED) + spelling.source.tolist()
    joined = spelling._replace(data=_JOINED.encode() + spelling.data, source=source)
    return [first, Part(joined, second.stream, second.field)]


def spans_of(
    chosen: Sequence[Part], letters: Sequence[Letter] | None, place: Place
) -> tuple[str, list[list[int]], list[float]]:
    """The trace, and its frontier spans with their logprobs.

    A letter written as an escape sequence carries the mean probability of the sequence's raw bytes;
    it has a span of its own where those belong to several tokens.
    """
    spans: list[list[int]] = []
    span_logprobs: list[float] = []
    last: Any = None
    at = 0
    text = ""

    def add(size: int, source: Any, logprob: float) -> None:
        nonlocal at, last
        if source is not None and source == last:
            spans[-1][1] += size
        else:
            spans.append([at, at + size])
            span_logprobs.append(logprob)
        at += size
        last = source

    for number, part in enumerate(chosen):
        sources = [int(source) for source in part.spelling.source]
        raw = part.spelling.data.decode(errors="surrogatepass")
        if letters is None:
            valid = _valid(set(sources), part, place)
            for source in sources:
                add(
                    1, (number if part.stream is not chosen[0].stream else 0, source), valid[source]
                )
            text += raw
            continue
        ends = [0]
        for letter in raw:
            ends.append(ends[-1] + len(letter.encode(errors="surrogatepass")))
        used = {s for x in letters for s in sources[ends[x.start] : ends[x.end]]}
        valid = _valid(used, part, place)
        for letter, start, end in letters:
            own = sources[ends[start] : ends[end]]
            if letter == raw[start:end]:
                for source in own:
                    add(1, source, valid[source])
            elif len(set(own)) == 1:
                add(len(letter.encode(errors="surrogatepass")), own[0], valid[own[0]])
            else:
                mean = math.fsum(math.exp(valid[source]) for source in own) / len(own)
                logprob = math.log(mean) if mean > 0 else ZERO_PROBABILITY_LOGPROB
                add(len(letter.encode(errors="surrogatepass")), None, min(logprob, 0.0))
            text += letter
    return text, spans, span_logprobs


def _valid(used: set[int], part: Part, place: Place) -> dict[int, float]:
    """The logprob of each source that a letter has.

    Raises:
        RowDefect: one is none.
    """
    valid: dict[int, float] = {}
    for source in sorted(used):
        logprob = valid_logprob(part.stream.logprobs[source])
        if logprob is None:
            raise place.defect(
                "a logprob is missing or no logprob",
                f"{part.stream.logprobs[source]!r}, expected a finite number <= 0",
                remedy="ask for logprobs again",
                field=f"{part.field}[{source}].logprob",
            )
        valid[source] = logprob
    return valid
