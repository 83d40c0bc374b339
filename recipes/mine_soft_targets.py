"""Soft targets from an expert and an amateur (LightReasoner): mine, show, foretell."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from hf_proxy.mining.settings import MiningSettings, Select, Target
from hf_proxy.recipes.library.foretelling import ForetellConfig, foretell
from hf_proxy.recipes.library.running import (
    RecipeConfig,
    at_least,
    compile_pattern,
    newlines,
    run_action,
)
from hf_proxy.recipes.library.screen import print_table
from hf_proxy.records.defaults import SYSTEM_PROMPT
from hf_proxy.records.errors import InputError


@dataclass(frozen=True, kw_only=True)
class MineConfig(RecipeConfig):
    """`hf-proxy contrast mine`."""

    expert: str = field(
        metadata={"help": "Model folder, adapter or hub id: the one to be improved, who writes."}
    )
    amateur: str = field(metadata={"help": "A weaker model with the same tokenizer."})
    prompts: str = field(
        metadata={"help": "Questions: .jsonl, .json, .parquet or .csv file, or hub id."}
    )
    prompt_column: str = field(default="prompt", metadata={"help": "Column of the question."})
    num_prompts: int | None = field(
        default=None,
        metadata={"help": "Take the first so many (paper: 1,000 of GSM8K); unset: all."},
    )
    output_dir: str = field(
        metadata={"help": "Folder of the set; mining goes on where it was interrupted."}
    )
    context: str = field(
        default="chat",
        metadata={
            "help": "Text before the answer: {prompt} is replaced, \\n is a newline; or 'chat': "
            "the expert's chat template."
        },
    )
    system_prompt: str | None = field(
        default=SYSTEM_PROMPT, metadata={"help": "System turn under context=chat (paper's own)."}
    )
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "With context=chat: what the template reads beside the turns, as "
            '{"enable_thinking": false} (JSON; in YAML a mapping).'
        },
    )
    max_new_tokens: int = field(
        default=MiningSettings.max_new_tokens,
        metadata={"help": "Most tokens of each trajectory (paper: 128)."},
    )
    temperature: float = field(
        default=MiningSettings.temperature,
        metadata={"help": "0: greedy; above: plain sampling, seeded."},
    )
    batch_size: int = field(
        default=MiningSettings.batch_size,
        metadata={"help": "Questions answered together; fewer take less memory."},
    )
    seed: int = field(default=MiningSettings.seed, metadata={"help": "Seed of the sampling."})
    divergence_beta: float = field(
        default=MiningSettings.divergence_beta,
        metadata={"help": "Keep steps with KL of at least so many nats (paper: 0.4)."},
    )
    plausibility_alpha: float = field(
        default=MiningSettings.plausibility_alpha,
        metadata={"help": "Targets: tokens of p >= alpha * largest p (paper: 0.2)."},
    )
    contrast_temperature: float = field(
        default=MiningSettings.contrast_temperature,
        metadata={"help": "Divides the log-ratio before the softmax (paper: 1)."},
    )
    parity: Literal["none", "official"] = field(
        default="none",
        metadata={"help": "official: the published script's form, to compare with its sets."},
    )
    select: Select = field(
        default="kl",
        metadata={
            "help": "Which steps are kept: kl (paper), random, entropy or low_entropy_high_kl keep "
            "as many of a batch; all keeps every one."
        },
    )
    target: Target = field(
        default="contrast",
        metadata={
            "help": "What is aimed at: contrast (paper), expert (itself, over the plausible "
            "tokens), token (the one that it wrote) or mixture."
        },
    )
    mixture_weight: float | None = field(
        default=MiningSettings.mixture_weight,
        metadata={"help": "Of the contrast in target=mixture; the rest is the expert's."},
    )
    only_correct: bool = field(
        default=MiningSettings.only_correct,
        metadata={"help": "Keep trajectories with the right answer only."},
    )
    answer_column: str = field(
        default="answer", metadata={"help": "With only_correct: column of the right answer."}
    )
    answer_pattern: str | None = field(
        default=None,
        metadata={
            "help": "With only_correct: regular expression whose first group is the answer (GSM8K: "
            "'#### (.+)'); unset: the whole column."
        },
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = field(
        default="auto", metadata={"help": "Precision of the weights; auto: as they were saved."}
    )

    def __post_init__(self) -> None:
        at_least(self, 0, "temperature", "divergence_beta")
        at_least(self, 1, "num_prompts", "max_new_tokens", "batch_size")
        if self.answer_pattern is not None:
            compile_pattern(self.answer_pattern, "answer_pattern")


@dataclass(frozen=True, kw_only=True)
class ShowConfig(RecipeConfig):
    """`hf-proxy contrast show`."""

    source: str = field(
        metadata={
            "help": "Folder that `hf-proxy contrast mine` wrote, or is writing; or a run with a "
            "callback's sets, of which the newest is shown."
        }
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Model of the expert; unset: the one that the set names, or its run's."},
    )
    num_rows: int = field(default=3, metadata={"help": "Trajectories to show, from the first."})
    example_ids: list[str] = field(
        default_factory=list, metadata={"help": "Show these instead, by name."}
    )
    max_targets: int = field(default=5, metadata={"help": "Most targets listed for a step."})
    page: str | None = field(
        default=None, metadata={"help": "Write one self-contained HTML page instead."}
    )
    figure: str | None = field(
        default=None, metadata={"help": "Write FIGURE.png and FIGURE.svg of the whole set."}
    )

    def __post_init__(self) -> None:
        at_least(self, 1, "num_rows", "max_targets")


def mine(config: MineConfig) -> dict[str, Any]:
    """Let the expert write, hold the amateur against it, keep the steps where they part.

    The kept steps, with what the expert should say there, are the soft targets that `hf-proxy
    train` tunes the expert on (LightReasoner).

    Reads:   two models of one tokenizer, and questions.
    Writes:  soft targets, statistics.json and provenance.json in output_dir. The same line again
             goes on where it stopped.
    Example: hf-proxy contrast mine --expert Qwen/Qwen2.5-Coder-1.5B-Instruct
             --amateur Qwen/Qwen2.5-Coder-0.5B-Instruct --prompts gsm8k_train.jsonl
             --prompt_column question --num_prompts 100 --output_dir outputs/soft-targets
    """
    from accelerate import Accelerator

    from hf_proxy.mining.mining_record import read_statistics
    from hf_proxy.mining.sets import mine_soft_targets
    from hf_proxy.models.parallel import from_main, stop_together
    from hf_proxy.recipes.library.checkpoints import find_checkpoints, load_model, load_tokenizer
    from hf_proxy.recipes.library.rows import check_answer_flags, load_prompts

    accelerator = Accelerator()
    start = time.perf_counter()
    with stop_together(accelerator):
        check_answer_flags(config, config.only_correct)
        answers = (config.answer_column, config.answer_pattern)
        rows = load_prompts(
            config.prompts,
            config.prompt_column,
            config.num_prompts,
            answers=answers if config.only_correct else None,
        )
        found = [find_checkpoints(spec)[-1] for spec in (config.expert, config.amateur)]
        tokenizers = [load_tokenizer(checkpoint) for checkpoint in found]
        models = [
            load_model(checkpoint, dtype=config.dtype, device=accelerator.device)
            for checkpoint in found
        ]
    expert, amateur = models
    soft_targets = mine_soft_targets(
        expert,
        amateur,
        rows,
        processing_class=tokenizers[0],
        amateur_processing_class=tokenizers[1],
        output_dir=config.output_dir,
        accelerator=accelerator,
        context=newlines(config.context),
        system_prompt=config.system_prompt,
        chat_template_kwargs=config.chat_template_kwargs,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        batch_size=config.batch_size,
        seed=config.seed,
        divergence_beta=config.divergence_beta,
        plausibility_alpha=config.plausibility_alpha,
        contrast_temperature=config.contrast_temperature,
        parity=None if config.parity == "none" else config.parity,
        select=config.select,
        target=config.target,
        mixture_weight=config.mixture_weight,
        only_correct=config.only_correct,
        facts=dataclasses.asdict(config),
    )
    statistics = from_main(
        accelerator, lambda: read_statistics(Path(config.output_dir) / "statistics.json")
    )
    seconds = time.perf_counter() - start
    if accelerator.is_main_process:
        _print_statistics(statistics)
        dropped = f", {len(rows) - len(soft_targets)} dropped: wrong answer"
        print(
            f"{len(soft_targets)} rows{dropped if config.only_correct else ''} in "
            f"{config.output_dir}, {seconds:.0f} s"
        )
    return {"output_dir": config.output_dir, "seconds": seconds, "statistics": statistics}


def show(config: ShowConfig) -> dict[str, Any]:
    """Print trajectories with their tokens shaded by KL, or write them as a page or a figure.

    Reads:   soft targets that `hf-proxy contrast mine` wrote, and the expert's tokenizer.
    Writes:  to the screen; instead the HTML page or the figure that is named.
    Example: hf-proxy contrast show --source outputs/soft-targets --num_rows 2
    """
    from rich.console import Console

    from hf_proxy.recipes.library.shown_sets import open_set
    from hf_proxy.report.figures.sets import plot_contrast
    from hf_proxy.report.trajectories import render_terminal, write_page

    found = open_set(config.source, config.tokenizer)
    rows, statistics = found.rows, found.statistics
    for note in found.notes:
        print(f"note: {note}")
    if config.example_ids:
        places = {name: place for place, name in enumerate(rows["example_id"])}
        if unknown := [name for name in config.example_ids if name not in places]:
            raise InputError.at(
                f"there is no {unknown[0]!r}",
                remedy=f"the first is {rows[0]['example_id']!r}",
                source=config.source,
                field="example_ids",
            )
        shown = [rows[places[name]] for name in config.example_ids]
    else:
        shown = list(islice(rows, config.num_rows))
    files: list[str] = []
    if config.figure is not None:
        beta = found.rules.kept_from
        files += map(str, plot_contrast(rows, config.figure, divergence_beta=beta))
    if config.page is not None:
        shown_settings = ("max_new_tokens", "divergence_beta", "select", "target")
        names = ("expert", "amateur", "prompts", *shown_settings)
        facts = {name: str(found.facts[name]) for name in names if name in found.facts}
        facts |= {name: _number(value) for name, value in (statistics or {}).items()}
        write_page(shown, found.tokenizer, config.page, title="Soft targets", facts=facts)
        files.append(config.page)
    if not files:
        console = Console()
        render_terminal(shown, found.tokenizer, console=console, max_targets=config.max_targets)
        if statistics is not None:
            _print_statistics(statistics)
    for file in files:
        print(file)
    return {"rows": len(shown), "files": files, "statistics": statistics}


def _print_statistics(statistics: dict[str, Any]) -> None:
    """Beside the published figures, where there are such (arXiv 2510.07962, section 2.2)."""
    from hf_proxy.mining.soft_targets import PUBLISHED_STATISTICS

    rows = [
        (name, _number(v), PUBLISHED_STATISTICS.get(name, "")) for name, v in statistics.items()
    ]
    head = ("statistic", "this set", "published (other models and prompts)")
    print_table(head, rows, words=(head[0], head[2]))


def _number(value: float | int | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


ACTIONS: dict[str, tuple[Any, Callable[..., dict[str, Any]]]] = {
    "mine": (MineConfig, mine),
    "show": (ShowConfig, show),
    "foretell": (ForetellConfig, foretell),
}


def cli(argv: list[str] | None = None) -> int:
    """`hf-proxy contrast mine|show|foretell`."""
    return run_action(ACTIONS, argv, prog="hf-proxy contrast")


if __name__ == "__main__":
    raise SystemExit(cli())
