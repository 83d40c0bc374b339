"""`hf-proxy traces build`: its flags, and the frontier that they name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_proxy.building.settings import BuildSettings, ServerSettings
from hf_proxy.recipes.library.running import at_least, compile_pattern
from hf_proxy.recipes.library.server_flags import ServerConfig
from hf_proxy.records.defaults import TOKENS_PER_BATCH
from hf_proxy.records.errors import InputError

if TYPE_CHECKING:
    from hf_proxy.building.building import Frontier
    from hf_proxy.building.served import ServedFrontier


@dataclass(frozen=True, kw_only=True)
class BuildConfig(ServerConfig):
    """`hf-proxy traces build`."""

    questions: str | None = field(
        default=None,
        metadata={
            "help": "Questions: .jsonl, .json, .parquet or .csv file, save_to_disk folder or hub "
            "id; unset: the hub id of question_set."
        },
    )
    question_set: Literal["gsm8k", "math500"] | None = field(
        default=None,
        metadata={"help": "Columns, answer check and hub id of a well-known set."},
    )
    question_column: str | None = field(
        default=None,
        metadata={"help": "Column of the question; unset: the set's, else 'question'."},
    )
    answer_column: str | None = field(
        default=None,
        metadata={"help": "Column of the gold answer; unset: the set's, else answers are unknown."},
    )
    answer_pattern: str | None = field(
        default=None,
        metadata={
            "help": "Regular expression whose first group is the gold answer; unset: the set's, "
            "else the whole column."
        },
    )
    num_questions: int | None = field(
        default=None, metadata={"help": "Take the first so many; unset: all."}
    )
    frontier: str = field(
        metadata={
            "help": "Model folder, adapter or hub id; with base_url the model's name at the server."
        }
    )
    output_dir: str = field(
        metadata={"help": "Folder of the trace set; raw answers go to OUTPUT_DIR.responses."}
    )
    protocol: Literal["json", "text", "thinking"] = field(
        default="json",
        metadata={
            "help": "json: the trace is the reasoning of a JSON object (paper); text: the answer; "
            "thinking: the thinking of a model that thinks first."
        },
    )
    task: str = field(
        default=BuildSettings.task,
        metadata={"help": "What the problems are, as the system turn says it."},
    )
    num_samples: int = field(
        default=BuildSettings.num_samples, metadata={"help": "Answers to each question."}
    )
    temperature: float = field(
        default=BuildSettings.temperature, metadata={"help": "0: greedy (paper)."}
    )
    seed: int = field(default=BuildSettings.seed, metadata={"help": "Decides the draws."})
    max_new_tokens: int = field(
        default=BuildSettings.max_new_tokens,
        metadata={"help": "Most tokens of an answer; one that is cut is dropped and counted."},
    )
    only_correct: bool = field(
        default=BuildSettings.only_correct,
        metadata={"help": "Leave out wrong answers; false (paper): kept, and marked."},
    )
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "What a local model's chat template reads beside the turns, as "
            '{"enable_thinking": false} (JSON; in YAML a mapping).'
        },
    )
    batch_size: int = field(
        default=16,
        metadata={"help": "Answers of a local model written together; fewer take less memory."},
    )
    tokens_per_batch: int = field(
        default=TOKENS_PER_BATCH,
        metadata={"help": "Tokens of one forward pass, with padding; fewer take less memory."},
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = field(
        default="auto", metadata={"help": "Precision of the weights; auto: as they were saved."}
    )
    api: Literal["chat", "completions"] = field(
        default="chat",
        metadata={"help": "Which of the server's; completions: for models that know no turns."},
    )
    logprobs: bool = field(
        default=ServerSettings.logprobs,
        metadata={"help": "false: text alone, of a server that gives no probabilities."},
    )
    batch_input: str | None = field(
        default=None,
        metadata={"help": "Write the requests to this file, for the server's batch API, and stop."},
    )
    batch_output: str | None = field(
        default=None,
        metadata={"help": "Read the answers from this file of the batch API; nothing is asked."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace another set in output_dir."})

    def __post_init__(self) -> None:
        at_least(self, 1, "num_questions", "batch_size", "tokens_per_batch")
        if self.answer_pattern is not None:
            compile_pattern(self.answer_pattern, "answer_pattern")
        self.refuse_unread(
            local=("batch_size", "tokens_per_batch", "dtype", "chat_template_kwargs"),
            server=("api", "logprobs", "batch_input", "batch_output"),
        )
        if self.batch_input is not None and self.batch_output is not None:
            raise InputError.at(
                "the requests go out first",
                remedy="give batch_input, and with the server's answer batch_output",
                field="batch_output",
            )

    def settings(self) -> BuildSettings:
        """What decides an answer."""
        from hf_proxy.answers.questions import QUESTION_SETS

        pattern = self.answer_pattern
        if pattern is None and self.question_set is not None and self.answer_column is None:
            pattern = QUESTION_SETS[self.question_set].answer_pattern
        names = (
            "protocol", "task", "num_samples", "temperature", "seed", "max_new_tokens",
            "only_correct",
        )  # fmt: skip
        return BuildSettings(
            **{name: getattr(self, name) for name in names}, answer_pattern=pattern
        )


def build(config: BuildConfig) -> dict[str, Any]:
    """Let a frontier write traces: a local model, or one behind a server that speaks OpenAI's API.

    A trace is a worked solution, with the probability that its writer (the frontier) gave to each
    of its tokens. Wrong answers are kept, and marked where the right one is known. The same line
    again goes on where it stopped: nothing is asked twice.

    Reads:   questions, and the frontier: a model folder or hub id, or base_url and a model's name.
    Writes:  the trace set and provenance.json in output_dir, every raw answer in
             OUTPUT_DIR.responses.
    Example: hf-proxy traces build --question_set gsm8k --num_questions 100
             --frontier Qwen/Qwen2.5-Coder-1.5B-Instruct --output_dir outputs/gsm8k-traces
    """
    import time

    from accelerate import Accelerator

    from hf_proxy.building.building import build_set
    from hf_proxy.models.parallel import from_main, is_main, stop_together
    from hf_proxy.recipes.library.questions import load_questions

    began = time.monotonic()
    accelerator = Accelerator()
    with stop_together(accelerator):
        settings = config.settings()
        questions, source = load_questions(
            config.questions,
            known=config.question_set,
            question_column=config.question_column,
            answer_column=config.answer_column,
            num_questions=config.num_questions,
        )
    if config.batch_input is not None:
        num_requests = from_main(
            accelerator, lambda: _write_batch(config, questions, settings, source)
        )
        if is_main(accelerator):
            print(
                f"{num_requests} requests in {config.batch_input}; give the server's answer to "
                "the same line as --batch_output in place of --batch_input"
            )
        return {"batch_input": config.batch_input, "requests": num_requests}
    frontier = _frontier(config, accelerator)
    found = build_set(
        questions,
        frontier,
        settings,
        config.output_dir,
        accelerator,
        overwrite=config.overwrite,
        source=source,
    )
    if is_main(accelerator):
        print(f"{config.output_dir}: {found.line}")
        counts = found.counts
        cost = f", cost {counts['cost']:.2f}" if "cost" in counts else ""
        print(f"tokens {counts['prompt_tokens']} in, {counts['completion_tokens']} out{cost}")
        print(
            f"{counts['kept']} traces of {counts['in']} answers in {config.output_dir}, "
            f"dropped {counts['dropped'] or 'none'}, "
            f"{time.monotonic() - began:.0f} s"
        )
    return {"output_dir": config.output_dir, "counts": found.counts}


def _frontier(config: BuildConfig, accelerator: Any) -> Frontier:
    """Who is asked; every rank calls."""
    from hf_proxy.building.local import LocalFrontier
    from hf_proxy.models.parallel import stop_together
    from hf_proxy.recipes.library.checkpoints import (
        common_fingerprint,
        find_checkpoints,
        load_model,
        load_tokenizer,
    )
    from hf_proxy.tokens.tokenizers import tokenizer_fingerprint

    if config.base_url is not None:
        with stop_together(accelerator):
            return _served(config, accelerator)
    with stop_together(accelerator):
        checkpoint = find_checkpoints(config.frontier)[-1]
    weights = common_fingerprint(checkpoint, accelerator)
    with stop_together(accelerator):
        tokenizer = load_tokenizer(checkpoint)
        model = load_model(checkpoint, dtype=config.dtype, device=accelerator.device)
        facts = {
            "name": checkpoint.name,
            "step": checkpoint.step,
            "weights": weights,
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "dtype": str(model.dtype),
        }
        return LocalFrontier(
            model,
            tokenizer,
            accelerator,
            batch_size=config.batch_size,
            tokens_per_batch=config.tokens_per_batch,
            chat_template_kwargs=config.chat_template_kwargs,
            facts=facts,
        )


def _served(config: BuildConfig, accelerator: Any = None) -> ServedFrontier:
    from hf_proxy.building.served import ServedFrontier
    from hf_proxy.building.servers import Server

    assert config.base_url is not None
    settings = config.server_settings(api=config.api, logprobs=config.logprobs)
    server = Server(config.base_url, config.frontier, settings)
    return ServedFrontier(server, accelerator, batch_output=config.batch_output)


def _write_batch(config: BuildConfig, questions: Any, settings: BuildSettings, source: str) -> int:
    """Write the batch API's input file; gives its number of requests."""
    from hf_proxy.building.building import prepare

    assert config.batch_input is not None
    frontier = _served(config)
    prepare(questions, frontier, settings, source=source)
    return frontier.write_batch(Path(config.batch_input))
