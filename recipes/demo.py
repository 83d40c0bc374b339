"""Both methods on bundled tiny models, without a download: mine, tune, score, predict, report."""

import contextlib
import io
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_proxy.recipes import closed_loop, evaluate_accuracy, report
from hf_proxy.recipes.library.running import RecipeConfig, at_least, run
from hf_proxy.recipes.library.screen import print_table
from hf_proxy.records.errors import InputError

ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True, kw_only=True)
class DemoConfig(RecipeConfig):
    """Fields are flags and YAML keys."""

    output_dir: str = field(default="outputs/demo", metadata={"help": "Where the files go."})
    num_steps: int = field(default=60, metadata={"help": "Steps that the expert learns for."})
    mine_steps: int = field(
        default=20, metadata={"help": "Of those, between two minings and between two scores."}
    )
    num_prompts: int = field(default=64, metadata={"help": "Questions of each mining."})
    num_problems: int = field(
        default=300, metadata={"help": "Problems that the expert answers before and after."}
    )
    seed: int = field(default=0, metadata={"help": "Of the training."})

    def __post_init__(self) -> None:
        at_least(self, 1, "num_steps", "mine_steps", "num_prompts")
        at_least(self, 2, "num_problems")


def main(config: DemoConfig) -> dict[str, Any]:
    """Both methods in a small world of arithmetic problems, from bundled models, in a minute.

    A tiny expert writes solutions, learns from the steps where it parts from an amateur, and does
    so anew as it goes. Beside each loss stand its rBridge score on a frontier's traces, and the
    accuracy that the bundled curve reads from it for a target 7 times as large. Then the expert's
    own answers, before and after.

    Reads:   nothing; traces, models, curve and problems come with the package.
    Writes:  the tuned expert, every answer and report.html in output_dir.
    Example: hf-proxy demo
    """
    from hf_proxy.recipes.library.small_world import LONGEST_TRACE

    start = time.perf_counter()
    folder = Path(config.output_dir)
    _make_room(folder)
    expert, tuned = ASSETS / "expert", folder / "loop"
    _command(
        "loop",
        closed_loop.cli,
        {
            "model_name_or_path": expert,
            "amateur": ASSETS / "amateur",
            "prompts": ASSETS / "questions.jsonl",
            "traces": ASSETS / "traces.parquet",
            "curves": ASSETS / "curve" / "target.json",
            "output_dir": tuned,
            "max_new_tokens": LONGEST_TRACE,
            "num_prompts": config.num_prompts,
            "num_eval": 32,
            "mine_steps": config.mine_steps,
            "max_steps": config.num_steps,
            "eval_strategy": "steps",
            "eval_on_start": True,
            "eval_steps": config.mine_steps,
            "save_steps": config.mine_steps,
            "learning_rate": 3e-5,
            "per_device_train_batch_size": 16,
            "dtype": "float32",
            "bf16": False,
            "report_to": "none",
            "dataloader_pin_memory": False,
            "seed": config.seed,
            "disable_tqdm": not sys.stderr.isatty(),
        },
    )
    _command(
        "accuracy",
        evaluate_accuracy.cli,
        {
            "models": [expert, tuned],
            "problems": ASSETS / "problems.jsonl",
            "num_problems": config.num_problems,
            "question_column": "prompt",
            "answer_column": "answer",
            "max_new_tokens": LONGEST_TRACE,
            "batch_size": 100,
            "output_dir": folder / "accuracy",
        },
    )
    shutil.copytree(ASSETS / "curve", folder / "curve")
    _command("report", report.cli, {"run_dir": folder})
    found = json.loads((tuned / "provenance.json").read_text())["found"]
    accuracy = json.loads((folder / "accuracy" / "results.json").read_text())
    _print_rows(found["rows"])
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
    from hf_proxy.records.storage import provenance_of, write_text

    mark = folder / "demo.json"
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise InputError.at(
            "the folder holds something else than a demo",
            remedy="name another output_dir",
            source=folder,
        )
    for name in ("loop", "accuracy", "curve"):
        shutil.rmtree(folder / name, ignore_errors=True)
    write_text(mark, json.dumps(provenance_of()))


def _command(name: str, cli: Callable[[list[str]], int], flags: Mapping[str, Any]) -> None:
    """Show a command as a user would type it, and run it; its own tables give way to ours."""
    argv = []
    for flag, value in flags.items():
        argv += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
    shown = shlex.join(argv).replace(f"{Path.cwd()}/", "")
    print(f"hf-proxy {name} {shown}\n", flush=True)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = cli(argv)
    if code:
        raise RuntimeError(f"hf-proxy {name} ended with {code}: {said.getvalue()[-1000:]}")


def _print_rows(rows: list[dict[str, Any]]) -> None:
    cells = []
    for row in rows:
        ends = ("", "_low", "_high")
        nll = [row[f"eval_rbridge_nll{end}"] for end in ends]
        predicted = [row[f"eval_rbridge_target_accuracy{end}"] for end in ends]
        cells.append(
            [str(row["step"]), f"{row['eval_loss']:.4f}", f"{row['kept_share']:.1%}"]
            + ["{:.4f} [{:.4f}, {:.4f}]".format(*nll)]
            + ["{:.1%} [{:.1%}, {:.1%}]".format(*predicted)]
        )
    from hf_proxy.records.scores import METRIC_LABELS

    head = ("step", "held-out loss", "kept steps", METRIC_LABELS["value"])
    print_table((*head, "target's accuracy, predicted"), cells)


def _accuracies(result: dict[str, Any]) -> str:
    before, after = result["models"]
    (pair,) = result["comparisons"]
    return (
        f"the expert's own answers to {before['num_problems']} problems nobody was trained on: "
        f"{before['accuracy']:.1%} [{before['low']:.1%}, {before['high']:.1%}] before, "
        f"{after['accuracy']:.1%} [{after['low']:.1%}, {after['high']:.1%}] after "
        f"(McNemar p = {pair['p_value']:.3f})"
    )


def cli(argv: list[str] | None = None) -> int:
    """`hf-proxy demo`."""
    return run(DemoConfig, main, argv, prog="hf-proxy demo")


if __name__ == "__main__":
    raise SystemExit(cli())
