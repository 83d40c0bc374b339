"""What a folder of one of our runs holds, read while the run may still be writing into it."""

from itertools import islice
from pathlib import Path
from typing import Any

from hf_proxy.mining.mining_record import MiningRecord, read_statistics
from hf_proxy.prediction.curve import Curve
from hf_proxy.records.errors import InputError
from hf_proxy.records.lines import ContrastLine, ItemLine, ScoreLine, read_log
from hf_proxy.records.record import Record, checked, parse_json, read_bytes, read_json
from hf_proxy.records.run_folders import checkpoints_of, step_of
from hf_proxy.records.scores import ScoreRecord
from hf_proxy.report.contents import MinedSet, RunContents, shard_rows
from hf_proxy.report.result_records import (
    AccuracyRecord,
    BenchmarkRecord,
    RankRecord,
    StampRecord,
)

# written beside a model or a tokenizer, by others
_FOREIGN: tuple[str, ...] = (
    "tokenizer",
    "config",
    "generation_config",
    "adapter_config",
    "special_tokens_map",
)
_FOREIGN += ("vocab", "added_tokens", "processor_config", "trainer_state", "dataset_info", "state")
_FOREIGN += ("tokenizer_config", "model.safetensors.index", "preprocessor_config")
_LARGEST_JSON = 20_000_000  # bytes; none of ours comes near


