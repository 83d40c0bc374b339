"""Everything is made in place: no download, no GPU, nothing written outside a temporary home."""

import os
import tempfile

# before any Hugging Face library is imported: they read these once
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# one thread each: two suites of tests share the cores, and sums keep their order
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# of this worker alone
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf-proxy-tests-")

import json
import random

import pytest
from filelock import FileLock
from helpers.processes import ranks, write_inputs
from helpers.traces import make_traces

from hf_proxy.recipes.library.small_world import problems, train_tokenizer

# files whose tests take longest, in this order: begun last, one alone would keep a worker busy
LONGEST = ("test_closed_loop", "test_distributed", "test_cli", "test_recipes", "test_sft")


def pytest_collection_modifyitems(items):
    """The longest files first, the others as they were found."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


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


@pytest.fixture(scope="session")
def shared(tmp_path_factory, tokenizer, traces):
    """A folder that all workers of pytest-xdist share, with what several processes read."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    inputs = base / "inputs"
    with FileLock(base / "inputs.lock"):
        if not inputs.exists():
            write_inputs(inputs, tokenizer, traces)
    return base


@pytest.fixture(scope="session")
def of_ranks(shared):
    """What `NAME_worker.py` found on so many processes: `of_ranks("sft", 2)`.

    Each number of processes is started once in a session, for all that is asked of it.
    """
    names = {2: ("distributed", "training", "sft", "feeding", "contrast")}
    names[3] = ("distributed", "mining")

    def found(name, world_size):
        folder = ranks(shared, world_size, names[world_size])
        return json.loads((folder / f"{name}-{world_size}.json").read_text())

    return found
