"""Starting what users start: commands in this process, launchers in processes of their own."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from filelock import FileLock

from hf_proxy import align_traces
from hf_proxy.cli import main

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent
SERVERS = []  # that end after the session: Popen warns when it is forgotten before


def command(capsys, *arguments):
    """Exit code, table and last JSON line."""
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    last = said.out.splitlines()[-1] if said.out else ""
    return code, said, json.loads(last) if last.startswith("{") else None


def python(*arguments, timeout=300, use_cpu=True):
    """Start a process; a hang fails the test instead of the suite."""
    environment = os.environ | {
        "ACCELERATE_USE_CPU": str(use_cpu).lower(),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(TESTS),
    }
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def torchrun(world_size, *arguments, timeout=300):
    """Start real processes as users start them."""
    command = ["-m", "torch.distributed.run", "--nproc_per_node", world_size]
    # a free port of its own, so that two suites on one machine do not meet
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    return python(*command, *arguments, timeout=timeout)


def write_inputs(folder, tokenizer, traces):
    """What the workers of several processes read."""
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    align_traces(traces, tokenizer).save_to_disk(str(folder / "aligned"))
    traces.to_json(str(folder / "traces.jsonl"))
    prompts = [f"{number} + {number * number} = ?" for number in range(12)]
    (folder / "prompts.txt").write_text("\n".join(prompts))


class Forked:
    """A script on one process or several, started by the fork server of the session.

    Args:
        base (`Path`): the folder that the processes of the session share; who comes first starts
            the server.
        arguments: the script and its arguments.
        num_nodes: that the processes are told they stand on, as by so many launch agents.
    """

    def __init__(self, base, *arguments, world_size=1, num_nodes=1):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(_server(base)))
        self.line = self.socket.makefile("rw")
        self.said = tempfile.TemporaryDirectory()
        out, err = (os.path.join(self.said.name, name) for name in ("stdout", "stderr"))
        own = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        argv = list(map(str, arguments))
        asked = {"argv": argv, "env": os.environ | own, "stdout": out, "stderr": err}
        asked |= {"world_size": world_size, "num_nodes": num_nodes}
        self.line.write(json.dumps(asked) + "\n")
        self.line.flush()
        self.pids = json.loads(self.line.readline())

    def kill_once(self, condition, timeout=180):
        """Kill it, without a warning, as soon as `condition()`; it must be running then."""
        deadline = time.monotonic() + timeout
        try:
            while not condition():
                has_ended = select.select([self.socket], [], [], 0)[0]
                assert not has_ended and time.monotonic() < deadline
                time.sleep(0.005)
        finally:
            for pid in self.pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            done = self.wait()
        assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]

    def wait(self, timeout=300):
        """How it ended; a hang fails the test instead of the suite."""
        self.socket.settimeout(timeout)
        try:
            code = json.loads(self.line.readline())
        except TimeoutError:
            for pid in self.pids:
                os.kill(pid, signal.SIGKILL)
            raise
        out, err = (Path(self.said.name, name).read_text() for name in ("stdout", "stderr"))
        self.line.close()
        self.socket.close()
        self.said.cleanup()
        return subprocess.CompletedProcess(self.pids, code, out, err)


def forked(base, *arguments, **how):
    """What `Forked` ended with."""
    return Forked(base, *arguments, **how).wait()


def _server(base):
    """Path of the socket at which the session's fork server listens."""
    # a socket's path may have 107 letters, pytest's folders have more
    path = base / "fork_server"
    with FileLock(base / "fork_server.lock"):
        if not path.exists():
            where = Path(tempfile.mkdtemp(prefix="hf-proxy-")) / "socket"
            # of pytest-xdist's processes the one that outlives the others
            session = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
            with (base / "fork_server.log").open("w") as log:
                server = subprocess.Popen(
                    [sys.executable, str(TESTS / "fork_server.py"), str(where), str(session)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            SERVERS.append(server)
            while not where.exists():
                assert server.poll() is None, (base / "fork_server.log").read_text()
                time.sleep(0.05)
            path.write_text(str(where))
    return path.read_text()


def ranks(base, world_size, names):
    """Folder of the one start of so many processes that all tests of a session share.

    Args:
        base (`Path`): a folder that the processes of the session share, with the inputs in
            `inputs`; who comes first starts, the others wait.
        names: what is done in turn, as ranks_worker.py names it.
    """
    folder = base / "inputs"
    report = base / f"ranks-{world_size}.json"
    with FileLock(base / f"ranks-{world_size}.lock"):
        if not report.exists():
            work = (TESTS / "ranks_worker.py", world_size, folder, *names)
            done = forked(base, *work, world_size=world_size)
            report.write_text(json.dumps([done.returncode, done.stderr[-6000:]]))
    code, said = json.loads(report.read_text())
    assert code == 0, said
    return folder


SHORT = {"num_steps": 2, "mine_steps": 2, "num_prompts": 4, "num_problems": 6}


def short(**flags):
    """Flags of a demo that learns hardly anything."""
    return [part for name, value in (SHORT | flags).items() for part in (f"--{name}", str(value))]
