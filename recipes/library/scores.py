"""Scores that a command or a callback saved."""

from pathlib import Path

from datasets import Dataset

from hf_proxy.records.errors import InputError
from hf_proxy.records.lines import read_lines
from hf_proxy.records.record import Record, Text, checked
from hf_proxy.records.scores import ProxyScore, ScoreRecord, ScoreScalars


class RunScore(ScoreScalars):
    """A line of `predictions.jsonl` as a score of its run."""

    name: Text
    run_id: Text


def read_scores(
    path: str | Path, *, trace_set: str | None = None
) -> list[tuple[ProxyScore, str | None]]:
    """Scores of `scores.jsonl` or `predictions.jsonl`, with the run of those that name one.

    Args:
        trace_set: of a `predictions.jsonl` only lines of this name.
    """
    found: list[tuple[ProxyScore, str | None]] = []
    for number, _, content in read_lines(path, Record):
        place = {
            "source": f"{path}, line {number}",
            "remedy": "name a scores.jsonl or a predictions.jsonl",
        }
        if "rows" in content and "run_id" not in content:
            found.append((checked(ScoreRecord, content, **place).to_score(), None))
            continue
        line = checked(RunScore, content, **place)
        if trace_set is None or line.name == trace_set:
            score = line.to_score(Dataset.from_dict({}))
            if "rows" in content:  # of a callback with per_trace
                score = checked(ScoreRecord, content, **place).to_score()
            found.append((score, line.run_id))
    if not found:
        raise InputError.at("it holds no score", remedy="name another", source=path)
    return found


def score_name(score: ProxyScore, path: str) -> str:
    """What to call a score: its model, else its folder, with its step."""
    name = score.model_id or Path(path).parent.name
    return name if score.step is None else f"{name} step {score.step}"
