"""What a folder of one of our runs holds, read while the run may still be writing into it."""

import json
from collections.abc import Mapping
from itertools import islice
from numbers import Real
from pathlib import Path
from types import NoneType
from typing import Any

from hf_proxy.prediction.curve import Curve
from hf_proxy.records.errors import InputError
from hf_proxy.records.run_folders import checkpoints_of, step_of
from hf_proxy.records.scores import ProxyScore
from hf_proxy.report.contents import MinedSet, RunContents, shard_rows

_MAYBE = (Real, NoneType)
# field: its kinds, of the lines that we show
_SCORE_LINE: dict[str, Any] = {
    "name": str,
    "step": int,
    "value": Real,
    "low": _MAYBE,
    "high": _MAYBE,
}
_SCORE_LINE |= {"trace_nll": Real, "bits_per_byte": Real, "predictions": dict}
_PREDICTION: dict[str, Any] = {
    "value": Real,
    "low": Real,
    "high": Real,
    "level": Real,
    "extrapolated": bool,
}
_CONTRAST_LINE: dict[str, Any] = {
    "step": int,
    "num_kept": int,
    "num_steps": int,
    "kept_share": _MAYBE,
}
_CONTRAST_LINE |= {"kl_mean": _MAYBE, "top1_agreement": _MAYBE, "support_size": _MAYBE}
_CONTRAST_LINE |= {"flip_rate": _MAYBE}
_ITEM = {"model": str, "example_id": str, "correct": bool, "gold": str, "text": str}
_OF_MODEL: dict[str, Any] = {
    "model": str,
    "accuracy": Real,
    "low": Real,
    "high": Real,
    "num_correct": int,
}
_OF_MODEL |= {"num_problems": int, "num_cut": int, "num_without_answer": int, "tokens_mean": Real}
_OF_PAIR: dict[str, Any] = {
    "a": str,
    "b": str,
    "difference": Real,
    "low": Real,
    "high": Real,
    "only_a": int,
}
_OF_PAIR |= {"only_b": int, "p_value": Real, "detectable": _MAYBE}
_BENCHMARK: dict[str, Any] = dict.fromkeys(("benchmark", "date", "device", "processor"), str)
_BENCHMARK |= {"dtype": str, "threads": int, "models": list, "tables": list, "bars": list}
_BAR: dict[str, Any] = {"what": str, "measured": Real, "rule": str, "bar": Real, "unit": str}
_BAR |= {"met": bool, "model": str}
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
        lines = _lines(home / "predictions.jsonl", folder, part, _SCORE_LINE)
        for number, line in enumerate(lines, 1):
            for found in line["predictions"].values():
                _check(found, _PREDICTION, home / "predictions.jsonl", f"line {number}")
        part.scores += lines
        part.contrast += _lines(home / "contrast.jsonl", folder, part, _CONTRAST_LINE)
    _read_state(folder, part)
    _read_sets(folder, part, num_rows)
    _read_results(folder, part)
    return part


def _read_state(folder: Path, part: RunContents) -> None:
    """The newest checkpoint whose state is whole."""
    for step, path, state in checkpoints_of(folder):
        if state is None or not _is_log(state.get("log_history", [])):
            part.notes.append(f"{path.name} was not written to its end and is left out")
            continue
        part.steps_saved.append(step)
        if not part.state:
            part.state = state | {"at": path.name}
            part.files.append(f"{path.name}/trainer_state.json")


