"""Whose set a folder holds: gone on with, extended to more prompts, or refused."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hf_proxy.mining.mining_record import REMEDY, MiningRecord
from hf_proxy.mining.settings import with_later
from hf_proxy.mining.shards import shard_path
from hf_proxy.records.errors import InputError
from hf_proxy.records.record import checked, read_json
from hf_proxy.records.storage import write_text


def open_folder(
    folder: Path,
    content: Mapping[str, Any],
    first: Callable[[int], Mapping[str, Any]] | None,
) -> None:
    """Write `mining.json`, or see that it says the same, of all prompts or of the first of them.

    Args:
        content: what is mined.
        first: the same of so many of the prompts; None: a set is not to be extended.

    Raises:
        InputError: the folder holds something else, or what was mined otherwise.
    """
    path = folder / "mining.json"
    if not path.exists():
        # a dot-file is what a killed run has left of a file that was to appear by rename; the
        # path itself may have appeared just now, from another rank
        inside = [file for file in folder.iterdir() if file != path] if folder.is_dir() else []
        if any(not file.name.startswith(".") for file in inside):
            raise InputError.at(
                "the folder holds something else", remedy="name an empty one", source=folder
            )
        write_text(path, json.dumps(content, indent=2))
        return
    theirs = read_json(path, remedy=REMEDY)
    there = checked(MiningRecord, theirs, source=path, remedy=REMEDY)
    if first is not None and 0 < there.num_prompts < content["num_prompts"]:
        if not _differing(theirs, first(there.num_prompts)):
            # a last batch that was not full is mined anew, with the prompts that fill it
            if there.num_prompts % there.settings.batch_size:
                shard_path(folder, there.num_batches - 1).unlink(missing_ok=True)
            write_text(path, json.dumps(content, indent=2))
            return
    differing = _differing(theirs, content)
    if differing:
        raise InputError.at(
            f"the folder was mined with other {', '.join(differing)}",
            remedy="name another output_dir, or delete this one",
            source=folder,
        )


def _differing(theirs: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
    """What an earlier mining has otherwise, in words."""
    mine = json.loads(json.dumps(content))
    differing = [name for name in mine if theirs.get(name) != mine[name]]
    if "settings" in differing:
        differing.remove("settings")
        known = with_later(theirs["settings"])
        pairs = [(n, known.get(n), v) for n, v in mine["settings"].items()]
        differing += [f"{name} ({old!r}, now {new!r})" for name, old, new in pairs if old != new]
    is_chat = "{prompt}" not in mine["template"]
    if is_chat and "prompts" in differing and not {"template", "num_prompts"} & {*differing}:
        differing[differing.index("prompts")] = (
            "prompts, or with another text of them by the same template (a date, "
            "chat_template_kwargs)"
        )
    return differing
