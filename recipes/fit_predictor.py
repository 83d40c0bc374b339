"""The curve from proxy scores to a large model's accuracy."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_proxy.recipes.library.running import RecipeConfig, at_least, run
from hf_proxy.recipes.library.screen import print_table
from hf_proxy.records.defaults import FORMS
from hf_proxy.records.errors import InputError

if TYPE_CHECKING:
    from hf_proxy.prediction.curve import Curve


@dataclass(frozen=True, kw_only=True)
class FitConfig(RecipeConfig):
    """`hf-proxy fit`."""

    points: str | None = field(
        default=None,
        metadata={
            "help": "CSV or JSONL with run, tokens, score, target, target_accuracy; optional: "
            "metric, setting, proxy, num_parameters, trace_nll, gold_nll, proxy_accuracy."
        },
    )
    predictions: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Instead of points: predictions.jsonl files of ProxyScoreCallback, or "
            "scores.jsonl of `hf-proxy score` over checkpoints."
        },
    )
    results: str | None = field(
        default=None,
        metadata={
            "help": "With predictions: CSV or JSONL of tokens or step, and accuracy of the target "
            "there, or path to its lm-evaluation-harness results."
        },
    )
    trace_set: str = field(
        default="rbridge", metadata={"help": "With predictions: the name of the scored trace set."}
    )
    metric: Literal["value", "trace_nll", "bits_per_byte"] = field(
        default="value", metadata={"help": "With predictions: which number is the score."}
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "With results: the task, as arc_challenge; needed where they are paths, else "
            "the target's name."
        },
    )
    task_metric: str | None = field(
        default=None,
        metadata={"help": "With results: the number, as acc_norm,none; unset: the only one."},
    )
    match_within: float = field(
        default=0.01,
        metadata={
            "help": "With results: relative distance at which two token counts are one place."
        },
    )
    y_unit: Literal["auto", "fraction", "percent"] = field(
        default="auto",
        metadata={"help": "Unit of target_accuracy; auto: fraction where all are at most 1."},
    )
    forms: list[str] = field(
        default_factory=lambda: list(FORMS), metadata={"help": "Forms to choose from."}
    )
    chance: float = field(
        default=0.0,
        metadata={
            "help": "Accuracy of guessing in every task fitted here, a fraction, as 0.25 for four "
            "choices; a curve does not go below it."
        },
    )
    output_dir: str = field(
        metadata={"help": "Folder of the curves (TARGET.json), figures and provenance.json."}
    )

    def __post_init__(self) -> None:
        at_least(self, 0, "match_within")
        if not 0 <= self.chance < 1:
            raise InputError.at(
                f"{self.chance:g} is no fraction below 1",
                remedy="give 0.25 for four choices",
                field="chance",
            )
        if self.points is not None and (self.predictions or self.results):
            raise InputError.at(
                "points are given, and predictions or results too",
                remedy="give points alone, or predictions with results and task",
                field="points",
            )


def fit(config: FitConfig) -> dict[str, Any]:
    """Fit the curve from a small model's scores to a large model's accuracy, beside its controls.

    Reads:   --points, a table of scores and accuracies; or --predictions of a training run with
             --results of the large model (the target).
    Writes:  for each target TARGET.json (the curve) and figures, and provenance.json, in
             output_dir; the errors on points held out to the screen.
    Example: hf-proxy fit --points points.csv --output_dir outputs/curves
    """
    from hf_proxy.prediction.fitting import fit_curve
    from hf_proxy.recipes.library.joined_points import join_results
    from hf_proxy.recipes.library.one_curve import controls_of, facts_of, in_order, unit_of
    from hf_proxy.recipes.library.points import one_metric, read_points
    from hf_proxy.records.storage import file_hash, provenance_of, write_text
    from hf_proxy.report.figures.curves import plot_curve, plot_residuals

    said: list[str] = []
    if config.points is not None:
        points = read_points(config.points)
    elif config.predictions and config.results:
        points, said = join_results(
            config.predictions,
            config.results,
            trace_set=config.trace_set,
            metric=config.metric,
            task=config.task,
            task_metric=config.task_metric,
            within=config.match_within,
        )
    else:
        raise InputError("nothing to fit; give --points, or --predictions with --results")
    source = config.points or config.results
    if not points:
        raise InputError.at("it holds no points", remedy="name another", source=source)
    folder, found = Path(config.output_dir), []
    written: set[Path] = set()
    for target in sorted({point.target for point in points}):
        own, order = in_order([p for p in points if p.target == target], str(source))
        unit, reading = unit_of(own, config.y_unit, str(source))
        accuracy = [point.target_accuracy for point in own]
        controls, absent = controls_of(own)
        facts = facts_of(own, str(source))
        notes = [*said, *order, *reading, *absent]
        x, runs = [point.score for point in own], [point.run for point in own]
        try:
            curve = fit_curve(
                x,
                accuracy,
                forms=config.forms,
                y_unit=unit,
                chance=config.chance,
                metric=one_metric(own),
                setting=facts.get("setting"),
                proxy=facts.get("proxy"),
                num_parameters=facts.get("num_parameters"),
                target=target,
                groups=runs,
                controls=controls,
            )
        except InputError as error:  # it knows the numbers, not the file
            raise InputError(f"{source}, target {target}: {error}") from error
        file_name = re.sub(r"[^\w.+-]+", "-", target)
        if (folder / f"{file_name}.json") in written:
            raise InputError.at(
                f"two targets would be written to {file_name}.json",
                remedy="name them otherwise",
                source=source,
                field="target",
            )
        written.add(folder / f"{file_name}.json")
        base = folder / file_name
        curve.save(folder / f"{file_name}.json")
        groups = runs if len(set(runs)) > 1 else None
        plot_curve(curve, x, accuracy, base, controls=controls, groups=groups)
        plot_residuals(curve, x, accuracy, folder / f"{file_name}-residuals")
        _print_report(curve, notes)
        found.append((curve, notes))
    read = [path for path in (config.points, config.results, *config.predictions) if path]
    stamp = provenance_of(
        parameters=dataclasses.asdict(config),
        sources={path: file_hash(Path(path)) for path in read},
    )
    write_text(folder / "provenance.json", json.dumps(stamp, indent=2))
    return {
        "curves": [
            {"target": c.target, "form": c.form, "num_points": c.num_points, "notes": notes}
            | {"warnings": list(c.warnings)}
            | _errors(c)
            for c, notes in found
        ],
        "output_dir": config.output_dir,
    }


def _errors(curve: Curve) -> dict[str, Any]:
    """The figures of a fit beside those of its controls, errors in points of a percent."""
    from hf_proxy.prediction.curve import Y_UNITS

    points = 100 / Y_UNITS[curve.y_unit]
    result: dict[str, Any] = {"fit_r2": curve.fits[0].r2, "left_out": curve.left_out}
    if curve.statistics is None:
        return result | {"held_out": None}
    return result | {
        "held_out": {
            name: {
                "train_r2": cv.train_r2,
                "test_r2": cv.test_r2,
                "test_mae_points": points * cv.test_mae,
                "coverage": cv.coverage,
            }
            for name, cv in {"proxy": curve.statistics, **curve.statistics.controls}.items()
        },
        "against": {
            name: {
                "mae_points": points * d.test_mae,
                "low": None if d.low is None else points * d.low,
                "high": None if d.high is None else points * d.high,
                "per_fold": [points * value for value in d.per_fold],
            }
            for name, d in curve.statistics.against.items()
        },
        "statistics_notes": list(curve.statistics.notes),
    }


def _print_report(curve: Curve, notes: list[str]) -> None:
    errors = _errors(curve)
    runs = f"{len(curve.runs)} run" + "s" * (len(curve.runs) != 1)
    print(
        f"{curve.target}: {curve.form}, R2 {curve.fits[0].r2:.3f}, {curve.num_points} points of "
        f"{runs}, {curve.metric} {curve.x_range[0]:.5g} .. {curve.x_range[1]:.5g}"
    )
    if errors["held_out"] is not None:
        rows = []
        for name, cv in errors["held_out"].items():
            r2 = "-" if cv["test_r2"] is None else f"{cv['test_r2']:.3f}"
            difference = ""
            if d := errors["against"].get(name):
                interval = "" if d["low"] is None else f" [{d['low']:+.2f}, {d['high']:+.2f}]"
                difference = f"{d['mae_points']:+.2f}{interval}"
            rows.append(
                [name, f"{cv['train_r2']:.3f}", r2, f"{cv['test_mae_points']:.2f}"]
                + [f"{cv['coverage']:.2f}", difference]
            )
        against = "proxy's error minus its own"
        head = ("held out", "train R2", "test R2", "MAE, points", "in 90 %", against)
        print_table(head, rows, words=("held out", against))
        notes = [*notes, *errors["statistics_notes"]]
    left_out = [f"{form} left out: {reason}" for form, reason in curve.left_out.items()]
    for note in [*notes, *curve.warnings, *left_out]:
        print(f"note: {note}")


def cli(argv: list[str] | None = None) -> int:
    """`hf-proxy fit`."""
    return run(FitConfig, fit, argv, prog="hf-proxy fit")


if __name__ == "__main__":
    raise SystemExit(cli())
