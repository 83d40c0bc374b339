"""Speed and memory of `score_traces`, against the bare model and against lm-evaluation-harness.

Every way scores the same token ids with the same weights in the same dtype, in interleaved rounds,
so that a change in the machine's clock or load falls on all of them; what is quoted are medians and
ratios within a round. Not a test: nothing is asserted, bars are marked met or NOT met.

    python tests/benchmarks/scoring.py --models ~/models/smollm2-135m --traces gsm8k_test.jsonl

The ways:
    headless   base model only, up to the last hidden states
    bare       base model, then the head at the label positions, once per batch: logits [N, V] and
               nothing else. Its batches are made before the clock starts
    ours       score_traces, batches and bootstrap included. Alignment is done before the clock
               starts: it needs no model, and is cached
    lm_eval_B  lm-evaluation-harness loglikelihood at batch size B, entered with the same token ids
"""

import argparse
import gc
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from results import MIB, add, bar, begin, table  # beside this one
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import hf_proxy
from hf_proxy.models.access import prefers_padding_free, scoring_mode
from hf_proxy.models.batching import TokenBatch, group_by_tokens, token_batch
from hf_proxy.models.logits import LABELS_PER_CHUNK
from hf_proxy.models.parallel import balanced_shards
from hf_proxy.models.probes import why_not_packed

SPEED_BAR = 0.90  # of the tokens/s of bare
MEMORY_BAR_MIB, MEMORY_BAR_CHUNKS = 64, 2  # 64 MiB + k * C * V * 4 bytes above headless
# glibc raises its mmap threshold as it goes and keeps freed blocks in per-thread arenas, so that
# the resident set holds what no tensor uses any more. A fixed low threshold gives every tensor back
# at once; it costs page faults, so only the memory measurement runs with it, never the clock.
EXACT_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


class Work(NamedTuple):
    """One model and the traces it scores, ready for the clock."""

    model: Any  # a causal LM of transformers
    tokenizer: Any
    traces: Dataset
    aligned: Dataset
    batches: list[TokenBatch]
    device: torch.device


class Check(NamedTuple):
    """What a way scored, to show that all ways did the same work."""

    num_labels: int
    logprob_sum: float


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", required=True, help="model folders or hub ids")
    parser.add_argument(
        "--traces", required=True, help="what load_traces reads, or question/answer .jsonl (GSM8K)"
    )
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        choices=["cpu", "cuda"],
        help="default: cuda where there is one",
    )
    parser.add_argument("--num_traces", type=int, default=64, help="the first of the set")
    parser.add_argument(
        "--tokens_per_batch", type=int, default=4096, help="of score_traces, bare and headless"
    )
    parser.add_argument(
        "--lm_eval_batch_sizes",
        type=int,
        nargs="*",
        default=[1, 4, 16],
        help="the best of them is quoted; give none to leave lm-eval out",
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds, after one warm-up of each")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmarks/scoring.json"), help="JSON file"
    )
    parser.add_argument("--no_memory", action="store_true", help="leave the memory out")
    parser.add_argument("--profile", action="store_true", help="show where a run of ours goes")
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)  # the script calls itself with it
    return parser.parse_args()


def read_traces(source: str, num_traces: int) -> Dataset:
    """The first traces of a set; GSM8K's question and answer are read as prompt and trace."""
    keywords: dict[str, Any] = {}
    if source.endswith(".jsonl"):
        with open(source, encoding="utf-8") as file:
            fields = set(json.loads(file.readline()))
        if {"question", "answer"} <= fields and "trace" not in fields:
            keywords = {"format": "text", "columns": {"prompt": "question", "trace": "answer"}}
    traces = hf_proxy.load_traces(source, **keywords)
    return traces.select(range(min(num_traces, len(traces))))


