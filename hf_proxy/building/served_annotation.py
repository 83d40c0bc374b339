"""Probabilities for text that anybody wrote, from a model behind a server."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_proxy.building.proof import Proof, prove_server, scoring_fields
from hf_proxy.building.reading import SOURCE, parsed_body
from hf_proxy.building.responses import ResponseFolder
from hf_proxy.building.served import StoredReply
from hf_proxy.building.servers import Reply, Request, Server
from hf_proxy.records.errors import InputError, check_unique_ids
from hf_proxy.records.rows import TRACE_FEATURES
from hf_proxy.tokens.prompts import Context, read_context, text_context
from hf_proxy.traces.checks import check_trace, traces_fingerprint
from hf_proxy.traces.health import HealthCounter, TraceHealth
from hf_proxy.traces.parts import Part
from hf_proxy.traces.selection import spans_of
from hf_proxy.traces.shapes.answer import Answer, Place, RowDefect
from hf_proxy.traces.shapes.recognise import read_answer
from hf_proxy.traces.stream import Stream, Unspelt

_MOST_HIDDEN = 64  # letters of a context that its first token may hide


class Annotated(NamedTuple):
    """Traces with probabilities, what was dropped, and what was found of the server."""

    traces: Dataset
    health: TraceHealth
    proof: Proof


def annotate_by_server(
    traces: Dataset,
    server: Server,
    *,
    context: str | Callable[[Mapping], str],
    context_name: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    how: str | None = None,
    echo_shift: int = 0,
    responses_dir: str | Path | None = None,
) -> Annotated:
    """`annotate_traces` by a server's `prompt_logprobs` or `echo`, which is proved first.

    A row that the server cannot give is dropped and counted: a request that failed, a token that
    lies across the border of context and trace, text that comes back otherwise than it was sent.

    Args:
        tokenizer, chat_template_kwargs: for `context="chat"`, the served model's.
        how: `"prompt_logprobs"` or `"echo"`; None: the first that the server knows.
        echo_shift: places by which its values are known to stand late; proved.
        responses_dir: where raw replies stay, so that a second call asks for nothing twice; None:
            nowhere.

    Raises:
        InputError: as `prove_server`; no row is left.
    """
    check_unique_ids(traces["example_id"])
    if not len(traces):
        raise InputError.at("there are no traces", remedy="give at least one")
    read = _context_of(context, context_name, tokenizer, chat_template_kwargs)
    rows = [dict(row) for row in traces]
    for index, row in enumerate(rows):
        check_trace(row, index=index)
    contexts = {row["example_id"]: read.render(row) for row in rows}
    sample = contexts[rows[0]["example_id"]] + rows[0]["trace"][:200]
    with ExitStack() as stack:
        if responses_dir is None:
            responses_dir = stack.enter_context(tempfile.TemporaryDirectory())
        proof = prove_server(server, sample, how, echo_shift)
        parts = {
            "traces": traces_fingerprint(rows),
            "context": read.setting,
            "frontier": {"name": server.model, "base_url": server.base_url},
            "how": proof.how,
            "extra_body": dict(server.settings.extra_body or {}),
        }
        folder = ResponseFolder(Path(responses_dir))
        stack.enter_context(folder.opened(parts))
        replies, failed = _ask(server, rows, contexts, proof.how, folder)
        counter = HealthCounter()
        kept = []
        first: RowDefect | None = None
        for index, row in enumerate(rows):
            name = row["example_id"]
            try:
                kept.append(
                    _annotated(row, index, contexts[name], replies.get(name), failed, echo_shift)
                )
            except RowDefect as defect:
                counter.drop(defect.reason, name)
                first = first or defect
                continue
            counter.add(kept[-1])
    if not kept:
        raise InputError(f"no trace is left; the first that was dropped: {first}")
    return Annotated(Dataset.from_list(kept, features=TRACE_FEATURES), counter.health(), proof)


def _context_of(
    context: str | Callable[[Mapping], str],
    name: str | None,
    tokenizer: PreTrainedTokenizerBase | None,
    chat_template_kwargs: Mapping[str, Any] | None,
) -> Context:
    if tokenizer is not None:
        return read_context(
            context, tokenizer, name=name, chat_template_kwargs=chat_template_kwargs
        )
    if chat_template_kwargs:
        raise InputError.at(
            "the chat template of a served model is not known here",
            remedy="name its tokenizer",
            field="chat_template_kwargs",
        )
    if callable(context):
        return Context(context, False, str(name), f"function {name}")
    if context == "chat":
        raise InputError.at(
            "the chat template of a served model is not known here",
            remedy="name its tokenizer, or give a context in text",
            field="context",
        )
    return text_context(context)


def _ask(
    server: Server,
    rows: list[dict[str, Any]],
    contexts: Mapping[str, str],
    how: str,
    folder: ResponseFolder,
) -> tuple[dict[str, str], dict[str, str]]:
    """Replies by name, those of the folder too, and why others are missing."""
    found = {
        row.example_id: row.body
        for name in folder.names()
        for row in folder.read(name, StoredReply)
        if _is_whole(row.body)
    }
    numbers = {row["example_id"]: number for number, row in enumerate(rows)}
    missing = [row for row in rows if row["example_id"] not in found]

    def take(reply: Reply) -> None:
        stored = StoredReply(
            example_id=reply.name, attempt=0, body=reply.text, seconds=reply.seconds
        )
        folder.write(f"{numbers[reply.name]:06d}", [stored.model_dump()])
        found[reply.name] = reply.text

    failed: dict[str, str] = {}
    if missing:
        fields = scoring_fields(how)
        failed = server.ask(
            (
                Request(
                    row["example_id"],
                    server.body(
                        contexts[row["example_id"]] + row["trace"], "completions", **fields
                    ),
                )
                for row in missing
            ),
            take,
            api="completions",
            desc="Probabilities",
            total=len(missing),
        )
    return found, failed


def _is_whole(body: str) -> bool:
    try:
        parsed_body(body, Place(None, None))
    except RowDefect:
        return False
    return True


def _annotated(
    row: dict[str, Any],
    index: int,
    context: str,
    body: str | None,
    failed: Mapping[str, str],
    echo_shift: int,
) -> dict[str, Any]:
    """The row with the server's probabilities.

    Raises:
        RowDefect: the reply does not give them.
    """
    place = Place(SOURCE, row["example_id"])
    if body is None:
        reason = failed.get(row["example_id"], "request failed")
        raise place.defect(reason, reason, remedy="the same line again asks for it")
    answer = read_answer(_moved_back(parsed_body(body, place), echo_shift), "", place, context)
    part = _part_of(answer, context, row["trace"], place)
    trace, spans, logprobs = spans_of([part], None, place)
    made = row | {
        "trace": trace,
        "weighting": "logprob",
        "frontier_spans": spans,
        "frontier_logprobs": logprobs,
    }
    check_trace(made, source=SOURCE, index=index)
    return made


def _moved_back(response: dict[str, Any], shift: int) -> dict[str, Any]:
    """The response with each value of its echo at the token that it is of."""
    if not shift:
        return response
    (choice,) = response["choices"]
    logprobs = choice["logprobs"]
    values = logprobs["token_logprobs"]
    moved = [
        values[at + shift] if 0 <= at + shift < len(values) else None for at in range(len(values))
    ]
    return {**response, "choices": [choice | {"logprobs": logprobs | {"token_logprobs": moved}}]}


def _part_of(answer: Answer, context: str, trace: str, place: Place) -> Part:
    """Where the trace stands among the tokens of the text that was sent.

    The first token may be the server's own, or hide the context's head: nothing predicts it, and
    some servers do not spell it.

    Raises:
        RowDefect: the tokens spell another text, or one holds letters of both.
    """
    stream = Stream(answer.tokens)
    first = len(answer.tokens[0].data or b"") if answer.tokens else 0
    failure: Unspelt | None = None
    for hidden in range(min(_MOST_HIDDEN, len(context)) + 1):
        text = (context[hidden:] + trace).encode()
        for start in {0, first}:
            try:
                spelling = stream.match(text, start)
            except Unspelt as error:
                failure = failure or error
                continue
            at = len(text) - len(trace.encode())
            if at and spelling.source[at] == spelling.source[at - 1]:
                raise place.defect(
                    "a token across the border",
                    "a token of the server's holds the end of the context and the trace's first "
                    "letters",
                    remedy="end the context with a line break or a space less, or use a local "
                    "frontier",
                )
            own = spelling._replace(data=text[at:], source=spelling.source[at:])
            return Part(own, stream, answer.field)
    assert failure is not None
    raise place.defect(
        "another text came back",
        f"the reply does not hold the text that was sent ({failure})",
        remedy="ask again, or use another server",
        field=answer.field,
    )
