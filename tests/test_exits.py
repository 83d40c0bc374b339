"""How a script of several processes ends: every thread joined, every rank with the first failure.

The counts beside busy processes: tests/long/exits.py.
"""

import json
import sys

import pytest
import torch.distributed as dist
from helpers.processes import TESTS, forked, torchrun

from hf_proxy.models.parallel import end_processes, end_together
from hf_proxy.records.errors import InputError

WORKER = TESTS / "exit_worker.py"


@pytest.mark.distributed
@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_no_thread_of_the_group_outlives_it(shared, tmp_path):
    done = forked(shared, WORKER, tmp_path, "well", world_size=2)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        found = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        # not chance: a thread that is gone cannot be unwound, though a wrapped model still lives
        assert "pt_gloo_runloop" in found["during"] and found["after"] == []


@pytest.mark.distributed
@pytest.mark.parametrize("by", ["fork", pytest.param("torchrun", marks=pytest.mark.long)])
def test_a_rank_that_raises_ends_all_with_its_message(by, shared, tmp_path):
    # bounded: the collective that the other rank is in would wait for half an hour
    if by == "fork":
        done = forked(shared, WORKER, tmp_path, "recipe", world_size=2)
    else:
        done = torchrun(2, WORKER, tmp_path, "recipe", timeout=300)
        assert "exitcode  : 1" in done.stderr and "exitcode  : -6" not in done.stderr
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("hf-proxy: error")]
    assert said == ["hf-proxy: error: KeyError: 'lost here' (--debug shows where)"]


@pytest.fixture
def store():
    """Of a group of this process alone."""
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield store
    assert not dist.is_initialized()


def report(store, **changes):
    """Another rank has failed before."""
    theirs = {"rank": 1, "kind": "KeyError", "message": "'lost'", "is_input": False} | changes
    dist.distributed_c10d._get_default_store().set("hf_proxy/failure", json.dumps(theirs))


def test_the_first_failure_is_said_and_kept(store):
    said, failure = [], InputError("row 3")
    assert end_processes(failure, said.append) is failure
    assert said == [failure]


@pytest.mark.parametrize("mine", [None, RuntimeError("Connection closed by peer")])
def test_a_rank_ends_with_the_failure_of_the_first(store, mine):
    report(store)
    said = []
    found = end_processes(mine, said.append)
    assert type(found) is RuntimeError and str(found) == "rank 1 stopped with KeyError: 'lost'"
    assert said == []


def test_bad_input_of_another_rank_is_bad_input_here(store):
    report(store, kind="InputError", message="row 3", is_input=True)
    with pytest.raises(InputError, match="^row 3$"), end_together():
        pass


def test_an_error_of_its_own_stays(store):
    report(store)
    mine = KeyError("mine")
    assert end_processes(mine) is mine


def test_without_a_group_nothing_is_closed_and_nothing_said():
    mine = KeyError("mine")
    assert end_processes() is None
    assert end_processes(mine, lambda _: pytest.fail("said")) is mine
    with pytest.raises(KeyError), end_together():
        raise mine