def make_batches(model: Any, aligned: Dataset, tokens_per_batch: int) -> list[TokenBatch]:
    """The batches that `score_traces` makes on one process, see `hf_proxy.scoring.forwards`."""
    with scoring_mode(model) as bare:
        padding_free = prefers_padding_free(bare) and not why_not_packed(
            bare, longest=tokens_per_batch, device=bare.device
        )
    aligned = aligned.with_format("numpy")
    lengths = [len(ids) for ids in aligned["input_ids"]]
    (shard,) = balanced_shards(lengths, 1)
    groups = group_by_tokens(
        [lengths[i] for i in shard], tokens_per_batch, padding_free=padding_free
    )
    batches = []
    for group in groups:
        places = [shard[i] for i in group]
        rows = [aligned[place] for place in places]
        batches.append(
            token_batch(
                places,
                [row["input_ids"] for row in rows],
                [int(row["label_start"]) for row in rows],
                padding_free=padding_free,
            )
        )
    return batches


def prepare(args: argparse.Namespace, model_name: str) -> Work:
    """Load the model, align the traces, pack the batches."""
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    model: Any = AutoModelForCausalLM.from_pretrained(model_name, dtype=getattr(torch, args.dtype))
    device = torch.device(args.device)
    model.to(device).eval()
    traces = read_traces(args.traces, args.num_traces)
    # ties in length are broken by the order of ids, so this order makes the batches of score_traces
    order = sorted(range(len(traces)), key=traces["example_id"].__getitem__)
    traces = traces.select(order)
    aligned = hf_proxy.align_traces(traces, tokenizer)
    batches = make_batches(model, aligned, args.tokens_per_batch)
    return Work(model, tokenizer, traces, aligned, batches, device)


def hidden_states(work: Work, batch: TokenBatch) -> Tensor:
    """The base model's last hidden states, `[B, T, D]`."""
    inputs = {"input_ids": batch.input_ids_BT.to(work.device)}
    if batch.position_ids_BT is not None:
        inputs["position_ids"] = batch.position_ids_BT.to(work.device)
    return work.model.base_model(**inputs, use_cache=False).last_hidden_state


def bare_logits(work: Work, batch: TokenBatch) -> Tensor:
    """The head's output at the label positions, `[N, V]`."""
    hidden_BTD = hidden_states(work, batch)
    hidden_TD = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])
    return work.model.get_output_embeddings()(hidden_TD[batch.index_N.to(work.device)])


@torch.no_grad()
def headless_way(work: Work) -> None:
    """One pass of the base model over all batches."""
    for batch in work.batches:
        hidden_states(work, batch)


@torch.no_grad()
def bare_way(work: Work) -> None:
    """One pass with the head at the label positions; the logits are dropped."""
    for batch in work.batches:
        bare_logits(work, batch)


def our_way(work: Work, tokens_per_batch: int) -> Check:
    """`score_traces` from aligned rows to the finished score."""
    score = hf_proxy.score_traces(work.model, work.aligned, tokens_per_batch=tokens_per_batch)
    return Check(score.num_labels, -sum(score.rows["nll_sum"]))


@torch.no_grad()
def bare_check(work: Work) -> Check:
    """What the bare logits give; outside of the clock."""
    total, num_labels = 0.0, 0
    for batch in work.batches:
        blocks = zip(bare_logits(work, batch).split(64), batch.label_N.split(64), strict=True)
        for logits_CV, label_C in blocks:
            logprob_CV = torch.log_softmax(logits_CV.float(), -1)
            label_C1 = label_C.to(work.device)[:, None]
            total += logprob_CV.gather(1, label_C1).double().sum().item()
        num_labels += len(batch.label_N)
    return Check(num_labels, total)


