"""`hf-proxy contrast foretell`: whether training on soft targets will help, before training."""

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from hf_proxy.intervals import points_interval
from hf_proxy.mining.settings import MiningSettings
from hf_proxy.recipes.library.running import RecipeConfig, at_least, compile_pattern, newlines
from hf_proxy.recipes.library.screen import print_table
from hf_proxy.records.defaults import MAX_ANSWER_TOKENS, SYSTEM_PROMPT


@dataclass(frozen=True, kw_only=True)
class ForetellConfig(RecipeConfig):
    """`hf-proxy contrast foretell`."""

    expert: str = field(
        metadata={"help": "Model folder, adapter or hub id: the one that would be trained."}
    )
    amateur: str = field(metadata={"help": "A weaker model with the same tokenizer."})
    problems: str = field(
        metadata={"help": "Problems: .jsonl, .json, .parquet or .csv file, or hub id."}
    )
    question_column: str = field(default="question", metadata={"help": "Column of the problem."})
    answer_column: str = field(default="answer", metadata={"help": "Column of the gold answer."})
    answer_pattern: str | None = field(
        default=None,
        metadata={
            "help": "Regular expression whose first group is the gold answer (GSM8K: '#### (.+)'); "
            "unset: the whole column."
        },
    )
    verdict: bool = field(
        default=True,
        metadata={"help": "false: problems without answers; how far the answers agree, no more."},
    )
    num_problems: int | None = field(
        default=None, metadata={"help": "Take the first so many; unset: all."}
    )
    output_dir: str = field(
        metadata={"help": "Folder of the answers, items.jsonl and foretold.json."}
    )
    context: str = field(
        default="chat",
        metadata={
            "help": "Text before the answer: {prompt} is replaced, \\n is a newline; or 'chat': "
            "the expert's chat template."
        },
    )
    system_prompt: str | None = field(
        default=SYSTEM_PROMPT, metadata={"help": "System turn under context=chat."}
    )
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "With context=chat: what the template reads beside the turns, as "
            '{"enable_thinking": false} (JSON; in YAML a mapping).'
        },
    )
    max_new_tokens: int = field(
        default=MAX_ANSWER_TOKENS,
        metadata={"help": "Most tokens of an answer; one that is cut is graded as it is."},
    )
    temperature: float = field(
        default=MiningSettings.temperature,
        metadata={"help": "Only 0: gains are foretold from greedy decoding."},
    )
    batch_size: int = field(
        default=MiningSettings.batch_size,
        metadata={"help": "Problems answered together; fewer take less memory."},
    )
    seed: int = field(
        default=MiningSettings.seed,
        metadata={"help": "Of the halves: of several settings one half chooses, the other judges."},
    )
    divergence_beta: list[float] = field(
        default_factory=lambda: [MiningSettings.divergence_beta],
        metadata={"help": "Write the target's first token from so many nats of KL on; several."},
    )
    plausibility_alpha: list[float] = field(
        default_factory=lambda: [MiningSettings.plausibility_alpha],
        metadata={"help": "Targets: tokens of p >= alpha * largest p; several."},
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = field(
        default="auto", metadata={"help": "Precision of the weights; auto: as they were saved."}
    )

    def __post_init__(self) -> None:
        at_least(self, 1, "num_problems", "max_new_tokens", "batch_size")
        at_least(self, 0, "seed")
        if self.answer_pattern is not None:
            compile_pattern(self.answer_pattern, "answer_pattern")


def foretell(config: ForetellConfig) -> dict[str, Any]:
    """Foretell from problems with answers whether training on soft targets will help.

    The expert answers greedily, and once more with the targets' first tokens at the steps that
    mining would keep (contrastive decoding); both are compared problem by problem.

    Reads:   two models of one tokenizer, and problems with an answer that can be checked.
    Writes:  every answer, items.jsonl and foretold.json in output_dir, a table and the verdict to
             the screen. The same line again goes on where it stopped.
    Example: hf-proxy contrast foretell --expert Qwen/Qwen2.5-Coder-1.5B-Instruct
             --amateur Qwen/Qwen2.5-Coder-0.5B-Instruct --problems gsm8k_train.jsonl
             --answer_pattern '#### (.+)' --num_problems 300 --divergence_beta 0.4 0.1
             --output_dir outputs/foretold
    """
    from accelerate import Accelerator

    from hf_proxy.mining.foretelling import foretell_gain
    from hf_proxy.models.parallel import stop_together
    from hf_proxy.recipes.library.checkpoints import find_checkpoints, load_model, load_tokenizer
    from hf_proxy.recipes.library.rows import load_problems

    accelerator = Accelerator()
    start = time.perf_counter()
    with stop_together(accelerator):
        problems = load_problems(
            config.problems,
            config.question_column,
            config.answer_column if config.verdict else None,
            config.num_problems,
            without_answers="--verdict false",
        )
        found = [find_checkpoints(spec)[-1] for spec in (config.expert, config.amateur)]
        tokenizers = [load_tokenizer(checkpoint) for checkpoint in found]
        expert, amateur = (
            load_model(checkpoint, dtype=config.dtype, device=accelerator.device)
            for checkpoint in found
        )
    foretold = foretell_gain(
        expert,
        amateur,
        problems,
        processing_class=tokenizers[0],
        amateur_processing_class=tokenizers[1],
        divergence_beta=config.divergence_beta,
        plausibility_alpha=config.plausibility_alpha,
        answer_pattern=config.answer_pattern,
        verdict=config.verdict,
        output_dir=config.output_dir,
        accelerator=accelerator,
        context=newlines(config.context),
        system_prompt=config.system_prompt,
        chat_template_kwargs=config.chat_template_kwargs,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        batch_size=config.batch_size,
        seed=config.seed,
        facts=dataclasses.asdict(config),
    )
    seconds = time.perf_counter() - start
    if accelerator.is_main_process:
        print_foretold(foretold)
        print(f"{len(problems)} problems, every answer in {config.output_dir}, {seconds:.0f} s")
    content = dataclasses.asdict(foretold) | {"sentence": foretold.sentence}
    return content | {"output_dir": config.output_dir, "seconds": seconds}


def print_foretold(foretold: Any) -> None:
    """A row for each setting, then the verdict and what belongs beside it."""
    labelled = foretold.verdict is not None
    head = ["divergence_beta", "plausibility_alpha"]
    head += ["pass@1", "gain, points", "95 % interval", "McNemar p"] if labelled else []
    rows = []
    if labelled:
        first = foretold.settings[0]
        for who, value in (("expert", first.expert_accuracy), ("amateur", first.amateur_accuracy)):
            cut = getattr(foretold, f"num_cut_{who}")
            agrees = "" if who == "amateur" else "1.000"
            rows.append([who, "greedy", f"{value:.3f}", "", "", "", agrees, str(cut)])
    for row in foretold.settings:
        cells = [f"{row.divergence_beta:g}", f"{row.plausibility_alpha:g}"]
        if labelled:
            cells += [f"{row.accuracy:.3f}", f"{100 * row.gain:+.1f}"]
            cells += [points_interval(row.low, row.high), f"{row.p:.3f}"]
        rows.append([*cells, f"{row.agreement:.3f}", str(row.num_cut)])
    print_table([*head, "agreement", "cut"], rows)
    if labelled:
        verdict, sentence = foretold.verdict, foretold.sentence
        told = sentence if sentence.startswith(verdict) else f"{verdict}: {sentence}"
        # where nothing changes the bootstrap has no width, which is no certainty
        interval = (
            "no interval as no answer turned right or wrong"
            if foretold.low == foretold.high
            else f"95 % [{100 * foretold.low:+.1f}, {100 * foretold.high:+.1f}]"
        )
        print(
            f"{told}: {100 * foretold.gain:+.1f} points, {interval}, McNemar p {foretold.p:.3f}, "
            f"{foretold.num_problems} problems"
        )
    for note in foretold.notes:
        print(f"- {note}")
