"""Two minutes, no download: train a tiny proxy on generated arithmetic and watch its score fall."""

import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_proxy.callbacks import ProxyScoreCallback
from hf_proxy.recipes import RecipeConfig, run
from hf_proxy.schemas import TRACE_FEATURES, save_dataset
from hf_proxy.scoring import annotate_traces

NAMES = ("Ada", "Ben", "Chloé", "Dana", "Emil", "Fatima", "Goro", "Hana")
THINGS = ("apples", "books", "coins", "eggs", "kites", "pens")


@dataclass(frozen=True, kw_only=True)
class DemoConfig(RecipeConfig):
    """Fields are flags and YAML keys."""

    output_dir: str = field(default="outputs/demo", metadata={"help": "Where the files go."})
    frontier_steps: int = field(default=200, metadata={"help": "Training steps of the frontier."})
    proxy_steps: int = field(default=120, metadata={"help": "Training steps of the proxy."})
    score_every: int = field(default=20, metadata={"help": "Steps between two scores."})
    num_traces: int = field(default=64, metadata={"help": "Held-out traces to score on."})
    seed: int = field(default=0, metadata={"help": "Seed of problems and models."})


def problems(rng: random.Random) -> Iterator[dict[str, str]]:
    """Word problems of two to four steps with a worked solution, without end."""
    while True:
        name, thing = rng.choice(NAMES), rng.choice(THINGS)
        total = rng.randint(2, 20)
        prompt, solution = [f"{name} has {total} {thing}."], []
        for _ in range(rng.randint(2, 4)):
            number = rng.randint(2, 9)
            if rng.random() < 0.5 or total <= number:
                prompt.append(f"{name} gets {number} more.")
                solution.append(f"{total} + {number} = {total + number}.")
                total += number
            else:
                prompt.append(f"{name} gives {number} away.")
                solution.append(f"{total} - {number} = {total - number}.")
                total -= number
        prompt.append(f"How many {thing} does {name} have?")
        solution.append(f"{name} has {total} {thing}.")
        yield {"prompt": " ".join(prompt), "trace": " ".join(solution)}


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of these texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def make_model(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> LlamaForCausalLM:
    """A Llama of random weights with this tokenizer's vocabulary."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config)


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: Iterator[dict[str, str]],
    *,
    num_steps: int,
    save_steps: int,
    output_dir: Path,
    seed: int,
    callback: ProxyScoreCallback | None = None,
) -> None:
    """Train on fresh problems with `Trainer`; evaluations and checkpoints every `save_steps`."""

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-100)
        return {"input_ids": padded.clamp(min=0), "labels": padded}

    batch_size = 32
    rows = [next(texts) for _ in range(num_steps * batch_size + 2 * batch_size)]
    encoded = tokenizer([f"{row['prompt']}\n{row['trace']}<|end|>" for row in rows])["input_ids"]
    dataset = Dataset.from_dict({"input_ids": encoded})
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        max_steps=num_steps,
        per_device_train_batch_size=batch_size,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        save_steps=save_steps,
        eval_strategy="no" if callback is None else "steps",
        eval_steps=save_steps,
        logging_strategy="no",
        disable_tqdm=not sys.stderr.isatty(),
        dataloader_pin_memory=False,
        report_to="none",
        seed=seed,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=dataset.select(range(2 * batch_size, len(dataset))),
        eval_dataset=dataset.select(range(2 * batch_size)),
        data_collator=collate,
        processing_class=tokenizer,  # saved in each checkpoint
    )
    if callback is not None:
        callback.attach(trainer)
    trainer.train()


def main(config: DemoConfig) -> dict[str, Any]:
    """Train a small frontier and a smaller proxy in place; the callback scores it as it learns."""
    start = time.perf_counter()
    set_seed(config.seed)
    folder = Path(config.output_dir)
    texts = problems(random.Random(config.seed))
    held_out = problems(random.Random(config.seed + 1))
    sample = [next(texts) for _ in range(2000)]
    tokenizer = train_tokenizer([" ".join(row.values()) for row in sample], vocab_size=400)

    print(f"1. training a frontier of 4 layers for {config.frontier_steps} steps")
    frontier = make_model(tokenizer, width=128, layers=4)
    train(
        frontier,
        tokenizer,
        texts,
        num_steps=config.frontier_steps,
        save_steps=config.frontier_steps,
        output_dir=folder / "frontier",
        seed=config.seed,
    )
    print(f"2. annotating {config.num_traces} held-out traces with its confidence")
    rows = [next(held_out) for _ in range(config.num_traces)]
    blank = Dataset.from_list(
        [
            {
                "example_id": f"problem-{number:03d}",
                "weighting": "none",
                "frontier_spans": [],
                "frontier_logprobs": [],
            }
            | row
            for number, row in enumerate(rows)
        ],
        features=TRACE_FEATURES,
    )
    traces = annotate_traces(blank, frontier, tokenizer)
    save_dataset(traces, folder / "traces", {"seed": config.seed}, overwrite=True)

    print(f"3. training a proxy of 2 layers for {config.proxy_steps} steps, scored as it learns")
    print("   rBridge: nats per token, lower is better\n")
    train(
        make_model(tokenizer, width=64, layers=2),
        tokenizer,
        texts,
        num_steps=config.proxy_steps,
        save_steps=config.score_every,
        output_dir=folder / "proxy",
        seed=config.seed,
        callback=ProxyScoreCallback(traces),
    )
    file = folder / "proxy" / "hf_proxy" / "predictions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    print("  step   rBridge    90 % interval       R_phi   bits/byte")
    for line in lines:
        print(
            f"{line['step']:6d}  {line['value']:8.4f}  {line['low']:7.4f} .. {line['high']:6.4f}"
            f"  {line['trace_nll']:8.4f}  {line['bits_per_byte']:8.4f}"
        )
    seconds = time.perf_counter() - start
    print(f"\n{seconds:.0f} s; trace set and checkpoints are in {folder}, the scores in {file}")
    return {"scores": lines, "seconds": seconds}


def cli(argv: list[str] | None = None) -> int:
    """`hf-proxy demo`."""
    return run(DemoConfig, main, argv, prog="hf-proxy demo")


if __name__ == "__main__":
    raise SystemExit(cli())
