"""Answers of a local model, in batches that are shards: the same wherever a run was interrupted."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from datasets import Dataset
from pydantic import Field
from torch import nn
from transformers import PreTrainedTokenizerBase

from hf_proxy.answers.finding import is_thinking_mark
from hf_proxy.building.protocols import Protocol
from hf_proxy.building.questions import Job
from hf_proxy.building.reading import SOURCE, read_one
from hf_proxy.building.responses import ResponseFolder
from hf_proxy.building.settings import BuildSettings
from hf_proxy.models.access import scoring_mode, unwrapped, weights_checksum
from hf_proxy.models.generation import end_ids_of, generate
from hf_proxy.models.meshes import refuse_same_rows
from hf_proxy.models.parallel import Processes, is_main, num_processes, stop_together
from hf_proxy.models.positions import window_of
from hf_proxy.records.errors import InputError
from hf_proxy.records.progress import Progress
from hf_proxy.records.record import Record
from hf_proxy.records.rows import ALIGNED_FEATURES, ZERO_PROBABILITY_LOGPROB
from hf_proxy.records.storage import fingerprint
from hf_proxy.scoring.scoring import token_logprobs
from hf_proxy.tokens.pieces import IdSpeller
from hf_proxy.tokens.prompts import Prompts, check_lengths, read_prompts
from hf_proxy.tokens.tokenizers import tokenizer_fingerprint
from hf_proxy.traces.completions import TraceOfRow
from hf_proxy.traces.shapes.answer import Place

_Id = Annotated[int, Field(ge=0, lt=2**31)]


class WrittenAnswer(Record):
    """An answer as ids.

    Attributes:
        ids: that the model wrote, the end of text without which it was cut included.
        logprobs: of each, in nats, by a teacher-forced pass at temperature 1.
        ended: whether it came to its end.
    """

    example_id: str
    ids: Annotated[list[_Id], Field(min_length=1)]
    logprobs: list[float]
    ended: bool


class LocalFrontier:
    """A model of this machine, whole on every rank, and the prompts that it reads.

    Args:
        batch_size: answers written together, and stored as one shard.
        tokens_per_batch: of the pass that reads the log-probabilities.
        chat_template_kwargs: what the chat template reads beside the turns.
        facts: what names it; None: its name and a checksum of its weights.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        accelerator: Processes = None,
        *,
        batch_size: int,
        tokens_per_batch: int,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
    ):
        if batch_size < 1:
            raise InputError.at(f"{batch_size} is too small", remedy="give 1", field="batch_size")
        self.model, self.tokenizer, self.accelerator = model, tokenizer, accelerator
        self.batch_size, self.tokens_per_batch = batch_size, tokens_per_batch
        self.chat_template_kwargs = chat_template_kwargs
        self._speller = IdSpeller(tokenizer)
        self.facts = dict(facts) if facts else _facts_of(model, tokenizer)

    def take(
        self, jobs: Sequence[Job], protocol: Protocol, settings: BuildSettings
    ) -> dict[str, Any]:
        """Prepare for these jobs; gives what decides the answers beside the settings."""
        self.protocol, self.settings = protocol, settings
        self.prompts = prompts_of(jobs, protocol, self.tokenizer, self.chat_template_kwargs)
        check_lengths(self.prompts, settings.max_new_tokens, window_of(unwrapped(self.model)))
        return {
            "frontier": self.facts,
            "prompts": fingerprint([self.prompts.example_id, self.prompts.input_ids]),
            "batch_size": self.batch_size,
        }

    def ask(self, folder: ResponseFolder) -> None:
        """Write what is missing in the folder, and read all of it.

        Batch b holds prompts [bB, (b+1)B) and draws from the seed (seed, b); batches are dealt to
        the ranks.
        """
        processes, size = self.accelerator, self.batch_size
        refuse_same_rows(unwrapped(self.model), processes, "building traces")
        names = self.prompts.example_id
        starts = range(0, len(names), size)
        there = set(folder.names(processes))
        missing = [b for b in range(len(starts)) if f"{b:06d}" not in there]
        with stop_together(processes):
            rank = 0 if processes is None else processes.process_index
            own = missing[rank :: num_processes(processes)]
            lengths = {b: len(names[b * size : (b + 1) * size]) for b in own}
            total, is_shown = sum(lengths.values()), is_main(processes)
            with Progress(total, "Traces", "answers", is_shown=is_shown) as progress:
                for b in own:
                    batch = slice(b * size, (b + 1) * size)
                    folder.write(f"{b:06d}", self._written(b, names[batch], batch))
                    progress.update(lengths[b])
        if processes is not None:
            processes.wait_for_everyone()
        self._answers: dict[str, WrittenAnswer] = {}
        with stop_together(processes):
            for b, start in enumerate(starts):
                shard = folder.read(f"{b:06d}", WrittenAnswer)
                if [row.example_id for row in shard] != names[start : start + size]:
                    raise InputError.at(
                        "it answers other questions",
                        remedy="delete it, and the same line asks again",
                        source=folder.path / "shards" / f"{b:06d}.jsonl",
                    )
                self._answers |= {row.example_id: row for row in shard}

    def read(self, index: int, job: Job) -> TraceOfRow:
        """The trace of a job's answer.

        Raises:
            RowDefect: it is not whole, or not what was asked for.
        """
        place = Place(SOURCE, job.example_id)
        response = response_of(self._answers[job.example_id], self._speller, place)
        return read_one(job, index, response, self.protocol, speller=self._speller)

    def counts(self) -> dict[str, Any]:
        """What the answers took."""
        written = self._answers.values()
        return {
            "prompt_tokens": sum(map(len, self.prompts.input_ids)),
            "completion_tokens": sum(len(answer.ids) for answer in written),
        }

    def _written(self, b: int, names: list[str], batch: slice) -> list[dict[str, Any]]:
        given = self.prompts.input_ids[batch]
        with scoring_mode(self.model) as bare:
            written = generate(
                bare,
                given,
                processing_class=self.tokenizer,
                max_new_tokens=self.settings.max_new_tokens,
                temperature=self.settings.temperature,
                seed=[self.settings.seed, b],
            )
            ends = end_ids_of(bare, self.tokenizer)
        logprobs = _teacher_forced(self.model, given, written, self.tokens_per_batch)
        return [
            {"example_id": name, "ids": ids, "logprobs": own, "ended": ids[-1] in ends}
            for name, ids, own in zip(names, written, logprobs, strict=True)
        ]


