"""New traces: questions to a frontier, its answers with their probabilities into a trace set."""

import json
import time
import typing
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from hf_proxy.building.local import LocalFrontier
from hf_proxy.building.protocols import Protocol, read_protocol
from hf_proxy.building.questions import (
    Job,
    Question,
    jobs_of,
    questions_fingerprint,
    read_questions,
)
from hf_proxy.building.reading import read_answers
from hf_proxy.building.responses import ResponseFolder, responses_of
from hf_proxy.building.served import ServedFrontier
from hf_proxy.building.servers import Server
from hf_proxy.building.settings import BuildSettings, ServerSettings
from hf_proxy.models.disks import require_shared
from hf_proxy.models.parallel import Processes, from_main, stop_together
from hf_proxy.records.defaults import TOKENS_PER_BATCH
from hf_proxy.records.errors import InputError
from hf_proxy.records.record import read_json
from hf_proxy.records.storage import check_free, fingerprint, save_dataset
from hf_proxy.traces.checks import traces_fingerprint
from hf_proxy.traces.completions import TraceOfRow


class Frontier(typing.Protocol):
    """Who is asked: a local model, or one behind a server."""

    def take(self, jobs: list[Job], protocol: Protocol, settings: BuildSettings) -> dict[str, Any]:
        """Prepare for these jobs; gives what decides the answers beside the settings."""

    def ask(self, folder: ResponseFolder) -> None:
        """Get what is missing in the folder, and read all of it."""

    def read(self, index: int, job: Job) -> TraceOfRow:
        """The trace of a job's answer, or `RowDefect`."""

    def counts(self) -> dict[str, Any]:
        """What the answers took: tokens, money."""


class BuiltSet(NamedTuple):
    """A set that was built: its folder's content, and what there is to tell."""

    traces: Dataset
    counts: dict[str, Any]
    line: str


def build_traces(
    questions: Dataset | Iterable[Mapping[str, Any]],
    frontier: nn.Module | str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    output_dir: str | Path,
    base_url: str | None = None,
    server: ServerSettings | None = None,
    protocol: str = BuildSettings.protocol,
    num_samples: int = BuildSettings.num_samples,
    max_new_tokens: int = BuildSettings.max_new_tokens,
    temperature: float = BuildSettings.temperature,
    seed: int = BuildSettings.seed,
    answer_pattern: str | None = BuildSettings.answer_pattern,
    only_correct: bool = BuildSettings.only_correct,
    task: str = BuildSettings.task,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    accelerator: Processes = None,
    overwrite: bool = False,
) -> Dataset:
    """Reasoning traces that a frontier writes, with the probability of each of its tokens.

    Raw answers go to `<output_dir>.responses` as they come. Killed at any moment and called again
    alike, nothing is asked twice, and the traces are the same.

    Args:
        questions: rows of `prompt` and, where they have them, `example_id` and `answer` (gold).
        frontier, tokenizer: a local model, whole on every rank; or with `base_url` the model's name
            at the server, which the main process asks.
        output_dir: folder of the trace set; one that an equal call wrote is replaced.
        base_url: of a server that speaks OpenAI's API; its key is read from `OPENAI_API_KEY`.
        server: how it is asked.
        protocol: `"json"` (published: the trace is the value of `reasoning`), `"text"` (the answer
            is the trace), or `"thinking"` (the thinking is).
        num_samples: answers to each question, named `<example_id>#<sample>` where several.
        max_new_tokens: most tokens of an answer; one that is cut is dropped and counted.
        temperature: 0 (published): greedy. A local model's log-probabilities are those at 1.
        seed: decides the draws.
        answer_pattern: regular expression whose first group is the gold answer within `answer`
            (GSM8K: `#### (.+)`).
        only_correct: leave out wrong answers. False (published): they are kept, and marked.
        task: what the problems are, as the system turn says it.
        chat_template_kwargs: what a local model's chat template reads beside the turns, as
            `{"enable_thinking": False}` (Qwen3); a server is told in `ServerSettings.extra_body`.
        batch_size: a local model's answers written together, and stored as one shard.
        tokens_per_batch: of the teacher-forced pass that reads the log-probabilities.
        accelerator: shares the batches among its processes; every one of them must call.
        overwrite: replace another trace set in `output_dir`.

    Returns:
        `Dataset` of `Trace` rows, and `correct`: whether the answer is right (null: not known).

    Raises:
        InputError: a question or gold answer that cannot be read, another run at work in the
            folder, answers there under other settings (named), a server that is not there or
            refuses, no usable trace.
    """
    settings = BuildSettings(
        protocol=protocol,
        num_samples=num_samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        answer_pattern=answer_pattern,
        only_correct=only_correct,
        task=task,
    )
    asked: Frontier
    if base_url is not None:
        if not isinstance(frontier, str):
            raise InputError.at(
                "with base_url it is the model's name at the server",
                remedy="give the name, or leave base_url out",
                field="frontier",
            )
        if chat_template_kwargs:
            raise InputError.at(
                "a server renders its chats itself",
                remedy='give ServerSettings(extra_body={"chat_template_kwargs": ...})',
                field="chat_template_kwargs",
            )
        asked = ServedFrontier(Server(base_url, frontier, server or ServerSettings()), accelerator)
    elif isinstance(frontier, str) or tokenizer is None or server is not None:
        raise InputError.at(
            "a local frontier is a model and its tokenizer",
            remedy="load both, or give base_url",
            field="frontier",
        )
    else:
        asked = LocalFrontier(
            frontier,
            tokenizer,
            accelerator,
            batch_size=batch_size,
            tokens_per_batch=tokens_per_batch,
            chat_template_kwargs=chat_template_kwargs,
        )
    built = build_set(questions, asked, settings, output_dir, accelerator, overwrite=overwrite)
    return built.traces


