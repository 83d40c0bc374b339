"""Where curves come from: tables of points, runs joined with evaluation results, saved scores."""

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_proxy.schemas import METRICS, InputError, ProxyScore, Setting

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
    for number, row in _rows(path):
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
                given[name] = _number(given[name], path, number, name)
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
    for number, row in _rows(table):
        if set(row) != {"tokens", "path"}:
            raise InputError.at(
                f"columns {sorted(map(str, row))}", remedy="expected tokens,path", source=table
            )
        tokens = _number(row["tokens"], table, number, "tokens")
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


def read_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number and content of each line of a JSONL file."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(error, path) from error
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            content = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError.at(
                f"no JSON ({error})", remedy="mend or drop the line", source=path, row=number
            ) from error
        if not isinstance(content, dict):
            raise InputError.at("no JSON object", remedy="mend it", source=path, row=number)
        yield number, content


def read_scores(
    path: str | Path, *, trace_set: str | None = None
) -> list[tuple[ProxyScore, str | None]]:
    """Scores of `scores.jsonl` or `predictions.jsonl`, with the run of those that name one.

    Args:
        trace_set: of a `predictions.jsonl` only lines of this name.
    """
    found: list[tuple[ProxyScore, str | None]] = []
    for number, line in read_lines(path):
        try:
            if "rows" in line:
                found.append((ProxyScore.from_json(json.dumps(line)), None))
                continue
            if trace_set is not None and line["name"] != trace_set:
                continue
            fields = {n: line[n] for n in ProxyScore.__dataclass_fields__ if n not in ("rows",)}
            fields["setting"] = Setting(line["setting_parts"])
            found.append((ProxyScore(**fields, rows=Dataset.from_dict({})), line["run_id"]))
        except (KeyError, TypeError) as error:
            raise InputError.at(
                f"no score ({f'it has no {error}' if isinstance(error, KeyError) else error})",
                remedy="name a scores.jsonl or a predictions.jsonl",
                source=path,
                row=number,
            ) from error
    if not found:
        raise InputError.at("it holds no score", remedy="name another", source=path)
    return found


def read_table(path: str | Path, columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Rows of a CSV or JSONL file; the first column is text, the others are numbers."""
    path = Path(path)
    found = []
    for number, row in _rows(path):
        if set(row) != set(columns):
            raise InputError.at(
                f"columns {sorted(map(str, row))}",
                remedy=f"expected {','.join(columns)}",
                source=path,
                row=number,
            )
        values = [_number(row[name], path, number, name) for name in columns[1:]]
        found.append((str(row[columns[0]]), *values))
    return found


def one_metric(points: list[Point]) -> str:
    """The metric all points name; rBridge where none does."""
    metric = points[0].alike.get("metric", "value")
    if metric not in METRICS:
        raise InputError.at(
            f"{metric!r} is no metric", remedy=f"use one of {METRICS}", row=points[0].row
        )
    return metric


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.suffix == ".jsonl":
        yield from read_lines(path)
        return
    if path.suffix != ".csv":
        raise InputError.at("no table", remedy="expected a .csv or .jsonl file", source=path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(error, path) from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for row in reader:
        if None in row or None in row.values():
            raise InputError.at(
                f"other than {len(reader.fieldnames or [])} fields",
                remedy="mend the line",
                source=path,
                row=reader.line_num,
            )
        yield reader.line_num, row


def _unreadable(error: OSError | UnicodeDecodeError, path: Path) -> InputError:
    if isinstance(error, OSError):
        problem, remedy = f"cannot be read ({error.strerror})", "check the path"
    else:
        problem, remedy = f"no UTF-8 text at byte {error.start}", "save the file as UTF-8"
    return InputError.at(problem, remedy=remedy, source=path)


def _number(value: Any, path: Path, row: int, field: str) -> float:
    try:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError("not finite")
        return number
    except (TypeError, ValueError) as error:
        raise InputError.at(
            f"{value!r} is no number", remedy="mend it", source=path, row=row, field=field
        ) from error


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
    """One number of a result file of lm-evaluation-harness."""
    try:
        results = json.loads(path.read_text())["results"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError.at(
            f"no results ({type(error).__name__}: {error})",
            remedy="name a results_*.json of lm-evaluation-harness",
            source=path,
        ) from error
    if task not in results:
        raise InputError.at(
            f"no task {task!r}", remedy=f"it has {', '.join(sorted(results))}", source=path
        )
    numbers = {
        name: value
        for name, value in results[task].items()
        if isinstance(value, (int, float)) and "_stderr" not in name and "," in name
    }
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
