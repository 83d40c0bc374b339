"""A frontier behind a server: every reply is on the disk before it is read."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hf_proxy.building.protocols import Protocol
from hf_proxy.building.questions import Job
from hf_proxy.building.reading import SOURCE, parsed_body, read_one
from hf_proxy.building.responses import ResponseFolder
from hf_proxy.building.servers import Reply, Request, Server
from hf_proxy.building.settings import BuildSettings
from hf_proxy.models.parallel import Processes, from_main
from hf_proxy.records.errors import InputError
from hf_proxy.records.lines import write_lines
from hf_proxy.records.record import Record
from hf_proxy.traces.completions import NO_LOGPROBS, BatchAnswer, TraceOfRow
from hf_proxy.traces.files import file_rows
from hf_proxy.traces.shapes.answer import Place, RowDefect
from hf_proxy.traces.shapes.recognise import read_answer

_MOST_ANSWERS = 2  # to one question: after one of a bad format, one attempt more (paper)
_MOST_WITHOUT = 3  # first answers that may all lack log-probabilities, before more are paid for
_MOST_IN_BATCH = 50_000  # requests of one file of OpenAI's batch API
_PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


class StoredReply(Record):
    """A reply as it came.

    Attributes:
        attempt: of this question, from 0.
        body: what the server sent, JSON or not.
        seconds: that it took; None where that is not known.
    """

    example_id: str
    attempt: int
    body: str
    seconds: float | None = None


class ServedFrontier:
    """A model that is asked through a server, by the main process.

    Args:
        batch_output: file of the batch API with the answers; None: they are asked for.
    """

    def __init__(
        self, server: Server, processes: Processes = None, *, batch_output: str | Path | None = None
    ):
        self.server, self.processes, self.batch_output = server, processes, batch_output
        self._replies: dict[str, list[StoredReply]] = {}
        self._failed: dict[str, str] = {}
        self._repeated: set[str] | None = None
        self._tokens = [0, 0]  # read, written
        self._without: set[str] = set()  # answers without log-probabilities
        self._is_given = False  # whether any answer has come as it should

    def take(
        self, jobs: Sequence[Job], protocol: Protocol, settings: BuildSettings
    ) -> dict[str, Any]:
        """Prepare for these jobs; gives what decides the answers beside the settings."""
        self.jobs, self.protocol, self.settings = list(jobs), protocol, settings
        self._number = {job.example_id: number for number, job in enumerate(jobs)}
        asked = self.server.settings
        return {
            "frontier": {"name": self.server.model, "base_url": self.server.base_url},
            "api": asked.api,
            "logprobs": asked.logprobs,
            "extra_body": dict(asked.extra_body or {}),
        }

    def request(self, job: Job, attempt: int = 0) -> Request:
        """What is asked for a job."""
        asked, prompt = self.server.settings, job.question.prompt
        is_chat = asked.api == "chat"
        fields: dict[str, Any] = {
            "max_tokens": self.settings.max_new_tokens,
            "temperature": self.settings.temperature,
        }
        if asked.logprobs:
            # llama-cpp-python gives none in a chat where the number of others is not said
            fields |= {"logprobs": True, "top_logprobs": 0} if is_chat else {"logprobs": 1}
        if self.settings.temperature > 0:
            words = f"{self.settings.seed} {job.example_id} {attempt}"
            fields["seed"] = int(hashlib.sha256(words.encode()).hexdigest()[:7], 16)
        what = self.protocol.messages(prompt) if is_chat else self.protocol.text(prompt)
        return Request(job.example_id, self.server.body(what, asked.api, **fields))

    def ask(self, folder: ResponseFolder) -> None:
        """Write what is missing in the folder, and read all of it."""
        from_main(self.processes, lambda: self._ask(folder))

    def _ask(self, folder: ResponseFolder) -> None:
        for name in folder.names():
            for row in folder.read(name, StoredReply):
                self._add(row)
        missing = [job for job in self.jobs if self._wants_more(job, is_new_run=True)]
        if self.batch_output is not None:
            self._take_batch(missing, folder, Path(self.batch_output))
            return

        def take(reply: Reply) -> Request | None:
            job = self.jobs[self._number[reply.name]]
            self._store(folder, job, reply.text, reply.seconds)
            wants_more = self._wants_more(job)
            self._require_logprobs()
            return self.request(job, self._attempts(job)) if wants_more else None

        if missing:
            self._require_logprobs()
            self._failed = self.server.ask(
                (self.request(job, self._attempts(job)) for job in missing),
                take,
                api=self.server.settings.api,
                desc="Traces",
                total=len(missing),
                told=self._told,
            )

    def _require_logprobs(self) -> None:
        """Stop while it has cost little, where a server gives none of what it was asked for."""
        if len(self._without) >= _MOST_WITHOUT and not self._is_given:
            raise InputError.at(
                f"the first {len(self._without)} answers came without log-probabilities",
                remedy="see how this server gives them (extra_body), or take text alone with "
                "logprobs false and annotate it; answers that came stay in the folder",
                source=self.server.base_url,
                field="logprobs",
            )

    def _attempts(self, job: Job) -> int:
        return len(self._replies.get(job.example_id, ()))

    def _store(
        self, folder: ResponseFolder, job: Job, text: str, seconds: float | None = None
    ) -> None:
        number, attempt = self._number[job.example_id], self._attempts(job)
        row = StoredReply(example_id=job.example_id, attempt=attempt, body=text, seconds=seconds)
        folder.write(f"{number:06d}-{attempt}", [row.model_dump()])
        self._add(row)

    def _add(self, reply: StoredReply) -> None:
        self._replies.setdefault(reply.example_id, []).append(reply)
        for place, count in enumerate(_usage_of(reply.body)):
            self._tokens[place] += count

    def _wants_more(self, job: Job, *, is_new_run: bool = False) -> bool:
        """Whether a job is asked: for the first time, or once more after a bad format.

        What is no answer at all (a page of HTML, an error) is asked once more in every run.
        """
        replies = self._replies.get(job.example_id, [])
        if not replies:
            return True
        answers = [reply for reply in replies if _is_answer(reply.body)]
        if not _is_answer(replies[-1].body):
            return is_new_run or len(replies) - len(answers) < _MOST_ANSWERS
        if len(answers) >= _MOST_ANSWERS:
            return False
        try:
            self._read_reply(self._number[job.example_id], job, replies[-1])
        except RowDefect as defect:
            return defect.reason == "bad format"
        return False

    def read(self, index: int, job: Job) -> TraceOfRow:
        """The trace of a job's newest answer.

        Raises:
            RowDefect: there is none, it is not whole, or not what was asked for.
        """
        place = Place(SOURCE, job.example_id)
        replies = self._replies.get(job.example_id)
        if not replies:
            reason = self._failed.get(job.example_id, "not in the batch's output")
            raise place.defect(reason, reason, remedy="the same line again asks for it")
        self._check_repeated(place, replies[-1])
        return self._read_reply(index, job, replies[-1])

    def _read_reply(self, index: int, job: Job, reply: StoredReply) -> TraceOfRow:
        asked = self.server.settings
        is_chat = asked.api == "chat"
        try:
            trace = read_one(
                job,
                index,
                parsed_body(reply.body, Place(SOURCE, job.example_id)),
                self.protocol,
                asked=None if is_chat else self.protocol.text(job.question.prompt),
                with_logprobs=asked.logprobs,
                temperature=self.settings.temperature,
            )
        except RowDefect as defect:
            if defect.reason == NO_LOGPROBS:
                self._without.add(job.example_id)
            raise
        self._is_given = True
        return trace

    def _check_repeated(self, place: Place, reply: StoredReply) -> None:
        """Refuse the answer of another question: a cache's, told by the server's own id of it.

        Servers that give all answers one id are told by the answers themselves, which differ.
        """
        if self._repeated is None:
            names = [job.example_id for job in self.jobs if job.example_id in self._replies]
            self._repeated = _repeated([self._replies[name][-1] for name in names])
        if reply.example_id in self._repeated:
            reason = "the answer of another question"
            raise place.defect(reason, "its id and text were sent before", remedy="ask again")

    def counts(self) -> dict[str, Any]:
        """Tokens of all answers that were paid for, and what they cost where that is known."""
        read, written = self._tokens
        replies = sum(map(len, self._replies.values()))
        counts: dict[str, Any] = {
            "prompt_tokens": read,
            "completion_tokens": written,
            "replies": replies,
        }
        prices = (self.server.settings.input_price, self.server.settings.output_price)
        if any(price is not None for price in prices):
            counts["cost"] = (read * (prices[0] or 0) + written * (prices[1] or 0)) / 1e6
        return counts

    def _told(self) -> str:
        counts = self.counts()
        cost = f", cost {counts['cost']:.2f}" if "cost" in counts else ""
        return f"tokens {counts['prompt_tokens']} in, {counts['completion_tokens']} out{cost}"

    # the batch API: a file of requests, and later one of answers

    def write_batch(self, path: Path) -> int:
        """Write the batch's input file; gives its number of requests.

        Raises:
            InputError: they are more than one file may hold.
        """
        if len(self.jobs) > _MOST_IN_BATCH:
            raise InputError.at(
                f"{len(self.jobs)} requests, one file takes {_MOST_IN_BATCH}",
                remedy="take fewer questions at a time (num_questions)",
                field="batch_input",
            )
        write_lines(path, self._batch_lines())
        return len(self.jobs)

    def _batch_lines(self) -> Iterator[dict[str, Any]]:
        for job in self.jobs:
            yield {
                "custom_id": job.example_id,
                "method": "POST",
                "url": _PATHS[self.server.settings.api],
                "body": dict(self.request(job).body),
            }

    def _take_batch(self, missing: list[Job], folder: ResponseFolder, path: Path) -> None:
        """Store the answers of a batch's output file, by `custom_id`."""
        wanted = {job.example_id: job for job in missing}
        for index, row in enumerate(file_rows(path)):
            job = wanted.pop(str(row.get("custom_id")), None)
            if job is None:
                if str(row.get("custom_id")) in self._number:
                    continue
                raise InputError.at(
                    "none of these questions was asked so",
                    remedy="name the output of the batch that batch_input wrote",
                    source=path,
                    row=index,
                    field="custom_id",
                )
            place = Place(str(path), index)
            try:
                answer = place.checked(BatchAnswer, row.get("response") or {}, "response")
            except RowDefect:
                answer = BatchAnswer()
            if answer.status_code == 200:
                self._store(folder, job, json.dumps(answer.body))
            else:
                self._failed[job.example_id] = f"request failed ({answer.status_code})"


def _is_answer(body: str) -> bool:
    try:
        parsed_body(body, Place(None, None))
    except RowDefect:
        return False
    return True


def _usage_of(body: str) -> tuple[int, int]:
    """Tokens read and written; 0 where a server does not tell."""
    try:
        usage = parsed_body(body, Place(None, None)).get("usage")
    except RowDefect:
        return 0, 0
    found = usage if isinstance(usage, dict) else {}
    read, written = found.get("prompt_tokens"), found.get("completion_tokens")
    return tuple(n if type(n) is int and n >= 0 else 0 for n in (read, written))  # type: ignore


def _repeated(replies: Sequence[StoredReply]) -> set[str]:
    """Names of answers that bear the id and text of one that came before."""
    seen: set[tuple[Any, str]] = set()
    found = set()
    for reply in replies:
        try:
            body = parsed_body(reply.body, Place(None, None))
            answer = read_answer(body, "", Place(None, None))
        except RowDefect:
            continue
        key = (str(body.get("id")), str(answer.content))
        if body.get("id") and key in seen:
            found.add(reply.example_id)
        seen.add(key)
    return found
