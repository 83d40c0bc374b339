"""A large model's accuracy, read off curves at proxy scores."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_proxy.intervals import LEVEL
from hf_proxy.recipes.library.running import RecipeConfig, run
from hf_proxy.recipes.library.screen import print_table

if TYPE_CHECKING:
    from hf_proxy.prediction.curve import Prediction
    from hf_proxy.records.scores import ProxyScore


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


def predict(config: PredictConfig) -> dict[str, Any]:
    """Read curves at scores: the large model's accuracy, with its interval.

    Reads:   curves that `hf-proxy fit` wrote, and scores: numbers, scores.jsonl of `hf-proxy
             score`, or predictions.jsonl of a training run.
    Writes:  to the screen only.
    Example: hf-proxy predict --curves outputs/curves/arc_challenge.json --scores 0.80
    """
    from hf_proxy.prediction.curve import Curve
    from hf_proxy.recipes.library.scores import read_scores

    curves = [Curve.load(path) for path in config.curves]
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
    interval = f"{config.level:.0%} interval"
    head = ("score", "step", "target", "accuracy", interval, "R2 held out", "remarks")
    print_table(head, rows, words=("score", "target", "remarks"), names=("score",))
    for curve in curves:
        for warning in curve.warnings:
            print(f"note: {curve.target}: {warning}")
    return {"predictions": lines}


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
