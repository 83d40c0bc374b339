"""What a folder of one of our runs holds, read while the run may still be writing into it."""

from itertools import islice
from pathlib import Path
from typing import Any

from hf_proxy.mining.mining_record import MiningRecord, read_statistics
from hf_proxy.prediction.curve import Curve
from hf_proxy.records.errors import InputError
from hf_proxy.records.lines import ContrastLine, ItemLine, ScoreLine, read_log
from hf_proxy.records.record import Record, checked, parse_json, read_bytes, read_json
from hf_proxy.records.run_folders import TrainerState, checkpoints_of, step_of
from hf_proxy.records.scores import ScoreRecord
from hf_proxy.report.contents import MinedSet, RunContents, TraceSet, shard_rows
from hf_proxy.report.result_records import (
    AccuracyRecord,
    BenchmarkRecord,
    ForetoldFile,
    RankRecord,
    RunFile,
    StampRecord,
    TraceSetRecord,
    TunedRecord,
)
from hf_proxy.traces.health import TraceHealth, health_of
from hf_proxy.traces.reading import load_traces

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
# of a trace set's health, what its rows do not say
_TOLD = ("dropped", "dropped_rows", "parts", "temperatures", "over_one", "right", "wrong")
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
        "nothing of ours is here: no scores, checkpoints, traces, soft targets, curves, rankings "
        "or accuracies",
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
    _read_traces(folder, part)
    _read_results(folder, part)
    return part


def _read_traces(folder: Path, part: RunContents) -> None:
    """The trace set that the folder is: other saved sets have no fingerprint of traces."""
    path = folder / "provenance.json"
    if not ((folder / "dataset_info.json").is_file() and path.is_file()):
        return
    stamp = read_json(path)
    if not {"fingerprint", "counts"} <= set(stamp):
        return
    record = checked(TraceSetRecord, stamp, source=path)
    health = health_of(load_traces(folder))
    # what was dropped and what servers told is known to the command alone, which counted it
    known = {name: record.health[name] for name in _TOLD if name in record.health}
    health = checked(TraceHealth, health.model_dump() | known, source=path, field="health")
    part.traces = TraceSet(health, record.fingerprint, record.parameters, record.counts)
    part.files.append("dataset_info.json")


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
    place = find_set(folder)
    if place is None:
        return
    part.mined = read_set(place, folder, num_rows)
    for name in ("mining.json", "provenance.json", "statistics.json"):
        if (place / name).is_file():
            part.files.append(str((place / name).relative_to(folder)))
    if (place / "provenance.json").is_file():
        stamp = read_json(place / "provenance.json")
        part.provenance[str((place / "provenance.json").relative_to(folder))] = stamp


def find_set(folder: Path) -> Path | None:
    """The folder of soft targets that this one is, or the newest that a callback wrote in it.

    One with rows comes before one that has only been begun.
    """
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
    return next(iter(filled or mined), None)


def read_set(place: Path, run: Path, num_rows: int) -> MinedSet:
    """Soft targets, whole or as far as they were mined.

    Args:
        place: of the set, see `find_set`.
        run: the folder that it was found in, whose models may hold its tokenizer.
        num_rows: rows to read.

    Raises:
        InputError: a file is not what it should be.
    """
    settings = read_json(place / "mining.json")
    mining = checked(MiningRecord, settings, source=place / "mining.json")
    path = place / "provenance.json"
    stamp = read_json(path) if path.is_file() else {}
    expert = checked(StampRecord, stamp, source=path).facts.expert
    statistics = place / "statistics.json"
    shards = sorted(place.glob("shards/[0-9]*.arrow"))
    own = [run, *sorted(run.glob("checkpoint-*")), run / "merged"]
    tokenizers = [str(path) for path in own if (path / "tokenizer_config.json").exists()]
    return MinedSet(
        name="" if place == run else str(place.relative_to(run)),
        settings=settings,
        rules=mining.settings,
        statistics=read_statistics(statistics) if statistics.is_file() else None,
        rows=list(islice(shard_rows(shards), num_rows)),
        num_batches=mining.num_batches,
        shards=shards,
        tokenizer_at=([str(expert)] if place == run and expert else []) + tokenizers,
    )


def _read_results(folder: Path, part: RunContents) -> None:
    """What a command leaves in its output_dir at its end."""
    if run := _json(folder / "run.json", folder, part):
        part.run = checked(RunFile, run, source=folder / "run.json")
    scores = _lines(folder / "scores.jsonl", folder, part, ScoreRecord)
    part.model_scores = [ScoreRecord.model_validate(line).to_score() for line in scores]
    ranking = _json(folder / "ranking.json", folder, part)
    if {"ranking", "selection", "compute_saving"} & set(ranking):
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
    foretold = _json(folder / "foretold.json", folder, part)
    if foretold:
        checked(ForetoldFile, foretold, source=folder / "foretold.json")
        part.foretold = foretold
        part.provenance["foretold.json"] = foretold.get("provenance") or {}
    begun = list(folder.glob("generations/*/settings.json"))
    if begun and not part.accuracy and not foretold:
        part.num_begun = len(begun)
        part.num_batches = len(list(folder.glob("generations/*/round-*/*.json")))
        part.files.append("generations")
    if "provenance.json" not in part.provenance:
        if stamp := _json(folder / "provenance.json", folder, part):
            part.provenance["provenance.json"] = stamp
    _read_tuned(folder, part)
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


def _read_tuned(folder: Path, part: RunContents) -> None:
    """What a finished training says in its provenance, its log too where no checkpoint holds it."""
    stamp = part.provenance.get("provenance.json", {})
    training = stamp.get("training")
    if isinstance(training, dict) and "optimizer_steps" in training:
        part.tuned = checked(TunedRecord, stamp, source=folder / "provenance.json")
    if not part.state and isinstance(stamp.get("log_history"), list):
        content = {"log_history": stamp["log_history"]}
        checked(TrainerState, content, source=folder / "provenance.json")
        steps = [row["step"] for row in content["log_history"] if "step" in row]
        last = max(steps, default=None)
        part.state = content | {"at": "provenance.json", "global_step": last, "max_steps": last}


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
