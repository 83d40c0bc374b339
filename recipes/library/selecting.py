"""Tables and scores of `hf-proxy rank --select`, and what is printed of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hf_proxy.recipes.library.scores import read_scores, score_name
from hf_proxy.recipes.library.screen import print_table
from hf_proxy.recipes.library.tables import number_of, table_rows, text_of
from hf_proxy.records.errors import InputError, names
from hf_proxy.records.scores import ProxyScore

if TYPE_CHECKING:
    from hf_proxy.prediction.selection import HeldOut, Selection


def scores_by_task(specs: list[str]) -> dict[str, dict[str, ProxyScore]]:
    """Model to task to score, of `task=scores.jsonl` each with all models.

    Raises:
        InputError: one names no task, or a model stands twice in one.
    """
    found: dict[str, dict[str, ProxyScore]] = {}
    for spec in specs:
        task, _, path = spec.partition("=")
        if not path:
            raise InputError.at(
                f"{spec} names no task",
                remedy="write task=scores.jsonl, one file with all models for each task",
                field="scores",
            )
        for score, _ in read_scores(path):
            own = found.setdefault(score_name(score, path), {})
            if task in own:
                raise InputError.at(
                    f"{score_name(score, path)!r} has two scores of {task!r}",
                    remedy="keep one",
                    source=path,
                )
            own[task] = score
    return found


def read_accuracies(path: str) -> dict[str, dict[str, float]]:
    """Model to task to accuracy, of a table of `name,task,accuracy`.

    Raises:
        InputError: other columns, or a cell stands twice.
    """
    found: dict[str, dict[str, float]] = {}
    for number, row in table_rows(Path(path)):
        if set(row) != {"name", "task", "accuracy"}:
            raise InputError.at(
                f"columns {names(row)}",
                remedy="expected name,task,accuracy",
                source=path,
                row=number,
            )
        model, task = (text_of(row[key], Path(path), number, key) for key in ("name", "task"))
        if task in found.setdefault(model, {}):
            raise InputError.at(
                f"{model!r} has two accuracies of {task!r}",
                remedy="keep one, or their mean",
                source=path,
                row=number,
            )
        found[model][task] = number_of(row["accuracy"], Path(path), number, "accuracy")
    return found


def read_controls(path: str) -> dict[str, dict[str, float]]:
    """Control to model to number, of a table of `name` and a column for each control.

    Raises:
        InputError: no `name`, no other column, or a model stands twice.
    """
    found: dict[str, dict[str, float]] = {}
    for number, row in table_rows(Path(path)):
        if "name" not in row or len(row) < 2:
            raise InputError.at(
                f"columns {names(row)}",
                remedy="expected name and one column or more, as name,tokens",
                source=path,
                row=number,
            )
        model = text_of(row["name"], Path(path), number, "name")
        for control in sorted(set(row) - {"name"}):
            own = found.setdefault(control, {})
            if model in own:
                raise InputError.at(
                    f"{model!r} stands twice", remedy="keep one", source=path, row=number
                )
            own[model] = number_of(row[control], Path(path), number, control)
    return found


def print_selection(found: "Selection") -> None:
    """What was chosen, what it is worth, and beside what."""
    sides: Mapping[str, HeldOut | None] = {
        "tasks held out": found.tasks_out,
        "models held out": found.models_out,
    }
    judged = {name: side for name, side in sides.items() if side is not None}
    rows = []
    for name, side in judged.items():
        interval = "-" if side.low is None else f"{side.low:.3f} .. {side.high:.3f}"
        rows.append([found.scorer, name, f"{side.value:.3f}", interval, f"{side.p_value:.3f}"])
        by_chance = f"up to {side.floor_high:.3f}"
        rows.append(["accuracies shuffled", name, f"{side.floor_mean:.3f}", by_chance, "-"])
        rows += [[c, name, f"{rho:.3f}", "-", "-"] for c, rho in side.controls.items()]
    head = ("from", "judged on", "Spearman", "90 % interval", "p")
    print_table(head, rows, words=("from", "judged on"))
    largest = sorted(found.chosen.items(), key=lambda item: -abs(item[1]))
    chosen = ", ".join(name if weight > 0 else f"-{name}" for name, weight in largest[:3])
    more = f" and {len(largest) - 3} more" if len(largest) > 3 else ""
    print(
        f"chosen from all {found.num_models} models, {found.num_tasks} tasks and "
        f"{found.num_columns} columns: {chosen}{more}; on the data that "
        f"chose it {found.held_in:.3f}"
    )
    for name, num in found.tasks_out.choices.items():
        print(f"{num} of {found.tasks_out.num_folds} folds chose {name}")
    for note in found.notes:
        print(f"note: {note}")
