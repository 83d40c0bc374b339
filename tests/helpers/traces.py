"""Reasoning traces of the small world, and tokenizers trained on it."""

import random

from datasets import Dataset

from hf_proxy.recipes.library.carry_chains import problems
from hf_proxy.recipes.library.small_world import train_tokenizer
from hf_proxy.records.rows import TRACE_FEATURES


def make_tokenizer(seed: int, *, vocab_size: int):
    """A byte-level tokenizer that spells every digit."""
    texts = problems(random.Random(seed))
    corpus = [" ".join(next(texts).values()) for _ in range(300)]
    return train_tokenizer(corpus, vocab_size=vocab_size)


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
