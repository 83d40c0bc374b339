"""Speed and memory of mining, against the bare models and against the published way.

Not a test: nothing is asserted, bars are marked met or NOT met. Rounds are interleaved; quoted are
medians of ratios within a round.

    python tests/benchmarks/contrast.py --expert ~/models/1.5b --amateur ~/models/0.5b \\
        --prompts gsm8k_train.jsonl --prompt_column question

The ways:
    two forwards   one teacher-forced forward of each model with its head at the generated
                   positions, same batches: logits [N, V] of each and nothing else
    ours           the contrast of the same trajectories, rows included
    prefixes       the published amateur stage: the amateur alone reads every prefix anew, in
                   batches, logits of all positions (its expert's scores come with generation)
    one at a time  `generate` of single prompts, against our batches
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

from hf_proxy.mining.miner import TOKENS_PER_BATCH, Miner
from hf_proxy.mining.sets import load_soft_targets
from hf_proxy.mining.settings import MiningSettings
from hf_proxy.models import generation
from hf_proxy.models.access import scoring_mode
from hf_proxy.models.batching import group_by_tokens, token_batch
from hf_proxy.models.logits import LABELS_PER_CHUNK
from hf_proxy.recipes.library.rows import load_rows
from hf_proxy.tokens.prompts import Prompts, read_prompts

CONTRAST_BAR = 1.15  # times the two forwards
PREFIX_BAR = 16  # times faster than the published amateur stage
GENERATION_BAR = 4  # times one at a time
MEMORY_BAR_MIB, MEMORY_BAR_CHUNKS = 64, 4


def prepare(args):
    """Models, miner, prompts as ids."""
    tokenizer = AutoTokenizer.from_pretrained(args.expert)
    dtype = getattr(torch, args.dtype)
    models = [
        AutoModelForCausalLM.from_pretrained(name, dtype=dtype).to(args.device).eval()
        for name in (args.expert, args.amateur)
    ]
    settings = MiningSettings(max_new_tokens=args.max_new_tokens)
    miner = Miner(
        *models,
        processing_class=tokenizer,
        amateur_processing_class=AutoTokenizer.from_pretrained(args.amateur),
        settings=settings,
    )
    rows = load_rows(args.prompts, {args.prompt_column: "--prompt_column"})
    texts = rows[args.prompt_column][: args.num_prompts]
    return miner, read_prompts(texts, tokenizer)


def generate(miner, ids, max_new_tokens=None):
    with scoring_mode(miner.expert) as expert:
        return generation.generate(
            expert,
            ids,
            processing_class=miner.processing_class,
            max_new_tokens=max_new_tokens or miner.settings.max_new_tokens,
            temperature=0.0,
            seed=[0, 0],
        )


def ours(miner, prompts, trajectories):
    number = len(trajectories)
    return miner.rows(prompts.example_id[:number], prompts.input_ids[:number], trajectories)


def batches_of(prompts, trajectories):
    """As the miner makes them."""
    whole = [p + t for p, t in zip(prompts.input_ids, trajectories, strict=False)]
    groups = group_by_tokens(list(map(len, whole)), TOKENS_PER_BATCH, padding_free=False)
    return [
        token_batch(
            group,
            [whole[i] for i in group],
            [len(prompts.input_ids[i]) for i in group],
            padding_free=False,
        )
        for group in groups
    ]


@torch.no_grad()
def forwards(models, batches, *, head):
    for batch in batches:
        for model in models:
            ids_BT = batch.input_ids_BT.to(model.device)
            hidden = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
            hidden_ND = hidden.reshape(-1, hidden.shape[-1])[batch.index_N.to(hidden.device)]
            if head:
                model.get_output_embeddings()(hidden_ND)


@torch.no_grad()
def prefixes(amateur, prompt, trajectory, batch_size, pad_id):
    """The amateur's distribution at every step but the first, each from its own prefix."""
    found = []
    steps = list(range(1, len(trajectory)))
    for start in range(0, len(steps), batch_size):
        rows = [prompt + trajectory[:step] for step in steps[start : start + batch_size]]
        width = max(map(len, rows))
        ids_BT = torch.tensor([[pad_id] * (width - len(row)) + row for row in rows])
        mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        device = amateur.device
        logits = amateur(input_ids=ids_BT.to(device), attention_mask=mask_BT.to(device)).logits
        found.append(torch.softmax(logits[:, -1].float(), -1))
    return torch.cat(found) if found else None


