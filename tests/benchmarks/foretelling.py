"""What one contrastive decoding costs, against the two greedy ones that it is held against.

    python tests/benchmarks/foretelling.py --expert ~/models/1.5b --amateur ~/models/0.5b \\
        --prompts gsm8k_train.jsonl --prompt_column question

The same batch of prompts in each way. Texts end at different lengths, so what is compared is the
time of a step, in which each row of the batch gets a token. Rounds are interleaved; quoted are
medians of ratios within a round.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from results import add, bar, begin, table  # beside this one
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_proxy.mining.decoding import contrastive_writer, greedy_writer
from hf_proxy.mining.miner import Miner
from hf_proxy.mining.settings import MiningSettings
from hf_proxy.recipes.library.rows import load_prompts
from hf_proxy.tokens.prompts import read_prompts

BAR = 1.3  # times the two greedy decodings


def step_seconds(write, prompts, max_new_tokens, *, by_cpu):
    """Time of one step of the batch; `by_cpu`: of this process alone, whatever else runs."""
    clock = time.process_time if by_cpu else time.perf_counter
    start = clock()
    written = write(prompts, max_new_tokens)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (clock() - start) / max(len(text.ids) for text in written)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--expert", required=True)
    parser.add_argument("--amateur", required=True)
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--prompt_column", default="prompt")
    parser.add_argument("--num_prompts", type=int, default=MiningSettings.batch_size)
    parser.add_argument("--max_new_tokens", type=int, default=48)
    parser.add_argument("--divergence_beta", type=float, default=MiningSettings.divergence_beta)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--by_cpu", action="store_true", help="CPU seconds of this process: on a busy machine"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmarks/foretelling.json"), help="JSON file"
    )
    args = parser.parse_args()
    names = (args.expert, args.amateur)
    content = begin("foretelling", args, dtype=args.dtype, device=args.device, models=names)
    tokenizers = [AutoTokenizer.from_pretrained(name) for name in names]
    expert, amateur = (
        AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, args.dtype))
        .to(args.device)
        .eval()
        for name in names
    )
    miner = Miner(
        expert,
        amateur,
        processing_class=tokenizers[0],
        amateur_processing_class=tokenizers[1],
        settings=MiningSettings(),
    )
    rows = load_prompts(args.prompts, args.prompt_column, args.num_prompts)
    prompts = read_prompts(rows, tokenizers[0]).input_ids
    ways = {
        "expert greedy": greedy_writer(expert, tokenizers[0], miner.writable),
        "amateur greedy": greedy_writer(amateur, tokenizers[1], miner.writable),
        "contrastive": contrastive_writer(
            miner, args.divergence_beta, MiningSettings.plausibility_alpha
        ),
    }
    for write in ways.values():
        write(prompts[:2], 2)
    rounds = []
    for _ in range(args.repeats):
        found = {
            f"{name}, s per step": step_seconds(
                write, prompts, args.max_new_tokens, by_cpu=args.by_cpu
            )
            for name, write in ways.items()
        }
        *greedy, contrastive = found.values()
        rounds.append(found | {"times": contrastive / sum(greedy)})
    measured = bar(
        "one contrastive decoding against the two greedy ones",
        statistics.median(one["times"] for one in rounds),
        "at most",
        BAR,
        unit="times",
        model=" - ".join(content["models"]),
    )
    caption = f"Decoding of {len(prompts)} prompts together, by round"
    add(content, [table(caption, rounds)], [measured], args.output)


if __name__ == "__main__":
    main()
