"""Which statistic orders models as their accuracies do, chosen without fooling oneself.

Of 88 statistics one fits 18 models by chance. So inner folds choose, outer folds judge; what chance
alone reaches by the same choice stands beside the number, and so do controls that need no trace.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np
from sklearn.model_selection import GroupKFold, KFold
from tqdm.auto import tqdm

from hf_proxy.intervals import LEVEL, NUM_RESAMPLES
from hf_proxy.prediction.scorers import (
    Fold,
    correlations_by_task,
    fit_ranksvm,
    fit_single,
    fit_sparse,
    fold_of,
    spearman,
    unit_ranks,
)
from hf_proxy.prediction.selection_table import SelectionTable, read_selection_table
from hf_proxy.records.errors import InputError
from hf_proxy.records.scores import ProxyScore

Scorer = Literal["single", "sparse", "ranksvm"]
SCORERS: tuple[str, ...] = get_args(Scorer)
NUM_PERMUTATIONS = 1000
MODEL_FOLDS = 3
LEAST_HELD_OUT = 3  # models; two have an order and no correlation


@dataclass(frozen=True)
class HeldOut:
    """Mean Spearman correlation between predicted order and accuracy on what was held out.

    Attributes:
        value: mean over folds and their tasks.
        low, high: 90 % interval, bootstrap over models with the folds' choices as they are; None
            where whole models are held out, too few at a time to be drawn again.
        floor_mean, floor_high: mean and 95 % point of what the same choice reaches on the same
            columns where accuracies belong to other models, drawn at random.
        p_value: share of those that reach `value`.
        num_folds: how often something was held out.
        choices: column to the number of folds that chose it; empty for an SVM, which takes all.
        controls: the same mean for orders that need no trace; each one's sign is learnt inside.
    """

    value: float
    low: float | None
    high: float | None
    floor_mean: float
    floor_high: float
    p_value: float
    num_folds: int
    choices: dict[str, int]
    controls: dict[str, float]


@dataclass(frozen=True)
class Selection:
    """What was chosen, and what it is worth.

    Attributes:
        scorer: how it was chosen.
        tasks_out: tasks held out; the number to show.
        models_out: models held out, None where there are too few.
        chosen: column to its weight, from everything; what to use on other models.
        held_in: mean Spearman of that on the very data that chose it: too good by nature.
        num_models, num_tasks, num_columns: of the table.
        notes: what to keep in mind.
        correlations: column to task to Spearman with that task's accuracies over all models; high
            where it foretells them.
        column_floor: what the best of all columns reaches by chance in the mean of those over
            tasks: 95 % point where accuracies belong to other models.
    """

    scorer: str
    tasks_out: HeldOut
    models_out: HeldOut | None
    chosen: dict[str, float]
    held_in: float
    num_models: int
    num_tasks: int
    num_columns: int
    notes: tuple[str, ...]
    correlations: dict[str, dict[str, float]]
    column_floor: float


def select_proxy(
    scores: Mapping[str, Mapping[str, ProxyScore | Mapping[str, float]]],
    accuracies: Mapping[str, Mapping[str, float]],
    *,
    scorer: Scorer = "single",
    controls: Mapping[str, Mapping[str, float]] | None = None,
    groups: Mapping[str, str] | None = None,
    columns: Sequence[str] | None = None,
    tasks_held_out: int | None = None,
    num_permutations: int = NUM_PERMUTATIONS,
    seed: int = 0,
) -> Selection:
    """Choose among the statistics of traces by nested selection.

    Columns are standardised over models within a task. Inside a fold the choice is made by mean
    Spearman over its own tasks: the best column; up to three added one by one, of equal weight; or
    a linear SVM on the differences of pairs of models within a task, its C by leaving out one of
    the fold's tasks after the other. Where it is not known whether a column should be low, its sign
    is learnt inside the fold.

    Args:
        scores: model to task to `ProxyScore` (its statistics, `value`, `trace_nll` and
            `bits_per_byte` are columns), or to columns by name.
        accuracies: model to task to the accuracy that is to be foretold.
        scorer: `"single"`, `"sparse"` or `"ranksvm"`.
        controls: name to model to a number, as tokens seen or a corpus cross-entropy. Accuracy on
            the held-in tasks is always one; of `ProxyScore`s so are parameters and `ce`.
        groups: model to its family, held out whole; None: models are dealt at random.
        columns: names to choose among; None: all that every model has.
        tasks_held_out: of each fold; None: 2 of four or more, else 1.
        num_permutations: draws of the noise floor. `"ranksvm"` takes about half a second for each
            (18 models, 6 tasks), the others hardly any.
        seed: of folds, draws and intervals.

    Raises:
        InputError: fewer than five models or two tasks, models or tasks that differ, numbers that
            are missing or not finite, scores of different traces or settings in one task, a task
            whose accuracies are all equal.

    Source: arXiv 2605.18607 for the scorers; folds, controls and floor chosen here.
    """
    if scorer not in SCORERS:
        raise InputError.at(
            f"there is no scorer {scorer!r}", remedy=f"one of {', '.join(SCORERS)}", field="scorer"
        )
    if num_permutations < 1:
        raise InputError.at(
            "without a draw there is no floor", remedy="give 1 or more", field="num_permutations"
        )
    table = read_selection_table(scores, accuracies, controls, columns)
    num_tasks, num_models, num_columns = table.z_TMF.shape
    leave = (2 if num_tasks > 3 else 1) if tasks_held_out is None else tasks_held_out
    if not 0 < leave < num_tasks:
        raise InputError.at(
            f"{leave} of {num_tasks} tasks cannot be held out",
            remedy="leave at least one on either side",
            field="tasks_held_out",
        )
    rng = np.random.default_rng(seed)
    all_tasks, all_models = np.arange(num_tasks), np.arange(num_models)
    fit = {"single": fit_single, "sparse": fit_sparse, "ranksvm": fit_ranksvm}[scorer]
    by_task = [
        fold_of(table, np.delete(all_tasks, out), all_models, np.array(out), all_models)
        for out in combinations(range(num_tasks), leave)
    ]
    by_model = [
        fold_of(table, all_tasks, np.delete(all_models, out), all_tasks, out)
        for out in _models_out(table.models, groups, seed)
    ]
    notes = []
    if not by_model:
        notes.append(
            f"no models held out: that takes {MODEL_FOLDS} parts of {LEAST_HELD_OUT} or more"
        )
    everything = fold_of(table, all_tasks, all_models, all_tasks, all_models)
    floors, best_columns = [], []
    for _ in tqdm(range(num_permutations), desc="Noise floor", leave=False, disable=None):
        other = table.accuracy_TM[:, rng.permutation(num_models)]
        floors.append(
            (_judge(by_task, other, table, fit)[0], _judge(by_model, other, table, fit)[0])
        )
        best_columns.append(correlations_by_task(everything, table, other).mean(axis=0).max())
    floor = np.array(floors)
    tasks_out = _held_out(by_task, table, fit, floor[:, 0], rng)
    weight_F = fit(everything, table, table.accuracy_TM)
    rho_TF = correlations_by_task(everything, table, table.accuracy_TM)
    return Selection(
        scorer=scorer,
        tasks_out=tasks_out,
        models_out=_held_out(by_model, table, fit, floor[:, 1], None) if by_model else None,
        chosen={table.columns[i]: float(weight_F[i]) for i in np.flatnonzero(weight_F)},
        held_in=_judge([everything], table.accuracy_TM, table, lambda *_: weight_F)[0],
        num_models=num_models,
        num_tasks=num_tasks,
        num_columns=num_columns,
        notes=tuple([*table.notes, *notes]),
        correlations={
            column: dict(zip(table.tasks, map(float, own), strict=True))
            for column, own in zip(table.columns, rho_TF.T, strict=True)
        },
        column_floor=float(np.quantile(best_columns, 0.95)),
    )


def _models_out(models: Sequence[str], groups: Any, seed: int) -> list[np.ndarray]:
    """Places of the models of each part, whole families together; none where one is too small."""
    if groups is None:
        if len(models) < MODEL_FOLDS * LEAST_HELD_OUT:
            return []
        splitter: Any = KFold(MODEL_FOLDS, shuffle=True, random_state=seed)
        parts = [out for _, out in splitter.split(models)]
    else:
        if unknown := sorted(set(models) - set(groups)):
            raise InputError.at(
                f"{unknown[0]!r} is of no group", remedy="name one for each model", field="groups"
            )
        own = [groups[model] for model in models]
        if len(set(own)) < MODEL_FOLDS:
            return []
        parts = [out for _, out in GroupKFold(MODEL_FOLDS).split(models, groups=own)]
    return parts if min(map(len, parts)) >= LEAST_HELD_OUT else []


def _judge(folds: list[Fold], accuracy_TM, table, fit) -> tuple[float, list[np.ndarray]]:
    """Mean Spearman on what each fold holds out, and each fold's weights [F]."""
    found, weights = [], []
    for fold in folds:
        weight_F = fit(fold, table, accuracy_TM[np.ix_(fold.tasks, fold.models)])
        weights.append(weight_F)
        for task in fold.test_tasks:
            value_M = table.z_TMF[task, fold.test_models] @ weight_F
            found.append(spearman(value_M, accuracy_TM[task, fold.test_models]))
    return float(np.mean(found)) if found else 0.0, weights


