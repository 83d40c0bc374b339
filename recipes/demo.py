"""Both methods on bundled tiny models, without a download: foretell, mine, tune, score, answer."""

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

from hf_proxy.recipes import (
    closed_loop,
    evaluate_accuracy,
    mine_soft_targets,
    report,
    train_selective_sft,
)
from hf_proxy.recipes.library.carry_chains import CLEAN, LATENT, SOURCES, distinct_problems
from hf_proxy.recipes.library.running import RecipeConfig, at_least, run
from hf_proxy.recipes.library.screen import print_table
from hf_proxy.records.errors import InputError

ASSETS = Path(__file__).parent / "assets"
PANELS = {"latent": LATENT, "clean": CLEAN}
LONGEST_TRACE = 32  # tokens; no worked solution of the small world is longer
BETAS = (0.4, 0.1)  # nats; foretold for both, mined with the one that half of the problems chooses
LEVEL = 0.95
# folder: what it is called, and what mining is told; rejection SFT is what needs right answers
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "lightreasoner": ("LightReasoner", {}),
    "no-contrast": ("no contrast: its own tokens there", {"target": "token"}),
    "rejection": (
        "rejection SFT (knows the answers)",
        {"select": "all", "target": "token", "only_correct": "true", "temperature": 1.0},
    ),
}
LOOP = "closed loop, mined anew thrice"


@dataclass(frozen=True, kw_only=True)
class DemoConfig(RecipeConfig):
    """Fields are flags and YAML keys."""

    output_dir: str = field(default="outputs/demo", metadata={"help": "Where the files go."})
    num_steps: int = field(default=60, metadata={"help": "Steps that each training has."})
    mine_steps: int = field(
        default=20, metadata={"help": "Of the loop's, between two minings and between two scores."}
    )
    num_prompts: int = field(default=300, metadata={"help": "Questions that are mined from."})
    num_problems: int = field(
        default=1000,
        metadata={"help": "Problems that are answered before and after, and to foretell, of each."},
    )
    seed: int = field(default=0, metadata={"help": "Of problems and trainings."})

    def __post_init__(self) -> None:
        at_least(self, 1, "num_steps", "mine_steps", "num_prompts")
        at_least(self, 4, "num_problems")


