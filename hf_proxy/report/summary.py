"""The head of a report: what was run, on what, and what came out, in three lines."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hf_proxy.records.scores import METRIC_NAMES
from hf_proxy.report.accuracy import accuracy_sentence
from hf_proxy.report.blocks import (
    counted,
    heading,
    interval,
    number,
    percent,
    percent_interval,
    short_name,
)
from hf_proxy.report.changes import changes_of
from hf_proxy.report.contents import RunContents
from hf_proxy.report.curves import controls_sentence
from hf_proxy.report.foretelling import foretold_sentence
from hf_proxy.report.models import model_names
from hf_proxy.report.selected import selection_sentence
from hf_proxy.report.trace_sets import source_of, trace_sentence
from hf_proxy.report.training import by_setting
from hf_proxy.report.tuned import kept_accuracy

_MOST_FOUND = 5  # sentences on what came out
_MOST_NAMED = 7  # models and files on one line
# of flags: those that name a model or data
_SUBJECTS: tuple[str, ...] = (
    "model_name_or_path",
    "expert",
    "amateur",
    "train_data",
    "prompts",
    "soft_targets",
)
_SUBJECTS += ("problems", "traces", "points")


class Head(NamedTuple):
    """Three lines as text; `found` is one sentence or a few, the weightiest first."""

    run: str
    on: str
    found: list[str]


class _Finding(NamedTuple):
    """What one command did in one folder.

    Attributes:
        weight: the smaller, the sooner it is told.
    """

    weight: int
    command: str
    subjects: list[str]
    outcome: str


def head_of(folders: Sequence[RunContents]) -> Head:
    """The head of a page of these folders."""
    findings = [(contents, one) for contents in folders for one in _findings(contents)]
    commands = Counter(one.command for _, one in findings if one.command)
    run = ", ".join(
        f"{command}{f' ({count} times)' if count > 1 else ''}"
        for command, count in commands.items()
    )
    if len(folders) > 1:
        run = f"{counted(len(folders), 'folder')}: {run}"
    dates = sorted(filter(None, (_date(contents) for contents in folders)))
    if dates:
        days = list(dict.fromkeys((dates[0], dates[-1])))
        run += f"; {' to '.join(days)}"
    subjects = list(dict.fromkeys(name for _, one in findings for name in one.subjects if name))
    more = f" and {len(subjects) - _MOST_NAMED} more" if len(subjects) > _MOST_NAMED else ""
    findings.sort(key=lambda item: item[1].weight)
    found = [heading(contents.name, one.outcome) for contents, one in findings if one.outcome]
    left = len(found) - _MOST_FOUND
    told = found[:_MOST_FOUND] + ([f"{left} more below."] if left > 0 else [])
    return Head(run or "-", ", ".join(subjects[:_MOST_NAMED]) + more or "-", told)


def _findings(contents: RunContents) -> Iterator[_Finding]:
    yield from _of_benchmarks(list(contents.benchmarks.values()))
    if contents.accuracy:
        settings = _settings(contents, "results.json")
        named = [_name(settings.get("problems"))]
        yield _Finding(0, "hf-proxy accuracy", named, accuracy_sentence(contents.accuracy))
    if contents.foretold:
        settings = _settings(contents, "foretold.json")
        words = f"{foretold_sentence(contents.foretold)}."
        yield _Finding(1, "hf-proxy contrast foretell", _subjects(settings), words)
    if contents.scores or contents.run or contents.state or contents.tuned:
        yield _of_training(contents)
    yield from _of_commands(contents)
    if contents.num_begun:
        words = f"Under way: {counted(contents.num_batches, 'batch', 'batches')} of answers."
        yield _Finding(0, "answers, not finished", [], words)


def _of_commands(contents: RunContents) -> Iterator[_Finding]:
    """Of those that train nothing and answer nothing."""
    if contents.ranking.get("selection"):
        words = selection_sentence(contents.ranking["selection"])
        yield _Finding(2, "hf-proxy rank --select", _targets(contents), words)
    if found := contents.ranking.get("ranking"):
        best = f"{short_name(found['order'][0])} is best of {len(found['order'])}, "
        best += f"{METRIC_NAMES[found['metric']]} {number(found['value'][0])}"
        best += f" [{interval(found['low'][0], found['high'][0])}]."
        yield _Finding(3, "hf-proxy rank", _targets(contents), best)
    if contents.model_scores:
        yield _of_models(contents)
    for name, curve in contents.curves.items():
        words = f"{curve.target or name}: {controls_sentence(curve)}"
        subjects = [_name(_settings(contents, "provenance.json").get("points"))]
        yield _Finding(4, "hf-proxy fit", subjects, words)
    if contents.mined is not None:
        yield _of_mined(contents)
    if contents.traces is not None:
        asked = contents.traces.parameters
        command = "build" if "questions" in asked else "annotate" if "frontier" in asked else ""
        yield _Finding(
            6,
            f"hf-proxy traces {command or 'import'}",
            [source_of(contents.traces), _name(asked.get("frontier"))],
            trace_sentence(contents.traces),
        )


def _of_training(contents: RunContents) -> _Finding:
    command = f"hf-proxy {contents.run.command}" if contents.run else "a training"
    if contents.run is None and contents.tuned is not None:
        command = "hf-proxy train"
    done, most = contents.steps_done
    if contents.tuned is not None:
        done = contents.tuned.training.optimizer_steps
    if contents.is_unfinished:
        command += f", not finished: step {number(done)} of {number(most)}"
    elif done is not None:
        command += f", {counted(done, 'optimizer step')}"
    subjects, said = _subjects(contents.asked), []
    for (name, _), lines in by_setting(contents.scores).items():
        subjects.append(f"{counted(lines[-1].get('num_traces') or 0, 'trace')} ({name})")
        if not contents.asked:
            subjects.insert(0, _name(lines[-1].get("model_id")))
        said.append(_score_words(name, lines))
    if contents.tuned is not None and not said:
        shares = kept_accuracy(contents.tuned)
        learnt = number(contents.tuned.training.kept_steps_trained)
        said.append(f"{learnt} kept steps learnt")
        if shares != "-":
            said.append(f"kept accuracy first and last {shares}")
    losses = [row["eval_loss"] for row in _log(contents) if "eval_loss" in row]
    if len(losses) > 1 and not contents.scores:
        said.append(f"eval_loss {number(losses[0])} to {number(losses[-1])}")
    outcome = f"{'; '.join(said)}." if said else ""
    return _Finding(2 if contents.scores else 5, command, subjects, outcome)


def _score_words(name: str, lines: list[dict[str, Any]]) -> str:
    """A score at its first and its last step, their paired change, and what a curve reads."""
    first, last = lines[0], lines[-1]
    words = f"{name}: rBridge {number(first['value'])}"
    if len(lines) > 1:
        words += f" at step {first['step']}, {number(last['value'])} at step {last['step']}"
        change = changes_of([first, last])
        if not change.why_not:
            words += f" ({change.last_in_words('value')}, 90 %, paired by trace)"
    for target, found in last["predictions"].items():
        words += f"; accuracy predicted of {target} "
        if len(lines) > 1 and target in first["predictions"]:
            words += f"{percent(first['predictions'][target]['value'])}, then "
        words += percent(found["value"])
        words += f" [{percent_interval(found['low'], found['high'])}"
        words += ", beyond the curve's points]" if found["extrapolated"] else "]"
        ahead = last.get("forecasts", {}).get(target)
        if ahead and ahead["accuracy"] and ahead["horizon"] > last["step"]:
            own = ahead["accuracy"]
            words += f", forecast for step {ahead['horizon']:g} {percent(own['value'])} "
            words += f"[{percent_interval(own['low'], own['high'])}]"
    return words


def _of_models(contents: RunContents) -> _Finding:
    scores = contents.model_scores
    names = model_names(scores)
    settings = _settings(contents, "provenance.json")
    words = ""
    if len({score.setting.hash for score in scores}) == 1:
        best = min(range(len(scores)), key=lambda i: scores[i].value)
        one = scores[best]
        words = f"{names[best]}: rBridge {number(one.value)} [{interval(one.low, one.high)}]"
        words += f", lowest of {len(scores)}." if len(scores) > 1 else "."
    traces = _name(settings.get("traces")) or counted(scores[0].num_traces, "trace")
    shown = names if len(names) <= 3 else [counted(len(names), "model")]
    return _Finding(3, "hf-proxy score", [*shown, traces], words)


def _of_mined(contents: RunContents) -> _Finding:
    mined = contents.mined
    assert mined is not None
    settings = _settings(contents, "provenance.json")
    if mined.name:  # written by a callback, in a run that has told of itself
        return _Finding(6, "", [], "")
    if mined.statistics is None:
        words = f"Not finished: {len(mined.shards)} of {mined.num_batches} batches are there."
        return _Finding(6, "hf-proxy contrast mine", _subjects(settings), words)
    kept, steps = mined.statistics["num_kept"], mined.statistics["num_steps"]
    words = f"{number(kept)} of {number(steps)} steps kept of "
    words += f"{counted(mined.statistics['num_rows'], 'trajectory', 'trajectories')}. "
    return _Finding(
        6, "hf-proxy contrast mine", _subjects(settings), words + mined.rules.describe()
    )


def _of_benchmarks(contents: Sequence[dict[str, Any]]) -> Iterator[_Finding]:
    """What each found, and how many of the bars of all are met."""
    for content in contents:
        subjects = [short_name(model) for model in content["models"]]
        words = f"{content['benchmark']}: {content['found']}" if content.get("found") else ""
        yield _Finding(0, content["benchmark"], subjects, words)
    met = [bar["met"] for content in contents for bar in content["bars"]]
    if met:
        yield _Finding(1, "", [], f"{sum(met)} of {counted(len(met), 'bar')} met.")


def _settings(contents: RunContents, file: str) -> Mapping[str, Any]:
    """Flags of the command that wrote a file, as its stamp holds them."""
    stamp = contents.provenance.get(file, {})
    for key in ("settings", "parameters", "facts"):
        own = stamp.get(key)
        if isinstance(own, dict) and {"json", "output_dir"} & set(own):
            return own
    return {}


def _targets(contents: RunContents) -> list[str]:
    settings = _settings(contents, "ranking.json")
    scores = settings.get("scores")
    files = [str(one).rpartition("=")[2] for one in scores] if isinstance(scores, list) else []
    return [*map(short_name, files), _name(settings.get("target"))]


def _subjects(asked: Mapping[str, Any]) -> list[str]:
    found = []
    for key in _SUBJECTS:
        value = asked.get(key)
        names = value if isinstance(value, list) else [value]
        found += [_name(name) for name in names]
    return [name for name in found if name]


def _name(value: Any) -> str:
    return short_name(value) if isinstance(value, str) else ""


def _log(contents: RunContents) -> list[dict[str, Any]]:
    return contents.state.get("log_history", [])


def _date(contents: RunContents) -> str:
    """The day on which the newest file of a folder was written, as its stamp says."""
    stamps = [*contents.provenance.values(), *contents.benchmarks.values()]
    dates = [stamp["date"] for stamp in stamps if isinstance(stamp.get("date"), str)]
    return max(dates, default="")[:10]