def _facts_of(model: Any, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    bare = unwrapped(model)
    return {
        "name": getattr(bare.config, "_name_or_path", None) or None,
        "checksum": weights_checksum(bare),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "dtype": str(bare.dtype),
    }


def prompts_of(
    jobs: Sequence[Job],
    protocol: Protocol,
    tokenizer: PreTrainedTokenizerBase,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> Prompts:
    """What the model reads: chat turns, or plain text where its tokenizer has no chat template."""
    asked = [protocol.question(job.question.prompt) for job in jobs]
    rows = Dataset.from_dict({"prompt": asked, "example_id": [job.example_id for job in jobs]})
    head = f"{protocol.system}\n\n" if protocol.system else ""
    is_chat = bool(tokenizer.chat_template)
    return read_prompts(
        rows,
        tokenizer,
        context="chat" if is_chat else head + "{prompt}\n\n",
        system_prompt=protocol.system if is_chat else None,
        chat_template_kwargs=chat_template_kwargs,
    )


def _teacher_forced(
    model: nn.Module, prompts: list[list[int]], written: list[list[int]], tokens_per_batch: int
) -> list[list[float]]:
    """Nats of each written id, by the pass that scoring and annotation make.

    The scores of the generation itself are of padded batches and a cache, and of the ids that were
    allowed; these are of the whole head, at temperature 1.
    """
    rows = [
        {
            "example_id": str(number),
            "input_ids": [*prompt, *ids],
            "label_start": len(prompt),
            "label_weight": [0.0] * (len(prompt) + len(ids)),
            "label_spans": [[0, 0]] * len(ids),
            "num_bytes": 0,
            "setting_parts": json.dumps({"traces": "written", "num_traces": len(written)}),
        }
        for number, (prompt, ids) in enumerate(zip(prompts, written, strict=True))
    ]
    aligned = Dataset.from_list(rows, features=ALIGNED_FEATURES)
    found = token_logprobs(model, aligned, tokens_per_batch=tokens_per_batch)
    # rounding may leave a probability of 1 a hair above it, and one of 0 is written so
    bounds = (ZERO_PROBABILITY_LOGPROB, 0.0)
    return [np.clip(row, *bounds).tolist() for row in found["label_logprobs"]]


def response_of(answer: WrittenAnswer, speller: IdSpeller, place: Place) -> dict[str, Any]:
    """The answer as a server would have sent it, its tokens as ids.

    Raises:
        RowDefect: its bytes are no text.
    """
    ids = answer.ids[:-1] if answer.ended else answer.ids
    logprobs = answer.logprobs[: len(ids)]
    spelt = speller.spell(ids)
    if isinstance(spelt, str):
        raise place.defect("ids without a token", spelt, remedy="name the model's own tokenizer")
    # marks of thinking are special tokens of some tokenizers, and part of the text all the same
    letters = [
        piece.data
        for piece in spelt
        if not piece.is_special or is_thinking_mark(piece.data.decode(errors="replace"))
    ]
    try:
        text = b"".join(letters).decode()
    except UnicodeDecodeError as error:
        raise place.defect(
            "no UTF-8 text", f"no UTF-8 text at byte {error.start}", remedy="ask again"
        ) from error
    records = [
        {"token": f"token_id:{id}", "logprob": own} for id, own in zip(ids, logprobs, strict=True)
    ]
    choice = {
        "message": {"content": text.strip()},
        "finish_reason": "stop" if answer.ended else "length",
        "logprobs": {"content": records},
    }
    return {"choices": [choice]}
