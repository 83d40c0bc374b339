"""What the statistics of traces cost on top of the pass that gives log-probabilities and ranks.

A tiny model with a large vocabulary, so that reading the logits weighs most, on traces of the
package. The plain pass is this script's own: softmax, rank and ties of each label and nothing else,
in place of the reading of labels in `score_traces`. Interleaved rounds; peaks in processes of their
own. Then, of a trained model, how many labels change their rank with precision and batches.

    python tests/benchmarks/label_statistics.py
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from results import MIB, add, bar, begin, table  # beside this one
from scoring import EXACT_MALLOC, peak_bytes
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_proxy import align_traces, load_traces, score_traces, token_logprobs
from hf_proxy.models.labels import LabelLogprobs
from hf_proxy.models.logits import CPU_ROWS_PER_BLOCK, read_logits
from hf_proxy.scoring import forwards, scoring
from hf_proxy.scoring.statistics import Statistics

ASSETS = Path(__file__).parent.parent.parent / "recipes" / "assets"
TIME_BAR, MEMORY_BAR_MIB = 1.10, 16
WAYS = ("plain", "statistics")


def plain_labels(model, batch, transform, *, device):
    """Log-probability, rank and ties of each label; the other columns hold the first."""
    parts = []

    def consume(head_CV, where):
        label_C1 = batch.label_N[where, None]
        blocks = zip(
            head_CV.split(CPU_ROWS_PER_BLOCK), label_C1.split(CPU_ROWS_PER_BLOCK), strict=True
        )
        for block_CV, label_1 in blocks:
            logit_V = transform(block_CV.to(torch.float32, copy=True))
            logprob_V = torch.log_softmax(logit_V, dim=-1)
            own = logprob_V.gather(1, label_1)[:, 0]
            logit_1 = logit_V.gather(1, label_1)
            greater = torch.gt(logit_V, logit_1, out=logprob_V).sum(-1)
            parts.append((own, greater, logit_V.eq_(logit_1).sum(-1) - 1))

    read_logits(model, batch, consume, device=device)
    logprob, greater, equal = (torch.cat(part) for part in zip(*parts, strict=True))
    logprob = logprob.double()
    return LabelLogprobs(logprob, greater.long(), equal.long(), logprob, logprob, logprob)


def score(way, model, aligned):
    """`score_traces`, or what it is without the statistics."""
    if way == "statistics":
        return score_traces(model, aligned)
    own = forwards.label_logprobs, scoring.statistics_of
    forwards.label_logprobs = plain_labels
    scoring.statistics_of = lambda *args, **kwargs: Statistics({}, {}, {})
    try:
        return score_traces(model, aligned)
    finally:
        forwards.label_logprobs, scoring.statistics_of = own


def prepare(args):
    """A tiny model with the large vocabulary, and aligned traces."""
    tokenizer = AutoTokenizer.from_pretrained(str(ASSETS / "expert"))
    traces = load_traces(ASSETS / "traces.parquet")
    aligned = align_traces(traces.select(range(args.num_traces)), tokenizer)
    dtype = getattr(torch, args.dtype)
    model = AutoModelForCausalLM.from_pretrained(str(ASSETS / "expert"), dtype=dtype).eval()
    if args.ranks == "random":
        config = model.config
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    torch.manual_seed(0)
    width = model.get_output_embeddings().weight.shape[0]
    wide = torch.nn.Linear(model.config.hidden_size, args.vocabulary, bias=False, dtype=dtype)
    with torch.no_grad():
        # of a trained head the new rows are small, so that its labels keep their ranks
        wide.weight.mul_(0.1 if args.ranks == "trained" else 1)
        wide.weight[:width] = model.get_output_embeddings().weight
    model.set_output_embeddings(wide)
    model.config.vocab_size = args.vocabulary
    return model, aligned


def peak(args):
    """In a process of its own: the peak of one way, after a first call that makes all resident."""
    model, aligned = prepare(args)
    score(args.memory_of, model, aligned.select([0]))
    return peak_bytes(lambda: score(args.memory_of, model, aligned), torch.device("cpu"))


def peak_in_subprocess(args, way):
    """`peak` of a way, in bytes."""
    command = [sys.executable, __file__, "--memory_of", way, "--dtype", args.dtype]
    command += [
        "--ranks",
        args.ranks,
        "--vocabulary",
        str(args.vocabulary),
        "--num_traces",
        str(args.num_traces),
    ]
    run = subprocess.run(
        command, env=os.environ | EXACT_MALLOC, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(run.stdout.splitlines()[-1])


def places(model, aligned, **settings):
    """Greater and equal of every label, in the order of `aligned`."""
    rows = token_logprobs(model, aligned, **settings)
    return [pair for row in rows for pair in zip(row["greater"], row["equal"], strict=True)]


def moved(num_traces):
    """Labels of the bundled expert whose place differs from another way to the same number."""
    tokenizer = AutoTokenizer.from_pretrained(str(ASSETS / "expert"))
    traces = load_traces(ASSETS / "traces.parquet").select(range(num_traces))
    aligned = align_traces(traces, tokenizer)
    rows, exact = [], None
    for dtype in ("float64", "float32", "bfloat16"):
        model = AutoModelForCausalLM.from_pretrained(
            str(ASSETS / "expert"), dtype=getattr(torch, dtype)
        )
        base = places(model, aligned)
        exact = exact or base
        rows.append(
            {"dtype": dtype, "labels": len(base), "tied": sum(equal > 0 for _, equal in base)}
            | {
                f"moved: {name}": sum(a != b for a, b in zip(one, other, strict=True))
                for name, one, other in (
                    ("against float64", exact, base),
                    ("in batches of 64 tokens", base, places(model, aligned, tokens_per_batch=64)),
                    ("packed", base, places(model, aligned, padding_free=True)),
                )
            }
        )
    return rows


def main():
    """Time, memory, and ranks that moved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--num_traces", type=int, default=64)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument(
        "--ranks",
        default="trained",
        choices=["trained", "random"],
        help="the bundled expert with a widened head, or random weights, whose labels never lead",
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no_memory", action="store_true", help="leave the memory out")
    parser.add_argument("--memory_of", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("outputs/benchmarks/label_statistics.json"),
        help="JSON file",
    )
    args = parser.parse_args()
    if args.memory_of:
        print(peak(args))
        return
    content = begin("label_statistics", args, dtype=args.dtype)
    model, aligned = prepare(args)
    values = {way: score(way, model, aligned) for way in WAYS}
    seconds = {way: [] for way in WAYS}
    for _ in range(args.repeats):
        for way in WAYS:
            start = time.process_time()
            score(way, model, aligned)
            seconds[way].append(time.process_time() - start)
    rounds = [b / a for a, b in zip(*seconds.values(), strict=True)]
    peaks = {} if args.no_memory else {way: peak_in_subprocess(args, way) for way in WAYS}
    rows = [
        {
            "way": way,
            "median CPU s": statistics.median(seconds[way]),
            "value": values[way].value,
            "top-1": values[way].top1_agreement,
            "peak MiB": peaks[way] / MIB if peaks else None,
            "rounds, s": seconds[way],
        }
        for way in WAYS
    ]
    name = f"a vocabulary of {args.vocabulary:,}, {args.dtype}, {args.ranks} ranks"
    bars = [
        bar(
            f"all statistics against the plain pass, CPU seconds, {name}",
            statistics.median(rounds),
            "at most",
            TIME_BAR,
            unit="times",
        )
    ]
    if peaks:
        bars.append(
            bar(
                f"all statistics, peak memory above the plain pass, {name}",
                (peaks["statistics"] - peaks["plain"]) / MIB,
                "at most",
                MEMORY_BAR_MIB,
                unit="MiB",
            )
        )
    tables = [
        table(f"{values['plain'].num_labels:,} labels, {name}", rows),
        table("labels of the bundled expert whose rank moves", moved(args.num_traces)),
    ]
    add(content, tables, bars, args.output)


if __name__ == "__main__":
    main()
