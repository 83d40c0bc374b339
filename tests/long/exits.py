"""How often a start of two processes ends as it should, beside busy processes.

Not in the suite: minutes to hours. Each start appends a line to --output; the same line again goes
on where it stopped. Ends with a table, and with 1 where a start ended otherwise than it should.

    python tests/long/exits.py --output outputs/exits.jsonl
    python tests/long/exits.py --output outputs/exits.jsonl --minimal 100 --each 100
    python tests/long/exits.py --output outputs/bare.jsonl --items bare --each 10
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent.parent
RECIPES = HERE.parent / "recipes"
ASSETS = RECIPES / "assets"
WORKERS = ("distributed", "training", "sft", "feeding", "contrast", "mining")
RAISING = ("raise-0", "raise-1", "recipe", "stuck")
SAID = {"recipe": "hf-proxy: error: KeyError: 'lost here'"}


@dataclass(frozen=True)
class Item:
    """A command line for torchrun; {folder} is where inputs lie, {out} is new for each start."""

    arguments: Sequence[str]
    returncode: int = 0
    says: str = ""  # on stderr


def items() -> dict[str, Item]:
    """All that is started, by name."""
    minimal = str(HERE / "exit_worker.py")
    found = {"minimal": Item((minimal, "{out}", "well"))}
    for how in RAISING:
        found[how] = Item((minimal, "{out}", how), 1, SAID.get(how, "KeyError: 'lost here'"))
    for name in WORKERS:
        found[f"{name}_worker"] = Item((str(HERE / "ranks_worker.py"), "2", "{out}", name))
    expert, amateur, traces, questions = (
        str(ASSETS / name) for name in ("expert", "amateur", "traces.parquet", "questions.jsonl")
    )
    prompts = ("--prompts", questions, "--max_new_tokens", "16")
    training = (
        *("--model_name_or_path", expert, "--output_dir", "{out}/run", "--max_steps", "2"),
        *("--use_cpu", "--per_device_train_batch_size", "1", "--world_size", "2", "--bf16", "no"),
    )
    commands = {
        "score": ("score_checkpoints", "--models", expert, "--traces", traces),
        "finetune": (
            *("finetune_with_proxy", "--train_data", "{folder}/rows.jsonl", "--traces", traces),
            *training,
        ),
        "loop": (
            *("closed_loop", "--amateur", amateur, "--traces", traces, *prompts, *training),
            *("--num_prompts", "4", "--num_eval", "2", "--mine_steps", "1"),
        ),
        "contrast mine": (
            *("mine_soft_targets", "mine", "--expert", expert, "--amateur", amateur, *prompts),
            *("--num_prompts", "4", "--output_dir", "{out}/set"),
        ),
    }
    for name, (recipe, *flags) in commands.items():
        found[name] = Item((str(RECIPES / f"{recipe}.py"), *flags))
    found["bare"] = Item((minimal, "{out}", "bare"))  # the race itself; only where asked for
    return found


def prepare(folder: Path) -> None:
    """What the workers and recipes read."""
    sys.path.insert(0, str(HERE))
    import conftest  # noqa: F401 (a Hugging Face home of its own, here and in what is started)
    from helpers.processes import write_inputs
    from helpers.traces import make_tokenizer, make_traces

    write_inputs(folder, make_tokenizer(7, vocab_size=340), make_traces(9))
    rows = [{"prompt": f"How much is {i} and 2?", "completion": f" {i + 2}."} for i in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def start(item: Item, folder: Path, timeout_s: float) -> dict:
    """One start, to its end or the time limit."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(HERE),
    }
    with tempfile.TemporaryDirectory() as out:
        for path in folder.iterdir():
            (Path(out) / path.name).symlink_to(path)
        command += [part.format(folder=folder, out=out) for part in item.arguments]
        begin = time.monotonic()
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            _, said = process.communicate(timeout=timeout_s)
            hang = False
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)  # torchrun ends its ranks, as a user would
            try:
                _, said = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                _, said = process.communicate()
            hang = True
    # -15 is torchrun's own, for ranks that were slower to end than the first that failed
    codes = [int(code) for code in re.findall(r"exitcode\s*: (-?\d+)", said)]
    well = not hang and process.returncode == item.returncode and item.says in said
    well = well and all(code in (item.returncode, -signal.SIGTERM) for code in codes)
    return {
        "seconds": round(time.monotonic() - begin, 1),
        "returncode": process.returncode,
        "rank_exit_codes": codes,
        "signals": sorted({signal.Signals(-code).name for code in codes if code < 0}),
        "hang": hang,
        "as_it_should": well,
        "stderr": "" if well else said[-4000:],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="JSON lines, appended to")
    parser.add_argument("--minimal", type=int, default=100, help="starts of the minimal script")
    parser.add_argument("--each", type=int, default=10, help="starts of each other item")
    parser.add_argument("--items", nargs="+", help="only these")
    parser.add_argument("--busy", type=int, default=4, help="busy processes beside it")
    parser.add_argument("--timeout_s", type=float, default=400, help="what lasts longer hangs")
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    lines = args.output.read_text().splitlines() if args.output.exists() else []
    done = [json.loads(line) for line in lines]
    busy = []
    with tempfile.TemporaryDirectory() as folder, args.output.open("a") as file:
        prepare(Path(folder))
        every = items()
        names = args.items or [name for name in every if name != "bare"]
        try:
            for _ in range(args.busy):
                busy.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            for name in names:
                count = args.minimal if name == "minimal" else args.each
                for number in range(sum(line["item"] == name for line in done), count):
                    found = start(every[name], Path(folder), args.timeout_s)
                    done.append({"item": name, "number": number, "busy": args.busy} | found)
                    print(json.dumps(done[-1], indent=None)[:300], flush=True)
                    file.write(json.dumps(done[-1]) + "\n")
                    file.flush()
        finally:
            for process in busy:
                process.kill()
                process.wait()
    print(f"{'':<20}{'starts':>8}{'well':>8}{'hung':>8}{'aborted':>8}{'longest, s':>12}")
    for name in dict.fromkeys(line["item"] for line in done):
        own = [line for line in done if line["item"] == name]
        well, hung = (sum(line[key] for line in own) for key in ("as_it_should", "hang"))
        aborted = sum("SIGABRT" in line["signals"] for line in own)
        longest = max(line["seconds"] for line in own)
        print(f"{name:<20}{len(own):>8}{well:>8}{hung:>8}{aborted:>8}{longest:>12.1f}")
    return 0 if all(line["as_it_should"] for line in done if line["item"] != "bare") else 1


if __name__ == "__main__":
    raise SystemExit(main())
