"""The files in recipes/assets, made anew: models, traces and the curve of the small world."""

import dataclasses
import json
import random
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from hf_proxy.intervals import wilson_interval
from hf_proxy.prediction.fitting import fit_curve
from hf_proxy.recipes.library.carry_chains import (
    LATENT,
    SOURCES,
    distinct_problems,
    problems,
    shifted_shares,
)
from hf_proxy.recipes.library.running import RecipeConfig, at_least, run
from hf_proxy.recipes.library.screen import print_table
from hf_proxy.recipes.library.small_world import CHAT_TEMPLATE, train_tokenizer
from hf_proxy.recipes.library.world_trainings import Training, careful_traces, train_all
from hf_proxy.records.errors import InputError
from hf_proxy.records.lines import JoinedLine, read_lines, write_lines
from hf_proxy.records.record import Positive, Record, read_record
from hf_proxy.records.scores import Setting
from hf_proxy.records.storage import provenance_of, write_text
from hf_proxy.scoring.scoring import score_traces
from hf_proxy.traces.alignment import align_traces
from hf_proxy.traces.reading import load_traces

CONTROLS = ("tokens", "trace_nll", "proxy_accuracy")
TOLERANCE = 0.05  # relative
OF_THE_LAUNCH = ("output_dir", "compare", "num_processes", "json")  # fields that change no number


@dataclass(frozen=True, kw_only=True)
class BuildConfig(RecipeConfig):
    """Fields are flags and YAML keys."""

    output_dir: str = field(metadata={"help": "Runs and assets go there; the runs may be deleted."})
    compare: str | None = field(
        default=None,
        metadata={"help": "Folder of earlier assets: stop if the new ones reach other numbers."},
    )
    proxy: list[int] = field(
        metadata={"help": "Width and layers of the proxy; the expert is one, and the traces' own."}
    )
    target: list[int] = field(metadata={"help": "Width and layers of the target."})
    amateur: list[int] = field(metadata={"help": "Width and layers of the amateur."})
    runs: list[float] = field(
        metadata={
            "help": "Runs of proxy and target: what each adds to the sources' shares of sloppy "
            "documents. The proxy of the first becomes the expert."
        }
    )
    num_steps: int = field(metadata={"help": "Training steps of each model."})
    amateur_steps: int = field(metadata={"help": "Those of the amateur."})
    save_steps: int = field(metadata={"help": "Steps between two points of a run."})
    first_point: int = field(
        metadata={"help": "The first of these steps; before it no model knows its tables."}
    )
    batch_size: int = field(metadata={"help": "Documents per step."})
    learning_rate: float = field(metadata={"help": "Peak, then falling linearly to 0."})
    amateur_learning_rate: float = field(metadata={"help": "That of the amateur."})
    num_traces: int = field(metadata={"help": "Problems of the trace set."})
    num_questions: int = field(metadata={"help": "Problems for the methods to mine from."})
    num_problems: int = field(metadata={"help": "Problems that accuracies are measured on."})
    num_processes: int = field(
        default=2, metadata={"help": "Trainings at a time; the numbers are the same for any."}
    )
    seed: int = field(default=0, metadata={"help": "Of problems and models."})

    def __post_init__(self) -> None:
        at_least(self, 1, "num_processes")
        if self.num_steps % self.save_steps or not self.runs:
            raise InputError("num_steps must be a step that is saved, and runs name at least one")
        if len(set(self.runs)) < len(self.runs):
            raise InputError.at(
                "two are the same", remedy="give each a shift of its own", field="runs"
            )


