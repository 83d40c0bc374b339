"""The files in recipes/assets, made anew: models, traces and the curve of the small world."""

import dataclasses
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from hf_proxy.building.annotation import annotate_traces
from hf_proxy.callbacks import ProxyScoreCallback
from hf_proxy.intervals import wilson_interval
from hf_proxy.prediction.fitting import fit_curve
from hf_proxy.recipes.library.running import RecipeConfig, run
from hf_proxy.recipes.library.screen import print_table
from hf_proxy.recipes.library.small_world import (
    CHAT_TEMPLATE,
    HELD_OUT,
    make_model,
    pretrain,
    problems,
    solve,
    take_rows,
    train_tokenizer,
)
from hf_proxy.records.errors import InputError
from hf_proxy.records.lines import JoinedLine, read_lines, write_lines
from hf_proxy.records.record import Positive, Record, read_record
from hf_proxy.records.rows import TRACE_FEATURES
from hf_proxy.records.scores import Setting
from hf_proxy.records.storage import provenance_of, write_text
from hf_proxy.scoring.scoring import score_traces
from hf_proxy.traces.alignment import align_traces
from hf_proxy.traces.reading import load_traces

CONTROLS = ("tokens", "trace_nll", "proxy_accuracy")
TOLERANCE = 0.05  # relative
OF_THE_LAUNCH = ("output_dir", "compare", "json")  # fields that change no number
NUM_QUESTIONS = 600  # for the expert of the demo to write about


@dataclass(frozen=True, kw_only=True)
class BuildConfig(RecipeConfig):
    """Fields are flags and YAML keys."""

    output_dir: str = field(metadata={"help": "Runs and assets go there; the runs may be deleted."})
    compare: str | None = field(
        default=None,
        metadata={"help": "Folder of earlier assets: stop if the new ones reach other numbers."},
    )
    proxy: list[int] = field(metadata={"help": "Width and layers of the proxy."})
    target: list[int] = field(metadata={"help": "Width and layers of target and frontier."})
    amateur: list[int] = field(metadata={"help": "Width and layers of the amateur."})
    num_steps: int = field(metadata={"help": "Training steps of each model."})
    amateur_steps: int = field(metadata={"help": "Those of the amateur."})
    expert_step: int = field(metadata={"help": "The proxy's checkpoint that becomes the expert."})
    save_steps: int = field(metadata={"help": "Steps between two points of the curve."})
    first_point: int = field(
        metadata={"help": "The first of these steps; before it no model writes a solution."}
    )
    batch_size: int = field(metadata={"help": "Problems per step."})
    learning_rate: float = field(metadata={"help": "Peak, then falling linearly to 0."})
    num_traces: int = field(metadata={"help": "Problems of the trace set."})
    num_problems: int = field(metadata={"help": "Problems that accuracies are measured on."})
    seed: int = field(default=0, metadata={"help": "Of problems and models."})

    def __post_init__(self) -> None:
        if self.expert_step % self.save_steps or not 0 < self.expert_step <= self.num_steps:
            raise InputError("expert_step must be one of the steps that are saved")


