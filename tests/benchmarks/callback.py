"""What scoring costs inside training: share of wall time, bare forward beside it, cached alignment.

    python tests/benchmarks/callback.py --model DIR --traces SET --train_data gsm8k_train.jsonl

One SFT run of `--max_steps` steps with the callback attached, an evaluation every `--eval_steps`.
The callback's own seconds stand in predictions.jsonl; the bare forward of the same traces (base
model, head at the label positions) is timed on the same weights after the run, round by round
beside `score_traces`.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from results import add, begin, table  # beside this one
from scoring import Work, bare_way, make_batches
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from hf_proxy import align_traces, load_traces, score_traces
from hf_proxy.callbacks import ProxyScoreCallback
from hf_proxy.records import storage


def parse_args() -> argparse.Namespace:
    """Flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--traces", required=True, help="trace set to score on")
    parser.add_argument("--train_data", required=True, help=".jsonl with question and answer")
    parser.add_argument("--max_steps", type=int, default=40, help="training steps")
    parser.add_argument("--eval_steps", type=int, default=20, help="steps between evaluations")
    parser.add_argument("--batch_size", type=int, default=2, help="rows of a training step")
    parser.add_argument("--num_traces", type=int, default=40, help="traces to score on")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of score beside forward")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmarks/callback.json"), help="JSON file"
    )
    return parser.parse_args()


def train(args: argparse.Namespace, model: Any, tokenizer: Any, traces: Any, folder: str) -> dict:
    """One run with the callback attached: seconds of training and of each score."""
    rows = load_dataset("json", data_files=args.train_data, split="train")
    rows = rows.select(range(args.max_steps * args.batch_size))
    rows = rows.map(
        lambda row: {"prompt": row["question"] + "\n", "completion": row["answer"]},
        remove_columns=rows.column_names,
    )
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=folder,
            max_steps=args.max_steps,
            per_device_train_batch_size=args.batch_size,
            eval_strategy="steps",
            eval_steps=args.eval_steps,
            per_device_eval_batch_size=4,
            save_strategy="no",
            bf16=False,
            disable_tqdm=True,
            report_to="none",
            dataloader_pin_memory=torch.cuda.is_available(),
        ),
        train_dataset=rows,
        eval_dataset=rows.select(range(min(8, len(rows)))),
        processing_class=tokenizer,
    )
    ProxyScoreCallback(traces).attach(trainer)
    seconds = trainer.train().metrics["train_runtime"]
    lines = (Path(folder) / "hf_proxy" / "predictions.jsonl").read_text().splitlines()
    return {"train_s": seconds, "score_s": [json.loads(line)["seconds"] for line in lines]}


def alignment_seconds(traces: Any, tokenizer: Any) -> dict[str, float]:
    """Seconds of `align_traces` with an empty cache and with a full one."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        kept = storage.cache_dir
        storage.cache_dir = lambda: Path(folder)
        for name in ("first", "cached"):
            start = time.perf_counter()
            align_traces(traces, tokenizer)
            found[name] = time.perf_counter() - start
        storage.cache_dir = kept
    return found


def main() -> None:
    """Measure and print."""
    args = parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"  # as Trainer chooses
    content = begin("callback", args, dtype="float32", device=device, models=[args.model])
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    traces = load_traces(args.traces)
    order = sorted(range(len(traces)), key=traces["example_id"].__getitem__)
    traces = traces.select(order[: args.num_traces])
    with tempfile.TemporaryDirectory() as folder:
        found = train(args, model, tokenizer, traces, folder)
    aligned = align_traces(traces, tokenizer)
    model.eval()
    work = Work(model, tokenizer, traces, aligned, make_batches(model, aligned, 4096), model.device)
    rounds = []
    for number in range(args.repeats + 1):
        start = time.perf_counter()
        bare_way(work)
        middle = time.perf_counter()
        score_traces(model, aligned)
        if number:  # the first is the warm-up
            rounds.append((middle - start, time.perf_counter() - middle))
    bare, alone = ([one[i] for one in rounds] for i in (0, 1))
    rows = [
        {"what": "training", "unit": "s", "measured": found["train_s"]},
        {
            "what": f"scoring within it, {len(found['score_s'])} times",
            "unit": "s",
            "measured": sum(found["score_s"]),
            "one by one": found["score_s"],
        },
        {
            "what": "scoring, share of training",
            "unit": "",
            "measured": sum(found["score_s"]) / found["train_s"],
        },
        {
            "what": "bare forward of the same traces, median",
            "unit": "s",
            "measured": statistics.median(bare),
            "one by one": bare,
        },
        {
            "what": "score_traces alone, median",
            "unit": "s",
            "measured": statistics.median(alone),
            "one by one": alone,
        },
        {
            "what": "score_traces alone, median over rounds",
            "unit": "bare forwards",
            "measured": statistics.median(ours / bare for bare, ours in rounds),
        },
    ]
    rows += [
        {"what": f"alignment, {name}", "unit": "s", "measured": seconds}
        for name, seconds in alignment_seconds(traces, tokenizer).items()
    ]
    caption = f"ProxyScoreCallback in {args.max_steps} steps, {len(traces)} traces"
    add(content, [table(caption, rows)], [], args.output)


if __name__ == "__main__":
    main()
