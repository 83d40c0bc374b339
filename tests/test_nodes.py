"""Several nodes, with a shared disk and without: right, or refused by name; never half a set."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from helpers.mining import mine
from helpers.models import sharp_pair
from helpers.processes import ROOT, TESTS, forked
from transformers import AutoModelForCausalLM

WORKER = TESTS / "nodes_worker.py"
ASSETS = ROOT / "recipes" / "assets"
CASES = ("token", "fresh", "best", "best_on_each", "late", "same_disk", "watched", "mined")
CASES += ("mined_shared", "foretold", "built", "other_step", "resumed", "apart", "recipe")
HALF = "rank 1 does not see what rank 0 writes here, and each node would hold a part of the set"


def agents(folder, *launch, is_shared):
    """Two launch agents, each with its number behind `--node_rank` or the like, the last word.

    In `folder / "disk"`, which is one for both, or, by mount namespaces, another for each.
    """
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(TESTS),
    }
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    started = []
    for rank in range(2):
        own = folder / f"disk-of-{rank}"
        own.mkdir(exist_ok=True)
        command = [sys.executable, "-m", *[str(word).format(rank=rank) for word in launch]]
        if not is_shared:
            mount = f'mount --bind {own} {disk} && cd {disk} && exec "$@"'
            command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *command]
        with (folder / f"said-{rank}").open("w") as said:
            started.append(
                subprocess.Popen(command, cwd=disk, env=environment, stdout=said, stderr=said)
            )
    return started


def codes(folder, started, timeout=240):
    """How the agents ended; a hang fails the test instead of the suite."""
    try:
        return [agent.wait(timeout) for agent in started]
    finally:
        for agent in started:
            die(agent)
        for rank in range(2):
            print((folder / f"said-{rank}").read_text()[-5000:])


def die(agent):
    """A node dies: the agent and all that it has started, at once."""
    if agent.poll() is None:
        process = psutil.Process(agent.pid)
        for one in (process, *process.children(recursive=True)):
            one.send_signal(signal.SIGKILL)
    agent.wait()


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def played(shared, tmp_path_factory):
    """By case what each of two processes found that are told to be two nodes."""
    folder = tmp_path_factory.mktemp("nodes")
    for rank in range(2):
        (folder / f"node{rank}").mkdir()
    own = f"{folder}/node{{rank}}"
    how = {"world_size": 2, "num_nodes": 2}
    done = forked(shared, WORKER, folder, shared / "inputs", own, *CASES, **how)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


def found_in(folder):
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.distributed
def test_nodes_without_a_shared_disk(played, tokenizer, tmp_path):
    check(played, tokenizer, tmp_path)
    # refused before any work: no node holds a part of a set
    left = [path for rank in range(2) for path in (played / f"node{rank}").rglob("*.arrow")]
    assert left == []


def check(folder, tokenizer, tmp_path):
    """What two nodes have found, see nodes_worker.py."""
    found = found_in(folder)
    # the main process decides: all but the lines on its own disk is told to both
    lines = [own.pop("fresh") for own in found]
    assert [steps for steps, _ in lines] == [[0, 2], []] and lines[0][1] == lines[1][1]
    own = found[0]
    assert found[1] == own
    assert own["token"] == [[[1], []], []]
    for said in own["best"]:
        assert "field load_best_model_at_end: rank 1 does not see the weights" in said
    assert len(own["best"]) == 2 and "tune an adapter with save_on_each_node=True" in own["best"][0]
    best = own["best_on_each"]
    assert best["best"].endswith("checkpoint-2") and best["nll"] == best["best_nll"]
    assert own["late"] == [0, 1]
    assert "ranks 0 and 1 would write the same files here; leave it out" in own["same_disk"]
    for case in ("watched", "mined", "foretold", "built"):
        assert HALF in own[case] and "on a disk that all nodes share" in own[case]
    whole = mine(sharp_pair(len(tokenizer)), tokenizer, tmp_path / "mined").to_dict()
    assert own["mined_shared"] == whole
    assert "the step that the run goes on from differs between rank 0 and rank" in own["other_step"]
    without, of_another, went_on = own["resumed"]
    assert "rank 0 would go on from checkpoint-2, which rank 1 does not have" in without
    assert of_another == without and went_on == 4
    weights, checkpoints, rows = own["apart"]
    assert "checkpoint-1: rank 1 has other weights here than rank 0" in weights
    assert "the list of checkpoints differs between rank 0 and rank 1" in checkpoints
    assert "the number of rows to train on differs between rank 0 and rank 1" in rows
    assert [step for step, _ in own["recipe"]] == [0, 1]


@pytest.mark.long
@pytest.mark.distributed
def test_two_agents_without_a_shared_disk(shared, tmp_path, tokenizer):
    launch = ("torch.distributed.run", "--nnodes", 2, "--nproc_per_node", 1)
    launch += ("--master_addr", "127.0.0.1", "--master_port", free_port(), "--node_rank", "{rank}")
    work = (WORKER, tmp_path, shared / "inputs", tmp_path / "disk", *CASES)
    started = agents(tmp_path, *launch, *work, is_shared=False)
    assert codes(tmp_path, started) == [0, 0]
    check(tmp_path, tokenizer, tmp_path)


@pytest.mark.long
@pytest.mark.distributed
def test_a_node_that_dies_and_the_same_line_again(tmp_path):
    """By recipes/accelerate_two_nodes.yaml as it stands, but for the number of processes."""
    (tmp_path / "rows.jsonl").write_text(
        "".join(
            json.dumps({"prompt": f"What is {n} plus 3?", "completion": f" {n + 3}."}) + "\n"
            for n in range(24)
        )
    )
    launch = ("accelerate.commands.accelerate_cli", "launch", "--config_file")
    launch += (ROOT / "recipes" / "accelerate_two_nodes.yaml", "--num_processes", 2)
    launch += ("--main_process_ip", "127.0.0.1", "--machine_rank", "{rank}")
    flags = {
        "model_name_or_path": ASSETS / "expert",
        "train_data": tmp_path / "rows.jsonl",
        "traces": ASSETS / "traces.parquet",
        "output_dir": "run",
        "num_eval": 4,
        "eval_strategy": "steps",
        "eval_steps": 10,
        "save_steps": 10,
        "max_steps": 40,
        "per_device_train_batch_size": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_rbridge_nll",
        "greater_is_better": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "world_size": 2,
    }
    work = [ROOT / "recipes" / "finetune_with_proxy.py"]
    work += [word for name, value in flags.items() for word in (f"--{name}", value)]

    def start():
        port = ("--main_process_port", free_port())
        return agents(tmp_path, *launch, *port, *work, is_shared=True)

    run = tmp_path / "disk" / "run"
    started = start()
    deadline = time.monotonic() + 120
    while not (run / "checkpoint-10" / "trainer_state.json").exists():
        assert time.monotonic() < deadline and started[0].poll() is None
        time.sleep(0.02)
    die(started[0])  # the main one; of the other the main one waits 30 s for a word
    began = time.monotonic()
    assert codes(tmp_path, started)[1] > 0
    print(f"the other node ended {time.monotonic() - began:.1f} s later")
    assert time.monotonic() - began < 60
    assert not (run / "model.safetensors").exists()
    assert codes(tmp_path, start()) == [0, 0]
    lines = (run / "hf_proxy" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 10, 20, 30, 40]
    assert AutoModelForCausalLM.from_pretrained(run).num_parameters() > 0
