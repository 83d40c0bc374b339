"""A process that imports once and, by fork, becomes whatever the tests of a session start.

To start Python and import takes longer than most of what is then done. So this process imports,
listens at a socket, and for each request becomes that script: a real process of its own, or several
with the environment that a launcher gives its ranks, which ends as a script ends.

    python tests/fork_server.py SOCKET PID

It ends when the process PID, that of the session, has. `helpers.processes` asks.
"""

import gc
import json
import os
import runpy
import signal
import socket
import sys
import time
from pathlib import Path

GRACE_S = 60  # for the other ranks to end by themselves once one has failed


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def serve(path: Path, session: int) -> dict | None:
    """What this process is to become, in a forked one; None in the one that listened to the end."""
    with socket.socket(socket.AF_UNIX) as listener:
        hidden = path.with_suffix(".new")
        listener.bind(str(hidden))
        listener.listen()
        hidden.rename(path)  # who sees it can connect
        listener.settimeout(1)
        while is_alive(session):
            try:
                asked, _ = listener.accept()
            except TimeoutError:
                continue
            finally:
                reap()
            if os.fork() == 0:
                listener.close()
                asked.settimeout(None)
                return attend(asked)
            asked.close()
    return None


def reap() -> dict[int, int]:
    """Exit codes of the children that have ended."""
    found = {}
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found[ended[0]] = os.waitstatus_to_exitcode(ended[1])
    except ChildProcessError:
        pass
    return found


def attend(asked: socket.socket) -> dict:
    """Fork the ranks of one request, tell their ids and then how they ended; a rank returns."""
    with asked, asked.makefile("rw") as line:
        wanted = json.loads(line.readline())
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        ranks: dict[int, int] = {}
        local_size = wanted["world_size"] // wanted["num_nodes"]
        for rank in range(wanted["world_size"]):
            pid = os.fork()
            if pid == 0:
                if wanted["world_size"] > 1:
                    wanted["env"] |= {
                        "RANK": str(rank),
                        "LOCAL_RANK": str(rank % local_size),
                        "GROUP_RANK": str(rank // local_size),
                        "WORLD_SIZE": str(wanted["world_size"]),
                        "LOCAL_WORLD_SIZE": str(local_size),
                        "MASTER_ADDR": "localhost",
                        "MASTER_PORT": port,
                    }
                return wanted
            ranks[pid] = rank
        line.write(json.dumps(list(ranks)) + "\n")
        line.flush()
        codes: dict[int, int] = {}
        failure, deadline = 0, float("inf")
        while len(codes) < len(ranks):
            for pid, code in reap().items():
                codes[pid] = code
                if code and not failure:
                    failure, deadline = code, time.monotonic() + GRACE_S
            if time.monotonic() > deadline:
                for pid in set(ranks) - set(codes):
                    os.kill(pid, signal.SIGKILL)
                deadline = float("inf")
            time.sleep(0.01)
        line.write(json.dumps(failure) + "\n")
        line.flush()
    os._exit(0)


def become(wanted: dict) -> None:
    """Run the script as `python SCRIPT ARGUMENT ...` would."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        file = os.open(wanted[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ |= wanted["env"]
    script = wanted["argv"][0]
    sys.argv = wanted["argv"]
    sys.path[0] = str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")


def main(path: Path, session: int) -> None:
    """Import, listen, become."""
    # what the scripts import; sys.path[0] is this folder, whose helpers they may use
    import trl  # noqa: F401, I001
    from helpers import models, traces, trainers  # noqa: F401
    from trl import SFTTrainer  # noqa: F401

    from hf_proxy import SelectiveSFTTrainer, mine_soft_targets, score_traces  # noqa: F401

    gc.collect()
    gc.freeze()  # what is imported stays shared between all that this process becomes
    wanted = serve(path, session)
    if wanted is not None:
        become(wanted)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
