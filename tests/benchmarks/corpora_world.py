"""What is trained, scored and tested on the corpora of `corpora.py`, on one thread."""

import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from corpora_documents import CORPORA, Corpus, documents_of
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, set_seed

from hf_proxy.callbacks import ProxyScoreCallback
from hf_proxy.recipes.library.carry_chains import (
    SOURCES,
    distinct_problems,
)
from hf_proxy.recipes.library.small_world import (
    CHAT_TEMPLATE,
    HELD_OUT,
    encode_documents,
    make_model,
    solve,
    train_on,
    train_tokenizer,
)
from hf_proxy.recipes.library.world_trainings import careful_traces
from hf_proxy.records.rows import TRACE_FEATURES
from hf_proxy.records.scores import METRICS
from hf_proxy.records.storage import fingerprint, write_text

BATCH_SIZE = 64
NUM_TRACES, NUM_PROBLEMS = 300, 500  # over all sources
CONTEXT = "{prompt}\n"  # what the models are trained on


@dataclass(frozen=True)
class Size:
    """A model that is trained on every corpus.

    Attributes:
        points: steps at which it is tested and scored; the last is the end.
    """

    width: int
    layers: int
    learning_rate: float
    points: tuple[int, ...]


EXPERT = Size(64, 2, 5e-3, (1400,))
# as seed 0 showed, see the protocol
SIZES: dict[str, Size] = {
    "target": Size(64, 2, 5e-3, (1600,)),
    "small": Size(24, 2, 6e-3, (400, 800)),
    "large": Size(40, 2, 4e-3, (600, 1200)),
}