def lm_eval_model(work: Work, batch_size: int, softmax_dtype: torch.dtype | None = None) -> Any:
    """The harness round the very model that the other ways run."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns that the model is no name
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=work.model,
        tokenizer=work.tokenizer,
        batch_size=batch_size,
        softmax_dtype=softmax_dtype,
        # no two traces share a context, so its cache could only cost; and the memory measurement
        # repeats one trace, which the cache would score once
        logits_cache=False,
    )


def lm_eval_pairs(work: Work) -> list[tuple[tuple[str, str], list[int], list[int]]]:
    """Text and ids of each pair, as the harness passes them to `_loglikelihood_tokens`."""
    pairs = []
    for trace, row in zip(work.traces, work.aligned, strict=True):
        start = row["label_start"]
        texts = (f"{trace['prompt']}\n", trace["trace"])
        pairs.append((texts, row["input_ids"][:start], row["input_ids"][start:]))
    return pairs


def lm_eval_way(lm: Any, pairs: list[tuple[tuple[str, str], list[int], list[int]]]) -> Check:
    """`loglikelihood` of the harness, entered behind its tokenization.

    `loglikelihood` moves white space at the end of a context into the continuation and tokenizes
    both as one text, so it would score the newline before the trace too, or a token across the
    border. `_loglikelihood_tokens` is what it then calls with ids: given ours, the pairs are equal
    to the token, and the time for tokenizing is left out of both ways.
    """
    results = lm._loglikelihood_tokens(pairs, disable_tqdm=True)
    return Check(sum(len(pair[2]) for pair in pairs), sum(logprob for logprob, _ in results))


def lm_eval_own_pairs(lm: Any, work: Work) -> dict[str, int]:
    """How the harness would cut the same texts by itself, from the requests it is usually given."""
    from lm_eval.api.instance import Instance

    pairs = lm_eval_pairs(work)
    requests = [
        Instance("loglikelihood", doc={}, arguments=texts, idx=index)
        for index, (texts, _, _) in enumerate(pairs)
    ]
    own = [lm._encode_pair(*request.args) for request in requests]
    differing = [
        pair[1:] != tuple(map(list, encoded)) for pair, encoded in zip(pairs, own, strict=True)
    ]
    return {
        "num_labels": sum(len(continuation) for _, continuation in own),
        "num_differing_pairs": sum(differing),
    }


def ways_of(work: Work, args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Each way as a call without arguments."""
    ways: dict[str, Callable[[], Any]] = {
        "headless": lambda: headless_way(work),
        "bare": lambda: bare_way(work),
        "ours": lambda: our_way(work, args.tokens_per_batch),
    }
    pairs = lm_eval_pairs(work) if args.lm_eval_batch_sizes else []
    for batch_size in args.lm_eval_batch_sizes:
        lm = lm_eval_model(work, batch_size)
        ways[f"lm_eval_{batch_size}"] = lambda lm=lm: lm_eval_way(lm, pairs)
    return ways


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that the clock sees its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """Wall seconds of one call."""
    gc.collect()
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def time_rounds(
    ways: dict[str, Callable[[], Any]], repeats: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, Check]]:
    """Seconds of each way in each round, after one warm-up of each, whose result is kept."""
    results = {name: call() for name, call in ways.items()}
    checks = {name: result for name, result in results.items() if result is not None}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats):
        for name, call in ways.items():
            seconds[name].append(seconds_of(call, device))
            print(
                f"round {number + 1}/{repeats}  {name} {seconds[name][-1]:.2f} s", file=sys.stderr
            )
    return seconds, checks


