"""Processes beside each other end with the one that started them, and with the first failure."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import os, sys, time
from hf_proxy.recipes.library.workers import worker_pool

def work(seconds):
    os.write(1, f"{os.getpid()}\\n".encode())  # one write: lines of two do not mix
    if seconds < 0:
        raise ValueError("the first failed")
    time.sleep(seconds)

if __name__ == "__main__":
    with worker_pool(2) as pool:
        jobs = [pool.submit(work, float(seconds)) for seconds in sys.argv[1:]]
        for job in jobs:
            job.result()
"""


@pytest.fixture
def start(tmp_path):
    path = Path(tmp_path / "script.py")
    path.write_text(SCRIPT)

    def start(*seconds):
        argv = [sys.executable, str(path), *map(str, seconds)]
        return subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    return start


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # one that nobody has waited for is there and runs no more
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_killed_parent_leaves_nothing_behind(start):
    process = start(600, 600)
    workers = [int(process.stdout.readline()) for _ in range(2)]
    assert all(map(is_there, workers))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)  # ends once nobody holds the pipes
    until = time.monotonic() + 20
    while any(map(is_there, workers)):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_failure_does_not_wait_for_what_has_not_begun(start):
    process = start(-1, *[0.2] * 40)
    said, error = process.communicate(timeout=60)
    assert process.returncode == 1 and "the first failed" in error
    assert len(said.split()) < 30
