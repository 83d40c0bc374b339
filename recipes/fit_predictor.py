"""Curves from proxy scores to a large model's accuracy: fit them, read them, rank by scores."""

import dataclasses
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hf_proxy.curves import FORMS
from hf_proxy.plots import plot_compute, plot_curve, plot_ranking, plot_residuals
from hf_proxy.prediction import Y_UNITS, Curve, Prediction, fit_curve
from hf_proxy.ranking import Ranking, compute_saving, rank
from hf_proxy.recipes import RecipeConfig, at_least, run_action
from hf_proxy.recipes.points import (
    ALIKE,
    CONTROLS,
    Point,
    join_results,
    one_metric,
    read_points,
    read_scores,
    read_table,
)
from hf_proxy.schemas import InputError, ProxyScore, file_hash, provenance_of, write_text

logger = logging.getLogger(__name__)


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
        metadata={"help": "Instead of points: predictions.jsonl files of ProxyScoreCallback."},
    )
    results: str | None = field(
        default=None,
        metadata={
            "help": "With predictions: CSV of tokens,path to the target's lm-evaluation-harness "
            "results after so many tokens."
        },
    )
    trace_set: str = field(
        default="rbridge", metadata={"help": "With predictions: the name of the scored trace set."}
    )
    metric: Literal["value", "trace_nll", "bits_per_byte"] = field(
        default="value", metadata={"help": "With predictions: which number is the score."}
    )
    task: str | None = field(
        default=None, metadata={"help": "With results: the task, as arc_challenge."}
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
    output_dir: str = field(
        metadata={"help": "Folder of the curves (TARGET.json), figures and provenance.json."}
    )

    def __post_init__(self) -> None:
        at_least(self, 0, "match_within")
        if self.points is not None and (self.predictions or self.results):
            raise InputError.at(
                "points are given, and predictions or results too",
                remedy="give points alone, or predictions with results and task",
                field="points",
            )


@dataclass(frozen=True, kw_only=True)
class PredictConfig(RecipeConfig):
    """`hf-proxy predict`."""

    curves: list[str] = field(metadata={"help": "Files that `hf-proxy fit` wrote."})
    scores: list[str] = field(
        metadata={"help": "scores.jsonl or predictions.jsonl files, or bare numbers."}
    )
    trace_set: str | None = field(
        default=None,
        metadata={"help": "Of predictions.jsonl: only lines of this trace set; unset: all."},
    )
    level: float = field(
        default=0.90,
        metadata={"help": "Nominal coverage of the interval, a share between 0 and 1."},
    )
    run: str | None = field(
        default=None,
        metadata={
            "help": "Name of the run the scores come from; another than the curve's is "
            "marked as a zero-shot transfer."
        },
    )


@dataclass(frozen=True, kw_only=True)
class RankConfig(RecipeConfig):
    """`hf-proxy rank`."""

    scores: list[str] = field(
        default_factory=list,
        metadata={
            "help": "scores.jsonl files, or name=file: several scores of one name are its seeds."
        },
    )
    metric: Literal["value", "trace_nll", "bits_per_byte"] = field(
        default="value", metadata={"help": "Rank by it; across tokenizers only bits_per_byte."}
    )
    target: str | None = field(
        default=None,
        metadata={"help": "CSV of name,accuracy of the large model; several rows are seeds."},
    )
    compute: str | None = field(
        default=None,
        metadata={
            "help": "CSV of method,flops,decision_accuracy (proxy and baseline): compute saved."
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of the intervals."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of ranking.json and figures; unset: screen only."}
    )

    def __post_init__(self) -> None:
        at_least(self, 0, "seed")


def fit(config: FitConfig) -> dict[str, Any]:
    """Fit the curve from a small model's scores to a large model's accuracy, beside its controls.

    Reads:   --points, a table of scores and accuracies; or --predictions of a training run with
             --results and --task of the large model (the target).
    Writes:  for each target TARGET.json (the curve) and figures, and provenance.json, in
             output_dir; the errors on points held out to the screen.
    Example: hf-proxy fit --points points.csv --output_dir outputs/curves
    """
    said: list[str] = []
    if config.points is not None:
        points = read_points(config.points)
    elif config.predictions and config.results and config.task:
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
        raise InputError(
            "nothing to fit; give --points, or --predictions with --results and --task"
        )
    source = config.points or config.results
    if not points:
        raise InputError.at("it holds no points", remedy="name another", source=source)
    folder, found = Path(config.output_dir), []
    written: set[Path] = set()
    for target in sorted({point.target for point in points}):
        own, order = _ordered([p for p in points if p.target == target], str(source))
        unit, reading = _unit(own, config.y_unit, str(source))
        accuracy = [point.target_accuracy for point in own]
        controls, absent = _controls(own)
        alike = _alike(own, str(source))
        notes = [*said, *order, *reading, *absent]
        x, runs = [point.score for point in own], [point.run for point in own]
        curve = fit_curve(
            x,
            accuracy,
            forms=config.forms,
            y_unit=unit,
            metric=one_metric(own),
            setting=alike.get("setting"),
            proxy=alike.get("proxy"),
            num_parameters=alike.get("num_parameters"),
            target=target,
            groups=runs,
            controls=controls,
        )
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
        print(_report(curve, notes))
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
            | _errors(c)
            for c, notes in found
        ],
        "output_dir": config.output_dir,
    }