def print_profile(call: Callable[[], Any], device: torch.device) -> None:
    """Where one run goes, by operator."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        call()
        synchronize(device)
    print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))


def resident_bytes(field: str) -> int:
    """A size from /proc/self/status: `VmRSS` now, `VmHWM` the highest since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {field}; memory on CPU is measured on Linux only")


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """The most that a call holds above what stood before it.

    CPU: the kernel's own high-water mark of the resident set, set back just before the call by
    writing 5 to /proc/self/clear_refs. It misses nothing, as a sampling thread may, and unlike
    `ru_maxrss` it does not remember the loading of the model. CUDA: the caching allocator's mark.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes("VmRSS")
    call()
    return resident_bytes("VmHWM") - before


def copies(work: Work, place: int, number: int, tokens_per_batch: int) -> Work:
    """The same model with one trace, several times: rows of one length make one full batch."""
    traces = work.traces.select([place] * number).remove_columns("example_id")
    traces = traces.add_column("example_id", [f"{index:06d}" for index in range(number)])
    aligned = hf_proxy.align_traces(traces, work.tokenizer)
    batches = make_batches(work.model, aligned, tokens_per_batch)
    return work._replace(traces=traces, aligned=aligned, batches=batches)


def measure_memory(args: argparse.Namespace) -> dict[str, int]:
    """In a process of its own: peak of one way on one batch of about `tokens_per_batch` tokens."""
    work = prepare(args, args.models[0])
    lengths = [len(ids) for ids in work.aligned["input_ids"]]
    longest, shortest = lengths.index(max(lengths)), lengths.index(min(lengths))
    # One short row, first of all by the whole model: imports, kernels and, above all, the weights,
    # which are mapped from the file and become resident when they are first read.
    short = copies(work, shortest, 1, args.tokens_per_batch)
    ways_of(short, args)["ours"]()
    ways_of(short, args)[args.memory_of]()
    number = max(1, args.tokens_per_batch // lengths[longest])
    full = copies(work, longest, number, args.tokens_per_batch)
    (batch,) = full.batches
    call = ways_of(full, args)[args.memory_of]
    return {
        "peak_bytes": peak_bytes(call, work.device),
        "num_rows": number,
        "num_tokens": batch.input_ids_BT.numel(),
        "num_labels": len(batch.label_N),
    }


def memory_in_subprocess(args: argparse.Namespace, model_name: str, way: str) -> dict[str, int]:
    """`measure_memory` in a fresh process, so that no way inherits what another has left."""
    batch_size = [way.removeprefix("lm_eval_")] if way.startswith("lm_eval_") else []
    command = [sys.executable, __file__, "--models", model_name, "--traces", args.traces]
    command += ["--dtype", args.dtype, "--device", args.device, "--memory_of", way]
    command += ["--num_traces", str(args.num_traces)]
    command += ["--tokens_per_batch", str(args.tokens_per_batch)]
    command += ["--lm_eval_batch_sizes", *batch_size]
    run = subprocess.run(
        command, env=os.environ | EXACT_MALLOC, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(run.stdout.splitlines()[-1])


def add_memory(result: dict[str, Any], args: argparse.Namespace) -> None:
    """Measure the peak of each way."""
    ways = ["headless", "bare", "ours", *filter(None, [result["best_lm_eval"]])]
    memory = {way: memory_in_subprocess(args, result["model"], way) for way in ways}
    above = memory["ours"]["peak_bytes"] - memory["headless"]["peak_bytes"]
    result |= {"memory": memory, "memory_above_headless_mib": above / MIB}


def ratios(seconds: dict[str, list[float]], way: str) -> dict[str, Any]:
    """Tokens/s of ours over those of `way`, within each round, and their median."""
    rounds = [theirs / ours for theirs, ours in zip(seconds[way], seconds["ours"], strict=True)]
    return {"rounds": rounds, "median": statistics.median(rounds)}


def measure(args: argparse.Namespace, model_name: str) -> dict[str, Any]:
    """All figures of one model, memory aside."""
    work = prepare(args, model_name)
    ways = ways_of(work, args)
    num_tokens = sum(map(len, work.aligned["input_ids"]))
    num_labels = num_tokens - sum(work.aligned["label_start"])
    result: dict[str, Any] = {
        "model": model_name,
        "num_parameters": sum(p.numel() for p in work.model.parameters()),
        "vocabulary": work.model.get_output_embeddings().weight.shape[0],
        "attention": work.model.config._attn_implementation,
        "num_traces": len(work.aligned),
        "num_tokens": num_tokens,
        "num_labels": num_labels,
        "num_batches": len(work.batches),
        "num_forward_tokens": sum(batch.input_ids_BT.numel() for batch in work.batches),
    }
    print(
        f"\n{model_name}: {len(work.aligned)} traces, {num_tokens:,} tokens (context and trace), "
        f"{num_labels:,} of them labels; {len(work.batches)} batches, "
        f"{result['num_forward_tokens']:,} tokens with padding",
        flush=True,
    )
    seconds, checks = time_rounds(ways, args.repeats, work.device)
    checks["bare"] = bare_check(work)
    lm_eval_ways = [way for way in ways if way.startswith("lm_eval_")]
    best = min(lm_eval_ways, key=lambda way: statistics.median(seconds[way]), default=None)
    result |= {
        "seconds": seconds,
        "median_s": {way: statistics.median(values) for way, values in seconds.items()},
        "best_lm_eval": best,
        "ours_over_bare": ratios(seconds, "bare"),
    }
    if best is not None:
        result["ours_over_best_lm_eval"] = ratios(seconds, best)
        lm = lm_eval_model(work, 1, torch.float32)
        result["lm_eval_own_tokenization"] = lm_eval_own_pairs(lm, work)
        # left alone it takes the softmax in the model's dtype, whose error would hide all others
        checks["lm_eval_1, fp32 softmax"] = lm_eval_way(lm, lm_eval_pairs(work))
    result["checks"] = {
        way: check._asdict()
        | {"relative_to_ours": check.logprob_sum / checks["ours"].logprob_sum - 1}
        for way, check in checks.items()
    }
    if args.profile:
        print_profile(ways["ours"], work.device)
    return result


def tables_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of one model."""
    ways = []
    for way in dict.fromkeys([*result["seconds"], *result["checks"]]):
        median, check = result["median_s"].get(way), result["checks"].get(way, {})
        memory = result.get("memory", {}).get(way, {})
        ways.append(
            {
                "way": way + " (best)" * (way == result["best_lm_eval"]),
                "median s": median,
                "tokens/s": result["num_tokens"] / median if median else None,
                "labels": check.get("num_labels"),
                "sum of logprobs": check.get("logprob_sum"),
                "relative to ours": check.get("relative_to_ours"),
                "peak MiB": memory["peak_bytes"] / MIB if memory else None,
                "rounds, s": result["seconds"].get(way, []),
            }
        )
    names = ("model", "num_parameters", "vocabulary", "attention", "num_traces", "num_tokens")
    names += ("num_labels", "num_batches", "num_forward_tokens")
    work = [{"what": name, "is": result[name]} for name in names]
    if "memory" in result:
        batch = result["memory"]["ours"]
        sizes = [{"what": f"peak's batch, {k}", "is": batch[k]} for k in batch if k != "peak_bytes"]
        work += sizes
    if own := result.get("lm_eval_own_tokenization"):
        # it was given our ids
        work += [{"what": f"lm-eval from text, {name}", "is": own[name]} for name in own]
    compared = [
        {"ours, tokens/s, against": way, "median": found["median"], "rounds": found["rounds"]}
        for way, found in (
            ("bare", result["ours_over_bare"]),
            (result["best_lm_eval"], result.get("ours_over_best_lm_eval")),
        )
        if found
    ]
    return [
        table(f"{result['model']}: ways", ways),
        table(f"{result['model']}: ours against the others, round by round", compared),
        table(f"{result['model']}: work", work),
    ]


