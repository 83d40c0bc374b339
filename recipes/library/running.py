"""What every recipe shares: flags that are YAML keys, one line on bad input, JSON at the end.

A recipe is a frozen dataclass of documented fields and a function that takes it. It runs as
`hf-proxy ...`, `python recipes/x.py ...`, `python -m hf_proxy.recipes.x ...` or under
`accelerate launch` and `torchrun`, with `--config x.yaml` and flags that override it.
"""

import json
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hf_proxy.recipes.library.closed_pipe import CLOSED_PIPE, is_closed_pipe
from hf_proxy.recipes.library.help_text import Host, help_text
from hf_proxy.records.errors import InputError, did_you_mean

_HOSTS = r"(transformers|trl|peft|accelerate|datasets|evaluate|huggingface_hub|torch)\b"
INTERRUPTED = 130  # what a shell says of a program that SIGINT ended: 128 + 2


class _ReaderGone(Exception):
    """Nobody reads the output any more."""


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """Fields of every recipe."""

    json: bool = field(default=False, metadata={"help": "End with one machine-readable line."})


def run(
    config_class: Any,
    main: Callable[..., Mapping],
    argv: Sequence[str] | None = None,
    *,
    prog: str | None = None,
    hosts: Sequence[Host] = (),
) -> int:
    """Parse flags and `--config`, run `main`, and give the exit code.

    Args:
        config_class: dataclass of the recipe's fields; flags and YAML keys are these, those of
            `hosts` and no others.
        main: does the work, taking one config for each class, and returns what `--json` prints.
        argv: arguments, `sys.argv[1:]` by default.
        hosts: dataclasses of the trainer's.

    Returns:
        0; 2 on bad arguments or input, with one line that says what to do; 1 on any other failure;
        `CLOSED_PIPE` without a word where who read the output has gone; `INTERRUPTED`.
    """
    argv, debug = _take_debug(list(sys.argv[1:] if argv is None else argv))
    prog = prog or Path(sys.argv[0]).name
    about = main.__doc__ or ""
    if {"-h", "--help", "--help_all"} & set(argv):
        every_flag = "--help_all" in argv
        print(help_text(config_class, hosts, prog=prog, about=about, every_flag=every_flag), end="")
        return 0
    # here, so that help needs none of them
    import datasets
    import transformers

    from hf_proxy.recipes.library.flags import RecipeParser

    failure: Exception | None = None
    configs: Sequence[Any] = ()
    if not (debug or sys.warnoptions):
        # what the libraries say to each other is nothing that a command's user can act on
        warnings.filterwarnings("ignore", category=FutureWarning, module=_HOSTS)
    # one progress bar, our own: not one for each file that is loaded or saved
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        parser = RecipeParser((config_class, *(host.load() for host in hosts)), prog=prog)
        try:
            configs = parser.parse(argv)
        except (ValueError, OSError) as error:  # the trainer's own configs check themselves
            raise InputError(_one_line(error)) from error
        for config in configs:
            _check_folder(getattr(config, "output_dir", None))
        result = main(*configs)
        sys.stdout.flush()
    except Exception as error:
        failure = _ReaderGone() if is_closed_pipe(error) else error
    except KeyboardInterrupt:
        # a rank that is interrupted was so with all others, by the launcher: none waits for another
        if _is_main_process():
            run_folder = getattr(configs[0], "output_dir", None) if configs and hosts else None
            print(
                f"\nhf-proxy: interrupted; {_how_to_go_on(about, run_folder)}",
                file=sys.stderr,
                flush=True,
            )
        return INTERRUPTED
    failure = _close_processes(failure, debug)
    if failure is not None:
        return _exit_code(failure)
    if configs[0].json and _is_main_process():
        print(json.dumps(result, allow_nan=False), flush=True)
    return 0


