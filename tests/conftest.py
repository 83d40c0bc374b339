"""Everything is made in place: no download, no GPU, nothing written outside a temporary home."""

import os
import tempfile

# before any Hugging Face library is imported: they read these once
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf-proxy-tests-")

import random

import pytest
import torch
from datasets import Dataset
from torch.utils._python_dispatch import TorchDispatchMode

from hf_proxy.recipes.library.small_world import problems, train_tokenizer
from hf_proxy.records.rows import TRACE_FEATURES


class LargestTensor(TorchDispatchMode):
    """Records the largest number of elements of any tensor that an operation gives."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return result


def make_traces(num_traces: int, *, seed: int = 0) -> Dataset:
    """Solutions of very different lengths, each word a frontier token of random confidence."""
    rng = random.Random(seed)
    texts = problems(rng)
    rows = []
    for number in range(num_traces):
        row = next(texts)
        # uneven: the longest is several times the shortest
        trace = " ".join(next(texts)["trace"] for _ in range(rng.choice((1, 1, 2, 5))))
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


@pytest.fixture(scope="session")
def tokenizer():
    texts = problems(random.Random(7))
    return train_tokenizer([" ".join(next(texts).values()) for _ in range(300)], vocab_size=340)


@pytest.fixture(scope="session")
def other_tokenizer():
    texts = problems(random.Random(8))
    return train_tokenizer([" ".join(next(texts).values()) for _ in range(300)], vocab_size=280)


@pytest.fixture(scope="session")
def traces():
    return make_traces(9)