def main(config: BuildConfig) -> dict[str, Any]:
    """Train the small world's models; write those that are bundled, their traces and their curve.

    A careful expert, trained on documents that forget no carry, writes the traces. In several runs,
    on documents more and less sloppy, the proxy's score and the target's accuracy at the same step
    are a point of the curve.

    Reads:   nothing, or the earlier assets that compare names.
    Writes:  the runs and assets/ in output_dir.
    Example: python recipes/build_small_world.py --config recipes/build_small_world.yaml
    """
    folder = Path(config.output_dir)
    assets = folder / "assets"
    if folder.exists():
        raise InputError.at(
            "the folder is there already", remedy="name another output_dir", source=folder
        )
    assets.mkdir(parents=True)
    rows = islice(problems(random.Random(f"{config.seed}-tokenizer")), 2000)
    tokenizer = train_tokenizer([f"{row['prompt']}\n{row['trace']}" for row in rows])
    tokenizer.chat_template = CHAT_TEMPLATE
    for name in ("expert", "amateur"):
        tokenizer.save_pretrained(assets / name)
    tests = _ask(config, "test", config.num_problems)
    questions = _ask(config, "mine", config.num_questions)
    for name, asked in {"problems": tests, "questions": questions}.items():
        lines = ({key: row[key] for key in ("prompt", "answer")} for row in asked)
        write_lines(assets / f"{name}.jsonl", lines)

    shared: dict[str, Any] = {"folder": folder, "tokenizer": assets / "expert"}
    shared |= {name: getattr(config, name) for name in ("num_steps", "batch_size", "learning_rate")}
    careful = Training(
        name="careful",
        size=config.proxy,
        shares=dict.fromkeys(SOURCES, 0.0),
        seed=config.seed + 99,
        **shared,
    )
    print("training the careful expert", flush=True)
    trained = train_all([careful], 1)
    asked = _ask(config, "trace", 2 * config.num_traces)
    traces = careful_traces(careful.load(), tokenizer, asked, config.num_traces)
    traces.to_parquet(assets / "traces.parquet")
    ladder = {
        f"{name}{shift:+g}": Training(
            name=f"{name}{shift:+g}",
            size=getattr(config, name),
            shares=shifted_shares(shift),
            seed=config.seed + number,
            save_steps=config.save_steps,
            first_point=config.first_point,
            tests=tests,
            traces=assets / "traces.parquet" if name == "proxy" else None,
            **shared,
        )
        for name in ("target", "proxy")  # the longest first
        for number, shift in enumerate(config.runs)
    }
    own = {"num_steps": config.amateur_steps, "learning_rate": config.amateur_learning_rate}
    amateur = Training(
        name="amateur", size=config.amateur, shares=SOURCES, seed=config.seed, **shared | own
    )
    print(f"training {', '.join(ladder)} and the amateur", flush=True)
    trained |= train_all([*ladder.values(), amateur], config.num_processes)

    runs = [f"{shift:+g}" for shift in config.runs]
    points = [
        point
        for name in runs
        for point in _points(
            ladder[f"proxy{name}"].place,
            name,
            {model: trained[f"{model}{name}"].right for model in ("proxy", "target")},
            config,
        )
    ]
    expert = ladder[f"proxy{runs[0]}"].load()
    write_curve(points, assets / "curve", expert.num_parameters())
    aligned = align_traces(load_traces(assets / "traces.parquet"), tokenizer)
    scores = {}
    for name, model in {"expert": expert, "amateur": amateur.load()}.items():
        model.save_pretrained(assets / name)
        scores[name] = score_traces(model, aligned).value
    losses = {name: found.loss for name, found in trained.items()}
    stamp = provenance_of(
        settings={k: v for k, v in dataclasses.asdict(config).items() if k not in OF_THE_LAUNCH},
        losses=losses,
        scores=scores,
        points=points,
    )
    write_text(assets / "curve" / "provenance.json", json.dumps(stamp, indent=1))
    _print_points(points)
    size = sum(path.stat().st_size for path in assets.rglob("*") if path.is_file())
    print(f"{size / 2**20:.1f} MiB in {assets}")
    if config.compare is not None:
        compare_builds(stamp, Path(config.compare) / "curve" / "provenance.json")
    return {"losses": losses, "scores": scores, "output_dir": str(assets)}


def _ask(config: BuildConfig, part: str, number: int) -> list[dict[str, str]]:
    """Different problems of the source whose documents hide the ability."""
    return distinct_problems(random.Random(f"{config.seed}-{part}"), part, LATENT, number)


