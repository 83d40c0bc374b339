"""Flags that are YAML keys: what `--help` says of them, and one line for each that does not fit.

TRL's parser makes the flags from dataclasses. What a reader meets is written here: argparse prints
hundreds of the trainer's flags among our own, and its messages name neither file nor remedy.
"""

import argparse
import inspect
import json
import re
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import yaml
from trl import TrlParser

from hf_proxy.records.errors import InputError

# of the trainer's own flags those that every training recipe needs, in our words
NEEDED_OF_HOST = {
    "model_name_or_path": "Model to train: folder or hub id.",
    "output_dir": "Folder for checkpoints and results; an interrupted run goes on there.",
}
_PLACEHOLDERS = {
    int: ("N", "no whole number"),
    float: ("X", "no number"),
    bool: ("", "not true or false"),
}


class RecipeParser(TrlParser):
    """Parser of a recipe's dataclasses, its own first, those of the trainer after it.

    Args:
        classes: dataclasses of the flags.
        prog: the command, as messages and help name it.
        about: what the command does, reads and writes, with an example; heads the help.
    """

    def __init__(self, classes: Sequence[Any], *, prog: str | None, about: str):
        # exact names only: an abbreviation of today is another flag's tomorrow
        super().__init__(
            dataclass_types=list(classes), prog=prog, add_help=False, allow_abbrev=False
        )
        self.about = inspect.cleandoc(about)
        self.own, *self.hosts = classes
        self.hints = {name: hint for c in classes for name, hint in get_type_hints(c).items()}
        self.needed = [action.dest for action in self._actions if action.required]
        self.needed += [name for name in NEEDED_OF_HOST if self.hosts and name in self.hints]
        for action in self._actions:
            action.required = False  # said by us, after what was typed is known to be right
            if action.nargs is None and _kind_of_hint(self.hints[action.dest])[0] is bool:
                action.nargs, action.const = "?", True  # --bf16 alone is --bf16 true
            if action.nargs != 0:
                action.type = self._reader(action)
                action.choices = None

    def parse(self, argv: Sequence[str]) -> tuple[Any, ...]:
        """One config for each class, from `--config FILE.yaml` and the flags that stand above it.

        Raises:
            InputError: file or flag that does not fit.
        """
        argv = [part for word in argv for part in _split_config(word)]
        if "--config" in argv:
            place = argv.index("--config")
            if len(argv) == place + 1:
                self.error("--config: name a YAML file after it")
            self._read(Path(argv[place + 1]))
            del argv[place : place + 2]
        namespace, rest = self.parse_known_args(argv)
        for word in [*(word for word in rest if word.startswith("-")), *rest][:1]:
            name = word.split("=")[0]
            if not word.startswith("-"):
                self.error(f"{word!r} belongs to no flag; write --FLAG {word}")
            self.error(f"{name}: there is no such flag{did_you_mean(name, self._flags())}")
        if missing := [name for name in self.needed if getattr(namespace, name) is None]:
            names = ", ".join(f"--{name}" for name in missing)
            self.error(f"{names} missing, here or in --config FILE.yaml")
        try:
            return self.parse_args_into_dataclasses(argv, look_for_args_file=False)
        except ValueError as error:
            if "bf16/gpu" not in str(error):
                raise
            raise InputError.at(
                "training is in bfloat16 unless told otherwise, and no GPU here can do that",
                remedy="add --bf16 false for a training in float32, --use_cpu for the CPU",
                field="bf16",
            ) from error

    def error(self, message: str) -> NoReturn:
        """Raise instead of argparse's page of usage."""
        found = re.fullmatch(r"argument (--\w+)[^:]*: (.*)", message, flags=re.DOTALL)
        if found:
            flag, problem = found.groups()
            if problem.startswith("expected"):
                problem = f"a value is missing after it (one that starts with - is {flag}=VALUE)"
            message = f"{flag}: {problem}"
        raise InputError(f"{message}; {self.prog} --help lists the flags")

    def format_help(self, *, every_flag: bool = False) -> str:
        """Our own flags, those that are needed first; the trainer's too if `every_flag`."""
        own = [field for field in fields(self.own) if field.name != "json"]
        # what we have added to the trainer's own class
        own += [
            field
            for host in self.hosts
            for field in fields(host)
            if host.__module__.startswith("hf_proxy")
            and field.name in vars(host)["__annotations__"]
            and "help" in field.metadata
        ]
        helps = {field.name: field.metadata.get("help", "") for field in own}
        helps = {n: NEEDED_OF_HOST[n] for n in self.needed if n not in helps} | helps
        defaults = {field.name: field for field in own}
        usage = " ".join(["usage:", str(self.prog), *map(self._flag, self.needed), "[FLAGS]"])
        lines = textwrap.wrap(usage, _help_width(), subsequent_indent=" " * 7)
        lines += ["", self.about, *(["", "needed:"] if self.needed else [])]
        for name in self.needed:
            lines += _help_entry(self._flag(name), helps[name])
        lines += ["", "further flags:"]
        for name in helps:
            if name not in self.needed:
                lines += _help_entry(self._flag(name), _with_default(helps[name], defaults[name]))
        lines += ["", "of every command:"]
        lines += _help_entry(
            "--config FILE.yaml", "Read flags from YAML keys; flags stand above them."
        )
        lines += _help_entry("--json", "End with one machine-readable line.")
        lines += _help_entry("--debug", "Show where an error arose.")
        if self.hosts and not every_flag:
            names = " and ".join(host.__name__ for host in self.hosts)
            lines += ["", f"All flags of {names} (TRL, transformers) are flags here too, as"]
            lines += ["--max_steps, --learning_rate, --per_device_train_batch_size, --eval_steps,"]
            lines += [f"--bf16, --use_cpu, --use_peft; {self.prog} --help_all lists them."]
        for host in self.hosts if every_flag else ():
            lines += ["", f"of {host.__name__} (TRL, transformers):"]
            for field in fields(host):
                if field.init and field.name not in helps:
                    text = _with_default(str(field.metadata.get("help", "")), field)
                    lines += _help_entry(self._flag(field.name), text)
        return "\n".join(lines) + "\n"

    def _flag(self, name: str) -> str:
        """The flag with what follows it."""
        kind, several = _kind_of_hint(self.hints[name])
        if get_origin(kind) is Literal:
            value = "{" + ",".join(map(str, get_args(kind))) + "}"
        elif kind is bool:
            value = "[true|false]"
        else:
            value = _PLACEHOLDERS.get(kind, ("TEXT", ""))[0]
        return f"--{name} {value}{' ...' if several else ''}".rstrip()

    def _flags(self) -> list[str]:
        return ["--config", "--help", *self._option_string_actions]

    def _reader(self, action: argparse.Action) -> Any:
        """The action's own conversion, with an error that a reader can act on."""
        convert: Any = action.type or str
        choices = None if action.choices is None else list(action.choices)
        word = _PLACEHOLDERS.get(
            _kind_of_hint(self.hints[action.dest])[0], ("", "not a value of this flag")
        )[1]

        def read(text: str) -> Any:
            try:
                value = convert(text)
            except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
                raise argparse.ArgumentTypeError(f"{text!r} is {word}") from error
            if choices is not None and value not in choices:
                listed = ", ".join(map(str, choices))
                raise argparse.ArgumentTypeError(f"{text!r} is none of {listed}")
            return value

        return read

    def _read(self, path: Path) -> None:
        """Make the values of a YAML file the defaults."""
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError.at(
                f"cannot be read ({error.strerror})",
                remedy="name a YAML file after --config",
                source=path,
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            mark = getattr(error, "problem_mark", None)
            problem = getattr(error, "problem", None) or "no text"
            raise InputError.at(
                f"no YAML ({problem})",
                remedy="mend it; each line is KEY: VALUE",
                source=path,
                row=None if mark is None else mark.line + 1,
            ) from error
        if not isinstance(content, dict):
            raise InputError.at(
                f"expected keys with values, found {'nothing' if content is None else 'no keys'}",
                remedy="each line is KEY: VALUE, the keys are the flags without --",
                source=path,
            )
        known = [action.dest for action in self._actions]
        for key, value in content.items():
            if key not in known:
                raise InputError.at(
                    f"there is no such key{did_you_mean(str(key), known)}",
                    remedy=f"{self.prog} --help lists the flags, which are the keys",
                    source=path,
                    field=key,
                )
            actions = [action for action in self._actions if action.dest == key]
            try:
                default = self._value(actions[0], value)
            except (ValueError, argparse.ArgumentTypeError) as error:
                raise InputError.at(
                    str(error), remedy="mend the value", source=path, field=key
                ) from error
            for action in actions:
                action.default = default

    def _value(self, action: argparse.Action, value: Any) -> Any:
        """A value of YAML as the flag would have read it."""
        hint = self.hints[action.dest]
        is_own = action.dest in {field.name for field in fields(self.own)}
        kind, several = _kind_of_hint(hint)
        read: Any = action.type
        if value is None and is_own and type(None) not in get_args(hint):
            raise ValueError("it is empty")
        if isinstance(value, (list, dict)) and is_own and not (several and isinstance(value, list)):
            raise ValueError(f"expected one value, found {json.dumps(value)}")
        if is_own and several:
            # one path alone is a list of one, not of its letters
            return [read(str(item)) for item in (value if isinstance(value, list) else [value])]
        if value is None or isinstance(value, (list, dict)):
            return value  # the trainer's own business
        is_plain = is_own or kind in (int, float, bool) or get_origin(kind) is Literal
        return read(str(value)) if is_plain else value


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """` (did you mean ...?)` if something known is near to `word`, else nothing."""
    near = get_close_matches(word, known, n=1, cutoff=0.7)
    return f" (did you mean {near[0]}?)" if near else ""


def _kind_of_hint(hint: Any) -> tuple[Any, bool]:
    """The type without None, and whether there are several."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    if get_origin(hint) is Literal or type(None) not in get_args(hint):
        kind = hint
    else:
        kind = kinds[0] if len(kinds) == 1 else str
    return (get_args(kind)[0], True) if get_origin(kind) is list else (kind, False)


def _split_config(word: str) -> list[str]:
    return word.split("=", 1) if word.startswith("--config=") else [word]


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
