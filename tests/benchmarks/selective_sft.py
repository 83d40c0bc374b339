"""Selective SFT: what a thousand kept steps cost, four ways, each in a process of its own.

    python tests/benchmarks/selective_sft.py --model MODEL --soft_targets SET --num_rows 8

`ours`: SelectiveSFTTrainer, one forward per trajectory up to its last kept step, the head at kept
steps. `records`: one record per step, each prefix a row of its own (the same trainer, so there too
the forward ends where it must and the head meets one position). `full logits`: whole trajectories,
logits of every position. `distillation`: TRL's DistillationTrainer on the same sequences, every
step, its teacher's forward included (ours were mined before), its own generation left out.

Forward tokens count padding. Memory is the highest resident size above that before the first step.
Rows are those with the most kept steps spread over the set, each cut to `--kept` of them, evenly.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from results import add, bar, begin, table  # beside this one

VARIANTS = ("ours", "records", "full logits", "distillation")
TOKENS_BAR = 8  # times fewer forward tokens than one record per step


def rows_of(args):
    """Rows with exactly `--kept` kept steps, spread evenly over the trajectory's own."""
    import numpy as np
    from datasets import Dataset

    from hf_proxy import load_soft_targets
    from hf_proxy.records.rows import SOFT_TARGET_FEATURES

    chosen = []
    for row in load_soft_targets(args.soft_targets):
        if len(row["position"]) < args.kept or row["prompt_length"] < 80:
            continue
        keep = np.linspace(0, len(row["position"]) - 1, args.kept).round().astype(int)
        chosen.append(with_steps(row, keep.tolist()))
        if len(chosen) == args.num_rows:
            break
    if len(chosen) < args.num_rows:
        raise SystemExit(
            f"only {len(chosen)} rows have {args.kept} kept steps and 80 prompt tokens"
        )
    return Dataset.from_list(chosen, features=SOFT_TARGET_FEATURES)


def with_steps(row, keep):
    """The row with some of its kept steps only."""
    parts = [slice(row["offset"][m], row["offset"][m + 1]) for m in keep]
    names = ("token_id", "prob", "expert_logprob", "amateur_logprob")
    own = {name: [x for part in parts for x in row[name][part]] for name in names}
    offset = [0]
    for part in parts:
        offset.append(offset[-1] + part.stop - part.start)
    return {**row, **own, "position": [row["position"][m] for m in keep], "offset": offset}


