"""The whole way on bundled tiny models: train, score, predict, mine, tune, compare, report."""

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
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast, set_seed

from hf_proxy.callbacks import ProxyScoreCallback
from hf_proxy.prediction import Curve
from hf_proxy.recipes import RecipeConfig, at_least, closed_loop, evaluate_accuracy, report, run
from hf_proxy.recipes.small_world import (
    HELD_OUT,
    LONGEST_TRACE,
    make_model,
    pretrain,
    problems,
    take,
)
from hf_proxy.schemas import InputError

ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True, kw_only=True)
class DemoConfig(RecipeConfig):
    """Fields are flags and YAML keys."""

    output_dir: str = field(default="outputs/demo", metadata={"help": "Where the files go."})
    proxy_steps: int | None = field(
        default=None,
        metadata={"help": "Training steps of the new proxy; unset: as the bundled runs had."},
    )
    score_every: int = field(default=100, metadata={"help": "Its steps between two scores."})
    loop_steps: int = field(default=60, metadata={"help": "Steps that the expert learns for."})
    mine_steps: int = field(
        default=20, metadata={"help": "Of those, between two minings and between two scores."}
    )
    num_prompts: int = field(default=64, metadata={"help": "Questions of each mining."})
    num_problems: int = field(
        default=300, metadata={"help": "Problems that the expert answers before and after."}
    )
    seed: int = field(default=1, metadata={"help": "Of the new proxy, its problems, the loop."})

    def __post_init__(self) -> None:
        at_least(self, 1, "proxy_steps", "score_every", "loop_steps", "mine_steps", "num_prompts")
        at_least(self, 2, "num_problems")


def main(config: DemoConfig) -> dict[str, Any]:
    """Both methods in a small world of arithmetic problems, from bundled models, in two minutes.

    1. A new proxy is trained from nothing. At each evaluation its rBridge score, read by the
       bundled curve, predicts the accuracy of a target 7 times as large, whose own training was
       measured at as many tokens when the curve was made.
    2. The bundled expert learns from the steps where it parts from an amateur, mined anew as it
       goes, under the same score.
    3. It answers problems that nobody was trained on, before and after.

    Reads:   nothing; traces, models, curve and problems come with the package.
    Writes:  into output_dir: the new proxy's checkpoints, the tuned expert, every answer,
             report.html.
    Example: hf-proxy demo
    """
    start = time.perf_counter()
    folder = Path(config.output_dir)
    _make_room(folder)
    built = json.loads((ASSETS / "curve" / "provenance.json").read_text())
    print("1. training a proxy from nothing, scored as it learns", flush=True)
    scores = _train_proxy(config, built["settings"], folder / "proxy")
    print("2. the expert learns from its own soft targets:", flush=True)
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
            "max_steps": config.loop_steps,
            "eval_strategy": "steps",
            "eval_on_start": True,
            "eval_steps": config.mine_steps,
            "save_steps": config.mine_steps,
            "learning_rate": 3e-5,
            "per_device_train_batch_size": 16,
            "dtype": "float32",
            "bf16": False,
            "report_to": "none",
            "seed": config.seed,
            "disable_tqdm": not sys.stderr.isatty(),
        },
    )
    print("3. its answers before and after, and a page of all this:", flush=True)
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
    print(_table(scores, built["points"], found["rows"]))
    print(_accuracies(accuracy))
    seconds = time.perf_counter() - start
    print(f"{seconds:.0f} s; open {folder / 'report.html'}")
    return {
        "scores": scores,
        "rows": found["rows"],
        "models": accuracy["models"],
        "comparisons": accuracy["comparisons"],
        "seconds": seconds,
        "report": str(folder / "report.html"),
    }


def _train_proxy(config: DemoConfig, built: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """A proxy as the curve's was, of another seed and other problems; its lines of scores."""
    set_seed(config.seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(ASSETS / "expert")
    num_steps = config.proxy_steps or built["num_steps"]
    stream = problems(random.Random(f"demo-{config.seed}"))
    pretrain(
        make_model(tokenizer, *built["proxy"]),
        tokenizer,
        take(stream, num_steps * built["batch_size"] + HELD_OUT),
        batch_size=built["batch_size"],
        learning_rate=built["learning_rate"],
        save_steps=config.score_every,
        output_dir=folder,
        seed=config.seed,
        attach=[
            ProxyScoreCallback(ASSETS / "traces.parquet", curves=[ASSETS / "curve" / "target.json"])
        ],
    )
    text = (folder / "hf_proxy" / "predictions.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def _make_room(folder: Path) -> None:
    """Take away what an earlier demo left, and nothing else."""
    parts = [folder / name for name in ("proxy", "loop", "accuracy", "curve", "report.html")]
    if folder.exists() and (others := sorted(set(folder.iterdir()) - set(parts))):
        raise InputError.at(
            f"the folder holds something else than a demo, {others[0].name}",
            remedy="name another output_dir",
            source=folder,
        )
    for part in parts:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


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


def _table(scores: list[dict], points: list[dict], rows: list[dict]) -> str:
    """Both runs under one head: score and prediction, and what the target itself had measured."""
    first, last = Curve.load(ASSETS / "curve" / "target.json").x_range

    def scored(step: int, value: float, low: float, high: float, found: list[float]) -> str:
        predicted = "{:4.0%} [{:.0%}, {:.0%}]".format(*found)
        if not first <= value <= last:
            predicted += " *"
        return f"{step:7d}  {value:.4f} [{low:.4f}, {high:.4f}]  {predicted:<18}"

    lines = [
        "         rBridge, nats per token   accuracy of the larger target       loss on   steps",
        "   step  (lower is better)         predicted           measured        targets   kept",
        "a new proxy, trained from nothing",
    ]
    measured = {point["step"]: point for point in points}
    for line in scores:
        found = [line["predictions"]["target"][key] for key in ("value", "low", "high")]
        lines.append(scored(line["step"], line["value"], line["low"], line["high"], found))
        if point := measured.get(line["step"]):
            low, high = point["target_low"], point["target_high"]
            lines[-1] += f"  {point['target_accuracy']:4.0%} [{low:.0%}, {high:.0%}]"
    lines.append("the expert, learning from its own soft targets")
    for row in rows:
        found = [row[f"eval_rbridge_target_accuracy{end}"] for end in ("", "_low", "_high")]
        nll = [row[f"eval_rbridge_nll{end}"] for end in ("", "_low", "_high")]
        told = scored(row["step"], nll[0], nll[1], nll[2], found)
        lines.append(f"{told:<71}{row['eval_loss']:.4f}  {row['kept_share']:6.1%}")
    return "\n".join([*lines, "* beyond the points of the curve"])


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