def main(config: DemoConfig) -> dict[str, Any]:
    """Both methods in a small world of arithmetic, from bundled models, in a minute and a half.

    A tiny expert learnt from documents of which some forget the carry. Asked by a source that is
    mostly sloppy it forgets it too, though it can do better; asked by a source that never is, there
    is nothing to gain. For each it is foretold whether LightReasoner helps, then it is done, beside
    the same steps without contrast and beside right answers of its own. Then the closed loop, with
    a score on a careful expert's traces and the accuracy that the bundled curve reads from it.

    Reads:   nothing; traces, models and curve come with the package, problems are generated.
    Writes:  the tuned experts, every answer and report.html in output_dir.
    Example: hf-proxy demo
    """
    start = time.perf_counter()
    folder = Path(config.output_dir)
    _make_room(folder)
    rows, foretold = [], {}
    for panel, source in PANELS.items():
        told = foretold[panel] = _foretell(config, folder, panel)
        tuned = {
            name: _tune(config, folder, panel, arm, told["divergence_beta"])
            for arm, (name, _) in ARMS.items()
        }
        if panel == "latent":
            tuned[LOOP] = _loop(config, folder, told["divergence_beta"])
        rows += _panel(source, told, _answer(config, folder, panel, tuned))
    shutil.copytree(ASSETS / "curve", folder / "curve")
    _command("report", report.cli, {"run_dir": folder})
    watched = json.loads((folder / "latent-loop" / "provenance.json").read_text())["found"]["rows"]
    _print_rows(watched)
    print()
    head = ("asked by", "the expert", "right", "gain, points", "95 % interval")
    print_table(head, [_cells(row) for row in rows], words=head[:2])
    print(
        f"{config.num_problems} problems of each source, none of them trained or mined on; the "
        "world is built so that the ability is latent"
    )
    seconds = time.perf_counter() - start
    print(f"{seconds:.0f} s; open {folder / 'report.html'}")
    return {
        "rows": rows,
        "foretold": foretold,
        "loop": watched,
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
    for pattern in ("latent-*", "clean-*", "curve", "loop", "accuracy"):
        for old in folder.glob(pattern):
            shutil.rmtree(old)
    write_text(mark, json.dumps(provenance_of()))


def _problems(config: DemoConfig, folder: Path, panel: str, part: str) -> Path:
    """A file of problems that this panel's source asks."""
    from hf_proxy.records.lines import write_lines

    path = folder / f"{panel}-problems" / f"{part}.jsonl"
    if not path.exists():
        number = config.num_prompts if part == "mine" else config.num_problems
        rng = random.Random(f"demo-{config.seed}-{part}-{panel}")
        rows = distinct_problems(rng, part, PANELS[panel], number)
        write_lines(path, ({key: row[key] for key in ("prompt", "answer")} for row in rows))
    return path


def _foretell(config: DemoConfig, folder: Path, panel: str) -> dict[str, Any]:
    return _command(
        "contrast foretell",
        mine_soft_targets.cli,
        {
            "expert": ASSETS / "expert",
            "amateur": ASSETS / "amateur",
            "problems": _problems(config, folder, panel, "foretell"),
            "question_column": "prompt",
            "divergence_beta": list(BETAS),
            "max_new_tokens": LONGEST_TRACE,
            "batch_size": 250,
            "output_dir": folder / f"{panel}-foretold",
        },
    )


def _training(config: DemoConfig) -> dict[str, Any]:
    """Flags that all trainings share."""
    return {
        "max_steps": config.num_steps,
        "learning_rate": 1e-4,
        "per_device_train_batch_size": 16,
        "dtype": "float32",
        "bf16": False,
        "report_to": "none",
        "dataloader_pin_memory": False,
        "seed": config.seed,
        "disable_tqdm": not sys.stderr.isatty(),
    }


def _tune(config: DemoConfig, folder: Path, panel: str, arm: str, beta: float) -> Path:
    """The expert after training on soft targets of this kind."""
    mined, tuned = folder / f"{panel}-{arm}-mined", folder / f"{panel}-{arm}"
    flags = {
        "expert": ASSETS / "expert",
        "amateur": ASSETS / "amateur",
        "prompts": _problems(config, folder, panel, "mine"),
        "max_new_tokens": LONGEST_TRACE,
        "batch_size": 150,
        "divergence_beta": beta,
        "output_dir": mined,
    }
    _command("contrast mine", mine_soft_targets.cli, flags | ARMS[arm][1])
    flags = {"model_name_or_path": ASSETS / "expert", "soft_targets": mined, "output_dir": tuned}
    flags |= _training(config) | {"save_strategy": "no"}
    _command("train", train_selective_sft.cli, flags)
    return tuned


def _loop(config: DemoConfig, folder: Path, beta: float) -> Path:
    tuned = folder / "latent-loop"
    num_minings = -(-config.num_steps // config.mine_steps)
    flags = {
        "model_name_or_path": ASSETS / "expert",
        "amateur": ASSETS / "amateur",
        "prompts": _problems(config, folder, "latent", "mine"),
        "traces": ASSETS / "traces.parquet",
        "curves": ASSETS / "curve" / "target.json",
        "per_trace": "true",
        "output_dir": tuned,
        "max_new_tokens": LONGEST_TRACE,
        "mine_batch_size": 150,
        "divergence_beta": beta,
        # one question is held out for eval_loss, beside which the score stands
        "num_prompts": max(1, (config.num_prompts - 1) // num_minings),
        "num_eval": 1,
        "mine_steps": config.mine_steps,
        "eval_strategy": "steps",
        "eval_on_start": True,
        "eval_steps": config.mine_steps,
        "save_strategy": "no",
    }
    _command("loop", closed_loop.cli, flags | _training(config))
    return tuned


def _answer(
    config: DemoConfig, folder: Path, panel: str, tuned: Mapping[str, Path]
) -> dict[str, list[bool]]:
    """Of each model, whether it is right, problem by problem; the untuned expert first."""
    names = {str(ASSETS / "expert"): "before"} | {str(path): name for name, path in tuned.items()}
    own = folder / f"{panel}-accuracy"
    _command(
        "accuracy",
        evaluate_accuracy.cli,
        {
            "models": list(names),
            "problems": _problems(config, folder, panel, "test"),
            "question_column": "prompt",
            "max_new_tokens": LONGEST_TRACE,
            "batch_size": 250,
            "output_dir": own,
        },
    )
    right: dict[str, list[bool]] = {name: [] for name in names.values()}
    for line in (own / "items.jsonl").read_text().splitlines():
        item = json.loads(line)
        right[names[item["model"]]].append(item["correct"])
    return right


def _panel(
    source: str, told: Mapping[str, Any], right: Mapping[str, list[bool]]
) -> list[dict[str, Any]]:
    """Rows of one source: what was foretold, and what came."""
    from hf_proxy.answers.pairs import compare_accuracy

    about = {"source": source, "sloppy": SOURCES[source]}
    names = ("gain", "low", "high", "verdict")
    said = {"expert": f"foretold at beta {told['divergence_beta']:g}: {told['verdict']}"}
    said |= {"accuracy": told["accuracy"], **{name: told[name] for name in names}}
    rows = [about | said]
    for name, own in right.items():
        row = about | {"expert": name, "accuracy": sum(own) / len(own)}
        if name != "before":
            paired = compare_accuracy(right["before"], own, level=LEVEL)
            row |= {"gain": paired.difference, "low": paired.low, "high": paired.high}
        rows.append(row)
    return rows


def _cells(row: Mapping[str, Any]) -> list[str]:
    asked = f"{row['source']}, {row['sloppy']:.0%} sloppy"
    # what is foretold is of other problems, and of another way to decode
    right = "" if "verdict" in row else f"{row['accuracy']:.1%}"
    cells = [asked, row["expert"], right]
    if "gain" not in row:
        return [*cells, "", ""]
    points = [100 * row[name] for name in ("gain", "low", "high")]
    return [*cells, f"{points[0]:+.1f}", f"{points[1]:+.1f} .. {points[2]:+.1f}"]


def _command(
    name: str, cli: Callable[[list[str]], int], flags: Mapping[str, Any]
) -> dict[str, Any]:
    """Show a command as a user would type it, and run it; its own tables give way to ours."""
    argv = []
    for flag, value in flags.items():
        argv += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
    shown = shlex.join(argv).replace(f"{Path.cwd()}/", "")
    print(f"hf-proxy {name} {shown}\n", flush=True)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = cli([*name.split()[1:], *argv, "--json"])
    if code:
        raise RuntimeError(f"hf-proxy {name} ended with {code}: {said.getvalue()[-1000:]}")
    return json.loads(said.getvalue().splitlines()[-1])


def _print_rows(rows: list[dict[str, Any]]) -> None:
    """The closed loop as it went."""
    from hf_proxy.records.scores import METRIC_LABELS

    cells = []
    for row in rows:
        ends = ("", "_low", "_high")
        nll = [row[f"eval_rbridge_nll{end}"] for end in ends]
        predicted = [row[f"eval_rbridge_target_accuracy{end}"] for end in ends]
        cells.append(
            [str(row["step"]), f"{row['kept_share']:.1%}"]
            + ["{:.4f} [{:.4f}, {:.4f}]".format(*nll)]
            + ["{:.1%} [{:.1%}, {:.1%}]".format(*predicted)]
        )
    head = ("loop's step", "kept steps", METRIC_LABELS["value"])
    print_table((*head, "target's accuracy, predicted"), cells)


def cli(argv: list[str] | None = None) -> int:
    """`hf-proxy demo`."""
    return run(DemoConfig, main, argv, prog="hf-proxy demo")


if __name__ == "__main__":
    raise SystemExit(cli())
