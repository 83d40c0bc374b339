"""Scores that a command or a callback saved."""

import json
from pathlib import Path

from datasets import Dataset

from hf_proxy.recipes.library.tables import read_lines
from hf_proxy.records.errors import InputError
from hf_proxy.records.scores import ProxyScore, Setting


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


def score_name(score: ProxyScore, path: str) -> str:
    """What to call a score: its model, else its folder, with its step."""
    name = score.model_id or Path(path).parent.name
    return name if score.step is None else f"{name} step {score.step}"
