r"""The sets that rBridge's authors released: traces with token logprobs, and traces with masks.

Traces are one JSON array of completions; beside it, in JSONL parts, stands a row for each token of
the frontier's completions. The names of their fields are mapped, and nothing is taken on trust: the
tokens must spell the reasoning. In masks key steps stand between `<span>` and `</span>` (also
written `<\span>`), over line breaks too.
"""

import re
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from hf_proxy.records.errors import InputError, names, shown
from hf_proxy.records.record import Record, checked
from hf_proxy.records.storage import file_hash, fingerprint
from hf_proxy.traces.files import file_rows
from hf_proxy.traces.json_answers import read_json_answer
from hf_proxy.traces.parts import Part
from hf_proxy.traces.selection import spans_of
from hf_proxy.traces.shapes.answer import Byte, Listed, Logprob, Place, Token, TokenRecord, token_of
from hf_proxy.traces.stream import Stream, Unspelt

TOKEN_FIELDS = ("token_example_id", "position", "token", "bytes", "logprob")
_MARK = re.compile(r"<(/|\\)?span>")
_MAP = (
    "map our names to the file's: --columns trace=reasoning token_example_id=id, in Python columns="
)
_ALIASES = {"prompt": ("prompt", "question"), "trace": ("trace", "reasoning")}


class TokenRow(Record):
    """A row of a logprob file."""

    token_example_id: str | int
    position: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    token: str | None = None
    bytes: Annotated[list[Byte], Listed] | None = None
    logprob: Logprob | None


class ReleasedRow(Record):
    """A completion of the array."""

    example_id: str | int
    prompt: str
    trace: str


def masked_row(row: Mapping, source: str, index: int) -> dict[str, Any]:
    r"""A trace of weighting `"mask"`: the reasoning without its marks, and the spans between them.

    Raises:
        RowDefect: a mark that no other belongs to.
    """
    row = _by_our_names(row, dict.fromkeys(_ALIASES), source, index)
    example_id = index if row.get("example_id") is None else row["example_id"]
    place = Place(source, f"{index} (example_id {shown(example_id)})")
    text = place.checked(ReleasedRow, {**row, "example_id": example_id}, "", "mend the row").trace
    clean, spans, depth, begin, last = "", [], 0, 0, 0
    num_bytes = 0
    for mark in _MARK.finditer(text):
        piece = text[last : mark.start()]
        clean += piece
        num_bytes += len(piece.encode(errors="surrogatepass"))
        last = mark.end()
        if mark[1] is None:
            begin = num_bytes if depth == 0 else begin
            depth += 1
            continue
        depth -= 1
        if depth < 0:
            break
        if depth == 0 and num_bytes > begin:
            spans.append([begin, num_bytes])
    if depth:
        raise place.defect(
            "marks of spans that do not pair",
            f"{'a <span> is never closed' if depth > 0 else 'a </span> closes nothing'}",
            remedy="correct the marks, or drop the row",
            field="reasoning",
        )
    return {
        "example_id": str(example_id),
        "prompt": row["prompt"],
        "trace": clean + text[last:],
        "weighting": "mask",
        "frontier_spans": spans,
        "frontier_logprobs": [],
    }