def seconds_of(call):
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def memory(args):
    """In a process of its own: peak of headless forwards, or of ours, on one full batch."""
    miner, prompts = prepare(args)
    longest = max(prompts.input_ids, key=len)
    trajectory = [miner.end_ids[0]] * args.max_new_tokens
    number = max(1, TOKENS_PER_BATCH // (len(longest) + len(trajectory)))
    full = Prompts([str(i) for i in range(number)], [longest] * number, "", None)
    short = Prompts(["0"], [longest[:8]], "", None)
    ours(miner, short, [trajectory[:4]])  # imports, kernels, and the weights' pages
    models = (miner.expert, miner.amateur)
    calls = {
        "headless": lambda: forwards(models, batches_of(full, [trajectory] * number), head=False),
        "ours": lambda: ours(miner, full, [trajectory] * number),
    }
    tokens = number * (len(longest) + len(trajectory))
    peak = peak_bytes(calls[args.memory_of], models[0].device)
    print(json.dumps({"peak_bytes": peak, "num_tokens": tokens, "vocabulary": miner.width}))


def memory_in_subprocess(args, way):
    command = [sys.executable, __file__, "--expert", args.expert, "--amateur", args.amateur]
    command += ["--prompts", args.prompts, "--prompt_column", args.prompt_column]
    command += ["--dtype", args.dtype, "--device", args.device, "--memory_of", way]
    command += ["--num_prompts", str(args.num_prompts)]
    done = subprocess.run(
        command, env=os.environ | EXACT_MALLOC, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--expert", required=True)
    parser.add_argument("--amateur", required=True)
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--prompt_column", default="prompt")
    parser.add_argument("--num_prompts", type=int, default=MiningSettings.batch_size)
    parser.add_argument("--max_new_tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prefix_prompts", type=int, default=3)
    parser.add_argument("--prefix_batch_size", type=int, default=8, help="published: 64")
    parser.add_argument("--generated_alone", type=int, default=2, help="prompts, 24 tokens each")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--trajectories", help="folder of a mined set to take them from")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmarks/contrast.json"), help="JSON file"
    )
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        memory(args)
        return
    models = (args.expert, args.amateur)
    content = begin("contrast", args, dtype=args.dtype, device=args.device, models=models)
    pair = " - ".join(content["models"])
    miner, prompts = prepare(args)

    number, alone = len(prompts.input_ids), prompts.input_ids[: args.generated_alone]
    generate(miner, alone[:1], 2)
    rounds = []
    for _ in range(args.repeats):
        batched = seconds_of(lambda: generate(miner, prompts.input_ids, 24)) / number
        single = seconds_of(lambda: [generate(miner, [ids], 24) for ids in alone]) / len(alone)
        rounds.append({"batched, s per prompt": batched, "one at a time": single})
        rounds[-1]["times"] = single / batched
    generated = bar(
        f"generation in batches of {number} against one at a time",
        statistics.median(one["times"] for one in rounds),
        "at least",
        GENERATION_BAR,
        unit="times",
        model=content["models"][0],
    )
    add(content, [table("Generation of 24 tokens, by round", rounds)], [generated], args.output)
    if args.trajectories is None:
        trajectories = generate(miner, prompts.input_ids)
    else:
        rows = load_soft_targets(args.trajectories)
        trajectories = [
            row["input_ids"][row["prompt_length"] :] for row in rows.select(range(args.num_prompts))
        ]
    steps = sum(map(len, trajectories))
    batches = batches_of(prompts, trajectories)
    models = (miner.expert, miner.amateur)
    forwards(models, batches, head=True)
    ours(miner, prompts, trajectories)
    rounds = []
    for _ in range(args.repeats):
        bare = seconds_of(lambda: forwards(models, batches, head=True))
        spent = seconds_of(lambda: ours(miner, prompts, trajectories))
        rounds.append({"two forwards, s": bare, "ours, s": spent, "times": spent / bare})
        print(f"  two forwards {bare:.2f} s, ours {spent:.2f} s", file=sys.stderr)
    contrasted = bar(
        "contrast after generation against the two bare forwards",
        statistics.median(one["times"] for one in rounds),
        "at most",
        CONTRAST_BAR,
        unit="times",
        model=pair,
    )
    caption = f"Contrast of {steps} steps of {len(trajectories)} trajectories, by round"
    add(content, [table(caption, rounds)], [contrasted], args.output)
    rounds = []
    for i in range(min(args.prefix_prompts, len(trajectories))):
        prompt, trajectory = prompts.input_ids[i], trajectories[i]
        own = Prompts([prompts.example_id[i]], [prompt], "", None)
        published = seconds_of(
            lambda p=prompt, t=trajectory: prefixes(
                miner.amateur, p, t, args.prefix_batch_size, miner.end_ids[0]
            )
        )
        whole = seconds_of(lambda o=own, t=trajectory: ours(miner, o, [t]))
        rounds.append({"prefixes, s": published, "ours, s": whole, "times": published / whole})
        print(f"  prefixes {published:.1f} s, ours {whole:.2f} s", file=sys.stderr)
    if rounds:
        anew = bar(
            "contrast (both models) against the published amateur stage, every prefix anew",
            statistics.median(one["times"] for one in rounds),
            "at least",
            PREFIX_BAR,
            unit="times as fast",
            model=pair,
        )
        add(content, [table("Prefixes anew, by prompt", rounds)], [anew], args.output)
    peaks = {way: memory_in_subprocess(args, way) for way in ("headless", "ours")}
    above = (peaks["ours"]["peak_bytes"] - peaks["headless"]["peak_bytes"]) / MIB
    chunk = LABELS_PER_CHUNK * peaks["ours"]["vocabulary"] * 4 / MIB
    rows = [
        {"way": way, "tokens": peak["num_tokens"], "peak MiB": peak["peak_bytes"] / MIB}
        for way, peak in peaks.items()
    ]
    memory_bar = bar(
        f"contrast of {peaks['ours']['num_tokens']:,} tokens, peak memory above headless forwards",
        above,
        "at most",
        MEMORY_BAR_MIB + MEMORY_BAR_CHUNKS * chunk,
        unit="MiB",
        model=pair,
    )
    add(content, [table("Peak above the loaded models", rows)], [memory_bar], args.output)


if __name__ == "__main__":
    main()
