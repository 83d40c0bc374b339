"""Time and memory as a trace set grows, and the speed-up of a second process.

Not a test: nothing is asserted. The first part uses a tiny model, so that everything round the
forward pass weighs most: reading a file, alignment, scoring, bootstrap, each size in a process of
its own. The second scores one set with a real model, on one process and on two, one thread each.

    python tests/benchmarks/scale.py --sizes 1000 10000 100000
    python tests/benchmarks/scale.py --model ~/models/smollm2-135m --traces gsm8k-annotated
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import add, bar, begin, table  # beside this one

HERE = Path(__file__).parent
PARTS = ("read", "align", "score")


def one_size(size, folder):
    """Seconds of each part and the highest resident memory of this process."""
    sys.path.insert(0, str(HERE.parent))
    os.environ["HF_HOME"] = str(folder)
    from helpers.models import make_model

    from hf_proxy import align_traces, load_traces, score_traces
    from hf_proxy.recipes.library.carry_chains import problems
    from hf_proxy.recipes.library.small_world import train_tokenizer

    texts = problems(random.Random(7))
    corpus = [" ".join(next(texts).values()) for _ in range(300)]
    tokenizer = train_tokenizer(corpus, vocab_size=340)
    path = folder / "traces.jsonl"
    with path.open("w") as file:
        for number in range(size):
            row = next(texts)
            words = row["trace"].encode().split(b" ")
            ends = [sum(len(w) + 1 for w in words[: i + 1]) for i in range(len(words))]
            ends[-1] -= 1
            spans = list(zip([0, *ends[:-1]], ends, strict=True))
            row |= {"example_id": str(number), "weighting": "logprob", "frontier_spans": spans}
            row |= {"frontier_logprobs": [-0.1 * (i % 7) for i in range(len(words))]}
            file.write(json.dumps(row) + "\n")
    model = make_model("llama", len(tokenizer))
    found, start = {}, time.perf_counter()
    for name, part in (
        ("read", lambda _: load_traces(path)),
        ("align", lambda traces: align_traces(traces, tokenizer)),
        ("score", lambda aligned: score_traces(model, aligned)),
    ):
        result = part(found.get("last"))
        found["last"] = result
        found[name] = time.perf_counter() - start
        start = time.perf_counter()
    found["labels"] = found.pop("last").num_labels
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found))


def two_processes(model, traces, repeats):
    """Seconds of `hf-proxy score` itself, as it prints them, interleaved; and their bar."""
    recipe = HERE.parent.parent / "recipes" / "score_checkpoints.py"
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    arguments = ["--models", model, "--traces", traces, "--use_score_cache", "false", "--json"]
    seconds = {1: [], 2: []}
    for _ in range(repeats):
        for number in seconds:
            command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node"]
            command += [str(number), "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
            done = subprocess.run(
                [*command, str(recipe), *arguments],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
            seconds[number].append(json.loads(line)["scores"][0]["seconds"])
            print(f"  {number} processes {seconds[number][-1]:.1f} s", file=sys.stderr)
    ratios = [a / b for a, b in zip(seconds[1], seconds[2], strict=True)]
    rows = [{"processes": number, "rounds, s": values} for number, values in seconds.items()]
    for row in rows:
        row["median s"] = statistics.median(row["rounds, s"])
    times = bar(
        "hf-proxy score, two processes of one thread against one",
        statistics.median_low(ratios),
        "at least",
        1.7,
        unit="times as fast",
        model=model,
    )
    return table("hf-proxy score, one thread a process", rows), times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[])
    parser.add_argument("--model")
    parser.add_argument("--traces")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmarks/scale.json"), help="JSON file"
    )
    parser.add_argument("--one_size", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one_size:
        with tempfile.TemporaryDirectory() as folder:
            one_size(args.one_size, Path(folder))
        return
    models = [args.model] if args.model else []
    dtype = "auto" if args.model else "float32"
    content, rows = begin("scale", args, dtype=dtype, models=models), []
    for size in args.sizes:
        command = [sys.executable, __file__, "--one_size", str(size)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append({"traces": size, "labels": found["labels"]})
        rows[-1] |= {f"{n}, ms per trace": 1e3 * found[n] / size for n in PARTS}
        rows[-1]["peak MiB"] = found["peak_mib"]
        print(f"{size} traces done", file=sys.stderr)
    if rows:
        add(content, [table("Tiny model, by size of the set", rows)], [], args.output)
    if args.model:
        processes, times = two_processes(args.model, args.traces, args.repeats)
        add(content, [processes], [times], args.output)


if __name__ == "__main__":
    main()
