"""What `--help` says, written without the libraries that the work needs.

argparse prints hundreds of the trainer's flags among our own; and to make flags of them all takes
TRL, torch and five seconds.
"""

import inspect
import json
import os
import pkgutil
import re
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

# of the trainer's own flags those that every training recipe needs, in our words
NEEDED_OF_HOST = {
    "model_name_or_path": "Model to train: folder or hub id.",
    "output_dir": "Folder for checkpoints and results; an interrupted run goes on there.",
}
_PLACEHOLDERS = {int: "N", float: "X"}


@dataclass(frozen=True)
class Host:
    """A dataclass of the trainer's, whose fields are flags of a recipe beside its own.

    Attributes:
        where: module and name, as `trl:SFTConfig`.
        added: dataclass of the fields that we have added to it, which `--help` shows.
    """

    where: str
    added: Any = None

    @property
    def name(self) -> str:
        return self.where.split(":")[1]

    def load(self) -> Any:
        """The dataclass itself; this takes torch and seconds."""
        return pkgutil.resolve_name(self.where)


def help_text(
    own: Any, hosts: Sequence[Host], *, prog: str, about: str, every_flag: bool = False
) -> str:
    """Our own flags, those that are needed first; the trainer's too if `every_flag`.

    Args:
        own: dataclass of the recipe's fields.
        hosts: dataclasses of the trainer's.
        prog: the command, as its user types it.
        about: what the command does, reads and writes, with an example; heads the help. ASSETS in
            it stands for the folder of the files that come along.
    """
    ours = [own, *(host.added for host in hosts if host.added is not None)]
    shown = {field.name: field for c in ours for field in fields(c) if field.name != "json"}
    hints = {name: str for name in NEEDED_OF_HOST}
    hints |= {name: hint for c in ours for name, hint in get_type_hints(c).items()}
    helps = {name: field.metadata.get("help", "") for name, field in shown.items()}
    needed = [name for name, field in shown.items() if _is_needed(field)]
    if hosts:
        needed += NEEDED_OF_HOST
        helps = NEEDED_OF_HOST | helps
    usage = " ".join(["usage:", prog, *(_flag(name, hints[name]) for name in needed), "[FLAGS]"])
    lines = textwrap.wrap(usage, _help_width(), subsequent_indent=" " * 7)
    about = re.sub(r"\bASSETS\b", assets_path(), inspect.cleandoc(about))
    lines += ["", about, *(["", "needed:"] if needed else [])]
    for name in needed:
        lines += _help_entry(_flag(name, hints[name]), helps[name])
    lines += ["", "further flags:"]
    for name, field in shown.items():
        if name not in needed:
            lines += _help_entry(_flag(name, hints[name]), _with_default(helps[name], field))
    lines += ["", "of every command:"]
    lines += _help_entry("--config FILE.yaml", "Read flags from YAML keys; flags stand above them.")
    lines += _help_entry("--json", "End with one machine-readable line.")
    lines += _help_entry("--debug", "Show where an error arose.")
    if hosts and not every_flag:
        names = " and ".join(host.name for host in hosts)
        lines += ["", f"All flags of {names} (TRL, transformers) are flags here too, as"]
        lines += ["--max_steps, --learning_rate, --per_device_train_batch_size, --eval_steps,"]
        lines += [f"--bf16, --use_cpu, --use_peft; {prog} --help_all lists them."]
    for host in hosts if every_flag else ():
        theirs = host.load()
        their_hints = get_type_hints(theirs)
        lines += ["", f"of {host.name} (TRL, transformers):"]
        for field in fields(theirs):
            if field.init and field.name not in helps:
                text = _with_default(str(field.metadata.get("help", "")), field)
                lines += _help_entry(_flag(field.name, their_hints[field.name]), text)
    return "\n".join(lines) + "\n"


def assets_path() -> str:
    """The folder of the models and traces that come along, as one types it from here."""
    folder = Path(__file__).parent.parent / "assets"
    return min(str(folder), os.path.relpath(folder), key=len)


def kind_of_hint(hint: Any) -> tuple[Any, bool]:
    """The type without None, and whether there are several."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    if get_origin(hint) is Literal or type(None) not in get_args(hint):
        kind = hint
    else:
        kind = kinds[0] if len(kinds) == 1 else str
    return (get_args(kind)[0], True) if get_origin(kind) is list else (kind, False)


def _is_needed(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _flag(name: str, hint: Any) -> str:
    """The flag with what follows it."""
    kind, several = kind_of_hint(hint)
    if get_origin(kind) is Literal:
        value = "{" + ",".join(map(str, get_args(kind))) + "}"
    elif kind is bool:
        value = "[true|false]"
    elif get_origin(kind) is dict:
        value = "JSON"
    else:
        value = _PLACEHOLDERS.get(kind, "TEXT")
    return f"--{name} {value}{' ...' if several else ''}".rstrip()


def _with_default(text: str, field: Any) -> str:
    default = field.default
    if field.default_factory is not MISSING:
        default = field.default_factory()
    if default is MISSING or default is None or default == [] or default == "":
        return text
    shown = default if isinstance(default, str) else json.dumps(default, default=str)
    return f"{text} (default: {shown})".replace("\n", "\\n")


def _help_entry(flag: str, text: str) -> list[str]:
    """A flag and its help, beside each other where there is room."""
    lines = textwrap.wrap(text, max(_help_width() - 26, 40)) or [""]
    head = f"  {flag}"
    if len(head) > 24:
        return [head, *(" " * 26 + line for line in lines)]
    return [f"{head:<26}{lines[0]}", *(" " * 26 + line for line in lines[1:])]


def _help_width() -> int:
    return min(shutil.get_terminal_size().columns, 100)