def _is_log(rows: Any) -> bool:
    return isinstance(rows, list) and all(
        isinstance(row, dict) and isinstance(row.get("step", 0), int) for row in rows
    )


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
        stamp = _json(place / "provenance.json", folder, part)
        if stamp:
            part.provenance[str((place / "provenance.json").relative_to(folder))] = stamp
        _check(settings, {"settings": dict, "num_prompts": int}, place / "mining.json", None)
        kinds = {"batch_size": int, "divergence_beta": Real}
        _check(settings["settings"], kinds, place / "mining.json", None)
        size = max(1, settings["settings"]["batch_size"])
        shards = sorted(place.glob("shards/[0-9]*.arrow"))
        own = [folder, *sorted(folder.glob("checkpoint-*")), folder / "merged"]
        tokenizers = [str(path) for path in own if (path / "tokenizer_config.json").exists()]
        expert = stamp.get("facts", {}).get("expert")
        part.mined = MinedSet(
            name="" if place == folder else str(place.relative_to(folder)),
            settings=settings,
            statistics=_json(place / "statistics.json", folder, part) or None,
            rows=list(islice(shard_rows(shards), num_rows)),
            num_batches=-(-settings["num_prompts"] // size),
            shards=shards,
            tokenizer_at=([str(expert)] if place == folder and expert else []) + tokenizers,
        )


def _read_results(folder: Path, part: RunContents) -> None:
    """What the commands that train nothing leave in their output_dir."""
    for number, content in enumerate(_lines(folder / "scores.jsonl", folder, part, {}), 1):
        try:
            part.model_scores.append(ProxyScore.from_json(json.dumps(content)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError.at(
                f"this is no score ({type(error).__name__}: {error})",
                remedy="name the output_dir of `hf-proxy score`",
                source=f"{folder / 'scores.jsonl'}, line {number}",
            ) from error
    ranking = _json(folder / "ranking.json", folder, part)
    if {"ranking", "compute_saving"} & set(ranking):
        part.ranking = ranking
        keys = ("parameters", "date", "versions")
        part.provenance["ranking.json"] = {key: ranking.get(key) for key in keys}
    accuracy = _json(folder / "results.json", folder, part)
    if {"models", "comparisons"} <= set(accuracy):
        for name, kinds in (("models", _OF_MODEL), ("comparisons", _OF_PAIR)):
            for number, row in enumerate(accuracy[name], 1):
                _check(row, kinds, folder / "results.json", f"{name}, row {number}")
        part.accuracy = accuracy
        part.provenance["results.json"] = accuracy.get("provenance") or {}
        part.items = _lines(folder / "items.jsonl", folder, part, _ITEM)
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
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            part.notes.append(f"{name} is no JSON and is left out ({error})")
            continue
        if not isinstance(content, dict):
            continue
        if {"fits", "form", "y_unit"} <= set(content):
            part.curves[path.stem] = Curve.load(path)
            part.files.append(name)
        elif {"benchmark", "tables", "bars"} <= set(content):
            _check(content, _BENCHMARK, path, None)
            for key, kinds in (("tables", {"caption": str, "rows": list}), ("bars", _BAR)):
                for number, one in enumerate(content[key], 1):
                    _check(one, kinds, path, f"{key}, number {number}")
            part.benchmarks[name] = content
            part.files.append(name)


def _lines(
    path: Path, folder: Path, part: RunContents, kinds: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file; of a last one without its newline it is said."""
    if not path.is_file():
        return []
    name = str(path.relative_to(folder))
    part.files.append(name)
    *lines, rest = path.read_bytes().split(b"\n")
    if rest.strip():
        part.notes.append(f"the last line of {name} is half written and is left out")
    rows = []
    for number, line in enumerate(lines, 1):
        rows.append(_parsed(line, path, number))
        _check(rows[-1], kinds, path, f"line {number}")
    return rows


def _json(path: Path, folder: Path, part: RunContents) -> dict[str, Any]:
    """A file of ours, which appeared by rename and so is whole; empty where there is none."""
    if not path.is_file():
        return {}
    part.files.append(str(path.relative_to(folder)))
    return _parsed(path.read_bytes(), path, None)


def _parsed(text: bytes, path: Path, row: int | None) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        # a file that is one JSON value has lines of its own
        line = row if row is not None else getattr(error, "lineno", None)
        problem = f"this is no JSON ({getattr(error, 'msg', type(error).__name__)})"
    else:
        if isinstance(content, dict):
            return content
        line, problem = row, f"an object was expected, not {type(content).__name__}"
    where = path if line is None else f"{path}, line {line}"
    raise InputError.at(problem, remedy="mend it, or take it away", source=where)


def _check(content: Any, kinds: Mapping[str, Any], path: Path, where: str | None) -> None:
    """Refuse what would be shown as something that it is not."""
    for name, kind in kinds.items():
        value = content.get(name, ...) if isinstance(content, dict) else ...
        if not isinstance(value, kind):
            given = "nothing" if value is ... else repr(value)[:40]
            raise InputError.at(
                f"{given} stands here",
                remedy="mend it, or take it away",
                source=path if where is None else f"{path}, {where}",
                field=name,
            )
