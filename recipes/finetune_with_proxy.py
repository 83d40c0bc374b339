"""Fine-tune with TRL's SFTTrainer and watch the rBridge score beside the loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_proxy.recipes.library.running import Host, at_least, compile_pattern, newlines, run
from hf_proxy.recipes.library.screen import print_table
from hf_proxy.records.defaults import TOKENS_PER_BATCH
from hf_proxy.records.errors import InputError
from hf_proxy.traces.settings import TRACE_CONTEXT

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import ModelConfig, SFTConfig


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Fields of this recipe; those of TRL's SFTConfig and ModelConfig are flags as well."""

    train_data: str = field(
        metadata={"help": "Rows to train on: .jsonl, .json, .parquet or .csv file, or hub id."}
    )
    traces: list[str] = field(
        metadata={"help": "Trace sets to score on: path, or name=path for several."}
    )
    curves: list[str] = field(
        default_factory=list,
        metadata={"help": "Curves of `hf-proxy fit`: accuracy of a large model beside the score."},
    )
    prompt_column: str = field(default="prompt", metadata={"help": "Column of the prompt."})
    completion_column: str = field(
        default="completion", metadata={"help": "Column of the text to learn."}
    )
    remove: str | None = field(
        default=None,
        metadata={"help": "Regular expression cut out of the completions, as '<<.*?>>'."},
    )
    num_eval: int = field(
        default=0, metadata={"help": "Rows taken from the end of train_data for eval_loss."}
    )
    context: str = field(
        default=TRACE_CONTEXT,
        metadata={
            "help": "Text before completion and trace: {prompt} is replaced, \\n is a newline."
        },
    )
    score_strategy: Literal["auto", "evaluate", "steps", "save"] = field(
        default="auto",
        metadata={
            "help": "When to score; auto: with each evaluation, else with each checkpoint, and "
            "before the first step and after the last."
        },
    )
    score_steps: int | None = field(
        default=None,
        metadata={"help": "Optimizer steps between scores under score_strategy=steps."},
    )
    score_tokens_per_batch: int = field(
        default=TOKENS_PER_BATCH,
        metadata={"help": "Tokens of one forward pass of scoring; fewer take less memory."},
    )
    per_trace: bool = field(
        default=False,
        metadata={
            "help": "Write each trace's sums with each score too: the last step is then held "
            "against the first trace by trace."
        },
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
        at_least(self, 0, "num_eval")
        if (self.score_strategy == "steps") != (self.score_steps is not None):
            raise InputError.at(
                "score_steps goes with score_strategy=steps, and only with it",
                remedy="give both or neither",
                field="score_steps",
            )
        at_least(self, 1, "score_steps", "score_tokens_per_batch", "world_size")


def main(config: FinetuneConfig, arguments: SFTConfig, model_config: ModelConfig) -> dict[str, Any]:
    """Fine-tune with SFTTrainer; the rBridge score stands in the row of each evaluation.

    Reads:   a model, rows of prompt and completion to learn from, and trace sets to score on.
    Writes:  checkpoints and the tuned model in output_dir, and one line per score to
             hf_proxy/predictions.jsonl there. The same line again goes on where it stopped; of
             a finished run it says so.
    Example: hf-proxy finetune --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct
             --train_data train.jsonl --traces outputs/gsm8k-annotated --output_dir outputs/run
             --max_steps 200 --use_cpu
    """
    from accelerate import PartialState
    from trl import SFTTrainer

    from hf_proxy.callbacks import ProxyScoreCallback
    from hf_proxy.models.parallel import from_main, stop_together
    from hf_proxy.recipes.library.run_records import RunFolder, train_to_the_end
    from hf_proxy.recipes.library.score_tables import print_steps
    from hf_proxy.recipes.library.sharing import save_tuned
    from hf_proxy.recipes.library.training import (
        adapter_config,
        check_evaluation,
        check_flags,
        check_world_size,
        hold_out,
        load_trainable,
        trace_sets,
    )
    from hf_proxy.records.lines import ScoreLine, read_lines

    check_flags(arguments, model_config)
    processes = PartialState()
    check_world_size(config.world_size, "finetune_with_proxy")
    check_evaluation(arguments, config.num_eval)
    folder = Path(str(arguments.output_dir))
    run_folder = RunFolder(folder, "finetune", (config, arguments, model_config))
    if (done := run_folder.begin()) is not None:
        return done
    with stop_together(processes):
        rows = _rows(config)
        train_rows, eval_rows = hold_out(rows, config.num_eval)
        model, tokenizer = load_trainable(
            model_config, trust_remote_code=arguments.trust_remote_code
        )
    callback = ProxyScoreCallback(
        trace_sets(config.traces),
        curves=config.curves,
        context=newlines(config.context),
        strategy=None if config.score_strategy == "auto" else config.score_strategy,
        steps=config.score_steps,
        tokens_per_batch=config.score_tokens_per_batch,
        per_trace=config.per_trace,
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=tokenizer,
        peft_config=adapter_config(model_config),
        callbacks=[callback],
    )
    result = train_to_the_end(trainer, folder, resume=config.resume)
    save_tuned(trainer)
    file = folder / "hf_proxy" / "predictions.jsonl"
    lines = from_main(processes, lambda: [line.content for line in read_lines(file, ScoreLine)])
    if trainer.is_world_process_zero():
        _print_scores(lines)
        if config.per_trace:
            print_steps(file, list(callback.trace_sets))
        if trainer.state.best_model_checkpoint is not None:
            print(
                f"best by {arguments.metric_for_best_model}: {trainer.state.best_model_checkpoint}"
            )
        seconds = result.metrics["train_runtime"]
        spent = sum(line["seconds"] for line in lines)
        print(f"{len(lines)} scores, {spent:.0f} s; {seconds:.0f} s in all; lines in {file}")
    keys = ("name", "step", "value", "low", "high", "seconds")
    found = {
        "scores": [{key: line[key] for key in keys} for line in lines],
        "best": trainer.state.best_model_checkpoint,
        "num_processes": processes.num_processes,
        "train_runtime_s": result.metrics["train_runtime"],
    }
    run_folder.end(found)
    return found


def _rows(config: FinetuneConfig) -> Dataset:
    """Prompt and completion, the prompt as it stands before a trace."""
    from hf_proxy.recipes.library.rows import check_text, load_rows
    from hf_proxy.tokens.messages import text_of_completion
    from hf_proxy.tokens.prompts import text_context

    columns = {
        config.prompt_column: "prompt_column",
        config.completion_column: "completion_column",
    }
    rows = load_rows(config.train_data, columns)
    check_text(rows, config.train_data, *columns)
    cut = None if config.remove is None else compile_pattern(config.remove, "remove")
    context = text_context(newlines(config.context))

    def example(row: dict, index: int) -> dict[str, str]:
        place = {"source": config.train_data, "row": index, "field": config.completion_column}
        completion = text_of_completion(row[config.completion_column], place)
        return {
            "prompt": context.render({"prompt": row[config.prompt_column]}),
            "completion": cut.sub("", completion) if cut else completion,
        }

    return rows.map(example, with_indices=True, remove_columns=rows.column_names, desc="Reading")


def _print_scores(lines: list[dict]) -> None:
    rows = [
        [str(line["step"]), line["name"], f"{line['value']:.5f}"]
        + ["-" if line["low"] is None else f"{line['low']:.4f} .. {line['high']:.4f}"]
        + [f"{line['trace_nll']:.4f}", f"{line['bits_per_byte']:.4f}"]
        for line in lines
    ]
    from hf_proxy.records.scores import METRIC_NAMES

    head = ["step", "set", METRIC_NAMES["value"], "90 % interval"]
    head += [METRIC_NAMES["trace_nll"], METRIC_NAMES["bits_per_byte"]]
    print_table(head, rows, words=("set",))


def cli(argv: list[str] | None = None) -> int:
    """`hf-proxy finetune`."""
    hosts = (Host("trl:SFTConfig"), Host("trl:ModelConfig"))
    return run(FinetuneConfig, main, argv, prog="hf-proxy finetune", hosts=hosts)


if __name__ == "__main__":
    raise SystemExit(cli())
