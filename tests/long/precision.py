"""The probes of every causal architecture in bfloat16, beside what they find in float32.

    python tests/long/precision.py --output precision.jsonl [NAME ...]

Masks know nothing of precision, so one model must be found to pack, or not to be causal, in both;
what differs is rounding taken for a leak (slower, and right) or a leak taken for rounding (wrong).
One line of JSON each; what stands in the file already is not run again. `--table` prints what the
file says. Ten minutes on one core; outside of the suite.
"""

import argparse
import json
import sys
import warnings
from collections import Counter
from pathlib import Path

import torch
from transformers import logging
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

sys.path.insert(0, str(Path(__file__).parent.parent))
from helpers.zoo import build

from hf_proxy import InputError
from hf_proxy.models.access import scoring_mode
from hf_proxy.models.probes import require_causal, why_not_packed

VOCAB_SIZE = 400
LONGEST = 400  # tokens of a line to come
ATTENTIONS = ("eager", "sdpa")


def found_in(name: str, attention: str, dtype: torch.dtype) -> str:
    """What the probes say of an architecture in one precision."""
    try:
        model = build(name, VOCAB_SIZE, dtype=dtype)
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)
        with scoring_mode(model) as bare:
            device = torch.device("cpu")
            require_causal(bare, device=device)
            why_not = why_not_packed(bare, longest=LONGEST, device=device)
        return "does not pack" if why_not else "packs"
    except InputError as error:
        return "not causal" if "not causal" in str(error) else "not scored"
    except Exception as error:  # of a model that this version of transformers cannot run
        return f"not built: {type(error).__name__}"


def table(path: Path) -> str:
    """The file as a table of what was found in both."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    built = [x for x in lines if not x["float32"].startswith("not built")]
    count = Counter((x["float32"], x["bfloat16"], x["attention"]) for x in built)
    text = ["| float32 | bfloat16 | eager | sdpa |", "|---|---|---|---|"]
    for one, other in sorted({pair[:2] for pair in count}):
        own = [str(count[one, other, attention]) for attention in ATTENTIONS]
        text.append(f"| {one} | {other} | {' | '.join(own)} |")
    for x in built:
        if x["float32"] != x["bfloat16"]:
            text.append(f"\n{x['name']} {x['attention']}: {x['float32']}, {x['bfloat16']}")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--output", type=Path, default=Path("precision.jsonl"))
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
        done = {(line["name"], line["attention"]) for line in lines}
    for name in args.names or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        for attention in ATTENTIONS:
            if (name, attention) in done:
                continue
            found = {"name": name, "attention": attention}
            for dtype in ("float32", "bfloat16"):
                found[dtype] = found_in(name, attention, getattr(torch, dtype))
            with args.output.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(*found.values(), flush=True)


if __name__ == "__main__":
    main()