def read_run(folder: str | Path, *, num_rows: int) -> list[RunContents]:
    """Everything of ours in a folder, or in the folders that it holds.

    Args:
        folder: `output_dir` of any command of ours, live or finished.
        num_rows: trajectories to read.

    Raises:
        InputError: there is nothing of ours, or a file is not what it should be; a last line that
            is half written and a checkpoint cut short are no errors but notes.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError.at("this is no folder", remedy="name the output_dir of a run", source=root)
    whole = _read_part(root, "", num_rows)
    if whole.files:
        return [whole]
    inside = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    parts = [_read_part(path, path.name, num_rows) for path in inside]
    if found := [part for part in parts if part.files]:
        return found
    raise InputError.at(
        "nothing of ours is here: no scores, checkpoints, soft targets, rankings or accuracies",
        remedy="name the output_dir of a run, once it has written its first line or checkpoint",
        source=root,
    )


def _read_part(folder: Path, name: str, num_rows: int) -> RunContents:
    part = RunContents(name)
    # the callbacks' own folder, or one that was given to them as output_dir
    for home in (folder / "hf_proxy", folder):
        part.scores += _lines(home / "predictions.jsonl", folder, part, ScoreLine)
        part.contrast += _lines(home / "contrast.jsonl", folder, part, ContrastLine)
    _read_state(folder, part)
    _read_sets(folder, part, num_rows)
    _read_results(folder, part)
    return part


def _read_state(folder: Path, part: RunContents) -> None:
    """The newest checkpoint whose state is whole."""
    for step, path, state in checkpoints_of(folder):
        if state is None:
            part.notes.append(f"{path.name} was not written to its end and is left out")
            continue
        part.steps_saved.append(step)
        if not part.state:
            part.state = state | {"at": path.name}
            part.files.append(f"{path.name}/trainer_state.json")


def _read_sets(folder: Path, part: RunContents, num_rows: int) -> None:
    """The set that the folder is, or the newest that a callback wrote with anything in it."""
    homes = [home / "soft_targets" for home in (folder / "hf_proxy", folder)]
    steps = [
        (step, path.name, path)
        for home in homes
        if home.is_dir()
        for path in home.iterdir()
        if (step := step_of(path)) is not None
    ]
    newest = [path for _, _, path in sorted(steps, reverse=True)]
    places = [folder, *newest, folder / "hf_proxy" / "eval_soft_targets"]
    mined = [place for place in places if (place / "mining.json").exists()]
    filled = [place for place in mined if any(place.glob("shards/*.arrow"))]
    for place in (filled or mined)[:1]:
        settings = _json(place / "mining.json", folder, part)
        mining = checked(MiningRecord, settings, source=place / "mining.json")
        stamp = _json(place / "provenance.json", folder, part)
        if stamp:
            part.provenance[str((place / "provenance.json").relative_to(folder))] = stamp
        expert = checked(StampRecord, stamp, source=place / "provenance.json").facts.expert
        statistics = place / "statistics.json"
        if statistics.is_file():
            part.files.append(str(statistics.relative_to(folder)))
        shards = sorted(place.glob("shards/[0-9]*.arrow"))
        own = [folder, *sorted(folder.glob("checkpoint-*")), folder / "merged"]
        tokenizers = [str(path) for path in own if (path / "tokenizer_config.json").exists()]
        part.mined = MinedSet(
            name="" if place == folder else str(place.relative_to(folder)),
            settings=settings,
            rules=mining.settings,
            statistics=read_statistics(statistics) if statistics.is_file() else None,
            rows=list(islice(shard_rows(shards), num_rows)),
            num_batches=mining.num_batches,
            shards=shards,
            tokenizer_at=([str(expert)] if place == folder and expert else []) + tokenizers,
        )


def _read_results(folder: Path, part: RunContents) -> None:
    """What the commands that train nothing leave in their output_dir."""
    scores = _lines(folder / "scores.jsonl", folder, part, ScoreRecord)
    part.model_scores = [ScoreRecord.model_validate(line).to_score() for line in scores]
    ranking = _json(folder / "ranking.json", folder, part)
    if {"ranking", "compute_saving"} & set(ranking):
        checked(RankRecord, ranking, source=folder / "ranking.json")
        part.ranking = ranking
        keys = ("parameters", "date", "versions")
        part.provenance["ranking.json"] = {key: ranking.get(key) for key in keys}
    accuracy = _json(folder / "results.json", folder, part)
    if {"models", "comparisons"} <= set(accuracy):
        checked(AccuracyRecord, accuracy, source=folder / "results.json")
        part.accuracy = accuracy
        part.provenance["results.json"] = accuracy.get("provenance") or {}
        part.items = _lines(folder / "items.jsonl", folder, part, ItemLine)
    elif begun := list(folder.glob("generations/*/settings.json")):
        part.num_begun = len(begun)
        part.num_batches = len(list(folder.glob("generations/*/round-*/*.json")))
        part.files.append("generations")
    if "provenance.json" not in part.provenance:
        if stamp := _json(folder / "provenance.json", folder, part):
            part.provenance["provenance.json"] = stamp
    others = [*folder.glob("*.json"), *folder.glob("benchmarks/*.json")]
    for path in sorted(others):
        name = str(path.relative_to(folder))
        if path.stem in _FOREIGN or path.stat().st_size > _LARGEST_JSON or name in part.files:
            continue
        try:
            content = parse_json(read_bytes(path), source=name)
        except InputError as error:
            part.notes.append(f"{name} is left out: {error}")
            continue
        if not isinstance(content, dict):
            continue
        if {"fits", "form", "y_unit"} <= set(content):
            part.curves[path.stem] = Curve.load(path)
            part.files.append(name)
        elif {"benchmark", "tables", "bars"} <= set(content):
            checked(BenchmarkRecord, content, source=path)
            part.benchmarks[name] = content
            part.files.append(name)


def _lines(
    path: Path, folder: Path, part: RunContents, model: type[Record]
) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file; of a last one without its newline it is said."""
    if not path.is_file():
        return []
    name = str(path.relative_to(folder))
    part.files.append(name)
    lines, is_cut = read_log(path, model)
    if is_cut:
        part.notes.append(f"the last line of {name} is half written and is left out")
    return [line.content for line in lines]


def _json(path: Path, folder: Path, part: RunContents) -> dict[str, Any]:
    """A file of ours, which appeared by rename and so is whole; empty where there is none."""
    if not path.is_file():
        return {}
    part.files.append(str(path.relative_to(folder)))
    return read_json(path)
