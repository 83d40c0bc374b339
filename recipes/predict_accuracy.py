"""A large model's accuracy, read off curves at proxy scores."""

from __future__ import annotations

import builtins
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_proxy.intervals import LEVEL
from hf_proxy.recipes.library.running import RecipeConfig, run
from hf_proxy.recipes.library.screen import print_table
from hf_proxy.records.errors import InputError

if TYPE_CHECKING:
    from hf_proxy.prediction.curve import Prediction
    from hf_proxy.records.scores import ProxyScore


@dataclass(frozen=True, kw_only=True)
class PredictConfig(RecipeConfig):
    """`hf-proxy predict`."""

    curves: builtins.list[str] = field(
        default_factory=builtins.list,
        metadata={"help": "Files that `hf-proxy fit` wrote, or reference:NAME as --list shows."},
    )
    scores: builtins.list[str] = field(
        default_factory=builtins.list,
        metadata={"help": "scores.jsonl or predictions.jsonl files, or bare numbers."},
    )
    list: bool = field(
        default=False,
        metadata={"help": "Show the reference curves that the package brings, and nothing else."},
    )
    trace_set: str | None = field(
        default=None,
        metadata={"help": "Of predictions.jsonl: only lines of this trace set; unset: all."},
    )
    level: float = field(
        default=LEVEL,
        metadata={"help": "Nominal coverage of the interval, a share between 0 and 1."},
    )
    run: str | None = field(
        default=None,
        metadata={
            "help": "Name of the run the scores come from; another than the curve's is "
            "marked as a zero-shot transfer."
        },
    )
    horizon: float | None = field(
        default=None,
        metadata={
            "help": "Instead of each score: what the runs of the score files will reach at this "
            "step, and which of two ends lower, if that can be told."
        },
    )
    horizon_in: Literal["step", "tokens"] | None = field(
        default=None, metadata={"help": "What the horizon counts; unset: step."}
    )
    results: str | None = field(
        default=None,
        metadata={
            "help": "With horizon: CSV or JSONL of step or tokens, and accuracy measured there so "
            "far, to extrapolate that alone beside it."
        },
    )

    def __post_init__(self) -> None:
        for name in ("curves", "scores"):
            given = bool(getattr(self, name))
            if given == self.list:
                raise InputError.at(
                    "there are none" if not given else "--list reads none",
                    remedy="give both curves and scores, or --list alone",
                    field=name,
                )
        for name in ("horizon_in", "results"):
            if self.horizon is None and getattr(self, name) is not None:
                raise InputError.at("it says nothing alone", remedy="give horizon too", field=name)
        if self.horizon is not None and self.list:
            raise InputError.at(
                "--list reads none", remedy="give curves and scores with it", field="horizon"
            )


def predict(config: PredictConfig) -> dict[str, Any]:
    """Read curves at scores: the large model's accuracy, with its interval.

    Reads:   curves that `hf-proxy fit` wrote, or that the package brings (--list shows them),
             and scores: numbers, scores.jsonl of `hf-proxy score`, or predictions.jsonl of a run.
             With --horizon: files only, of one run or several.
    Writes:  to the screen only.
    Example: hf-proxy predict --curves outputs/curves/arc_challenge.json --scores 0.80
    """
    from hf_proxy.prediction.curve import Curve
    from hf_proxy.recipes.library.scores import read_scores

    if config.list:
        return {"references": _references()}
    curves = [Curve.load(path) for path in config.curves]
    if config.horizon is not None:
        from hf_proxy.recipes.library.run_ends import run_ends

        return run_ends(
            config.scores,
            curves,
            config.horizon,
            config.horizon_in or "step",
            results=config.results,
            trace_set=config.trace_set,
            run=config.run,
            level=config.level,
        )
    scores: list[tuple[str, ProxyScore | float, str | None]] = []
    for text in config.scores:
        try:
            scores.append((text, float(text), config.run))
        except ValueError:
            scores += [
                (score.model_id or Path(text).parent.name, score, config.run or own)
                for score, own in read_scores(text, trace_set=config.trace_set)
            ]
    lines, rows = [], []
    for name, score, own_run in scores:
        for curve in curves:
            found = curve.predict(score, config.level, run=own_run)
            between = f"{100 * found.low:.2f} .. {100 * found.high:.2f}"
            accuracy = f"{100 * found.value:.2f} %"
            x = score if isinstance(score, float) else getattr(score, curve.metric)
            step = None if isinstance(score, float) else score.step
            r2 = curve.held_out_r2
            rows.append(
                (name, "-" if step is None else str(step), curve.target or "-", accuracy, between)
                + ("-" if r2 is None else f"{r2:.3f}", _remarks(found))
            )
            lines.append(
                {"score": name, "step": step, "x": x, "target": curve.target}
                | dataclasses.asdict(found)
                | {"held_out_r2": r2, "warnings": list(curve.warnings)}
            )
    interval = f"{100 * config.level:g} % interval"
    head = ("score", "step", "target", "accuracy", interval, "R2 held out", "remarks")
    print_table(head, rows, words=("score", "target", "remarks"), names=("score",))
    for curve in curves:
        for warning in curve.warnings:
            print(f"note: {curve.target}: {warning}")
    return {"predictions": lines}


def _references() -> builtins.list[dict[str, Any]]:
    """The table of reference curves, errors in points of a percent."""
    from hf_proxy.prediction.curve import Curve, reference_names

    found: builtins.list[dict[str, Any]] = []
    for name in reference_names():
        curve = Curve.load(f"reference:{name}")
        fit, held_out = curve.fits[0], curve.statistics
        assert held_out is not None
        errors = {"proxy": held_out, **held_out.controls}
        found.append(
            {
                "name": name,
                "proxy": curve.proxy,
                "target": curve.target,
                "metric": curve.metric,
                "x_range": curve.x_range,
                "num_points": curve.num_points,
                "signal_to_noise": fit.scale.y_sd / fit.residual_sd,
                "mae_points": {key: 100 * cv.test_mae for key, cv in errors.items()},
                "coverage": held_out.coverage,
            }
        )
    controls = builtins.list(found[0]["mae_points"])
    rows = [
        [f"reference:{row['name']}", row["metric"], str(row["num_points"])]
        + ["{:.3f} .. {:.3f}".format(*row["x_range"])]
        + [f"{row['signal_to_noise']:.1f}", *(f"{v:.2f}" for v in row["mae_points"].values())]
        for row in found
    ]
    print_table(
        ("curve", "from", "points", "range", "signal to noise", *(f"error: {c}" for c in controls)),
        rows,
        words=("curve", "from"),
    )
    print("errors held out, in points; fitted to OLMo-ladder (Ai2, Apache-2.0), run 1B-10xC")
    return found


def _remarks(found: Prediction) -> str:
    words = []
    if found.extrapolated:
        words.append("beyond the fitted points")
    if found.clipped:
        words.append("cut to 0 .. 100")
    if found.transfer:
        words.append("zero-shot transfer")  # which one is said once, for all steps
    return "; ".join(words)


def cli(argv: list[str] | None = None) -> int:
    """`hf-proxy predict`."""
    return run(PredictConfig, predict, argv, prog="hf-proxy predict")


if __name__ == "__main__":
    raise SystemExit(cli())