def predict(config: PredictConfig) -> dict[str, Any]:
    """Read curves at scores: the large model's accuracy, with its interval.

    Reads:   curves that `hf-proxy fit` wrote, and scores: numbers, scores.jsonl of `hf-proxy
             score`, or predictions.jsonl of a training run.
    Writes:  to the screen only.
    Example: hf-proxy predict --curves outputs/curves/arc_challenge.json --scores 0.80
    """
    curves = [Curve.load(path) for path in config.curves]
    scores: list[tuple[str, ProxyScore | float, str | None]] = []
    for text in config.scores:
        try:
            scores.append((text, float(text), config.run))
        except ValueError:
            scores += [
                (_name(score, text), score, config.run or own)
                for score, own in read_scores(text, trace_set=config.trace_set)
            ]
    lines = []
    print(f"{'score':<24} {'target':<16} accuracy  {config.level:.0%} interval")
    for name, score, own_run in scores:
        for curve in curves:
            found = curve.predict(score, config.level, run=own_run)
            print(f"{name:<24.24} {curve.target or '-':<16} {_sentence(found)}")
            x = score if isinstance(score, float) else getattr(score, curve.metric)
            lines.append(
                {"score": name, "x": x, "target": curve.target} | dataclasses.asdict(found)
            )
    return {"predictions": lines}


def rank_scores(config: RankConfig) -> dict[str, Any]:
    """Order models or corpora by their scores, with intervals; hold it against the large model.

    Reads:   scores.jsonl files of `hf-proxy score`; tables of the large model's accuracies and of
             compute, where given.
    Writes:  the order to the screen; ranking.json and figures in output_dir, where given.
    Example: hf-proxy rank --scores a=outputs/a/scores.jsonl b=outputs/b/scores.jsonl
    """
    result: dict[str, Any] = {}
    folder = None if config.output_dir is None else Path(config.output_dir)
    if not config.scores and config.compute is None:
        raise ValueError("give --scores, --compute or both")
    if config.scores:
        named: dict[str, list[ProxyScore]] = {}
        for text in config.scores:
            name, _, path = ("", "", text) if Path(text).exists() else text.rpartition("=")
            for score, _ in read_scores(path):
                if not len(score.rows):
                    raise InputError.at(
                        "it holds no rows of traces, so nothing can be resampled",
                        remedy="name the scores.jsonl of `hf-proxy score --output_dir`",
                        source=path,
                    )
                named.setdefault(name or _name(score, path), []).append(score)
        for name, own in named.items():
            if len({score.step for score in own}) > 1:
                steps = sorted({score.step for score in own}, key=str)
                raise InputError.at(
                    f"{name!r} has scores of several steps, {steps}",
                    remedy="give one checkpoint of each seed: several scores of a name are seeds",
                    field="scores",
                )
        target: dict[str, list[float]] | None = None
        if config.target is not None:
            target = {}
            for name, accuracy in read_table(config.target, ("name", "accuracy")):
                target.setdefault(name, []).append(accuracy)
        ranking = rank(named, metric=config.metric, target=target, seed=config.seed)
        print(_ranking_table(ranking))
        result["ranking"] = dataclasses.asdict(ranking)
        if folder is not None:
            plot_ranking(ranking, folder / "ranking")
    if config.compute is not None:
        rows = read_table(config.compute, ("method", "flops", "decision_accuracy"))
        sides = {
            method: [row[1:] for row in rows if row[0] == method]
            for method in ("proxy", "baseline")
        }
        if unknown := sorted({row[0] for row in rows} - set(sides)):
            raise InputError.at(
                f"methods {unknown} are neither proxy nor baseline",
                remedy="name the two so, one file for each comparison",
                source=config.compute,
                field="method",
            )
        savings = compute_saving(sides["proxy"], sides["baseline"])
        for saving in savings:
            factor = saving.note if saving.factor is None else f"{saving.factor:.1f} times less"
            reached = f"decision accuracy {saving.decision_accuracy:g}"
            print(f"{saving.flops:.3e} FLOPs, {reached}: {factor}")
        result["compute_saving"] = [dataclasses.asdict(saving) for saving in savings]
        if folder is not None:
            plot_compute(sides["proxy"], sides["baseline"], folder / "compute")
    if folder is not None:
        stamp = provenance_of(parameters=dataclasses.asdict(config), **result)
        write_text(folder / "ranking.json", json.dumps(stamp, indent=2))
    return result