class Prepared(NamedTuple):
    """What is asked, and all that decides the answers."""

    questions: list[Question]
    jobs: list[Job]
    parts: dict[str, Any]


def prepare(
    questions: Dataset | Iterable[Mapping[str, Any]],
    frontier: Frontier,
    settings: BuildSettings,
    *,
    source: Any = None,
) -> Prepared:
    """Read what is asked, and hand it to the frontier.

    Args:
        source: of the questions, for messages.

    Raises:
        InputError: as `build_traces`.
    """
    protocol = read_protocol(settings.protocol, task=settings.task)
    asked = read_questions(questions, answer_pattern=settings.answer_pattern, source=source)
    if settings.only_correct and any(question.gold is None for question in asked):
        raise InputError.at(
            "a question has no gold answer, so none of its answers is known to be right",
            remedy="name the answer column, or leave only_correct out",
            source=source,
            field="answer",
        )
    jobs = jobs_of(asked, settings.num_samples)
    parts = frontier.take(jobs, protocol, settings) | {
        "questions": questions_fingerprint(asked),
        "num_samples": settings.num_samples,
        "protocol": f"{protocol.name} {protocol.hash}, {settings.task}",
        "max_new_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "seed": settings.seed,
    }
    return Prepared(asked, jobs, json.loads(json.dumps(parts)))


def build_set(
    questions: Dataset | Iterable[Mapping[str, Any]],
    frontier: Frontier,
    settings: BuildSettings,
    output_dir: str | Path,
    accelerator: Processes = None,
    *,
    overwrite: bool = False,
    source: Any = None,
) -> BuiltSet:
    """`build_traces` of any frontier, giving what was counted beside the rows.

    Args:
        source: of the questions, for messages.
    """
    began = time.monotonic()
    with stop_together(accelerator):
        asked, jobs, parts = prepare(questions, frontier, settings, source=source)
    folder = ResponseFolder(responses_of(output_dir))

    def check() -> bool:
        may_replace = overwrite or _is_of(Path(output_dir), parts)
        check_free(output_dir, overwrite=may_replace)
        return may_replace

    may_replace = from_main(accelerator, check)  # before anything is paid for
    require_shared(folder.path, accelerator)
    with folder.opened(parts, accelerator):
        frontier.ask(folder)

        def finish() -> tuple[dict[str, Any], str]:
            built = read_answers(jobs, frontier.read, only_correct=settings.only_correct)
            health = built.health
            counts = {
                "questions": len(asked),
                "in": len(jobs),
                "kept": len(built.traces),
                "dropped": health.dropped,
                "right": health.right,
                "wrong": health.wrong,
            } | frontier.counts()
            content = {
                "parameters": asdict(settings),
                "responses": parts,
                "counts": counts,
                "health": health.model_dump(),
                "fingerprint": traces_fingerprint(built.traces),
                "seconds": round(time.monotonic() - began, 1),
            }
            save_dataset(built.traces, output_dir, content, overwrite=may_replace)
            return counts, health.line()

        counts, line = from_main(accelerator, finish)
    return BuiltSet(Dataset.load_from_disk(str(output_dir)), counts, line)


def _is_of(folder: Path, parts: Mapping[str, Any]) -> bool:
    """Whether a set was made of answers under these settings."""
    with suppress(InputError):
        there = read_json(folder / "provenance.json").get("responses")
        return fingerprint(there) == fingerprint(parts)
    return False
