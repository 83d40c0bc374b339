"""Where curves come from: tables of points, and runs joined with evaluation results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_proxy.recipes.library.tables import number_of, table_rows, text_of
from hf_proxy.records.errors import InputError, names, shown
from hf_proxy.records.lines import JoinedLine, read_lines
from hf_proxy.records.record import LARGEST, Record, read_record
from hf_proxy.records.scores import METRICS, Setting

NEEDED = ("run", "tokens", "score", "target", "target_accuracy")
CONTROLS = ("trace_nll", "gold_nll", "proxy_accuracy")
ALIKE = ("metric", "setting", "proxy", "num_parameters")  # one value for all points of a curve
NUMBERS = ("tokens", "score", "target_accuracy", "num_parameters", *CONTROLS)
MOST_PARAMETERS = 2**53


class ResultsRecord(Record):
    """A result file of lm-evaluation-harness or of lighteval: task, name of a number, number."""

    results: dict[str, dict[str, Any]]


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
                f"unknown columns {[name[:40] for name in unknown[:9]]}",
                remedy=f"columns beside the needed ones are {', '.join((*CONTROLS, *ALIKE))}",
                source=path,
                row=number,
            )
        given = {name: value for name, value in row.items() if value not in (None, "")}
        for name in NUMBERS:
            if name in given:
                given[name] = number_of(given[name], path, number, name)
        for name in set(given) - set(NUMBERS):  # a whole number may name one
            given[name] = text_of(given[name], path, number, name)
        if not 0 <= given.get("num_parameters", 0) <= MOST_PARAMETERS:
            raise InputError.at(
                f"{given['num_parameters']:g} is no number of parameters",
                remedy="mend it",
                source=path,
                row=number,
                field="num_parameters",
            )
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
                f"columns {names(row)}", remedy="expected tokens,path", source=table
            )
        tokens = number_of(row["tokens"], table, number, "tokens")
        file = _results_file(table.parent / text_of(row["path"], table, number, "path"))
        targets.append((tokens, _accuracy(file, task, task_metric)))
    unmatched, found = 0, 0
    nearest: dict[tuple[str, float], tuple[float, Point]] = {}  # one point for a run and a result
    for name in predictions:
        remedy = "name a predictions.jsonl of ProxyScoreCallback"
        for number, line, _ in read_lines(name, JoinedLine, remedy=remedy):
            if line.name != trace_set:
                continue
            seen = line.tokens_seen
            if seen is None:
                raise InputError.at(
                    "tokens_seen is unknown",
                    remedy="callback.attach(trainer), or include_num_input_tokens_seen=True",
                    source=name,
                    row=number,
                )
            near = [t for t in targets if abs(t[0] - seen) <= within * t[0]]
            if not near:
                unmatched += 1
                continue
            distance, tokens, accuracy = min((abs(t - seen), t, accuracy) for t, accuracy in near)
            found += 1
            place = (line.run_id, tokens)
            if place in nearest and nearest[place][0] <= distance:
                continue
            nearest[place] = (
                distance,
                Point(
                    row=number,
                    run=line.run_id,
                    tokens=float(seen),
                    score=getattr(line, metric),
                    target=task,
                    target_accuracy=accuracy,
                    controls={"trace_nll": line.trace_nll},
                    alike={
                        "metric": metric,
                        "setting": Setting(line.setting_parts),
                        "num_parameters": line.num_parameters,
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
            f"{shown(metric)} is no metric", remedy=f"use one of {METRICS}", row=points[0].row
        )
    return metric


def _results_file(path: Path) -> Path:
    try:
        files = sorted(path.rglob("results_*.json")) if path.is_dir() else [path]
    except OSError as error:
        raise InputError.at(
            f"cannot be read ({error.strerror})", remedy="check the path", source=path
        ) from error
    if len(files) != 1:
        raise InputError.at(
            f"it holds {len(files)} files results_*.json", remedy="name one file", source=path
        )
    return files[0]


def _accuracy(path: Path, task: str, task_metric: str | None) -> float:
    """One number of a result file of lm-evaluation-harness or of lighteval."""
    remedy = "name a results_*.json of lm-evaluation-harness or lighteval"
    results = read_record(path, ResultsRecord, remedy=remedy).results
    if task not in results:
        raise InputError.at(f"no task {task!r}", remedy=f"it has {names(results)}", source=path)
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
            f"no number for {task}, only {names(results[task]) or 'nothing'}",
            remedy="name results of a finished evaluation",
            source=path,
        )
    if task_metric is None and len(numbers) == 1:
        (task_metric,) = numbers
    numbers = {name: value for name, value in numbers.items() if abs(value) <= LARGEST}
    if task_metric not in numbers:
        raise InputError.at(
            f"task_metric {task_metric!r} of {task}",
            remedy=f"set task_metric to one of {', '.join(sorted(numbers))}",
            source=path,
        )
    return float(numbers[task_metric])