def bars_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of one model against what they must reach."""
    model, best = result["model"], result["best_lm_eval"]
    found = [
        bar(
            "score_traces, tokens/s against the bare forward, head at the label positions",
            result["ours_over_bare"]["median"],
            "at least",
            SPEED_BAR,
            unit="times",
            model=model,
        )
    ]
    if best is not None:
        found.append(
            bar(
                "score_traces, tokens/s against lm-evaluation-harness at its best batch size "
                f"({best.removeprefix('lm_eval_')})",
                result["ours_over_best_lm_eval"]["median"],
                "more than",
                1,
                unit="times",
                model=model,
            )
        )
    if "memory" in result:
        chunk_bytes = LABELS_PER_CHUNK * result["vocabulary"] * 4
        found.append(
            bar(
                "score_traces, peak memory above the headless forward, one batch of "
                f"{result['memory']['ours']['num_tokens']:,} tokens",
                result["memory_above_headless_mib"],
                "at most",
                MEMORY_BAR_MIB + MEMORY_BAR_CHUNKS * chunk_bytes / MIB,
                unit="MiB",
                model=model,
            )
        )
    return found


def main() -> None:
    """Measure every model, print its table, write the file after each."""
    args = parse_args()
    if args.memory_of:
        print(json.dumps(measure_memory(args)))
        return
    content = begin("scoring", args, dtype=args.dtype, device=args.device, models=args.models)
    print(
        f"{content['processor']}, {content['threads']} threads, {args.dtype}, "
        f"torch {torch.__version__}, {args.repeats} interleaved rounds, "
        f"load average before: {content['load_average']:.1f}"
    )
    for model_name in args.models:
        result = measure(args, model_name)
        gc.collect()  # the model is gone before its peaks are measured in other processes
        if args.device == "cuda":
            torch.cuda.empty_cache()
        if not args.no_memory:
            add_memory(result, args)
        result["model"] = Path(model_name).name
        add(content, tables_of(result), bars_of(result), args.output)


if __name__ == "__main__":
    main()
