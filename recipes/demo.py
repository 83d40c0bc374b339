"""Both methods on bundled tiny models, without a download: learn, score, predict, mine, report."""

import contextlib
import io
import json
import random
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from hf_proxy.recipes import RecipeConfig, closed_loop, evaluate_accuracy, report, run
from hf_proxy.recipes.small_world import LONGEST_TRACE, problems
from hf_proxy.schemas import InputError, write_text

ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True, kw_only=True)
class DemoConfig(RecipeConfig):
    """Fields are flags and YAML keys."""

    output_dir: str = field(default="outputs/demo", metadata={"help": "Where the files go."})
    num_steps: int = field(default=60, metadata={"help": "Optimizer steps of the loop."})
    mine_steps: int = field(
        default=20, metadata={"help": "Steps between two minings, and between two scores."}
    )
    num_prompts: int = field(default=64, metadata={"help": "Questions of each mining."})
    num_problems: int = field(
        default=200, metadata={"help": "Fresh problems that the expert answers before and after."}
    )
    seed: int = field(default=0, metadata={"help": "Of questions, problems and training."})


def main(config: DemoConfig) -> dict[str, Any]:
    """Tune a tiny expert on its own soft targets, its score and a prediction beside each loss."""
    start = time.perf_counter()
    folder = Path(config.output_dir)
    _make_room(folder)
    # questions to learn from, and problems to be measured on: none of them in both
    rng = random.Random(f"demo-{config.seed}")
    rows = list({row["prompt"]: row for row in islice(problems(rng), 4000)}.values())
    parts = {"problems": rows[: config.num_problems], "questions": rows[config.num_problems :]}
    for name, part in parts.items():
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in part))
    shutil.copytree(ASSETS / "curve", folder / "curve")
    expert, tuned = ASSETS / "expert", folder / "loop"
    _command(
        "loop",
        closed_loop.cli,
        {
            "model_name_or_path": expert,
            "amateur": ASSETS / "amateur",
            "prompts": folder / "questions.jsonl",
            "traces": ASSETS / "traces.parquet",
            "curves": ASSETS / "curve" / "target.json",
            "output_dir": tuned,
            "max_new_tokens": LONGEST_TRACE,
            "num_prompts": config.num_prompts,
            "num_eval": 32,
            "mine_steps": config.mine_steps,
            "max_steps": config.num_steps,
            "eval_strategy": "steps",
            "eval_steps": config.mine_steps,
            "save_steps": config.mine_steps,
            "logging_steps": 1,
            "learning_rate": 2e-4,
            "per_device_train_batch_size": 16,
            "dtype": "float32",
            "seed": config.seed,
            "disable_tqdm": not sys.stderr.isatty(),
        },
    )
    _command(
        "accuracy",
        evaluate_accuracy.cli,
        {
            "models": [expert, tuned],
            "problems": folder / "problems.jsonl",
            "question_column": "prompt",
            "answer_column": "answer",
            "max_new_tokens": LONGEST_TRACE,
            "batch_size": 100,
            "output_dir": folder / "accuracy",
        },
    )
    _command("report", report.cli, {"run_dir": folder})
    found = json.loads((tuned / "provenance.json").read_text())["found"]
    accuracy = json.loads((folder / "accuracy" / "results.json").read_text())
    print(_table(found["rows"]))
    print(_accuracies(accuracy))
    seconds = time.perf_counter() - start
    print(f"{seconds:.0f} s; open {folder / 'report.html'}")
    return {
        "rows": found["rows"],
        "models": accuracy["models"],
        "comparisons": accuracy["comparisons"],
        "seconds": seconds,
        "report": str(folder / "report.html"),
    }


def _make_room(folder: Path) -> None:
    """Take away what an earlier demo left, and nothing else."""
    mark = folder / "questions.jsonl"
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise InputError.at(
            "the folder holds something else than a demo",
            remedy="name another output_dir",
            source=folder,
        )
    for name in ("loop", "accuracy", "curve"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _command(name: str, cli: Callable[[list[str]], int], flags: Mapping[str, Any]) -> None:
    """Show a command as a user would type it, and run it; its own tables give way to ours."""
    argv = []
    for flag, value in flags.items():
        argv += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
    print(f"hf-proxy {name} {shlex.join(argv)}\n", flush=True)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = cli(argv)
    if code:
        raise RuntimeError(f"hf-proxy {name} ended with {code}: {said.getvalue()[-1000:]}")


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "        expert's loss on   rBridge, nats a token        accuracy of the larger",
        "  step  held-out targets   (lower is better)            target, predicted      kept steps",
    ]
    for row in rows:
        score, target = "eval_rbridge", "eval_rbridge_target_accuracy"
        lines.append(
            f"{row['step']:6d}  {row['eval_loss']:16.4f}   {row[f'{score}_nll']:.4f} "
            f"[{row[f'{score}_nll_low']:.4f}, {row[f'{score}_nll_high']:.4f}]   "
            f"{row[target]:6.1%} [{row[f'{target}_low']:.1%}, {row[f'{target}_high']:.1%}]  "
            f"{row['kept_share']:10.1%}"
        )
    return "\n".join(lines)


def _accuracies(result: dict[str, Any]) -> str:
    before, after = result["models"]
    (pair,) = result["comparisons"]
    return (
        f"the expert itself, on {before['num_problems']} fresh problems: "
        f"{before['accuracy']:.1%} [{before['low']:.1%}, {before['high']:.1%}] before, "
        f"{after['accuracy']:.1%} [{after['low']:.1%}, {after['high']:.1%}] after "
        f"(McNemar p = {pair['p_value']:.3f})"
    )


def cli(argv: list[str] | None = None) -> int:
    """`hf-proxy demo`."""
    return run(DemoConfig, main, argv, prog="hf-proxy demo")


if __name__ == "__main__":
    raise SystemExit(cli())