class ReleasedTraces:
    """Rows of traces of one or more arrays, joined to their tokens.

    Args:
        source: the array (`.json`), whose logprobs lie beside it as `<name>_logprobs*.jsonl`, or a
            folder of them.
        columns: our name of a field to the files'.
    """

    def __init__(self, source: str, columns: Mapping[str, str]):
        path = Path(source)
        arrays = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        self._columns, self._source = columns, source
        self._parts = {file: logprob_files(file) for file in arrays}
        lonely = [file for file, parts in self._parts.items() if not parts]
        if len(arrays) == 1 and lonely:
            self._parts = {arrays[0]: sorted(arrays[0].parent.glob("*.jsonl"))}
            lonely = [] if self._parts[arrays[0]] else lonely
        if lonely or not arrays:
            raise InputError.at(
                "there are no logprobs beside it" if arrays else "no array of completions (.json)",
                remedy="put NAME_logprobs*.jsonl beside NAME.json",
                source=lonely[0] if lonely else source,
            )
        files = [file for array_, parts in self._parts.items() for file in (array_, *parts)]
        self.identity = fingerprint([[file.name, file_hash(file)] for file in files])

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and `Trace` of each row.

        Raises:
            InputError: a field is not where it is mapped to, or tokens do not spell a reasoning.
        """
        for file, parts in self._parts.items():
            tokens = _TokenTable(parts, self._columns)
            for index, raw in enumerate(file_rows(file)):
                wanted = {
                    "prompt": self._columns.get("prompt"),
                    "trace": self._columns.get("trace"),
                }
                row = _by_our_names(raw, wanted, str(file), index)
                own = self._columns.get("example_id", "example_id")
                if own not in raw and "example_id" in self._columns:
                    raise _missing(own, raw, str(file), index)
                example_id = raw.get(own, index)  # tokens may name the place in the array
                place = {"source": file, "row": f"{index} (example_id {shown(example_id)})"}
                content = {**row, "example_id": example_id}
                found = checked(ReleasedRow, content, remedy=_MAP, **place)
                yield index, _trace_of(found, tokens.of(str(example_id)), place)


def logprob_files(path: Path) -> list[Path]:
    """The logprob files of an array of completions, in their order."""
    return [
        file
        for file in sorted(path.parent.glob("*.jsonl"))
        if file.name.startswith(f"{path.stem}_logprobs")
    ]


class _TokenTable:
    """Tokens of all completions, packed: millions of them are numbers, not objects."""

    def __init__(self, files: list[Path], columns: Mapping[str, str]):
        self._number: dict[str, int] = {}
        data = bytearray()
        owner, position, end, logprob = array("q"), array("q"), array("q"), array("d")
        for file in files:
            for index, raw in enumerate(file_rows(file)):
                row = {}
                for ours in TOKEN_FIELDS:
                    theirs = columns.get(ours, ours)
                    if ours == "token_example_id" and ours not in columns:
                        theirs = columns.get("example_id", "example_id")
                    if theirs in raw:
                        row[ours] = raw[theirs]
                    elif ours in columns or ours in ("token_example_id", "logprob"):
                        raise _missing(theirs, raw, str(file), index)
                found = checked(TokenRow, row, source=file, row=index, remedy=_MAP)
                record = TokenRecord.model_construct(
                    token=found.token, bytes=found.bytes, logprob=found.logprob
                )
                token = token_of(record, "token", Place(str(file), index))
                data += token.data or b""
                end.append(len(data))
                key = str(found.token_example_id)
                owner.append(self._number.setdefault(key, len(self._number)))
                position.append(len(position) if found.position is None else found.position)
                logprob.append(np.nan if found.logprob is None else found.logprob)
        self._data = data
        order = np.lexsort((np.array(position), np.array(owner)))
        self._order, self._owner = order, np.array(owner)[order]
        self._end, self._logprob = end, logprob

    def of(self, example_id: str) -> list[tuple[bytes, float]]:
        """Bytes and logprob of each token of a completion, in order."""
        number = self._number.get(example_id)
        if number is None:
            return []
        low, high = np.searchsorted(self._owner, [number, number + 1])
        found = []
        for place in self._order[low:high].tolist():
            start = self._end[place - 1] if place else 0
            found.append((bytes(self._data[start : self._end[place]]), self._logprob[place]))
        return found


def _trace_of(found: ReleasedRow, tokens: list, place: dict[str, Any]) -> dict[str, Any]:
    def refuse(problem: str) -> InputError:
        return InputError.at(
            problem,
            remedy=f"the tokens must spell the reasoning: {_MAP}",
            field="trace",
            **place,
        )

    if not tokens:
        raise refuse("no token names it")
    stream = Stream([Token(data, logprob) for data, logprob in tokens])
    raw = stream.data.decode(errors="replace")
    parsed = read_json_answer(raw)
    letters = None
    try:
        if parsed is not None:
            spelling = stream.match(raw.encode())
            letters = parsed.letters(raw, "reasoning")
            text = "".join(letter.text for letter in letters)
            if text != found.trace:
                raise Unspelt(0, f"they spell {text[:40]!r}, the reasoning is {found.trace[:40]!r}")
        else:
            start = stream.data.find(found.trace.encode(errors="surrogatepass"))
            if start < 0:
                raise Unspelt(0, f"they spell {raw[:40]!r}, the reasoning {found.trace[:40]!r}")
            spelling = stream.match(found.trace.encode(errors="surrogatepass"), start)
    except Unspelt as error:
        raise refuse(str(error)) from error
    where = Place(str(place["source"]), place["row"])
    part = Part(spelling, stream, "tokens")
    trace, spans, logprobs = spans_of([part], letters, where)
    return {
        "example_id": str(found.example_id),
        "prompt": found.prompt,
        "trace": trace,
        "weighting": "logprob",
        "frontier_spans": spans,
        "frontier_logprobs": logprobs,
    }


def _by_our_names(
    raw: Mapping, columns: Mapping[str, str | None], source: str, index: int
) -> dict[str, Any]:
    """A row with `prompt` and `trace`, by the names given or the usual ones."""
    row = dict(raw)
    for ours, theirs in columns.items():
        known = (theirs,) if theirs is not None else _ALIASES[ours]
        name = next((name for name in known if name in raw), None)
        if name is None:
            raise _missing(known[-1], raw, source, index)
        row[ours] = raw[name]
    return row


def _missing(name: str, raw: Mapping, source: str, index: int) -> InputError:
    return InputError.at(
        f"there is no such field; the row has {names(raw)}",
        remedy=_MAP,
        source=source,
        row=index,
        field=name,
    )
