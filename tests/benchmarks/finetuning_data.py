"""Which of eight fine-tuning mixtures is best, foretold from a short run of a small proxy.

A base model of each size learns a mixed corpus of `corpora.py`. Every mixture is then learnt by
both through `hf-proxy finetune`, which scores as it trains: by the small one for a few steps, by
the target for all. The protocol stands in corpora.md. Killed and started again it goes on, and
loses at most the training it was at.

    python tests/benchmarks/finetuning_data.py --output_dir outputs/finetuning-data
"""

import argparse
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import corpora_world as setup
import numpy as np
import results
import torch
from corpora_documents import Corpus, documents_of
from corpora_studies import Study, studies_of
from corpora_tables import NAMED, accuracies, decision_rows, glance_rows, noise_rows
from corpora_world import CONTEXT, Size, World, scores_of
from transformers import AutoModelForCausalLM

from hf_proxy.recipes import finetune_with_proxy
from hf_proxy.recipes.library.small_world import solve
from hf_proxy.records.storage import fingerprint, write_text

SEEDS = (1, 2, 3)
EXPLORATION = 0  # the seed that all of this is set on
BEFORE = Corpus(sloppy=0.5)  # what the base models know
NUM_ROWS, BATCH_SIZE = 960, 16
MIXTURES: dict[str, Corpus] = {
    "careful": Corpus(),
    "sloppy 40 %": Corpus(sloppy=0.40),
    "sloppy 60 %": Corpus(sloppy=0.60),
    "wrong 50 %": Corpus(wrong=0.50),
    "other style": Corpus(styled=1.0),
    "answers only": Corpus(brief=1.0),
    "60 rows": Corpus(distinct=60),
    "off-topic 75 %": Corpus(off_topic=0.75),
}


@dataclass(frozen=True)
class Tuned:
    """A model: how it learns the base corpus, and then a mixture."""

    base: Size
    num_steps: int
    learning_rate: float


# as seed 0 showed, see the protocol
MODELS: dict[str, Tuned] = {
    "target": Tuned(Size(64, 2, 5e-3, (1600,)), 120, 1e-3),
    "small": Tuned(Size(40, 2, 6e-3, (1400,)), 30, 1e-3),
}


