"""What `hf-proxy loop` tells at its end: a row for each score, with the mining that it followed."""

from pathlib import Path
from typing import Any

from hf_proxy.recipes.library.screen import print_table
from hf_proxy.records.lines import ContrastLine, ScoreLine, read_lines

_OF_MINING = ("step", "num_kept", "kept_share", "kl_mean", "seconds")


def facts_of_loop(history: list[dict], folder: Path, seconds: float) -> dict[str, Any]:
    """Rows of evaluations, or of scores where nothing was evaluated, and where the time went.

    Args:
        history: `log_history` of the trainer.
        folder: of the run.
        seconds: that the training took since this start.
    """
    minings = list(read_lines(folder / "hf_proxy" / "contrast.jsonl", ContrastLine))
    scores = list(read_lines(folder / "hf_proxy" / "predictions.jsonl", ScoreLine))
    evaluated = [row for row in history if "eval_loss" in row]
    rows = []
    for row in evaluated or _score_rows([line.record for line in scores]):
        mined = [line.record for line in minings if line.record.step <= row["step"]]
        last = {"mined_at": mined[-1].step, "kept_share": mined[-1].kept_share} if mined else {}
        rows.append(row | last)
    return {
        "rows": rows,
        "minings": [{key: getattr(line.record, key) for key in _OF_MINING} for line in minings],
        "seconds": {
            "train_runtime": seconds,  # of this start; the others are of the whole run
            "mining": sum(line.record.seconds for line in minings),
            "scoring": sum(line.record.seconds for line in scores),
            # Trainer takes it before our row is scored
            "evaluation": sum(row["eval_runtime"] for row in evaluated),
        },
    }


def _score_rows(lines: list[ScoreLine]) -> list[dict[str, Any]]:
    """Scores by step, under the keys that an evaluation's row gives them."""
    rows: dict[int, dict[str, Any]] = {}
    for line in lines:
        row = rows.setdefault(line.step, {"step": line.step})
        row[f"eval_{line.name}_nll"] = line.value
        for target, found in line.predictions.items():
            row[f"eval_{line.name}_{target}_accuracy"] = found.value
    return [rows[step] for step in sorted(rows)]


def print_loop(rows: list[dict[str, Any]]) -> None:
    """A row for each evaluation, or for each score where nothing was evaluated."""
    keys = sorted({key for row in rows for key in row if key.endswith(("_nll", "_accuracy"))})
    keys = [
        "eval_loss",
        "eval_num_kept",
        *(key for key in keys if not key.endswith("_trace_nll")),
        "kept_share",
    ]
    keys = [key for key in keys if any(row.get(key) is not None for row in rows)]
    head = ["step", *(key.removeprefix("eval_") for key in keys)]
    cells = [
        [str(row["step"])] + ["-" if row.get(key) is None else f"{row[key]:.4f}" for key in keys]
        for row in rows
    ]
    print_table(head, cells)
