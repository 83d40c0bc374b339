"""Reasoning traces of the small world, tokenizers trained on it, aligned rows by hand."""

import json
import random

from datasets import Dataset

from hf_proxy.recipes.library.carry_chains import problems
from hf_proxy.recipes.library.small_world import train_tokenizer
from hf_proxy.records.rows import ALIGNED_FEATURES, TRACE_FEATURES

NAMES = ("Ada", "Ben", "Chloé", "Dana", "Emil", "Fatima", "Goro", "Hana")
THINGS = ("apples", "books", "coins", "eggs", "kites", "pens")
VERBS = ("buys", "finds", "gets", "gives away", "loses", "sells")


def make_tokenizer(seed: int, *, vocab_size: int):
    """A byte-level tokenizer that spells every digit, of texts with enough words for its size."""
    rng = random.Random(seed)
    texts = problems(rng)
    corpus = [" ".join(next(texts).values()) for _ in range(100)]
    for _ in range(300):
        name, thing, verb = rng.choice(NAMES), rng.choice(THINGS), rng.choice(VERBS)
        start, number = rng.randint(2, 50), rng.randint(2, 50)
        corpus.append(
            f"{name} has {start} {thing}. Then {name} {verb} {number} more. How many {thing} does "
            f"{name} have? Next, {start}+{number}={start + number}. So the answer is {number}."
        )
    tokenizer = train_tokenizer(corpus, vocab_size=vocab_size)
    assert len(tokenizer) == vocab_size
    return tokenizer


def make_traces(num_traces: int, *, seed: int = 0) -> Dataset:
    """Solutions of very different lengths, each word a frontier token of random confidence."""
    rng = random.Random(seed)
    texts = problems(rng)
    rows = []
    for number in range(num_traces):
        row = next(texts)
        # uneven: the longest is several times the shortest
        trace = " ".join(next(texts)["trace"] for _ in range(rng.choice((2, 2, 4, 10))))
        words = [word.encode() for word in trace.split(" ")]
        ends = [sum(len(w) + 1 for w in words[: i + 1]) for i in range(len(words))]
        ends[-1] -= 1
        rows.append(
            {
                "example_id": f"t{number}",
                "prompt": row["prompt"],
                "trace": trace,
                "weighting": "logprob",
                "frontier_spans": list(zip([0, *ends[:-1]], ends, strict=True)),
                "frontier_logprobs": [-2 * rng.random() for _ in words],
            }
        )
    return Dataset.from_list(rows, features=TRACE_FEATURES)


def bigram_aligned(weights_of_rows, ids_of_rows):
    """Aligned rows written by hand; id 0 is the context."""
    parts = {"traces": "t", "num_traces": len(ids_of_rows), "tokenizer": "k", "context": "text"}
    rows = [
        {
            "example_id": f"{number}",
            "input_ids": [0, *ids],
            "label_start": 1,
            "label_weight": [0.0, *weights],
            "label_spans": [[i, i + 1] for i in range(len(ids))],
            "num_bytes": len(ids),
            "setting_parts": json.dumps(parts),
        }
        for number, (ids, weights) in enumerate(zip(ids_of_rows, weights_of_rows, strict=True))
    ]
    return Dataset.from_list(rows, features=ALIGNED_FEATURES)
