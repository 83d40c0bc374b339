"""Every causal architecture that transformers maps and builds from a tiny config, scored in truth.

    python tests/long/architectures.py --output architectures.jsonl [NAME ...]

For each one, with each attention implementation that it takes: do plain forwards show that a later
token moves an earlier logit, or that packed rows see each other, and does the product say the same?
One line of JSON each, written as it is found; what stands in the file already is not run again.
`--table` prints what the file says. About ten minutes on two cores; outside of the suite, which
runs a part of it (tests/test_probes.py).
"""

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from transformers import logging
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

sys.path.insert(0, str(Path(__file__).parent.parent))
from helpers.zoo import build

from hf_proxy import InputError, score_traces
from hf_proxy.records.rows import ALIGNED_FEATURES

VOCAB_SIZE = 400
LENGTHS = (61, 23, 40, 9, 52, 30)
ATTENTIONS = ("eager", "sdpa")
SAME = 1e-6  # relative, of the mean NLL in float32


def make_rows():
    """Rows of random ids, uneven, none of them with a meaning of its own."""
    from datasets import Dataset

    rng = np.random.default_rng(0)
    parts = {"traces": "t", "num_traces": len(LENGTHS), "tokenizer": "k", "context": "text"}
    rows = [
        {
            "example_id": str(number),
            "input_ids": rng.integers(5, VOCAB_SIZE, length).tolist(),
            "label_start": 4,
            "label_weight": [0.0] * 4 + [1.0] * (length - 4),
            "label_spans": [[i, i + 1] for i in range(length - 4)],
            "num_bytes": length - 4,
            "setting_parts": json.dumps(parts),
        }
        for number, length in enumerate(LENGTHS)
    ]
    return Dataset.from_list(rows, features=ALIGNED_FEATURES)


def logprobs(model, ids, positions=None):
    """`[T, V]` of one line by a plain forward."""
    inputs = {} if positions is None else {"position_ids": torch.tensor([positions])}
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False, **inputs).logits[0]
    return torch.log_softmax(logits.double(), -1)


def mean_nll(rows, of_rows):
    """R_phi, from the log-probabilities of each row's line."""
    nlls = []
    for row, logprob in zip(rows, of_rows, strict=True):
        label = torch.tensor(row["input_ids"][1:])
        nlls.append(-logprob.gather(1, label[:, None])[row["label_start"] - 1 :].mean().item())
    return float(np.mean(nlls))


def looks_ahead(model, rows) -> bool:
    """Whether the second half of the longest row moves the first."""
    ids = rows[0]["input_ids"]
    half = len(ids) // 2
    other = ids[:half] + [5 + (token + 100) % (VOCAB_SIZE - 5) for token in ids[half:]]
    moved = (logprobs(model, ids) - logprobs(model, other))[:half].abs().max().item()
    return moved > 1e-3


def product(model, rows, **changes):
    """The product's R_phi, or the kind of its refusal."""
    try:
        return score_traces(model, rows, **changes).trace_nll
    except InputError as error:
        kinds = {"not causal": "not causal", "packed rows": "not packed"}
        for word, kind in (kinds | {"cannot be scored": "not scored"}).items():
            if word in str(error):
                return kind
        return f"refused: {error}"
    except Exception as error:  # of a model that this version of transformers cannot run
        return f"{type(error).__name__}: {error}"


def judge(name: str, attention: str, rows) -> dict:
    """One line: what plain forwards show, what the product says."""
    found: dict = {"name": name, "attention": attention}
    try:
        model = build(name, VOCAB_SIZE)
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)
        found["parameters"] = model.num_parameters()
        ahead = looks_ahead(model, rows)
        apart = [logprobs(model, row["input_ids"][:-1]) for row in rows]
    except Exception as error:
        return found | {"verdict": "not built", "why": f"{type(error).__name__}: {error}"[:200]}
    truth = mean_nll(rows, apart)
    found |= {"looks_ahead": ahead, "plain": truth}
    lengths = [length - 1 for length in LENGTHS]
    try:
        line = [token for row in rows for token in row["input_ids"][:-1]]
        positions = [place for length in lengths for place in range(length)]
        packed = mean_nll(rows, logprobs(model, line, positions).split(lengths))
        found["plain_packed"] = packed
        stay_apart = abs(packed - truth) <= SAME * truth
    except Exception as error:
        found["plain_packed"] = type(error).__name__
        stay_apart = False
    padded = product(model, rows, padding_free=False)
    together = product(model, rows, padding_free=True)
    found |= {"padded": padded, "packed": together}
    if ahead:
        right = padded == together == "not causal"
        found["kind"] = "not causal"
    else:
        right = isinstance(padded, float) and abs(padded - truth) <= SAME * truth
        packs = isinstance(together, float) and abs(together - truth) <= SAME * truth
        right &= packs if stay_apart else together == "not packed"
        found["kind"] = "packs" if stay_apart else "does not pack"
        if padded == together == "not scored":  # more positions than tokens reach its head
            right, found["kind"] = True, "not scored"
    return found | {"verdict": "right" if right else "WRONG"}


def table(path: Path) -> str:
    """The file as a table of kinds."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    text = ["| plain forwards show | attention | architectures | the product says the same |"]
    text.append("|---|---|---|---|")
    for attention in ATTENTIONS:
        for kind in ("packs", "does not pack", "not causal", "not scored"):
            own = [x for x in lines if x["attention"] == attention and x.get("kind") == kind]
            right = Counter(x["verdict"] for x in own)["right"]
            text.append(f"| {kind} | {attention} | {len(own)} | {right} |")
    for kind in ("does not pack", "not causal"):
        names = sorted({x["name"] for x in lines if x.get("kind") == kind})
        text.append(f"\n{kind}: {', '.join(names)}")
    built = {x["name"] for x in lines if x["verdict"] != "not built"}
    text.append(f"\nnot built: {', '.join(sorted({x['name'] for x in lines} - built))}")
    for x in lines:
        if x["verdict"] == "WRONG":
            text.append(f"\nWRONG: {x}")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--output", type=Path, default=Path("architectures.jsonl"))
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(table(args.output))
        return
    warnings.simplefilter("ignore")
    logging.set_verbosity(50)
    rows = make_rows()
    done = set()
    if args.output.exists():
        lines = map(json.loads, args.output.read_text().splitlines())
        done = {(line["name"], line["attention"]) for line in lines}
    for name in args.names or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        for attention in ATTENTIONS:
            if (name, attention) in done:
                continue
            start = time.perf_counter()
            found = judge(name, attention, rows)
            found["seconds"] = round(time.perf_counter() - start, 2)
            with args.output.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(name, attention, found["verdict"], found.get("kind", ""), flush=True)


if __name__ == "__main__":
    main()
