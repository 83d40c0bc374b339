"""Trainings of the small world's models, in processes beside each other, one thread each."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, set_seed

from hf_proxy.building.annotation import annotate_traces
from hf_proxy.callbacks import ProxyScoreCallback
from hf_proxy.recipes.library.carry_chains import problems
from hf_proxy.recipes.library.small_world import make_model, pretrain, solve
from hf_proxy.recipes.library.workers import worker_pool
from hf_proxy.records.errors import InputError
from hf_proxy.records.rows import TRACE_FEATURES


@dataclass(frozen=True, kw_only=True)
class Training:
    """One model to be trained, as another process is told of it.

    Attributes:
        name: of its folder in `folder`; its documents are its own.
        tokenizer: folder.
        size: width and layers.
        shares: of each source, that of sloppy documents.
        save_steps: between checkpoints, at which it is scored and tested; None: neither.
        tests: problems whose right answers are counted, from the step `first_point` on.
        traces: what it is scored on, a file.
    """

    name: str
    folder: Path
    tokenizer: Path
    size: Sequence[int]
    shares: Mapping[str, float]
    num_steps: int
    batch_size: int
    learning_rate: float
    seed: int
    save_steps: int | None = None
    first_point: int = 0
    tests: Sequence[dict[str, str]] = ()
    traces: Path | None = None

    @property
    def place(self) -> Path:
        """Its checkpoints, its scores, and the model as it ended in `model/`."""
        return self.folder / self.name

    def load(self) -> Any:
        """The model as it ended."""
        return AutoModelForCausalLM.from_pretrained(self.place / "model")


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Attributes:
        loss: of held-out documents, nats per token of their solutions.
        right: at each step that was tested, how many tests were solved.
    """

    loss: float
    right: dict[int, int]


def train(training: Training) -> Trained:
    """Carry one out in this process, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the numbers of any machine's count of cores
    try:
        return _train(training)
    finally:
        torch.set_num_threads(threads)


def _train(training: Training) -> Trained:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(training.tokenizer)
    set_seed(training.seed)
    model = make_model(tokenizer, *training.size)
    right: dict[int, int] = {}

    def measure(step: int) -> None:
        if training.tests and step >= training.first_point:
            right[step] = sum(solve(model, tokenizer, training.tests)[1])

    loss = pretrain(
        model,
        tokenizer,
        problems(random.Random(f"{training.seed}-{training.name}"), "train", training.shares),
        training.num_steps,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        seed=training.seed,
        output_dir=training.place,
        save_steps=training.save_steps,
        attach=[] if training.traces is None else [ProxyScoreCallback(str(training.traces))],
        measure=measure,
    )
    model.save_pretrained(training.place / "model")
    return Trained(loss, right)


def train_all(trainings: Sequence[Training], num_processes: int) -> dict[str, Trained]:
    """Carry them out, so many at a time; by name. A single one needs no process of its own."""
    names = [training.name for training in trainings]
    if min(num_processes, len(trainings)) == 1:
        return dict(zip(names, map(train, trainings), strict=True))
    with worker_pool(num_processes) as pool:
        return dict(zip(names, pool.map(train, trainings), strict=True))


def careful_traces(
    careful: Any, tokenizer: PreTrainedTokenizerFast, asked: Sequence[dict[str, str]], number: int
) -> Dataset:
    """Solutions the careful expert wrote itself, where right, with its confidence in each token.

    Raises:
        InputError: it solved fewer than `number`.
    """
    written, right = solve(careful, tokenizer, asked, temperature=1.0)
    rows = [
        {
            "example_id": f"problem-{i:03d}",
            "prompt": asked[i]["prompt"],
            "trace": text,
            "weighting": "none",
            "frontier_spans": [],
            "frontier_logprobs": [],
        }
        for i, text in enumerate(written)
        if right[i]
    ]
    if len(rows) < number:
        raise InputError.at(
            f"the careful expert solved {len(rows)} of {len(asked)} problems",
            remedy="train it for more steps",
            field="num_steps",
        )
    blank = Dataset.from_list(rows[:number], features=TRACE_FEATURES)
    return annotate_traces(blank, careful, tokenizer)
