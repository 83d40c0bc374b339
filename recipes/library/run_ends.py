"""Where runs will stand at a horizon, from their scores so far: `hf-proxy predict --horizon`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from hf_proxy.prediction.curve import Curve
from hf_proxy.prediction.forecast import Extrapolation, Forecast, forecast
from hf_proxy.recipes.library.joined_points import checkpoint_scores, target_accuracies
from hf_proxy.recipes.library.screen import print_table
from hf_proxy.records.errors import InputError, names
from hf_proxy.records.lines import JoinedLine
from hf_proxy.records.scores import ScoreRecord, Setting


class RunScores(NamedTuple):
    """Scores of one run in the order of its training, from the first step on."""

    at: list[float]
    numbers: list[JoinedLine | ScoreRecord]


def run_ends(
    scores: Sequence[str],
    curves: Sequence[Curve],
    horizon: float,
    unit: str,
    *,
    results: str | None = None,
    trace_set: str | None = None,
    run: str | None = None,
    level: float,
) -> dict[str, Any]:
    """Show and return each run's forecast under each curve, and how pairs of runs compare.

    Args:
        scores: predictions.jsonl or scores.jsonl files.
        horizon, unit: where to look, in `"step"` or `"tokens"`.
        results: table of that unit and `accuracy`, measured so far, for the controls.
        trace_set, run, level: of `hf-proxy predict`.
    """
    runs = read_runs(scores, unit, trace_set)
    controls: dict[str, Extrapolation] = {}
    if results is not None:
        controls = controls_of(results, runs, horizon, unit, level)
    found: dict[tuple[str, str], Forecast] = {}
    lines, rows = [], []
    for name, own in runs.items():
        for curve in curves:
            for one in own.numbers:
                curve.check_setting(Setting(one.setting_parts))
            x = [getattr(one, curve.metric) for one in own.numbers]
            try:
                ahead = forecast(own.at, x, horizon, curve=curve, run=run or name, level=level)
            except InputError as error:
                raise InputError(f"run {name}: {error}") from error
            ahead = dataclasses.replace(ahead, controls=controls)
            assert ahead.accuracy is not None
            found.setdefault((curve.metric, name), ahead)
            rows.append(
                [name, f"{ahead.last:.6g}", f"{horizon / ahead.last:.3g}", curve.metric]
                + [_number(ahead.proxy), curve.target or "-", _percent(ahead.accuracy)]
                + [_percent(control) for control in controls.values()]
                + ["; ".join(ahead.notes)]
            )
            content = dataclasses.asdict(ahead) | {"warnings": list(curve.warnings)}
            lines.append({"run": name, "target": curve.target} | content)
    print(f"at {unit} {horizon:g}, {100 * level:g} % intervals")
    head = ["run", f"last {unit}", "times", "score", "there", "target", "accuracy there"]
    words = ("run", "score", "target", "remarks")
    print_table([*head, *controls, "remarks"], rows, words=words, names=("run",))
    comparisons = []
    for metric in dict.fromkeys(curve.metric for curve in curves):
        for first, second in combinations(runs, 2):
            told = found[metric, first].compare(found[metric, second])
            print(
                f"{first} - {second}, {metric}: {told.difference:+.4g} "
                f"[{told.low:+.4g}, {told.high:+.4g}]: {told.verdict}"
            )
            comparisons.append(
                {"metric": metric, "first": first, "second": second} | dataclasses.asdict(told)
            )
    for curve in curves:
        for warning in curve.warnings:
            print(f"note: {curve.target}: {warning}")
    return {"horizon_in": unit, "forecasts": lines, "comparisons": comparisons}


def read_runs(paths: Sequence[str], unit: str, trace_set: str | None) -> dict[str, RunScores]:
    """Each run of the files, step 0 left out.

    Raises:
        InputError: a score does not know its step or tokens, lines are of several trace sets, one
            place of a run stands twice.
    """
    found: dict[str, dict[float, JoinedLine | ScoreRecord]] = {}
    sets = set()
    for path in paths:
        for number, line in checkpoint_scores(path, trace_set):
            seen = line.step if unit == "step" else line.tokens
            if seen is None:
                other = "tokens" if unit == "step" else "step"
                raise InputError.at(
                    f"its {unit} is unknown",
                    remedy=f"name the horizon in {other}",
                    source=path,
                    row=number,
                )
            if isinstance(line.numbers, JoinedLine):
                sets.add(line.numbers.name)
            own = found.setdefault(line.run, {})
            if seen in own:
                raise InputError.at(
                    f"{unit} {seen:g} of run {line.run} stands twice",
                    remedy="name each run's file once, and one trace_set",
                    source=path,
                    row=number,
                )
            if seen > 0:
                own[float(seen)] = line.numbers
    if len(sets) > 1:
        raise InputError.at(
            f"lines are of several trace sets, {names(sets)}",
            remedy="name one with trace_set",
            field="scores",
        )
    if not found:
        raise InputError.at("they hold no score", remedy="name others", field="scores")
    return {
        run: RunScores(sorted(own), [own[at] for at in sorted(own)]) for run, own in found.items()
    }


def controls_of(
    results: str, runs: dict[str, RunScores], horizon: float, unit: str, level: float
) -> dict[str, Extrapolation]:
    """The same accuracy from accuracies alone and from compute alone, up to the last score."""
    if len(runs) > 1:
        raise InputError.at(
            f"the scores are of {len(runs)} runs, the accuracies of one",
            remedy="name the scores of that run alone",
            field="results",
        )
    place, targets = target_accuracies(Path(results), None, None)
    if place != unit:
        raise InputError.at(
            f"it counts in {place}, the horizon in {unit}",
            remedy=f"name the horizon in {place}, or give a table of {unit} and accuracy",
            source=results,
        )
    (own,) = runs.values()
    known = sorted((at, accuracy) for at, accuracy in targets if 0 < at <= max(own.at, default=0))
    accuracies = [accuracy for _, accuracy in known]
    percent = [accuracy > 1 for accuracy in accuracies]
    if any(percent) and not all(percent):
        raise InputError.at(
            "percent and fractions are mixed", remedy="mend it", source=results, field="accuracy"
        )
    y = [accuracy / (100 if any(percent) else 1) for accuracy in accuracies]
    try:
        at = [at for at, _ in known]
        return forecast(at, y, horizon, accuracies=y, level=level).controls
    except InputError as error:
        raise InputError(f"{results}: {error}") from error


def _number(found: Extrapolation) -> str:
    return f"{found.value:.4g} [{found.low:.4g}, {found.high:.4g}]"


def _percent(found: Extrapolation) -> str:
    return f"{100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"