def measure(args):
    """One variant: seconds, forward tokens and memory of `--num_steps` optimizer steps."""
    import psutil
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from hf_proxy import SelectiveSFTConfig, SelectiveSFTTrainer
    from hf_proxy.records.rows import SOFT_TARGET_FEATURES
    from hf_proxy.training.loss import selective_loss

    torch.manual_seed(0)
    rows = rows_of(args)
    tokenizer = AutoTokenizer.from_pretrained(args.model)

    def load():
        return AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16)

    model, counted = load(), [0]
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    settings = {
        "output_dir": args.output_dir,
        "max_steps": 1,
        "per_device_train_batch_size": args.batch_size,
        "gradient_accumulation_steps": len(rows) // args.batch_size,
        "bf16": False,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "activation_checkpointing": False,
    }

    def count(module, positional, keywords):
        ids = positional[0] if positional else keywords["input"]
        counted[0] += ids.numel()

    if args.variant == "distillation":
        from trl import DistillationConfig, DistillationTrainer

        given = {
            row["example_id"]: (
                row["input_ids"][: row["prompt_length"]],
                row["input_ids"][row["prompt_length"] :],
            )
            for row in rows
        }

        class Given(DistillationTrainer):
            """The completions that are there, instead of new ones."""

            def _generate(self, prompts):
                self._metrics["train"]["num_tokens"] = [0]
                prompt_ids, completion_ids = zip(*(given[name] for name in prompts), strict=True)
                return list(prompt_ids), list(completion_ids), None, None, []

        teacher = load()
        trainer = Given(
            model=model,
            teacher_model=teacher,
            args=DistillationConfig(**settings, beta=0.0, max_completion_length=128),
            train_dataset=Dataset.from_dict({"prompt": list(rows["example_id"])}),
            processing_class=tokenizer,
            peft_config=lora,
        )
        teacher.get_input_embeddings().register_forward_pre_hook(count, with_kwargs=True)
    else:
        if args.variant == "records":
            rows = Dataset.from_list(
                [
                    {**with_steps(row, [m]), "example_id": f"{row['example_id']}-{m}"}
                    for row in rows
                    for m in range(args.kept)
                ],
                features=SOFT_TARGET_FEATURES,
            )
            settings["gradient_accumulation_steps"] = len(rows) // args.batch_size
        trainer = SelectiveSFTTrainer(
            model=model,
            args=SelectiveSFTConfig(**settings),
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=lora,
        )
    trainer.model.get_input_embeddings().register_forward_pre_hook(count, with_kwargs=True)

    def full_logits():
        """Whole trajectories, logits of all positions, the same sparse targets."""
        device = trainer.model.device
        for start in range(0, len(rows), args.batch_size):
            part = [rows[i] for i in range(start, start + args.batch_size)]
            batch = trainer.data_collator(part)
            ids = [torch.tensor(row["input_ids"]) for row in part]
            pad = torch.nn.utils.rnn.pad_sequence
            logits = trainer.model(
                input_ids=pad(ids, batch_first=True).to(device),
                attention_mask=pad([torch.ones_like(x) for x in ids], batch_first=True).to(device),
                use_cache=False,
            ).logits.float()
            where = torch.tensor(
                [(i, p - 1) for i, row in enumerate(part) for p in row["position"]]
            )
            kept = logits[where[:, 0], where[:, 1]]
            targets = (batch[name].to(device) for name in ("step", "token_id", "prob"))
            selective_loss(kept, *targets).sum().backward()

    def run():
        if args.variant == "full logits":
            trainer.model.train()
            full_logits()
        else:
            trainer.train()

    run()  # allocates what stays
    process, peak, done = psutil.Process(), [0], threading.Event()

    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], process.memory_info().rss)
            time.sleep(0.005)

    before, counted[0] = process.memory_info().rss, 0
    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    for _ in range(args.num_steps):
        run()
    seconds = time.perf_counter() - start
    done.set()
    thread.join()
    kept = args.num_rows * args.kept * args.num_steps
    print(
        json.dumps(
            {
                "variant": args.variant,
                "kept steps": kept,
                "forward tokens per 1,000": 1000 * counted[0] / kept,
                "seconds per 1,000": 1000 * seconds / kept,
                "peak MiB": (peak[0] - before) / 2**20,
            }
        )
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="Folder of the model that is tuned.")
    parser.add_argument("--soft_targets", required=True, help="Mined with its tokenizer.")
    parser.add_argument("--num_rows", type=int, default=8, help="Trajectories of a step.")
    parser.add_argument("--kept", type=int, default=12, help="Kept steps of each.")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--num_steps", type=int, default=1, help="Timed, after one that is not.")
    parser.add_argument("--rounds", type=int, default=2, help="Variants in turn, so many times.")
    parser.add_argument("--output_dir", default="outputs/benchmark-sft")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmarks/selective_sft.json"), help="JSON"
    )
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        measure(args)
        return
    content = begin("selective_sft", args, dtype="bfloat16", models=[args.model])
    found = {name: [] for name in VARIANTS}
    for _ in range(args.rounds):
        for name in VARIANTS:
            done = subprocess.run(
                [sys.executable, str(Path(__file__)), *sys.argv[1:], "--variant", name],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
            )
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    head = ("forward tokens per 1,000", "seconds per 1,000", "peak MiB")
    best = {
        name: {key: min(run[key] for run in runs) for key in head} for name, runs in found.items()
    }
    rows = [
        {"variant": name}
        | best[name]
        | {f"{key}, times ours": best[name][key] / best["ours"][key] for key in head}
        | {f"{key}, by round": [run[key] for run in runs] for key in head}
        for name, runs in found.items()
    ]
    fewer = bar(
        "selective SFT, forward tokens of one record per step against ours",
        best["records"][head[0]] / best["ours"][head[0]],
        "at least",
        TOKENS_BAR,
        unit="times",
        model=args.model,
    )
    caption = f"A thousand kept steps, least of {args.rounds} rounds"
    add(content, [table(caption, rows)], [fewer], args.output)


if __name__ == "__main__":
    main()
