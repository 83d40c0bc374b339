"""Both methods in one run: a model learns from its own soft targets while its score is watched."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_proxy.mining.settings import MiningSettings
from hf_proxy.recipes.library.running import Host, at_least, compile_pattern, newlines, run
from hf_proxy.records.defaults import SYSTEM_PROMPT
from hf_proxy.records.errors import InputError
from hf_proxy.traces.settings import TRACE_CONTEXT
from hf_proxy.training.fields import SelectiveFields

if TYPE_CHECKING:
    from trl import ModelConfig

    from hf_proxy.training.config import SelectiveSFTConfig


@dataclass(kw_only=True)
class LoopConfig:
    """Own fields of `hf-proxy loop`, beside those of SelectiveSFTConfig and ModelConfig.

    What SelectiveSFTConfig adds for an amateur is read by the mining.
    """

    amateur: str = field(metadata={"help": "A weaker model with the same tokenizer."})
    prompts: str = field(
        metadata={"help": "Questions: .jsonl, .json, .parquet or .csv file, or hub id."}
    )
    prompt_column: str = field(default="prompt", metadata={"help": "Column of the question."})
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
    num_prompts: int = field(
        default=64, metadata={"help": "Questions of each mining, taken in turn."}
    )
    num_eval: int = field(
        default=16,
        metadata={
            "help": "Questions from the end of prompts: mined once, before the first step, for "
            "eval_loss."
        },
    )
    per_trace: bool = field(
        default=False,
        metadata={"help": "Write the sums of each trace too."},
    )
    mine_steps: int = field(default=50, metadata={"help": "Optimizer steps between minings."})
    traces: list[str] = field(
        metadata={"help": "Trace sets to score on: path, or name=path for several."}
    )
    curves: list[str] = field(
        default_factory=list,
        metadata={"help": "Curves of `hf-proxy fit`: accuracy of a large model beside the score."},
    )
    trace_context: str = field(
        default=TRACE_CONTEXT,
        metadata={
            "help": "Text before the trace: {prompt} is replaced, \\n is a newline; or 'chat': "
            "the model's chat template."
        },
    )
    prompt_context: str = field(
        default="chat",
        metadata={
            "help": "Text before what is mined: {prompt} is replaced, \\n is a newline; or 'chat': "
            "the model's chat template."
        },
    )
    system_prompt: str | None = field(
        default=SYSTEM_PROMPT, metadata={"help": "System turn under prompt_context=chat."}
    )
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "With a context of chat: what the template reads beside the turns, as "
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
    mine_batch_size: int = field(
        default=MiningSettings.batch_size,
        metadata={"help": "Questions answered together; fewer take less memory."},
    )
    world_size: int | None = field(
        default=None,
        metadata={"help": "Stop unless so many processes run: several launch lines start one."},
    )
    resume: bool = field(
        default=True, metadata={"help": "Go on from the last checkpoint in output_dir, if any."}
    )
    json: bool = field(default=False, metadata={"help": "End with one machine-readable line."})

    def __post_init__(self) -> None:
        at_least(self, 0, "temperature")
        at_least(self, 1, "num_prompts", "mine_steps", "max_new_tokens", "mine_batch_size")
        if self.answer_pattern is not None:
            compile_pattern(self.answer_pattern, "answer_pattern")


def main(
    config: LoopConfig, arguments: SelectiveSFTConfig, model_config: ModelConfig
) -> dict[str, Any]:
    """Mine, train on what was mined, score; again from the model as it stands, to the last step.

    Reads:   a model to tune, a weaker one (the amateur), questions, and trace sets to score on.
    Writes:  checkpoints, model and provenance.json in output_dir; scores, minings and soft targets
             in hf_proxy/ there. The same line again goes on where it stopped.
    Example: hf-proxy loop --model_name_or_path Qwen/Qwen2.5-Coder-1.5B-Instruct
             --amateur Qwen/Qwen2.5-Coder-0.5B-Instruct --prompts gsm8k_train.jsonl
             --prompt_column question --traces outputs/gsm8k-annotated
             --output_dir outputs/closed-loop --max_steps 200 --use_cpu
    """
    from accelerate import PartialState

    from hf_proxy.callbacks import ContrastCallback, ProxyScoreCallback
    from hf_proxy.mining.sets import mine_soft_targets
    from hf_proxy.models.parallel import from_main, stop_together
    from hf_proxy.models.whole import on_device
    from hf_proxy.recipes.library.loop_tables import facts_of_loop, print_loop
    from hf_proxy.recipes.library.rows import check_answer_flags, load_prompts
    from hf_proxy.recipes.library.run_records import RunFolder, train_to_the_end
    from hf_proxy.recipes.library.sharing import save_tuned
    from hf_proxy.recipes.library.training import (
        adapter_config,
        check_flags,
        check_world_size,
        hold_out,
        is_quantized,
        load_amateur,
        load_trainable,
        trace_sets,
    )
    from hf_proxy.records.storage import provenance_of, write_text
    from hf_proxy.training.trainer import SelectiveSFTTrainer

    check_flags(arguments, model_config)
    check_answer_flags(config, arguments.only_correct)
    processes = PartialState()
    check_world_size(config.world_size, "closed_loop")
    if config.num_eval < 1:
        raise InputError("num_eval must be at least 1: the score stands in evaluation rows")
    folder = Path(str(arguments.output_dir))
    run_folder = RunFolder(folder, "loop", (config, arguments, model_config))
    if (done := run_folder.begin()) is not None:
        return done
    # a count that checkpoints keep, so that the lines know it after a resume too
    if arguments.include_num_input_tokens_seen == "no":
        arguments.include_num_input_tokens_seen = "non_padding"
    with stop_together(processes):
        answers = (config.answer_column, config.answer_pattern)
        rows = load_prompts(
            config.prompts,
            config.prompt_column,
            answers=answers if arguments.only_correct else None,
        )
        if "example_id" not in rows.column_names:  # the held-out ones keep their own numbers
            rows = rows.add_column("example_id", [str(number) for number in range(len(rows))])
        train_prompts, eval_prompts = hold_out(rows, config.num_eval)
        model, tokenizer = load_trainable(
            model_config, trust_remote_code=arguments.trust_remote_code
        )
        if not is_quantized(model_config):  # those lie where they were rounded
            model.to(arguments.device)
        amateur, amateur_tokenizer = load_amateur(
            config.amateur, model.dtype, trust_remote_code=arguments.trust_remote_code
        )
    trace_context = newlines(config.trace_context)
    in_traces, in_prompts = kwargs_of_chats(
        config.chat_template_kwargs, trace_context, config.prompt_context
    )
    mining: dict[str, Any] = {
        "context": newlines(config.prompt_context),
        "chat_template_kwargs": in_prompts,
        "system_prompt": config.system_prompt,
        "max_new_tokens": config.max_new_tokens,
        "temperature": config.temperature,
        "batch_size": config.mine_batch_size,
        **arguments.contrast_settings,
    }
    with on_device(amateur, arguments.device, offload=True):
        eval_rows = mine_soft_targets(
            model,
            amateur,
            eval_prompts,
            processing_class=tokenizer,
            amateur_processing_class=amateur_tokenizer,
            output_dir=folder / "hf_proxy" / "eval_soft_targets",
            accelerator=processes,
            facts={"what": "held-out questions, by the model before its first step"},
            **mining,
        )
    contrast = ContrastCallback(
        amateur,
        train_prompts,
        num_prompts=config.num_prompts,
        amateur_processing_class=amateur_tokenizer,
        feed=True,
        expert=arguments.expert or "live",
        strategy="steps",
        steps=config.mine_steps,
        seed=arguments.seed,
        **mining,
    )
    score = ProxyScoreCallback(
        trace_sets(config.traces),
        curves=config.curves,
        context=trace_context,
        chat_template_kwargs=in_traces,
        per_trace=config.per_trace,
    )
    trainer = SelectiveSFTTrainer(
        model=model,
        args=arguments,
        eval_dataset=eval_rows,
        processing_class=tokenizer,
        peft_config=adapter_config(model_config),
        callbacks=[contrast, score],
    )
    if trainer.is_world_process_zero() and not config.curves:
        print("no curves: the score is shown, no accuracy predicted (hf-proxy fit makes a curve)")
    result = train_to_the_end(trainer, folder, resume=config.resume)
    save_tuned(trainer)
    facts = from_main(
        processes,
        lambda: facts_of_loop(trainer.state.log_history, folder, result.metrics["train_runtime"]),
    )
    with stop_together(processes):
        if trainer.is_world_process_zero():
            stamp = provenance_of(
                loop=dataclasses.asdict(config),
                model=dataclasses.asdict(model_config),
                training=arguments.to_dict(),
                found=facts,
                log_history=trainer.state.log_history,
            )
            write_text(folder / "provenance.json", json.dumps(stamp, indent=2, default=str))
            print_loop(facts["rows"])
            print(f"{_costs(facts['seconds'])}; {folder}")
    found = facts | {"output_dir": str(folder), "num_processes": processes.num_processes}
    run_folder.end(found)
    return found


def _costs(seconds: dict[str, float]) -> str:
    others = list(seconds.items())[1:]
    parts = ", ".join(f"{name} {value:.{int(value < 1)}f} s" for name, value in others if value)
    return f"{seconds['train_runtime']:.0f} s since this start; in the whole run {parts}"


def kwargs_of_chats(
    given: dict[str, Any] | None, trace_context: str, prompt_context: str
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Arguments of the template for traces and for prompts: to every chat that there is.

    Without any chat they go to the prompts, whose reader refuses them by name.
    """
    in_traces = given if trace_context == "chat" else None
    return in_traces, None if in_traces and prompt_context != "chat" else given


def cli(argv: list[str] | None = None) -> int:
    """`hf-proxy loop`."""
    hosts = (
        Host("hf_proxy.training.config:SelectiveSFTConfig", added=SelectiveFields),
        Host("trl:ModelConfig"),
    )
    return run(LoopConfig, main, argv, prog="hf-proxy loop", hosts=hosts)


if __name__ == "__main__":
    raise SystemExit(cli())
