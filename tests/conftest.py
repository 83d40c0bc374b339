"""Everything is made in place: no download, no GPU, nothing written outside a temporary home.

Libraries are imported inside fixtures: of pytest-xdist's three processes only two run tests.
"""

import gc
import json
import logging
import os
import tempfile

import pytest
from hypothesis import settings

# before any Hugging Face library is imported: they read these once
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# DeepSpeed, once imported, looks for an accelerator and prints to standard output what it found
os.environ.setdefault("DS_ACCELERATOR", "cpu")
# one thread each: workers share the cores, and sums keep their order
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# of this worker alone
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf-proxy-tests-")

# files whose tests take longest, in this order: begun last, one would keep a worker busy alone
LONGEST = ("test_closed_loop", "test_distributed", "test_packaging", "test_recipes", "test_sft")
# what is done in the one start of so many processes
DONE_BY = {2: ("distributed", "training", "sft", "feeding", "contrast", "foretelling", "building")}
DONE_BY[3] = ("distributed", "mining")


# properties: few examples here, many in `make long`
settings.register_profile("suite", max_examples=15)
settings.register_profile("long", max_examples=200)
settings.load_profile("suite")


def pytest_collection_modifyitems(items):
    """The longest files first, the others as they were found."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_collection_finish():
    """What has been imported is never garbage: each training's end looks through all the rest."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def heard():
    """What a benchmark silences for a process of its own is heard again by the next test."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="session")
def tokenizer():
    from helpers.traces import make_tokenizer

    return make_tokenizer(7, vocab_size=340)


@pytest.fixture(scope="session")
def other_tokenizer():
    from helpers.traces import make_tokenizer

    return make_tokenizer(8, vocab_size=280)


@pytest.fixture(scope="session")
def traces():
    from helpers.traces import make_traces

    return make_traces(9)


@pytest.fixture(scope="session")
def shared(tmp_path_factory, tokenizer, traces):
    """A folder that all workers share, with what several processes read in `inputs`."""
    from filelock import FileLock
    from helpers.processes import write_inputs

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
    from helpers.processes import ranks

    def found(name, world_size):
        folder = ranks(shared, world_size, DONE_BY[world_size])
        return json.loads((folder / f"{name}-{world_size}.json").read_text())

    return found
