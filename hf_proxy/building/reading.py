"""Raw answers into a trace set: each read by the reader of its shape, right or wrong told."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from datasets import Dataset, Value

from hf_proxy.building.protocols import Protocol
from hf_proxy.building.questions import Job
from hf_proxy.records.errors import InputError
from hf_proxy.records.rows import TRACE_FEATURES
from hf_proxy.tokens.pieces import IdSpeller
from hf_proxy.traces.checks import check_trace
from hf_proxy.traces.completions import Reading, TraceOfRow, trace_of_row
from hf_proxy.traces.health import HealthCounter, TraceHealth
from hf_proxy.traces.shapes.answer import Place, RowDefect
from hf_proxy.traces.shapes.chat import Message, texts_of

# a `Trace` row, and whether its answer is right; null where no gold answer is known
BUILT_FEATURES = type(TRACE_FEATURES)(TRACE_FEATURES | {"correct": Value("bool")})
SOURCE = "answers"  # what messages call them


class Built(NamedTuple):
    """Traces with `BUILT_FEATURES`, and what was counted on the way."""

    traces: Dataset
    health: TraceHealth


def read_one(
    job: Job,
    index: int,
    response: Mapping[str, Any],
    protocol: Protocol,
    *,
    speller: IdSpeller | None = None,
    asked: str | None = None,
    with_logprobs: bool = True,
    temperature: float | None = None,
) -> TraceOfRow:
    """The trace of one answer.

    Args:
        speller: of the frontier's tokenizer, for tokens that are ids.
        asked: the text that the completions API was given.
        with_logprobs: False: the text alone is read, its weighting is `"none"`.
        temperature: as the request told it.

    Raises:
        RowDefect: the answer is not whole, or not what was asked for.
    """
    if not with_logprobs:
        response = _certain(response)
    row = {
        "example_id": job.example_id,
        "prompt": job.question.prompt if asked is None else asked,
        "response": response,
        "request": {"temperature": temperature},
    }
    reading = Reading(protocol.part, protocol.reads, speller)
    found = trace_of_row(row, SOURCE, index, reading)
    trace = found.row | {"prompt": job.question.prompt}
    if not with_logprobs:
        trace |= {"weighting": "none", "frontier_spans": [], "frontier_logprobs": []}
    try:
        check_trace(trace, source=SOURCE, index=index)
    except InputError as error:  # a text that is no text is the frontier's
        raise RowDefect(str(error)) from error
    return found._replace(row=trace)


def _certain(response: Mapping[str, Any]) -> Mapping[str, Any]:
    """A response without log-probabilities, each of its texts as one token: for the readers.

    What is no such response is left as it is, for them to name.
    """
    try:
        (choice,) = response["choices"]
        if "text" in choice:
            lists = {"tokens": [choice["text"]], "token_logprobs": [0.0]}
            return {**response, "choices": [choice | {"logprobs": lists}]}
        content, reasoning = texts_of(Message.model_validate(choice["message"]))
        logprobs: dict[str, Any] = {"content": [{"token": content, "logprob": 0.0}]}
        if reasoning:
            logprobs["reasoning_content"] = [{"token": reasoning, "logprob": 0.0}]
        return {**response, "choices": [choice | {"logprobs": logprobs}]}
    except (KeyError, TypeError, ValueError):
        return response


def read_answers(
    jobs: Iterable[Job],
    read: Callable[[int, Job], TraceOfRow],
    *,
    only_correct: bool = False,
    strict: bool = False,
) -> Built:
    """The traces of all jobs, in their order; those that cannot be used are counted by reason.

    Args:
        read: gives the trace of a job's answer, or raises `RowDefect`.
        only_correct: leave out those whose answer is wrong.

    Raises:
        RowDefect: with `strict` the first defect.
        InputError: none is left.
    """
    counter = HealthCounter()
    rows: list[dict[str, Any]] = []
    first: RowDefect | None = None
    for index, job in enumerate(jobs):
        try:
            found = read(index, job)
        except RowDefect as defect:
            if strict:
                raise
            counter.drop(defect.reason, job.example_id)
            first = first or defect
            continue
        correct = _is_right(found, job)
        if only_correct and not correct:
            counter.drop("wrong answer", job.example_id)
            continue
        row = found.row | {"correct": correct}
        counter.add(row)
        counter.told(
            part=found.part,
            temperature=found.temperature,
            over_one=found.over_one,
            correct=correct,
        )
        rows.append(row)
    health = counter.health()
    if not rows:
        dropped = ", ".join(f"{n} x {reason}" for reason, n in sorted(health.dropped.items()))
        raise InputError(f"no trace is left ({dropped}); the first: {first or 'wrong answer'}")
    return Built(Dataset.from_list(rows, features=BUILT_FEATURES), health)


def _is_right(found: TraceOfRow, job: Job) -> bool | None:
    """Whether the answer is right, as mathematics; one without a result is wrong."""
    if job.question.gold is None:
        return None
    if found.answer is None:
        return False
    from hf_proxy.answers.grading import grade

    return grade(found.answer, job.question.gold).correct


def parsed_body(text: str, place: Place) -> dict[str, Any]:
    """The object that a server sent.

    Raises:
        RowDefect: it sent something else, as a page of HTML.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        kind = "a page of HTML" if text.lstrip()[:1] == "<" else "no JSON object"
        raise place.defect("no JSON object", f"the server sent {kind}", remedy="ask again")
    if content.get("error") and not content.get("choices"):
        raise place.defect("request failed", "the server sent an error", remedy="ask again")
    return content