def main() -> None:
    """Train what is not yet, and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output_dir", type=Path, required=True, help="What is measured.")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=list(SEEDS),
        help=f"{EXPLORATION}, alone: accuracies to set sizes by; its scores are not looked at.",
    )
    parser.add_argument("--analyse", action="store_true", help="What is there already.")
    parser.add_argument("--output", type=Path, default=None, help="OUTPUT_DIR/finetuning_data.json")
    args = parser.parse_args()
    if EXPLORATION in args.seeds and len(args.seeds) > 1:
        parser.error(f"seed {EXPLORATION} is looked at alone")
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    content = results.begin("finetuning_data", args, dtype="float32")
    world = World(args.output_dir)
    rows = list(measured(world, args.seeds, only_read=args.analyse))
    if EXPLORATION in args.seeds:
        results.print_one(results.table("Accuracies", accuracies(rows)))
        return
    output = args.output or args.output_dir / "finetuning_data.json"
    results.add(content, results.shortened(tables_of(rows)), [], output)


def measured(world: World, seeds: Sequence[int], *, only_read: bool) -> Any:
    """Each row, seed by seed; what is not there is trained unless `only_read`."""
    units = [(s, name, mixture) for s in seeds for name in MODELS for mixture in MIXTURES]
    paths = {unit: row_path(world.folder, *unit) for unit in units}
    left = [unit for unit, path in paths.items() if not path.exists()]
    start, done = time.monotonic(), 0
    for unit, path in paths.items():
        if unit in left and only_read:
            continue
        if unit in left:
            path.parent.mkdir(parents=True, exist_ok=True)
            row = tune(world, *unit)
            write_text(path, json.dumps(row))
            done += 1
            to_go = (time.monotonic() - start) / done * (len(left) - done) / 60
            reached = row["points"][-1]["accuracy"]
            print(f"{done}/{len(left)} {unit}: {reached:.3f}; {to_go:.0f} min left", flush=True)
        yield json.loads(path.read_text())


def row_path(folder: Path, seed: int, name: str, mixture: str) -> Path:
    """Where what was measured is kept: elsewhere once a setting is another."""
    of = {"mixture": vars(MIXTURES[mixture]), "before": vars(BEFORE), "rows": NUM_ROWS}
    of |= {"model": repr(MODELS[name]), "batch": BATCH_SIZE}
    of |= {"problems": setup.NUM_PROBLEMS, "traces": setup.NUM_TRACES}
    return folder / "rows" / f"{seed}" / f"{mixture} {name} {fingerprint(of)[:8]}.json"


def base_model(world: World, seed: int, name: str) -> Path:
    """The folder of the model before any mixture, made once."""
    model = MODELS[name]
    place = world.folder / "base" / f"{seed} {name} {fingerprint(repr((model.base, BEFORE)))[:8]}"
    if not place.is_dir():
        partial = place.with_name(f"{place.name}.partial-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        world.pretrained(BEFORE, model.base, seed).save_pretrained(partial)
        world.tokenizer.save_pretrained(partial)
        partial.rename(place)
    return place


def tune(world: World, seed: int, name: str, mixture: str) -> dict[str, Any]:
    """One mixture learnt by one model through the command, its accuracy and scores at the end."""
    model, sets = MODELS[name], world.trace_sets()
    base = base_model(world, seed, name)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rng = random.Random(f"mixture {mixture}")  # the same for every model and seed
        rows = islice(documents_of(MIXTURES[mixture], rng, "mine"), NUM_ROWS)
        lines = [{"prompt": row["prompt"], "completion": row["trace"]} for row in rows]
        (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        flags: dict[str, Any] = {
            "model_name_or_path": base,
            "dtype": "float32",
            "train_data": folder / "rows.jsonl",
            "context": CONTEXT.replace("\n", "\\n"),
            "output_dir": folder / "tuned",
            "max_steps": model.num_steps,
            "per_device_train_batch_size": BATCH_SIZE,
            "learning_rate": model.learning_rate,
            "lr_scheduler_type": "linear",
            "save_strategy": "steps",
            "save_steps": model.num_steps,
            "logging_steps": model.num_steps,
            "report_to": "none",
            "disable_tqdm": "true",
            "use_cpu": "true",
            "bf16": "false",
            "seed": seed,
        }
        argv = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
        argv += ["--traces", *(f"{key}={path}" for key, path in sets.items())]
        with (folder / "said.txt").open("w") as said, redirect_stdout(said), redirect_stderr(said):
            code = finetune_with_proxy.cli(argv)
        if code != 0:
            raise RuntimeError((folder / "said.txt").read_text())
        tuned = AutoModelForCausalLM.from_pretrained(folder / "tuned")
        tokens, scores = scores_of(folder / "tuned")[model.num_steps]
    part = "test" if name == "target" else "foretell"
    right = solve(tuned, world.tokenizer, world.problems(part, setup.NUM_PROBLEMS))[1]
    number = tuned.num_parameters()
    point = {"step": model.num_steps, "accuracy": sum(right) / len(right), "tokens": tokens}
    point |= {"flops": 6 * number * tokens, "scores": scores}
    row = {"corpus": mixture, "seed": seed, "model": name, "num_parameters": number}
    return row | {"points": [point], "cpu_seconds": round(time.process_time() - start, 1)}


def tables_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Accuracies, decisions, what a choice costs."""
    studies = studies_of(rows, list(MIXTURES))
    decisions = decision_rows(studies, {})
    lost = {"kind": "intervals", "x": "predictor", "y": "accuracy lost, points", "zero": False}
    lost |= {"y_label": "lost by its first choice, points", "caption": "what a choice costs"}
    return [
        results.table("Accuracy after fine-tuning, mean over seeds", accuracies(rows)),
        results.table("Decision accuracy over pairs of mixtures", decisions),
        results.table("Decision accuracy at a glance", glance_rows(decisions)),
        results.table("The target's own noise", noise_rows(studies[0])),
        results.table(
            "The mixture that is chosen", [r for s in studies for r in chosen_rows(s)], lost
        ),
    ]


def chosen_rows(study: Study) -> list[dict[str, Any]]:
    """What each predictor's first choice costs in the target's accuracy; by lot: their mean."""
    if study.is_target:
        return []
    target_C = study.target_CS.mean(axis=1)
    lost = {"by lot": (np.full(len(study.seeds), target_C.max() - target_C.mean()), [])}
    for name, (column, low) in NAMED.items():
        value_CS = study.values[column] * (1 if low else -1)
        # of equals one by lot
        chosen = [value_C == value_C.min() for value_C in value_CS.T]
        cost = np.array([target_C.max() - target_C[best_C].mean() for best_C in chosen])
        lost[name] = cost, [study.corpora[int(best_C.argmax())] for best_C in chosen]
    return [
        {"predictor": name, "accuracy lost, points": 100 * float(cost.mean())}
        | {"most, points": 100 * float(cost.max()), "chosen by seed": own}
        for name, (cost, own) in lost.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
