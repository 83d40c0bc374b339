"""Every causal architecture that transformers maps and builds from a tiny config, writing in truth.

    python tests/long/generation.py --output generation.jsonl [NAME ...]

For each one: with ids that have gaps, with a head one row short of the tokenizer and with one that
is wider, are prompts written after together what plain forwards write after each alone, among the
tokens alone and no further than the end? And under LoRA, prefix and prompt tuning, is it what
`PeftModel.generate` writes after each, or is the adapter refused by name where PEFT cannot?
One line of JSON each, written as it is found; what stands in the file already is not run again.
`--table` prints what the file says. Half an hour on one core; outside of the suite, which runs a
part of it (tests/test_generation_architectures.py).
"""

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import torch
from transformers import logging
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

sys.path.insert(0, str(Path(__file__).parent.parent))
from helpers.writing import IDS, KINDS, judge


def table(path: Path) -> str:
    """The file as a table of kinds."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    verdicts = sorted({line["verdict"] for line in lines} - {"right"})
    text = ["| what | architectures | right | " + " | ".join(verdicts) + " |"]
    text.append("|---" * (3 + len(verdicts)) + "|")
    for kind in KINDS:
        count = Counter(line["verdict"] for line in lines if line["kind"] == kind)
        own = [str(count[verdict]) for verdict in ("right", *verdicts)]
        text.append(f"| {kind} | {count.total()} | " + " | ".join(own) + " |")
    for verdict in verdicts:
        for kind in KINDS:
            found = [x for x in lines if x["verdict"] == verdict and x["kind"] == kind]
            if found:
                text.append(f"\n{verdict}, {kind}: {', '.join(x['name'] for x in found)}")
    text += [f"\n{x}" for x in lines if x["verdict"] in ("WRONG", "bare error")]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--output", type=Path, default=Path("generation.jsonl"))
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(table(args.output))
        return
    warnings.simplefilter("ignore")
    logging.set_verbosity(50)
    torch.set_num_threads(1)
    done = set()
    if args.output.exists():
        lines = map(json.loads, args.output.read_text().splitlines())
        done = {(line["name"], line["kind"]) for line in lines}
    for name in args.names or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        for kind in args.kinds:
            if (name, kind) in done:
                continue
            start = time.perf_counter()
            found = {"name": name, "kind": kind} | judge(name, kind)
            found["seconds"] = round(time.perf_counter() - start, 2)
            with args.output.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(name, kind, found["verdict"], flush=True)
            if found["verdict"] in ("not built", "not causal") and kind in IDS:
                break


if __name__ == "__main__":
    main()