def write_curve(points: list[dict[str, Any]], folder: Path, num_parameters: int) -> None:
    """The curve through these points, and the points as `hf-proxy fit --points` reads them."""
    setting = Setting(points[0].pop("setting_parts"))
    for point in points[1:]:
        del point["setting_parts"]  # the same in all, and in the curve
    curve = fit_curve(
        [point["value"] for point in points],
        [point["target_accuracy"] for point in points],
        y_unit="fraction",
        setting=setting,
        proxy="proxy",
        num_parameters=num_parameters,
        target="target",
        groups=[point["run"] for point in points],
        controls={name: [point[name] for point in points] for name in CONTROLS},
    )
    curve.save(folder / "target.json")
    alike: dict[str, Any] = {"target": curve.target, "metric": curve.metric, "proxy": curve.proxy}
    alike |= {"setting": setting.hash, "num_parameters": curve.num_parameters}
    lines = (
        {"run": row["run"]}
        | alike
        | {"tokens": row["tokens"], "score": row["value"]}
        | {name: row[name] for name in ("target_accuracy", "trace_nll", "proxy_accuracy")}
        for row in points
    )
    write_lines(folder / "points.jsonl", lines)


def _points(
    folder: Path, name: str, right: dict[str, dict[int, int]], config: BuildConfig
) -> list[dict[str, Any]]:
    """One row for each checkpoint: the proxy's score and both accuracies, with their intervals."""
    points = []
    for _, record, line in read_lines(folder / "hf_proxy" / "predictions.jsonl", JoinedLine):
        if record.step < config.first_point:
            continue
        row: dict[str, Any] = {"run": name}
        row |= {key: line[key] for key in ("step", "value", "low", "high", "trace_nll")}
        row |= {"tokens": line["tokens_seen"], "setting_parts": line["setting_parts"]}
        for model, counts in right.items():
            number = counts[line["step"]]
            row[f"{model}_accuracy"] = number / config.num_problems
            row[f"{model}_low"], row[f"{model}_high"] = wilson_interval(number, config.num_problems)
        points.append(row)
    return points


def _print_points(points: list[dict]) -> None:
    rows = [
        [row["run"], str(row["step"]), str(row["tokens"]), f"{row['value']:.4f}"]
        + [
            f"{row[f'{name}_accuracy']:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
            for name in ("proxy", "target")
        ]
        for row in points
    ]
    head = ("run", "step", "tokens", "proxy's rBridge", "proxy's accuracy", "target's accuracy")
    print_table(head, rows)


class BuildRecord(Record):
    """`provenance.json` of a build, as far as another is held against it."""

    settings: dict[str, Any]
    losses: dict[str, Positive]
    scores: dict[str, Positive]


def compare_builds(stamp: dict[str, Any], path: Path) -> None:
    """Hold the numbers of two builds against each other.

    Raises:
        InputError: one is further from the other than `TOLERANCE`, or the settings differ.
    """
    earlier = read_record(path, BuildRecord)
    for name, value in stamp["settings"].items():
        if earlier.settings.get(name) != value:
            raise InputError.at(
                f"it was built with {earlier.settings.get(name)}, this one with {value}",
                remedy="compare builds of the same settings",
                source=path,
                field=name,
            )
    for kind, word in {"losses": "loss", "scores": "score"}.items():
        for name, value in stamp[kind].items():
            before = getattr(earlier, kind).get(name)
            if before is None:
                raise InputError.at(
                    "it is missing", remedy="name a build", source=path, field=f"{kind}.{name}"
                )
            off = value / before - 1
            print(f"{name}'s {word}: {value:.5f}, before {before:.5f} ({off:+.2%})")
            if not abs(off) <= TOLERANCE:
                raise InputError.at(
                    f"{off:+.2%} off, beyond {TOLERANCE:.0%}",
                    remedy="look at what changed in the libraries, and commit the new assets",
                    source=path,
                    field=f"{kind}.{name}",
                )


def cli(argv: list[str] | None = None) -> int:
    """`python recipes/build_small_world.py`."""
    return run(BuildConfig, main, argv, prog="build_small_world")


if __name__ == "__main__":
    raise SystemExit(cli())
