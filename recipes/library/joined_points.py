"""Points of a curve from scores along a training and the target's accuracies at the same places."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hf_proxy.recipes.library.points import Point
from hf_proxy.recipes.library.tables import number_of, table_rows, text_of
from hf_proxy.records.errors import InputError, names
from hf_proxy.records.lines import JoinedLine, read_lines
from hf_proxy.records.record import LARGEST, Record, checked, read_record
from hf_proxy.records.scores import ScoreRecord, Setting

_TABLES = ("tokens", "step"), ("accuracy", "path")
_REMEDY = "name a predictions.jsonl of ProxyScoreCallback or a scores.jsonl of `hf-proxy score`"


class ResultsRecord(Record):
    """A result file of lm-evaluation-harness or of lighteval: task, name of a number, number."""

    results: dict[str, dict[str, Any]]


class CheckpointScore(NamedTuple):
    """What a line of either file says of a checkpoint."""

    run: str
    step: int | None
    tokens: float | None
    numbers: JoinedLine | ScoreRecord


def join_results(
    predictions: list[str],
    results: str,
    *,
    trace_set: str,
    metric: str,
    task: str | None,
    task_metric: str | None,
    within: float,
) -> tuple[list[Point], list[str]]:
    """Scores of a training with the target's accuracies after as many tokens, or steps.

    Args:
        predictions: files that `ProxyScoreCallback` or `hf-proxy score --output_dir` wrote.
        results: CSV or JSONL with `tokens` or `step`, and `accuracy` or `path`: results of
            lm-evaluation-harness for the target's checkpoint there, a file or a folder; paths are
            relative to the table.
        trace_set: which name in `predictions.jsonl`.
        metric: which number of its lines.
        task, task_metric: name of the target, and with `path` which accuracy of the results; None:
            the only one there is.
        within: relative distance at which two token counts are the same place; steps are equal.

    Returns:
        the points, and what was left out, in words.
    """
    table = Path(results)
    place, targets = target_accuracies(table, task, task_metric)
    unmatched, found = 0, 0
    nearest: dict[tuple[str, float], tuple[float, Point]] = {}  # one point for a run and a result
    for name in predictions:
        for number, line in checkpoint_scores(name, trace_set):
            seen = line.tokens if place == "tokens" else line.step
            if seen is None:
                remedy = (
                    "callback.attach(trainer), include_num_input_tokens_seen=True, or a table of "
                    "step and accuracy (or path)"
                )
                if place == "step":
                    remedy = "score the run's checkpoints, whose trainer_state.json tells the step"
                raise InputError.at(
                    "tokens_seen is unknown" if place == "tokens" else "its step is unknown",
                    remedy=remedy,
                    source=name,
                    row=number,
                )
            near = [t for t in targets if abs(t[0] - seen) <= (place == "tokens") * within * t[0]]
            if not near:
                unmatched += 1
                continue
            distance, at, accuracy = min((abs(t - seen), t, accuracy) for t, accuracy in near)
            found += 1
            if (line.run, at) in nearest and nearest[line.run, at][0] <= distance:
                continue
            nearest[line.run, at] = (distance, _point(number, line, metric, task, accuracy))
    points = [point for _, point in nearest.values()]
    if not points:
        problem = f"no line of {trace_set!r} is within {within:.1%} of the tokens of any result"
        remedy = "evaluate the target at the same tokens, or widen match_within"
        if place == "step":
            problem = f"no line of {trace_set!r} is of a step of any result"
            remedy = "evaluate the target at the steps that were scored"
        raise InputError.at(problem, remedy=remedy, source=table)
    idle = len({at for at, _ in targets} - {at for _, at in nearest})
    counts = {
        f"lines without a result at their {place}": unmatched,
        "lines left out, another of their run is nearer to the same result": found - len(points),
        f"results without a line at their {place}": idle,
    }
    return points, [f"{count} {what}" for what, count in counts.items() if count]


def target_accuracies(
    table: Path, task: str | None, task_metric: str | None
) -> tuple[str, list[tuple[float, float]]]:
    """What the table counts, tokens or steps, and the accuracy after so many."""
    targets, place = [], ""
    for number, row in table_rows(table):
        given = [[name for name in known if name in row] for known in _TABLES]
        if [len(one) for one in given] != [1, 1] or set(row) != {given[0][0], given[1][0]}:
            raise InputError.at(
                f"columns {names(row)}",
                remedy="expected tokens or step, and accuracy or path",
                source=table,
                row=number,
            )
        place, value = given[0][0], given[1][0]
        at = number_of(row[place], table, number, place)
        if value == "accuracy":
            targets.append((at, number_of(row[value], table, number, value)))
            continue
        if task is None:
            raise InputError.at(
                "the results of a harness hold several tasks", remedy="name one", field="task"
            )
        file = _results_file(table.parent / text_of(row["path"], table, number, "path"))
        targets.append((at, _accuracy(file, task, task_metric)))
    return place, targets


def checkpoint_scores(path: str, trace_set: str | None) -> Iterator[tuple[int, CheckpointScore]]:
    """Line number and score of each checkpoint in a file of either kind.

    Args:
        trace_set: which name in `predictions.jsonl`; None: all.
    """
    for number, _, content in read_lines(path, Record, remedy=_REMEDY):
        where = {"source": f"{path}, line {number}", "remedy": _REMEDY}
        if "rows" in content and "run_id" not in content:  # of `hf-proxy score`
            score = checked(ScoreRecord, content, **where)
            # checkpoints of one folder are one run
            run = str(Path(score.model_id or path).parent)
            yield number, CheckpointScore(run, score.step, None, score)
            continue
        line = checked(JoinedLine, content, **where)
        if trace_set in (None, line.name):
            tokens = None if line.tokens_seen is None else float(line.tokens_seen)
            yield number, CheckpointScore(line.run_id, line.step, tokens, line)


def _point(
    number: int, line: CheckpointScore, metric: str, task: str | None, accuracy: float
) -> Point:
    return Point(
        row=number,
        run=line.run,
        tokens=float(line.step or 0) if line.tokens is None else line.tokens,
        score=getattr(line.numbers, metric),
        target=task or "target",
        target_accuracy=accuracy,
        controls={"trace_nll": line.numbers.trace_nll},
        alike={
            "metric": metric,
            "setting": Setting(line.numbers.setting_parts),
            "num_parameters": line.numbers.num_parameters,
        },
        axis="steps" if line.tokens is None else "tokens",
    )


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
