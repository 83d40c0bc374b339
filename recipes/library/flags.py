"""Flags that are YAML keys, and one line for each that does not fit.

TRL's parser makes the flags from dataclasses. What a reader meets is written here and in
`help_text`: argparse's messages name neither file nor remedy.
"""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import yaml
from trl import TrlParser

from hf_proxy.recipes.library.help_text import NEEDED_OF_HOST, kind_of_hint
from hf_proxy.records.errors import InputError, did_you_mean

# flags of the hosts that take a word, or true and false, which alone their parser reads
_WORDS = {"include_num_input_tokens_seen": ("no", "all", "non_padding")}
_WRONG = {int: "no whole number", float: "no number", bool: "not true or false"}


class RecipeParser(TrlParser):
    """Parser of a recipe's dataclasses, its own first, those of the trainer after it.

    Args:
        classes: dataclasses of the flags.
        prog: the command, as messages and help name it.
    """

    def __init__(self, classes: Sequence[Any], *, prog: str | None):
        # exact names only: an abbreviation of today is another flag's tomorrow
        super().__init__(
            dataclass_types=list(classes), prog=prog, add_help=False, allow_abbrev=False
        )
        self.own, *self.hosts = classes
        self.hints = {name: hint for c in classes for name, hint in get_type_hints(c).items()}
        self.needed = [action.dest for action in self._actions if action.required]
        self.needed += [name for name in NEEDED_OF_HOST if self.hosts and name in self.hints]
        for action in self._actions:
            action.required = False  # said by us, after what was typed is known to be right
            if action.nargs is None and kind_of_hint(self.hints[action.dest])[0] is bool:
                action.nargs, action.const = "?", True  # --bf16 alone is --bf16 true
            if action.nargs != 0:
                is_mapping = get_origin(kind_of_hint(self.hints[action.dest])[0]) is dict
                action.type = _mapping if is_mapping else self._reader(action)
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

    def _flags(self) -> list[str]:
        return ["--config", "--help", *self._option_string_actions]

    def _reader(self, action: argparse.Action) -> Any:
        """The action's own conversion, with an error that a reader can act on."""
        convert: Any = action.type or str
        words = _WORDS.get(action.dest, ())
        choices = None if action.choices is None else list(action.choices)
        word = _WRONG.get(kind_of_hint(self.hints[action.dest])[0], "not a value of this flag")
        if words:
            word = f"none of true, false, {', '.join(words)}"

        def read(text: str) -> Any:
            if text in words:
                return text
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
        kind, several = kind_of_hint(hint)
        read: Any = action.type
        if value is None and is_own and type(None) not in get_args(hint):
            raise ValueError("it is empty")
        if is_own and get_origin(kind) is dict and isinstance(value, dict):
            return value
        if isinstance(value, (list, dict)) and is_own and not (several and isinstance(value, list)):
            raise ValueError(f"expected one value, found {json.dumps(value)}")
        if is_own and several:
            # one path alone is a list of one, not of its letters
            return [read(str(item)) for item in (value if isinstance(value, list) else [value])]
        if value is None or isinstance(value, (list, dict)):
            return value  # the trainer's own business
        is_plain = is_own or kind in (int, float, bool) or get_origin(kind) is Literal
        is_plain |= action.dest in _WORDS
        return read(str(value)) if is_plain else value


def _mapping(text: str) -> dict[str, Any]:
    """A mapping in JSON, as a shell hands it over."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no mapping of names to values")
    return value


def _split_config(word: str) -> list[str]:
    return word.split("=", 1) if word.startswith("--config=") else [word]
