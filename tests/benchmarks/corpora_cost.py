"""What a training of `corpora.py` costs: a raw loop, Trainer, the callback; the projected run."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import corpora_world as setup
import results
import torch
from corpora_documents import CORPORA
from corpora_world import BATCH_SIZE, CONTEXT, Size, World, plain_traces
from transformers import get_linear_schedule_with_warmup, set_seed

from hf_proxy import align_traces, score_traces
from hf_proxy.recipes.library.small_world import HELD_OUT, collate, make_model, solve, train_on

SHORT, LONG, ROUNDS = 5, 30, 2  # steps of a measurement; rounds, taken in turn


def raw_loop(model: Any, documents: Sequence[dict], num_steps: int, learning_rate: float) -> None:
    """The same training without Trainer: what its steps cost at the least."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = get_linear_schedule_with_warmup(optimizer, 50, num_steps)
    model.train()
    for step in range(num_steps):
        batch = collate(documents[step * BATCH_SIZE : (step + 1) * BATCH_SIZE])
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def measured_cost(world: World) -> dict[str, Any]:
    """CPU seconds of every part, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measured_cost(world)
    finally:
        torch.set_num_threads(threads)


def _measured_cost(world: World) -> dict[str, Any]:
    tests = world.problems("test", setup.NUM_PROBLEMS)
    rows = world.problems("trace", setup.NUM_TRACES)
    traces = plain_traces([row | {"example_id": f"{i}"} for i, row in enumerate(rows)])
    aligned = align_traces(traces, world.tokenizer, context=CONTEXT)
    start = time.process_time()
    documents = world.documents(CORPORA["sloppy 50 %"], "of the cost", LONG)
    found: dict[str, Any] = {"documents_of_a_step_s": (time.process_time() - start) / LONG}
    sizes = setup.SIZES | {"expert": setup.EXPERT}
    found["sizes"] = {
        name: _cost_of_size(world, size, documents, tests, aligned) for name, size in sizes.items()
    }
    return found


def _cost_of_size(world: World, size: Size, documents: Any, tests: Any, aligned: Any) -> dict:
    def new() -> Any:
        set_seed(0)
        return make_model(world.tokenizer, size.width, size.layers)

    def with_trainer(model: Any, num_steps: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            train_on(
                model,
                world.tokenizer,
                documents,
                num_steps,
                batch_size=BATCH_SIZE,
                learning_rate=size.learning_rate,
                seed=0,
                output_dir=Path(folder),
            )

    def raw(model: Any, num_steps: int) -> None:
        raw_loop(model, documents[HELD_OUT:], num_steps, size.learning_rate)

    spent: dict[tuple[Any, int], list[float]] = {}
    for _ in range(ROUNDS):
        for way in (raw, with_trainer):
            for num_steps in (SHORT, LONG):
                seconds = _seconds(lambda w=way, n=num_steps: w(new(), n))
                spent.setdefault((way, num_steps), []).append(seconds)
    least = {key: min(own) for key, own in spent.items()}
    # two lengths, so that what a training costs once is not taken for its steps'
    steps = {
        w: max(0.0, least[w, LONG] - least[w, SHORT]) / (LONG - SHORT) for w in (raw, with_trainer)
    }
    model = new()
    return {
        "parameters": model.num_parameters(),
        "raw_step_s": steps[raw],
        "trainer_step_s": steps[with_trainer],
        "trainer_start_s": least[with_trainer, SHORT] - SHORT * steps[with_trainer],
        "test_s": _seconds(lambda: solve(model, world.tokenizer, tests)),
        "score_s": _seconds(lambda: score_traces(model, aligned)),
    }


def _seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def projected(cost: dict[str, Any], number: int, *, scored: bool) -> float:
    """CPU seconds of so many corpora and seeds, expert and traces among them."""
    steps = max(size.points[-1] for size in setup.SIZES.values())
    each = steps * cost["documents_of_a_step_s"]
    for name, size in setup.SIZES.items():
        own = cost["sizes"][name]
        each += size.points[-1] * own["trainer_step_s"] + own["trainer_start_s"]
        points = setup.points_of(size, scored=scored)
        # an expert's traces and the gold answers, and both before the first step
        each += len(points) * own["test_s"] + scored * (len(points) + 1) * 2 * own["score_s"]
    expert = setup.EXPERT.points[-1] * cost["sizes"]["expert"]["trainer_step_s"]
    return number * each + scored * expert


def overhead_table(cost: dict[str, Any]) -> dict[str, Any]:
    """Trainer and callback against a raw loop, for each size, over its whole training."""
    rows = []
    for name, size in setup.SIZES.items():
        own, steps, points = cost["sizes"][name], size.points[-1], len(size.points)
        raw = steps * own["raw_step_s"]
        scores = (points + 1) * 2 * own["score_s"]
        rows.append(
            {
                "model": name,
                "parameters": own["parameters"],
                "raw loop, ms a step": 1000 * own["raw_step_s"],
                "Trainer, ms a step": 1000 * own["trainer_step_s"],
                "Trainer over raw loop": own["trainer_step_s"] / own["raw_step_s"],
                "its start, s": own["trainer_start_s"],
                "a score, s": own["score_s"],
                "a test, s": own["test_s"],
                "scores over raw loop, %": 100 * scores / raw,
                "tests over raw loop, %": 100 * points * own["test_s"] / raw,
            }
        )
    return results.table("What Trainer, scores and tests cost, CPU seconds on one thread", rows)