def points_of(size: Size, *, scored: bool) -> tuple[int, ...]:
    """Its points; where nothing is scored, four, so that a plateau shows."""
    last = size.points[-1]
    return size.points if scored else tuple(last * quarter // 4 for quarter in range(1, 5))


@dataclass(frozen=True)
class World:
    """The folder of a run: tokenizer, expert and its traces, made once, the same for all seeds."""

    folder: Path

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        kinds = (Corpus(), Corpus(off_topic=1.0), Corpus(styled=1.0))
        rows = chain(*(islice(documents_of(k, random.Random("tokenizer")), 800) for k in kinds))
        tokenizer = train_tokenizer([f"{row['prompt']}\n{row['trace']}" for row in rows])
        tokenizer.chat_template = CHAT_TEMPLATE
        return tokenizer

    def problems(self, part: str, number: int) -> list[dict[str, str]]:
        """So many, worked carefully, the sources in turn: other chains in each part."""
        each = -(-number // len(SOURCES))
        of_source = [
            distinct_problems(random.Random(f"{part} {source}"), part, source, each)
            for source in SOURCES
        ]
        return [row for rows in zip(*of_source, strict=True) for row in rows][:number]

    def documents(self, corpus: Corpus, name: str, num_steps: int) -> list[dict[str, list[int]]]:
        """A corpus as it is: of one name the same for every seed and model."""
        rows = documents_of(corpus, random.Random(f"corpus {name}"))
        return encode_documents(self.tokenizer, islice(rows, HELD_OUT + num_steps * BATCH_SIZE))

    def expert(self) -> Any:
        """A model of careful documents alone."""
        return self.pretrained(Corpus(), EXPERT, seed=99)

    def pretrained(self, corpus: Corpus, size: Size, seed: int) -> Any:
        """A model of a corpus, as `size` says."""
        set_seed(seed)
        model = make_model(self.tokenizer, size.width, size.layers)
        with tempfile.TemporaryDirectory() as folder:
            train_on(
                model,
                self.tokenizer,
                self.documents(corpus, f"{seed} before", size.points[-1]),
                size.points[-1],
                batch_size=BATCH_SIZE,
                learning_rate=size.learning_rate,
                seed=seed,
                output_dir=Path(folder),
            )
        return model

    def trace_sets(self) -> dict[str, str]:
        """Files of what is scored on, made where they are not there."""
        paths = {name: self.folder / f"{name}.parquet" for name in ("rbridge", "gold")}
        if not all(path.exists() for path in paths.values()):
            self.folder.mkdir(parents=True, exist_ok=True)
            asked = self.problems("trace", 2 * NUM_TRACES)
            traces = careful_traces(self.expert(), self.tokenizer, asked, NUM_TRACES)
            answer_of = {row["prompt"]: row["answer"] for row in asked}
            gold = [
                row | {"answer": answer_of[row["prompt"]]}
                for row in traces.select_columns(["example_id", "prompt"])
            ]
            plain_traces(gold, "{answer}.").to_parquet(paths["gold"])
            traces.to_parquet(paths["rbridge"])
        return {name: str(path) for name, path in paths.items()}


def plain_traces(rows: Sequence[dict[str, str]], text: str = "{trace}") -> Dataset:
    """Traces of which every token weighs the same."""
    blank = {"weighting": "none", "frontier_spans": [], "frontier_logprobs": []}
    found = [
        {"example_id": row["example_id"], "prompt": row["prompt"], "trace": text.format(**row)}
        for row in rows
    ]
    return Dataset.from_list([row | blank for row in found], features=TRACE_FEATURES)


def measure(folder: Path, corpus: str, seed: int, scored: bool) -> list[Path]:
    """Train, test and score on a corpus what is not yet; on one thread, in any process.

    Args:
        folder: of the run; a file for each model appears whole or not at all in `rows/`.
        scored: score too; else accuracies alone, at more steps.

    Returns:
        the files.
    """
    torch.set_num_threads(1)
    world, documents = World(folder), None
    paths = {model: row_path(folder, corpus, seed, model) for model in SIZES}
    for model, path in paths.items():
        if path.exists():
            continue
        start = time.process_time()
        if documents is None:
            steps = max(size.points[-1] for size in SIZES.values())
            documents = world.documents(CORPORA[corpus], corpus, steps)
        row = {"corpus": corpus, "seed": seed, "model": model}
        row |= train_and_test(world, documents, model, seed, scored)
        row["cpu_seconds"] = round(time.process_time() - start, 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(row))
    return list(paths.values())


def row_path(folder: Path, corpus: str, seed: int, model: str) -> Path:
    """Where what was measured is kept: elsewhere once the corpus or the size is another."""
    counted = {"traces": NUM_TRACES, "problems": NUM_PROBLEMS, "batch": BATCH_SIZE}
    of = counted | {"corpus": vars(CORPORA[corpus]), "size": vars(SIZES[model])}
    return folder / "rows" / f"{seed}" / f"{corpus} {model} {fingerprint(of)[:8]}.json"


def train_and_test(
    world: World, documents: Sequence[dict], model: str, seed: int, scored: bool
) -> dict[str, Any]:
    """One training: accuracy and scores at its points."""
    size = SIZES[model]
    # so that no problem makes a proxy and the target look alike
    tests = world.problems("test" if model == "target" else "foretell", NUM_PROBLEMS)
    right: dict[int, str] = {}

    with tempfile.TemporaryDirectory() as folder:
        set_seed(seed)
        own = make_model(world.tokenizer, size.width, size.layers)

        def test(step: int) -> None:
            if step:
                marks = solve(own, world.tokenizer, tests)[1]
                right[step] = "".join("01"[correct] for correct in marks)

        loss = train_on(
            own,
            world.tokenizer,
            documents,
            size.points[-1],
            batch_size=BATCH_SIZE,
            learning_rate=size.learning_rate,
            seed=seed,
            output_dir=Path(folder),
            save_steps=points_of(size, scored=scored)[0],
            attach=[ProxyScoreCallback(world.trace_sets(), context=CONTEXT)] if scored else [],
            measure=test,
        )
        scores = scores_of(Path(folder)) if scored else {}
    number = own.num_parameters()
    points = []
    for step, marks in right.items():
        point = {"step": step, "accuracy": marks.count("1") / len(marks), "right": marks}
        if scored:
            tokens, columns = scores[step]
            point |= {"tokens": tokens, "flops": 6 * number * tokens, "scores": columns}
        points.append(point)
    return {"num_parameters": number, "loss": loss, "points": points}


def scores_of(folder: Path) -> dict[int, tuple[int, dict[str, float]]]:
    """Of each step the tokens seen and every number that a corpus may be chosen by.

    Args:
        folder: of a training, whose callback scored the sets rbridge and gold.
    """
    path = folder / "hf_proxy" / "predictions.jsonl"
    found: dict[int, tuple[int, dict[str, float]]] = {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    gold = {line["step"]: line["trace_nll"] for line in lines if line["name"] == "gold"}
    for line in lines:
        if line["name"] == "rbridge":
            columns = {name: line[name] for name in METRICS} | line["statistics"]
            columns |= {"gold_nll": gold[line["step"]]}
            rounded = {name: float(f"{value:.7g}") for name, value in columns.items()}
            found[line["step"]] = line["tokens_seen"], rounded
    return found
