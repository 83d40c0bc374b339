"""LightReasoner in the world of carry chains: where it helps, what of it helps, what foretells it.

The protocol, fixed before the first score: carry_chains.md, beside this file. Killed and started
again it goes on, and loses at most the arm it was at; seeds may run in processes beside each other.

    python tests/benchmarks/carry_chains.py --output_dir outputs/carry-chains
    python tests/benchmarks/carry_chains.py --output_dir outputs/carry-chains --only_table
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import results
import torch
from carry_chains_arms import (
    AMATEURS,
    BETAS,
    NUM_PROBLEMS,
    World,
    continued,
    fed,
    foretold,
    lightreasoner,
    lora,
    rejection,
    right,
)
from carry_chains_tables import found_of, tables_of
from transformers import set_seed

from hf_proxy.recipes.library.carry_chains import CLEAN, LATENT, SOURCES
from hf_proxy.records.storage import write_text

SEEDS = (10, 11, 12, 13, 14)
LIGHT = {f"LightReasoner {beta:g}": {"divergence_beta": beta} for beta in BETAS}
# what is mined, where another word than the paper's is said
ABLATIONS: dict[str, dict[str, Any]] = {
    "no contrast": {"target": "token"},
    "no selection": {"select": "all"},
    "neither": {"select": "all", "target": "token"},
    "random steps": {"select": "random"},
    "entropy steps": {"select": "entropy"},
    "low entropy, high KL": {"select": "low_entropy_high_kl"},
    "renormalised expert": {"target": "expert"},
}
REFERENCE = "LightReasoner 0.4"  # whose kept tokens the arm of equal tokens gets


def items_of(world: World, done: Mapping[str, dict[str, Any]]):
    """Every measurement of a seed in order: its name, what it is, and how it is made."""
    everywhere: dict[str, Callable[..., Any]] = {
        name: lambda *given, own=own: lightreasoner(*given, **own) for name, own in LIGHT.items()
    }
    more = {
        name: lambda *given, own=own: lightreasoner(*given, **own)
        for name, own in ABLATIONS.items()
    }
    everywhere["no contrast"] = more.pop("no contrast")
    everywhere["rejection SFT, equal rows"] = rejection

    def equal_tokens(*given):
        kept = done[f"{world.seed} {LATENT} normal {REFERENCE}"]["kept_tokens"]
        return rejection(*given, kept_tokens=kept)

    more |= {"rejection SFT, equal tokens": equal_tokens, "continued pre-training": continued}
    more["LoRA, LightReasoner 0.4"] = lora
    for beta in BETAS:
        more[f"fed, LightReasoner {beta:g}"] = lambda *given, beta=beta: fed(
            *given, divergence_beta=beta
        )
    for source in sorted(SOURCES, key=lambda name: (name != LATENT, name != CLEAN)):
        arms = everywhere | more if source == LATENT else everywhere
        yield source, "normal", arms
    for kind in AMATEURS:
        if kind != "normal":
            yield LATENT, kind, {name: everywhere[name] for name in LIGHT}


def measure(world: World, done: dict[str, dict[str, Any]], path: Path) -> None:
    """What of this seed is still to be measured."""
    for source, kind, arms in items_of(world, done):
        amateur, tests = None, None
        for name, make in {"base": None, "foretold": None, **arms}.items():
            key = f"{world.seed} {source} {kind} {name}"
            if key in done:
                continue
            amateur = amateur or world.amateur(kind)
            tests = tests or world.rows("test", source, NUM_PROBLEMS)
            start = time.process_time()
            row: dict[str, Any] = {"key": key, "seed": world.seed, "source": source}
            row |= {"amateur": kind, "arm": name}
            with tempfile.TemporaryDirectory() as folder:
                if name == "base":
                    row["right"] = right(world, world.expert, tests)
                    row["amateur_right"] = right(world, amateur, tests)
                elif name == "foretold":
                    row["foretold"] = foretold(world, source, amateur)
                else:
                    assert make is not None
                    set_seed(world.seed)
                    model, about = make(world, source, amateur, Path(folder))
                    row |= about | {"right": right(world, model, tests)}
            row["cpu_seconds"] = round(time.process_time() - start, 1)
            done[key] = row
            keep(row, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, required=True, help="Models and items.")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--only_table", action="store_true", help="Of what is there already.")
    parser.add_argument("--output", type=Path, default=None, help="OUTPUT_DIR/carry_chains.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    (args.output_dir / "models").mkdir(parents=True, exist_ok=True)
    content = results.begin("carry_chains", args, dtype="float32")
    rows = []
    for seed in args.seeds:
        path = args.output_dir / f"items-{seed}.jsonl"
        done = read_items(path)
        if not args.only_table:
            # without a line that was cut off
            write_text(path, "".join(json.dumps(row) + "\n" for row in done.values()))
            measure(World(seed, args.output_dir), done, path)
        rows += done.values()
    output = args.output or args.output_dir / "carry_chains.json"
    tables = tables_of(rows)
    content["found"] = found_of(tables)
    results.add(content, tables, [], output)


def read_items(path: Path) -> dict[str, dict[str, Any]]:
    """What is measured already, by key; a line that was cut off is measured again."""
    if not path.exists():
        return {}
    whole = [line for line in path.read_text().splitlines(keepends=True) if line[-1] == "\n"]
    return {row["key"]: row for row in map(json.loads, whole)}


def keep(row: dict[str, Any], path: Path) -> None:
    """Write what was measured, and show it."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    said = {name: row[name] for name in row if name not in ("right", "amateur_right", "key")}
    share = f" {row['right'].count('1') / NUM_PROBLEMS:.3f}" if "right" in row else ""
    print(f"{time.strftime('%H:%M:%S')}{share} {said}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
