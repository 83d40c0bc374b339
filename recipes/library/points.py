"""Where curves come from: tables of points, and runs joined with evaluation results."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_proxy.recipes.library.tables import number_of, read_lines, table_rows
from hf_proxy.records.errors import InputError
from hf_proxy.records.scores import METRICS, Setting

NEEDED = ("run", "tokens", "score", "target", "target_accuracy")
CONTROLS = ("trace_nll", "gold_nll", "proxy_accuracy")
ALIKE = ("metric", "setting", "proxy", "num_parameters")  # one value for all points of a curve
NUMBERS = ("tokens", "score", "target_accuracy", *CONTROLS)


@dataclass(frozen=True)
class Point:
    """One checkpoint of the proxy with the target's accuracy at the same place.

    Attributes:
        row: where it stood, for messages.
        run: name of the proxy's training run.
        tokens: tokens seen.
        score: the proxy metric.
        target: what is predicted.
        target_accuracy: in the file's unit.
        controls: of `CONTROLS`, those that the row has.
        alike: of `ALIKE`, those that the row has; `setting` is a hash, or a `Setting`.
    """

    row: int
    run: str
    tokens: float
    score: float
    target: str
    target_accuracy: float
    controls: dict[str, float]
    alike: dict[str, Any]


def read_points(path: str | Path) -> list[Point]:
    """Points of a CSV or JSONL file with the columns of `NEEDED`, `CONTROLS` and `ALIKE`.

    Raises:
        InputError: a column is missing or unknown, or a field is empty or no number, by row.
    """
    path = Path(path)
    points = []
    for number, row in table_rows(path):
        if missing := [name for name in NEEDED if row.get(name) in (None, "")]:
            raise InputError.at(
                f"{', '.join(missing)} missing",
                remedy=f"give the columns {', '.join(NEEDED)}",
                source=path,
                row=number,
            )
        if unknown := sorted(set(row) - {*NEEDED, *CONTROLS, *ALIKE}):
            raise InputError.at(
                f"unknown columns {unknown}",
                remedy=f"columns beside the needed ones are {', '.join((*CONTROLS, *ALIKE))}",
                source=path,
                row=number,
            )
        given = {name: value for name, value in row.items() if value not in (None, "")}
        for name in NUMBERS:
            if name in given:
                given[name] = number_of(given[name], path, number, name)
        for name in ("run", "target"):  # a whole number may name one
            given[name] = str(given[name])
        points.append(
            Point(
                row=number,
                **{name: given[name] for name in NEEDED},
                controls={name: given[name] for name in CONTROLS if name in given},
                alike={name: given[name] for name in ALIKE if name in given},
            )
        )
    return points


def join_results(
    predictions: list[str],
    results: str,
    *,
    trace_set: str,
    metric: str,
    task: str,
    task_metric: str | None,
    within: float,
) -> tuple[list[Point], list[str]]:
    """Lines of `predictions.jsonl` with the target's results at the same number of tokens.

    Args:
        predictions: files that `ProxyScoreCallback` wrote.
        results: CSV of `tokens,path`: results of lm-evaluation-harness for the target's checkpoint
            after so many tokens, a file or a folder; paths are relative to the CSV.
        trace_set: which name in `predictions.jsonl`.
        metric: which number of its lines.
        task, task_metric: which accuracy of the results; None: the only one there is.
        within: relative distance at which two token counts are the same place.

    Returns:
        the points, and what was left out, in words.
    """
    table = Path(results)
    targets = []
    for number, row in table_rows(table):
        if set(row) != {"tokens", "path"}:
            raise InputError.at(
                f"columns {sorted(map(str, row))}", remedy="expected tokens,path", source=table
            )
        tokens = number_of(row["tokens"], table, number, "tokens")
        file = _results_file(table.parent / row["path"])
        targets.append((tokens, _accuracy(file, task, task_metric)))
    unmatched, found = 0, 0
    nearest: dict[tuple[str, float], tuple[float, Point]] = {}  # one point for a run and a result
    for name in predictions:
        for number, line in read_lines(name):
            needed = ("name", "run_id", "tokens_seen", metric, "trace_nll", "setting_parts")
            if missing := [key for key in needed if key not in line]:
                raise InputError.at(
                    f"{', '.join(missing)} missing",
                    remedy="name a predictions.jsonl of ProxyScoreCallback",
                    source=name,
                    row=number,
                )
            if line["name"] != trace_set:
                continue
            if line["tokens_seen"] is None:
                raise InputError.at(
                    "tokens_seen is unknown",
                    remedy="callback.attach(trainer), or include_num_input_tokens_seen=True",
                    source=name,
                    row=number,
                )
            near = [t for t in targets if abs(t[0] - line["tokens_seen"]) <= within * t[0]]
            if not near:
                unmatched += 1
                continue
            tokens, accuracy = min(near, key=lambda t: abs(t[0] - line["tokens_seen"]))
            found += 1
            distance = abs(tokens - line["tokens_seen"])
            place = (line["run_id"], tokens)
            if place in nearest and nearest[place][0] <= distance:
                continue
            nearest[place] = (
                distance,
                Point(
                    row=number,
                    run=line["run_id"],
                    tokens=float(line["tokens_seen"]),
                    score=float(line[metric]),
                    target=task,
                    target_accuracy=accuracy,
                    controls={"trace_nll": line["trace_nll"]},
                    alike={
                        "metric": metric,
                        "setting": Setting(line["setting_parts"]),
                        "num_parameters": line["num_parameters"],
                    },
                ),
            )
    points = [point for _, point in nearest.values()]
    if not points:
        raise InputError.at(
            f"no line of {trace_set!r} is within {within:.1%} of the tokens of any result",
            remedy="evaluate the target at the same tokens, or widen match_within",
            source=table,
        )
    idle = len({tokens for tokens, _ in targets} - {tokens for _, tokens in nearest})
    counts = {
        "lines without a result at their tokens": unmatched,
        "lines left out, another of their run is nearer to the same result": found - len(points),
        "results without a line at their tokens": idle,
    }
    return points, [f"{count} {what}" for what, count in counts.items() if count]


def one_metric(points: list[Point]) -> str:
    """The metric all points name; rBridge where none does."""
    metric = points[0].alike.get("metric", "value")
    if metric not in METRICS:
        raise InputError.at(
            f"{metric!r} is no metric", remedy=f"use one of {METRICS}", row=points[0].row
        )
    return metric


def _results_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = sorted(path.rglob("results_*.json"))
    if len(files) != 1:
        raise InputError.at(
            f"it holds {len(files)} files results_*.json", remedy="name one file", source=path
        )
    return files[0]


def _accuracy(path: Path, task: str, task_metric: str | None) -> float:
    """One number of a result file of lm-evaluation-harness or of lighteval."""
    try:
        results = json.loads(path.read_text())["results"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError.at(
            f"no results ({type(error).__name__}: {error})",
            remedy="name a results_*.json of lm-evaluation-harness or lighteval",
            source=path,
        ) from error
    if task not in results:
        raise InputError.at(
            f"no task {task!r}", remedy=f"it has {', '.join(sorted(results))}", source=path
        )
    numbers = {
        name: value
        for name, value in results[task].items()
        if type(value) in (int, float) and "_stderr" not in name
    }
    # the harness writes metric,filter and counts of samples beside; lighteval the metric alone
    if filtered := {name: value for name, value in numbers.items() if "," in name}:
        numbers = filtered
    if not numbers:
        raise InputError.at(
            f"no number for {task}, only {', '.join(sorted(results[task])) or 'nothing'}",
            remedy="name results of a finished evaluation",
            source=path,
        )
    if task_metric is None and len(numbers) == 1:
        (task_metric,) = numbers
    numbers = {name: value for name, value in numbers.items() if math.isfinite(value)}
    if task_metric not in numbers:
        raise InputError.at(
            f"task_metric {task_metric!r} of {task}",
            remedy=f"set task_metric to one of {', '.join(sorted(numbers))}",
            source=path,
        )
    return float(numbers[task_metric])