def run_action(
    actions: Mapping[str, tuple[Any, Callable[..., Mapping]]],
    argv: Sequence[str] | None,
    *,
    prog: str,
) -> int:
    """`run` for a recipe of several actions: the first argument names one.

    Args:
        actions: name to config class and function.
        prog: what stands before the action's name.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {prog} ACTION --FLAG VALUE ...\n")
        for name, (_, action) in actions.items():
            print(f"  {name:<10}{(action.__doc__ or '').splitlines()[0]}")
        print(f"\n{prog} ACTION --help says what an action reads and writes, and its flags.")
    if not argv:
        return _refuse(f"name an action: {', '.join(actions)}")
    if argv[0] in ("-h", "--help"):
        return 0
    if argv[0] not in actions:
        near = did_you_mean(argv[0], list(actions))
        problem = f"{prog} has no action {argv[0]!r}{near}; the actions are {', '.join(actions)}"
        return _refuse(problem)
    config_class, action = actions[argv[0]]
    return run(config_class, action, argv[1:], prog=f"{prog} {argv[0]}")


def newlines(text: str) -> str:
    r"""A flag's text with `\n` made a newline: a shell hands over two letters."""
    return text.replace("\\n", "\n")


def compile_pattern(text: str, flag: str) -> re.Pattern:
    """A flag's regular expression.

    Raises:
        InputError: it is none.
    """
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError.at(
            f"{text!r} is no regular expression ({error})",
            remedy="write ( and [ that stand for themselves as \\( and \\[",
            field=flag,
        ) from error


def at_least(config: Any, least: int, *names: str) -> None:
    """Refuse a smaller number in these fields of a config; None passes.

    Raises:
        InputError: naming the field.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= least:
            raise InputError.at(f"{value} is too small", remedy=f"give {least} or more", field=name)


def _take_debug(argv: list[str]) -> tuple[list[str], bool]:
    """`--debug` is ours where nothing follows it; the trainer has a flag of that name too."""
    for place, word in enumerate(argv):
        if word == "--debug" and (argv[place + 1 :] or ["-"])[0].startswith("-"):
            return argv[:place] + argv[place + 1 :], True
    return argv, False


def _check_folder(name: str | None) -> None:
    """Refuse a folder that cannot be written, before hours are spent on what goes there."""
    if name is None:
        return
    path = Path(name).absolute()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        raise InputError.at(
            f"{there.name} is a file, not a folder",
            remedy="name another output_dir",
            source=name,
            field="output_dir",
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError.at(
            f"no right to write in {there}",
            remedy="name another output_dir",
            source=name,
            field="output_dir",
        )


def _close_processes(failure: Exception | None, debug: bool) -> Exception | None:
    """Close the group of processes, if there is one; a failure is said once, by one of them."""
    say = partial(_report_failure, debug=debug)
    # what has made a group has imported this; the others are spared the seconds
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        from hf_proxy.models.parallel import end_processes

        return end_processes(failure, say)
    if failure is not None:
        if debug or _is_main_process():
            say(failure)
        else:
            # a launcher kills rank 0 as soon as another rank ends; let it say its line first
            time.sleep(1)
    return failure


def _how_to_go_on(about: str, run_folder: str | None) -> str:
    """What the help of a command says of an interruption, in short.

    Args:
        run_folder: of a training, which goes on from its checkpoints.
    """
    if "same line again goes on" not in " ".join(about.split()):
        return "the same line again begins anew"
    if run_folder is not None and not _has_checkpoint(Path(run_folder)):
        return "the same line again begins at step 0: no checkpoint is written yet (--save_steps)"
    return "the same line again goes on where it stopped"


def _has_checkpoint(folder: Path) -> bool:
    from hf_proxy.records.run_folders import checkpoints_of

    return folder.is_dir() and any(state is not None for _, _, state in checkpoints_of(folder))


def _refuse(problem: str) -> int:
    _close_processes(InputError(problem), False)
    return 2


def _exit_code(failure: Exception) -> int:
    if isinstance(failure, _ReaderGone):
        return CLOSED_PIPE
    return 2 if isinstance(failure, InputError) else 1


def _report_failure(failure: Exception, *, debug: bool) -> None:
    if isinstance(failure, _ReaderGone):
        return
    if debug:
        traceback.print_exception(failure)
        return
    is_input = _exit_code(failure) == 2
    name = "" if is_input else f"{type(failure).__name__}: "
    hint = "" if is_input else " (--debug shows where)"
    print(f"hf-proxy: error: {name}{_one_line(failure)}{hint}", file=sys.stderr, flush=True)


def _one_line(failure: Exception) -> str:
    text = str(failure)
    if isinstance(failure, OSError) and failure.strerror and failure.filename:
        text = f"{failure.filename2 or failure.filename}: {failure.strerror}; check path and rights"
    return " ".join(text.split())


def _is_main_process() -> bool:
    return int(os.environ.get("RANK", 0)) == 0