def _ordered(points: list[Point], source: str) -> tuple[list[Point], list[str]]:
    """By run and tokens; a checkpoint that stands twice is an error."""
    order = sorted(points, key=lambda p: (p.run, p.tokens))
    for first, second in zip(order, order[1:], strict=False):
        if (first.run, first.tokens) == (second.run, second.tokens):
            raise InputError.at(
                f"run {first.run!r} at {first.tokens:g} tokens stands in row {first.row} too",
                remedy="keep one of them",
                source=source,
                row=second.row,
                field="tokens",
            )
    sorted_before = all(
        a.tokens < b.tokens for a, b in zip(points, points[1:], strict=False) if a.run == b.run
    )
    return order, [] if sorted_before else ["rows were not in order of tokens, now they are"]


def _unit(points: list[Point], y_unit: str, source: str) -> tuple[str, list[str]]:
    """The unit of the accuracies, and what to say of it."""
    values = [point.target_accuracy for point in points]
    above = [value > 1 for value in values]
    mixed = any(above) and not all(above)
    if y_unit == "auto" and mixed:
        point = points[above.index(not above[0])]
        raise InputError.at(
            f"{point.target_accuracy:g} stands among {'percent' if above[0] else 'fractions'}: "
            "percent and fractions are mixed",
            remedy="mend it, or set y_unit",
            source=source,
            row=point.row,
            field="target_accuracy",
        )
    if y_unit == "auto":
        y_unit = "percent" if above[0] else "fraction"
    if y_unit == "fraction":
        return y_unit, []
    few = f", also {above.count(False)} of at most 1" if mixed else ""
    return y_unit, [f"target_accuracy read as percent{few}"]


def _controls(points: list[Point]) -> tuple[dict[str, list[float]], list[str]]:
    """Tokens, and those columns that every point has; the others are named."""
    controls = {"tokens (1e9)": [point.tokens / 1e9 for point in points]}
    absent = []
    for name in CONTROLS:
        if name == one_metric(points):
            continue
        if all(name in point.controls for point in points):
            controls[name] = [point.controls[name] for point in points]
        else:
            absent.append(name)
    return controls, [f"controls not given: {', '.join(absent)}"] if absent else []


def _alike(points: list[Point], source: str) -> dict[str, Any]:
    """What all points must have in common."""
    found = {}
    for name in ALIKE:
        for point in points[1:]:
            mine, theirs = points[0].alike.get(name), point.alike.get(name)
            if mine != theirs:
                raise InputError.at(
                    f"{theirs!r} where row {points[0].row} has {mine!r}",
                    remedy="fit points of one kind together",
                    source=source,
                    row=point.row,
                    field=name,
                )
        if name in points[0].alike:
            found[name] = points[0].alike[name]
    if "num_parameters" in found:
        found["num_parameters"] = int(float(found["num_parameters"]))
    return found