def main(config: BuildConfig) -> dict[str, Any]:
    """Train the small world's models; write those that are bundled, their traces and their curve.

    Frontier, proxy, target and amateur learn from generated problems. The frontier's right
    solutions of unseen ones are the traces; the proxy's score and the target's accuracy at the same
    step are a point of the curve.

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
    # streams of their own: what is trained on, by the frontier, what is held out
    streams = [problems(random.Random(f"{config.seed}-{name}")) for name in ("own", "far", "test")]
    own = take_rows(streams[0], config.num_steps * config.batch_size + HELD_OUT)
    far = take_rows(streams[1], config.num_steps * config.batch_size + HELD_OUT)
    unseen = _unseen(streams[2], {*own["prompt"], *far["prompt"]})
    tests = take_rows(unseen, config.num_problems)
    texts = [f"{row['prompt']}\n{row['trace']}" for row in own.select(range(min(2000, len(own))))]
    tokenizer = train_tokenizer(texts)
    tokenizer.chat_template = CHAT_TEMPLATE

    losses: dict[str, float] = {}
    right: dict[str, dict[int, int]] = {"proxy": {}, "target": {}}

    def train(name: str, size: list[int], rows: Dataset, seed: int, attach: Any = ()) -> Any:
        print(f"training the {name}: width {size[0]}, {size[1]} layers", flush=True)
        set_seed(seed)
        model = make_model(tokenizer, *size)

        def measure(step: int) -> None:
            if name in right:
                right[name][step] = sum(solve(model, tokenizer, tests)[1])

        losses[name] = pretrain(
            model,
            tokenizer,
            rows,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            save_steps=config.save_steps,
            output_dir=folder / name,
            seed=seed,
            attach=attach,
            measure=measure,
        )
        return model

    frontier = train("frontier", config.target, far, config.seed + 1)
    traces = _frontier_traces(frontier, tokenizer, unseen, config.num_traces)
    traces.to_parquet(assets / "traces.parquet")
    traces = load_traces(assets / "traces.parquet")  # a score is of the file, not of the memory
    for name, rows in {"problems": tests, "questions": take_rows(unseen, NUM_QUESTIONS)}.items():
        lines = ({key: row[key] for key in ("prompt", "answer")} for row in rows)
        write_lines(assets / f"{name}.jsonl", lines)
    score = ProxyScoreCallback(traces)
    proxy = train("proxy", config.proxy, own, config.seed, attach=[score])
    train("target", config.target, own, config.seed)
    few = own.select(range(config.amateur_steps * config.batch_size + HELD_OUT))
    amateur = train("amateur", config.amateur, few, config.seed)

    points = _points(folder / "proxy", right, config)
    write_curve(points, assets / "curve", proxy.num_parameters())
    expert = LlamaForCausalLM.from_pretrained(folder / "proxy" / f"checkpoint-{config.expert_step}")
    aligned = align_traces(traces, tokenizer)
    scores = {}
    for name, model in {"expert": expert, "amateur": amateur}.items():
        model.save_pretrained(assets / name)
        tokenizer.save_pretrained(assets / name)
        scores[name] = score_traces(model, aligned).value
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
        controls={name: [point[name] for point in points] for name in CONTROLS},
    )
    curve.save(folder / "target.json")
    alike: dict[str, Any] = {
        "run": "proxy",
        "target": curve.target,
        "metric": curve.metric,
        "proxy": curve.proxy,
    }
    alike |= {"setting": setting.hash, "num_parameters": curve.num_parameters}
    lines = (
        alike
        | {"tokens": row["tokens"], "score": row["value"]}
        | {name: row[name] for name in ("target_accuracy", "trace_nll", "proxy_accuracy")}
        for row in points
    )
    write_lines(folder / "points.jsonl", lines)


def _unseen(source: Iterator[dict[str, str]], seen: set[str]) -> Iterator[dict[str, str]]:
    """Problems that no model was trained on, each once."""
    for row in source:
        if row["prompt"] not in seen:
            seen.add(row["prompt"])
            yield row


def _frontier_traces(
    frontier: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, unseen: Any, number: int
) -> Dataset:
    """Solutions the frontier wrote itself, where right, with its confidence in each token."""
    asked = take_rows(unseen, 2 * number)
    written, right = solve(frontier, tokenizer, asked, temperature=1.0)
    rows = [
        {
            "example_id": f"problem-{i:03d}",
            "prompt": asked[i]["prompt"],
            "trace": text,
            "weighting": "none",
            "frontier_spans": [],
            "frontier_logprobs": [],
        }
        for i, text in enumerate(written)
        if right[i]
    ]
    if len(rows) < number:
        raise InputError.at(
            f"the frontier solved {len(rows)} of {len(asked)} problems",
            remedy="train it for more steps",
            field="num_steps",
        )
    blank = Dataset.from_list(rows[:number], features=TRACE_FEATURES)
    return annotate_traces(blank, frontier, tokenizer)


def _points(
    folder: Path, right: dict[str, dict[int, int]], config: BuildConfig
) -> list[dict[str, Any]]:
    """One row for each checkpoint: the proxy's score and both accuracies, with their intervals."""
    points = []
    for _, record, line in read_lines(folder / "hf_proxy" / "predictions.jsonl", JoinedLine):
        if record.step < config.first_point:
            continue
        row = {key: line[key] for key in ("step", "value", "low", "high", "trace_nll")}
        row |= {"tokens": line["tokens_seen"], "setting_parts": line["setting_parts"]}
        for name, counts in right.items():
            number = counts[line["step"]]
            row[f"{name}_accuracy"] = number / config.num_problems
            row[f"{name}_low"], row[f"{name}_high"] = wilson_interval(number, config.num_problems)
        points.append(row)
    return points


def _print_points(points: list[dict]) -> None:
    rows = [
        [str(row["step"]), str(row["tokens"]), f"{row['value']:.4f}"]
        + [
            f"{row[f'{name}_accuracy']:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
            for name in ("proxy", "target")
        ]
        for row in points
    ]
    head = ("step", "tokens", "proxy's rBridge", "proxy's accuracy", "target's accuracy")
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
