"""The reasoning and the answer of a server's response, each with the source of its bytes.

Told by the server (reasoning apart from content, with tokens of its own or in one stream), by the
marks of thinking, or by the channels of Harmony. Tokens decide where a text stands; what the server
calls reasoning or content decides which letters are it.
"""

import re
from typing import NamedTuple

from hf_proxy.answers.finding import thinking_spans
from hf_proxy.traces.shapes.answer import Answer, Place, RowDefect
from hf_proxy.traces.stream import BLANKS, Spelling, Stream, Unspelt

# a message of Harmony: its channel, then its text up to the mark that ends it
_CHANNEL = re.compile(
    r"<\|channel\|>\s*(\w+)(?:(?!<\|message\|>)[^\n]){0,200}<\|message\|>"
    r"(.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
# a content that its server has not parted, with the channels' marks or without
_NOT_PARTED = re.compile(r"<\|channel\|>|\Aanalysis[\s\S]*assistantfinal")
_HARMONY_MARK = re.compile(r"<\|(?:end|start|channel|message|return|call)\|>")
_SPELL = "the tokens must spell the answer: store all of them, with their bytes"


class Part(NamedTuple):
    """Text of a response, the stream that spells it, and where in it each byte comes from."""

    spelling: Spelling
    stream: Stream
    field: str


class Parts(NamedTuple):
    """What a response holds.

    Attributes:
        reasoning: None where there is none, or none with probabilities.
        answer: the same of the answer.
        has_reasoning: whether there is some, with probabilities or without.
        marked: whether it stands in what the server calls the answer, between marks.
        between: blanks that the tokens spell between both; None where they are not one stream.
    """

    reasoning: Part | None
    answer: Part | None
    has_reasoning: bool
    marked: bool = False
    between: Spelling | None = None


def parts_of(answer: Answer, place: Place) -> Parts:
    """The parts of an answer.

    Raises:
        RowDefect: the tokens do not spell what the server calls the answer.
    """
    stream = Stream(answer.tokens)
    try:
        if answer.reasoning_tokens is not None:
            return _apart(answer, stream)
        return _in_one(answer, stream)
    except Unspelt as error:
        raise defect_of(error, answer.field, place) from error


def defect_of(error: Unspelt, field: str, place: Place) -> RowDefect:
    """The defect of a row whose tokens do not spell its text."""
    where = f"{field}[{error.token}]" if "tokens end" not in str(error) else field
    return place.defect(error.reason, str(error), remedy=_SPELL, field=where)


def _apart(answer: Answer, stream: Stream) -> Parts:
    """Reasoning that came with tokens of its own."""
    own = Stream(answer.reasoning_tokens or [])
    text = (answer.reasoning or "").encode(errors="surrogatepass")
    reasoning = own.locate(text or own.letters(0, len(own.data)))
    field = f"{answer.field.removesuffix('.content')}.reasoning_content"
    found = None
    if answer.content and answer.tokens:
        content = stream.locate(answer.content.encode(errors="surrogatepass"))
        found = Part(content, stream, answer.field)
    return Parts(Part(reasoning, own, field), found, True)


def _in_one(answer: Answer, stream: Stream) -> Parts:
    content, reasoning = answer.content, answer.reasoning
    if content is not None and _NOT_PARTED.search(content):
        content = None
    marked = None if content is None else thinking_spans(content)
    if content is not None and marked is not None and reasoning is None:
        (start, end), (begin, _) = marked
        content, reasoning = content[begin:].strip(), content[start:end].strip()
    spans = _spans(stream.data.decode(errors="surrogateescape"))
    if spans is None and marked is None and not reasoning:
        data = stream.letters(0, len(stream.data)) if content is None else None
        whole = stream.locate(
            (content or "").encode(errors="surrogatepass") if data is None else data
        )
        return Parts(None, Part(whole, stream, answer.field) if whole.data else None, False)
    thought = written = None
    if spans is not None:
        at_reasoning, at_answer = spans
        thought = _between(stream, reasoning, at_reasoning)
        written = _between(stream, content, at_answer)
    else:
        at = 0
        if reasoning:
            try:
                thought = stream.locate(reasoning.encode(errors="surrogatepass"), skip_marks=True)
                at = thought.end
            except Unspelt:  # it came without tokens
                thought = None
        if content:
            data = content.encode(errors="surrogatepass")
            written = stream.locate(data, at, skip_marks=thought is not None)
    parts = [
        Part(found, stream, answer.field) if found is not None and found.data else None
        for found in (thought, written)
    ]
    blank = None
    if thought is not None and written is not None and written.data:
        blank = _blanks_between(stream, thought.end, written)
    return Parts(
        parts[0], parts[1], bool(reasoning) or parts[0] is not None, marked is not None, blank
    )


def _between(stream: Stream, text: str | None, span: tuple[int, int] | None) -> Spelling | None:
    """A text within bytes of the stream; where the server gives none, all that stands there."""
    if span is None:
        if text:
            raise Unspelt(0, "no token of the answer is marked as its own")
        return None
    start, end = span
    if not text:
        data = stream.letters(start, end)
        stripped = data.strip(BLANKS)
        return stream.locate(stripped, start)
    return stream.locate(text.encode(errors="surrogatepass"), start)


def _spans(text: str) -> tuple[tuple[int, int] | None, tuple[int, int] | None] | None:
    """Bytes of the reasoning and of the answer, by the marks in the stream; None: no marks."""
    found = _harmony(text) if "<|channel|>" in text else thinking_spans(text)
    if found is None:
        return None
    sizes = [None if span is None else tuple(_num_bytes(text, at) for at in span) for span in found]
    return sizes[0], sizes[1]  # type: ignore[return-value]


def _num_bytes(text: str, end: int) -> int:
    return len(text[:end].encode(errors="surrogateescape"))


def _harmony(text: str) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """The analysis, and the final message; an analysis may have been opened in the prompt."""
    spans: dict[str, tuple[int, int]] = {}
    for found in _CHANNEL.finditer(text):
        if found[1] in spans and found[1] in ("analysis", "final"):
            problem = f"several messages on the channel {found[1]}"
            raise Unspelt(0, problem, "several messages on one channel")
        spans[found[1]] = found.span(2)
    first = _HARMONY_MARK.search(text)
    if "analysis" not in spans and first is not None and text[: first.start()].strip():
        spans["analysis"] = (0, first.start())
    return spans.get("analysis"), spans.get("final")


def _blanks_between(stream: Stream, end: int, written: Spelling) -> Spelling | None:
    """The blanks before the answer, as far as the tokens spell them."""
    before = stream.data[end : written.end]
    head = before[: before.find(written.data)] if written.data in before else b""
    blanks = head[len(head.rstrip(BLANKS)) :]
    if not blanks:
        return None
    return stream.match(blanks, end + len(head) - len(blanks))


def behind_context(answer: Answer, prompt: str, known: str | None, place: Place) -> Part:
    """The text that is scored, of tokens that hold its prompt too.

    Args:
        known: the text, where the row tells it.

    Raises:
        RowDefect: the tokens do not spell it.
    """
    stream = Stream(answer.tokens)
    data = None if known is None else known.encode(errors="surrogatepass")
    asked = prompt.encode(errors="surrogatepass")
    try:
        if answer.content is not None:
            whole = answer.content.encode(errors="surrogatepass")
            spelt = stream.locate(whole, skip_marks=True)
            rest = spelt.data[len(asked) :]
            if data is not None:
                at = rest.find(data)
                if at < 0:
                    raise Unspelt(0, "the answer does not hold the row's trace")
                rest, asked = data, whole[: len(asked) + at]
            if not rest:
                raise Unspelt(0, "nothing stands behind the prompt", "no answer (refused or empty)")
            source = spelt.source[len(asked) : len(asked) + len(rest)]
            return Part(spelt._replace(data=rest, source=source), stream, answer.field)
        if data is not None:
            start = stream.data.rfind(data)
            return Part(stream.locate(data, max(start, 0)), stream, answer.field)
        start = overlap(asked, stream.data)
        rest = stream.letters(start, len(stream.data))
        if not rest:
            raise Unspelt(0, "nothing stands behind the prompt", "no answer (refused or empty)")
        return Part(stream.match(rest, start), stream, answer.field)
    except Unspelt as error:
        raise defect_of(error, answer.field, place) from error


def overlap(asked: bytes, data: bytes) -> int:
    """Bytes at the head of `data` that are the end of the prompt.

    The first token, which nothing predicts and no server spells, may hide the prompt's head.
    """
    head = data[:16]
    at = 0
    while 0 <= (at := asked.find(head[: len(asked) - at], at)) < len(asked):
        if data.startswith(asked[at:]):
            return len(asked) - at
        at += 1
    ends = range(min(len(asked), len(head)), 0, -1)
    return next((size for size in ends if data.startswith(asked[-size:])), 0)
