"""What every recipe shares: flags that are YAML keys, one line on bad input, JSON at the end.

A recipe is a frozen dataclass of documented fields and a function that takes it. It runs as
`hf-proxy ...`, `python recipes/x.py ...`, `python -m hf_proxy.recipes.x ...` or under
`accelerate launch` and `torchrun`, with `--config x.yaml` and flags that override it.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import transformers
from trl import TrlParser


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """Fields of every recipe."""

    json: bool = field(default=False, metadata={"help": "End with one machine-readable line."})
    debug: bool = field(default=False, metadata={"help": "Show the traceback of an error."})


def run(
    config_class: Any,
    main: Callable[..., Mapping],
    argv: Sequence[str] | None = None,
    *,
    prog: str | None = None,
) -> int:
    """Parse flags and `--config`, run `main`, and give the exit code.

    Args:
        config_class: dataclass of the recipe's fields, or several, the recipe's own first; flags
            and YAML keys are these and no others.
        main: does the work, taking one config for each class, and returns what `--json` prints.
        argv: arguments, `sys.argv[1:]` by default.

    Returns:
        0; 2 on bad arguments or input, with one line that says what to do; 1 on any other failure.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv or "--show_traceback" in argv
    classes = config_class if isinstance(config_class, tuple) else (config_class,)
    # one progress bar, our own: not one for each file that is loaded or saved
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        parser = TrlParser(dataclass_types=list(classes), prog=prog, description=main.__doc__)
        parser.epilog = "--config FILE.yaml reads the same names from YAML; flags stand above it."
        configs = parser.parse_args_and_config(argv)
        result = main(*configs)
    except SystemExit as stop:  # argparse: --help, or a flag that it refuses
        return stop.code if isinstance(stop.code, int) else 2
    except (ValueError, OSError) as error:
        return _failed(error, 2, debug)
    except Exception as error:
        return _failed(error, 1, debug)
    if configs[0].json and _speaks():
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
    if not argv or argv[0] not in actions:
        print(f"usage: {prog} ACTION [--help] ...\n")
        for name, (_, action) in actions.items():
            print(f"  {name:<10}{(action.__doc__ or '').splitlines()[0]}")
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    config_class, action = actions[argv[0]]
    return run(config_class, action, argv[1:], prog=f"{prog} {argv[0]}")


def newlines(text: str) -> str:
    r"""A flag's text with `\n` made a newline: a shell hands over two letters."""
    return text.replace("\\n", "\n")


def _failed(error: Exception, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    elif _speaks():
        name = "" if code == 2 else f"{type(error).__name__}: "
        hint = "" if code == 2 else " (--debug shows where)"
        line = " ".join(str(error).split())
        print(f"hf-proxy: error: {name}{line}{hint}", file=sys.stderr, flush=True)
    else:
        # a launcher kills rank 0 as soon as another rank ends; let it say its line first
        time.sleep(1)
    return code


def _speaks() -> bool:
    return int(os.environ.get("RANK", 0)) == 0