def _errors(curve: Curve) -> dict[str, Any]:
    """The figures of a fit beside those of its controls, errors in points of a percent."""
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


def _report(curve: Curve, notes: list[str]) -> str:
    errors = _errors(curve)
    runs = f"{len(curve.runs)} run" + "s" * (len(curve.runs) != 1)
    lines = [
        f"{curve.target}: {curve.form}, R2 {curve.fits[0].r2:.3f}, {curve.num_points} points of "
        f"{runs}, {curve.metric} {curve.x_range[0]:.5g} .. {curve.x_range[1]:.5g}"
    ]
    if errors["held_out"] is not None:
        lines.append(
            f"  {'held out':<16}{'train R2':>9}{'test R2':>9}{'MAE, points':>13}{'in 90 %':>9}"
            "   proxy's error minus its own"
        )
        for name, cv in errors["held_out"].items():
            line = (
                f"  {name:<16}{cv['train_r2']:9.3f}{_or_dash(cv['test_r2'])}"
                f"{cv['test_mae_points']:13.2f}{cv['coverage']:9.2f}"
            )
            if name in errors["against"]:
                d = errors["against"][name]
                interval = "" if d["low"] is None else f" [{d['low']:+.2f}, {d['high']:+.2f}]"
                line += f"   {d['mae_points']:+.2f}{interval}"
            lines.append(line)
        notes = [*notes, *errors["statistics_notes"]]
    left_out = [f"{form} left out: {reason}" for form, reason in curve.left_out.items()]
    return "\n".join([*lines, *(f"  note: {note}" for note in [*notes, *left_out])])


def _or_dash(number: float | None) -> str:
    return f"{'-':>9}" if number is None else f"{number:9.3f}"


def _sentence(found: Prediction) -> str:
    words = [f"{100 * found.value:6.2f} %  {100 * found.low:.2f} .. {100 * found.high:.2f}"]
    if found.extrapolated:
        words.append("beyond the fitted points")
    if found.clipped:
        words.append("cut to 0 .. 100")
    if found.transfer:
        words.append(f"zero-shot transfer: {found.transfer}")
    return "; ".join(words)


def _ranking_table(ranking: Ranking) -> str:
    lines = [f"{'place':<7}{'name':<28}{ranking.metric:>12}  90 % interval       places"]
    for i, name in enumerate(ranking.order):
        lines.append(
            f"{i + 1:<7}{name:<28.28}{ranking.value[i]:12.6f}  {ranking.low[i]:.4f} .. "
            f"{ranking.high[i]:.4f}    {ranking.best_rank[i]} to {ranking.worst_rank[i]}"
        )
    lines.append(
        f"{ranking.num_traces} traces tell differences of {ranking.smallest_difference:.4f} apart"
    )
    if ranking.decisions is not None:
        d = ranking.decisions
        interval = "" if d.low is None else f" [{d.low:.3f}, {d.high:.3f}]"
        telling = "so few and so clear that nothing can be said of other draws"
        if d.smallest_difference is not None:
            telling = f"so many names tell {d.smallest_difference:.3f} from a given share"
        lines.append(
            f"decision accuracy {d.value:.4f}{interval} over {d.num_pairs} pairs ({d.num_ties} "
            f"undecided by the target), Kendall tau {ranking.kendall_tau:.3f}; {telling}"
        )
    return "\n".join([*lines, *(f"note: {note}" for note in ranking.notes)])


def _name(score: ProxyScore, path: str) -> str:
    name = score.model_id or Path(path).parent.name
    return name if score.step is None else f"{name} step {score.step}"


ACTIONS: dict[str, tuple[Any, Callable[..., dict[str, Any]]]] = {
    "fit": (FitConfig, fit),
    "predict": (PredictConfig, predict),
    "rank": (RankConfig, rank_scores),
}


def cli(argv: list[str] | None = None) -> int:
    """`hf-proxy fit`, `hf-proxy predict`, `hf-proxy rank`."""
    return run_action(ACTIONS, argv, prog="hf-proxy")


if __name__ == "__main__":
    raise SystemExit(cli())