def _held_out(folds, table: SelectionTable, fit, floor, rng) -> HeldOut:
    value, weights = _judge(folds, table.accuracy_TM, table, fit)
    low, high = (None, None) if rng is None else _interval(folds, weights, table, rng)
    names = [table.columns[i] for w in weights for i in np.flatnonzero(w)]
    return HeldOut(
        value=value,
        low=low,
        high=high,
        floor_mean=float(floor.mean()),
        floor_high=float(np.quantile(floor, 0.95)),
        p_value=float((1 + (floor >= value).sum()) / (1 + len(floor))),
        num_folds=len(folds),
        choices={} if fit is fit_ranksvm else dict(Counter(names).most_common()),
        controls=_controls(folds, table),
    )


def _interval(folds, weights, table: SelectionTable, rng) -> tuple[float, float]:
    """Bootstrap over models of the mean correlation, predictions as they are."""
    pairs = [
        (table.z_TMF[task] @ weight_F, table.accuracy_TM[task])
        for fold, weight_F in zip(folds, weights, strict=True)
        for task in fold.test_tasks
    ]
    value_KM, target_KM = (np.array(side) for side in zip(*pairs, strict=True))
    num = value_KM.shape[1]
    found = []
    for chosen in rng.integers(num, size=(NUM_RESAMPLES // 4, num)):
        ranks = (unit_ranks(side[:, chosen], axis=1) for side in (value_KM, target_KM))
        found.append(np.multiply(*ranks).sum(axis=1).mean())
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _controls(folds: list[Fold], table: SelectionTable) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for fold in folds:
        held_in_TM = table.accuracy_TM[np.ix_(fold.tasks, fold.models)]
        for task in fold.test_tasks:
            target_M = table.accuracy_TM[task, fold.test_models]
            for name, value_TM in table.controls.items():
                inside_TM = value_TM[np.ix_(fold.tasks, fold.models)]
                sign = np.mean([spearman(x, y) for x, y in zip(inside_TM, held_in_TM, strict=True)])
                rho = spearman(value_TM[task, fold.test_models], target_M)
                found.setdefault(name, []).append(rho if sign >= 0 else -rho)
            if len(fold.test_models) == len(fold.models) == len(table.models):
                mean_M = unit_ranks(held_in_TM, axis=1).mean(axis=0)
                found.setdefault("accuracy on held-in tasks", []).append(spearman(mean_M, target_M))
    return {name: float(np.mean(own)) for name, own in found.items()}
