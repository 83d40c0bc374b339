"""The table that a selection reads: statistics and accuracies of models on tasks, checked."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hf_proxy.records.errors import InputError, did_you_mean
from hf_proxy.records.scores import METRICS, ProxyScore
from hf_proxy.scoring.statistics import STATISTIC_NAMES, is_lower_better

LEAST_MODELS = 5  # below, chance orders them right too often


class SelectionTable(NamedTuple):
    """Float64 arrays over T tasks, M models, F columns.

    Attributes:
        models, tasks, columns: names.
        z_TMF: standardised over models within a task; a column that should be low is turned round.
        is_known_F: whether it is known which way a column should go.
        accuracy_TM: what is to be foretold.
        controls: name to [T, M].
        notes: what to keep in mind.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    columns: tuple[str, ...]
    z_TMF: np.ndarray
    is_known_F: np.ndarray
    accuracy_TM: np.ndarray
    controls: dict[str, np.ndarray]
    notes: tuple[str, ...]


def score_columns(score: ProxyScore) -> dict[str, float]:
    """Every number of a score that a model can be chosen by: its statistics and its metrics."""
    return {metric: getattr(score, metric) for metric in METRICS} | score.statistics


def read_selection_table(
    scores: Mapping[str, Mapping[str, ProxyScore | Mapping[str, float]]],
    accuracies: Mapping[str, Mapping[str, float]],
    controls: Mapping[str, Mapping[str, float]] | None,
    columns: Sequence[str] | None,
) -> SelectionTable:
    """See `select_proxy`, which says what is refused."""
    models = tuple(sorted(scores))
    _same("models", models, accuracies, "accuracies")
    if len(models) < LEAST_MODELS:
        raise InputError.at(
            f"{len(models)} models order themselves by chance",
            remedy=f"give at least {LEAST_MODELS}",
            field="scores",
        )
    tasks = tuple(sorted(scores[models[0]]))
    if len(tasks) < 2:
        raise InputError.at(
            "with one task none can be held out", remedy="give at least two", field="scores"
        )
    for model in models:
        _same(f"tasks of {model}", tasks, scores[model], "scores")
        _same(f"tasks of {model}", tasks, accuracies[model], "accuracies")
    notes = _check_settings(scores, models, tasks)
    cells = {
        (task, model): score_columns(cell) if isinstance(cell, ProxyScore) else cell
        for task in tasks
        for model in models
        for cell in [scores[model][task]]
    }
    names = _columns(cells, columns)
    value_TMF = np.array(
        [[[float(cells[task, m][name]) for name in names] for m in models] for task in tasks]
    )
    accuracy_TM = np.array([[float(accuracies[m][task]) for m in models] for task in tasks])
    for task, own_MF, accuracy_M in zip(tasks, value_TMF, accuracy_TM, strict=True):
        if not (np.isfinite(own_MF).all() and np.isfinite(accuracy_M).all()):
            raise InputError.at("a number is not finite", remedy="drop the model", row=task)
        if np.ptp(accuracy_M) == 0:
            raise InputError.at(
                "all accuracies are equal, there is no order", remedy="drop the task", row=task
            )
    known = {metric: True for metric in METRICS}
    known |= {n: bool(x) for n in STATISTIC_NAMES for x in [is_lower_better(n)] if x is not None}
    sign_F = np.array([-1.0 if known.get(name) else 1.0 for name in names])
    deviation = value_TMF.std(axis=1, keepdims=True)
    z_TMF = (value_TMF - value_TMF.mean(axis=1, keepdims=True)) * sign_F
    own_controls = _own_controls(scores, cells, models, tasks)
    for name, of_model in (controls or {}).items():
        _same(f"models of control {name}", models, of_model, "controls")
        own_controls[name] = np.tile([float(of_model[model]) for model in models], (len(tasks), 1))
        if not np.isfinite(own_controls[name]).all():
            raise InputError.at("a number is not finite", remedy="mend it", field=name)
    return SelectionTable(
        models=models,
        tasks=tasks,
        columns=names,
        # of equal columns nothing is left, to within rounding
        z_TMF=np.where(deviation > 1e-12, z_TMF / np.where(deviation > 0, deviation, 1), 0.0),
        is_known_F=np.array([name in known for name in names]),
        accuracy_TM=accuracy_TM,
        controls=own_controls,
        notes=notes,
    )


def _same(what: str, names: Sequence[str], other: Mapping, field: str) -> None:
    if odd := sorted(set(names) ^ set(other)):
        raise InputError.at(
            f"{what} differ: {', '.join(map(str, odd[:3]))} on one side only",
            remedy="give both the same",
            field=field,
        )


def _columns(cells: Mapping, columns: Sequence[str] | None) -> tuple[str, ...]:
    """Names that every cell has, in the order of the first."""
    common = set.intersection(*(set(cell) for cell in cells.values()))
    found = tuple(name for name in next(iter(cells.values())) if name in common)
    if columns is None:
        if not found:
            raise InputError.at(
                "no column is common to all", remedy="score all with one version", field="scores"
            )
        return found
    for name in columns:
        if name not in common:
            raise InputError.at(
                f"not every score has a {name!r}{did_you_mean(name, found)}",
                remedy="name others, or score anew",
                field="columns",
            )
    return tuple(columns)


def _check_settings(scores: Mapping, models: Sequence[str], tasks: Sequence[str]) -> tuple:
    """Refuse scores of one task that were taken of other traces, contexts or lengths."""
    notes = set()
    for task in tasks:
        own = [scores[m][task] for m in models if isinstance(scores[m][task], ProxyScore)]
        for score in own[1:]:
            differing, note = own[0].setting.incomparable(score.setting, "bits_per_byte")
            theirs = score.statistics_parts
            differing += [
                f"{name}: {own[0].statistics_parts.get(name)!r} != {theirs.get(name)!r}"
                for name in sorted(set(own[0].statistics_parts) | set(theirs))
                if own[0].statistics_parts.get(name) != theirs.get(name)
            ]
            if differing:
                raise InputError.at(
                    f"{own[0].model_id} and {score.model_id} were scored in other settings: "
                    f"{'; '.join(differing)}",
                    remedy="score all in one",
                    row=task,
                )
            notes |= {note} - {""}
            if own[0].setting.parts.get("tokenizer") != score.setting.parts.get("tokenizer"):
                notes.add(
                    "several tokenizers: numbers of each are means over tokens of other lengths"
                )
    return tuple(sorted(notes))


def _own_controls(scores, cells, models, tasks) -> dict[str, np.ndarray]:
    """What scores bring along: parameters, and the plain cross-entropy of the traces."""
    found = {}
    if all(isinstance(scores[m][t], ProxyScore) for m in models for t in tasks):
        found["parameters"] = np.array(
            [[float(scores[m][t].num_parameters) for m in models] for t in tasks]
        )
    if all("ce" in cell for cell in cells.values()):
        found["ce"] = np.array([[float(cells[t, m]["ce"]) for m in models] for t in tasks])
    return found
