"""`hf-proxy COMMAND ...`: finds the recipe of a command and hands it the rest of the line."""

import sys
from difflib import get_close_matches
from importlib import import_module

from hf_proxy import __version__
from hf_proxy.recipes.library.closed_pipe import CLOSED_PIPE, is_closed_pipe

# command: recipe module, what it does
COMMANDS = {
    "traces": ("traces", "build, import, annotate and check reasoning traces"),
    "score": ("score_checkpoints", "score models on traces: table, intervals, comparisons"),
    "contrast": (
        "mine_soft_targets",
        "mine soft targets, show them, foretell whether they will help",
    ),
    "train": ("train_selective_sft", "tune a model on its own soft targets"),
    "finetune": ("finetune_with_proxy", "fine-tune with the score beside eval_loss"),
    "loop": ("closed_loop", "tune a model on targets mined anew from itself, its score beside"),
    "accuracy": ("evaluate_accuracy", "accuracy of models on problems, and whether they differ"),
    "fit": ("fit_predictor", "fit the curve from scores to a large model's accuracy"),
    "predict": ("predict_accuracy", "read a curve at scores: accuracy with its interval"),
    "rank": ("rank_models", "order models or corpora, with intervals and decision accuracy"),
    "report": ("report", "one HTML page of a run, live or finished: scores, curves, trajectories"),
    "demo": ("demo", "two minutes without a download: train a tiny proxy and watch its score"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; a recipe is imported only when its command runs.

    Returns:
        The exit code: 0, 1 failure, 2 bad arguments or input, `CLOSED_PIPE` where who read the
        output has gone.
    """
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()  # what a pipe took into its buffer is refused here, not at the very end
    except BrokenPipeError as error:
        if not is_closed_pipe(error):
            raise
        return CLOSED_PIPE
    except KeyboardInterrupt:  # before the recipe, which says how to go on, had begun
        print("\nhf-proxy: interrupted; nothing had begun", file=sys.stderr)
        return 130
    return code


def _run(argv: list[str]) -> int:
    if argv and argv[0] == "--version":
        print(f"hf-proxy {__version__}")
        return 0
    if argv and argv[0] == "help":  # `help score` is `score --help`
        argv = [*argv[1:], "--help"]
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: hf-proxy COMMAND --FLAG VALUE ...\n")
        for name, (_, purpose) in COMMANDS.items():
            print(f"  {name:<10}{purpose}")
        print(
            "\nhf-proxy COMMAND --help says what a command reads and writes, and its flags;"
            "\n--config FILE.yaml reads the flags from YAML; --version. Start with: hf-proxy demo"
        )
        if argv:
            return 0
        print("hf-proxy: error: name a command", file=sys.stderr)
        return 2
    if argv[0] not in COMMANDS:
        near = get_close_matches(argv[0], COMMANDS, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        line = f"there is no command {argv[0]!r}{meant}; hf-proxy --help lists them"
        print(f"hf-proxy: error: {line}", file=sys.stderr)
        return 2
    recipe = import_module(f"hf_proxy.recipes.{COMMANDS[argv[0]][0]}")
    return recipe.cli(argv[1:])


if __name__ == "__main__":
    raise SystemExit(main())
