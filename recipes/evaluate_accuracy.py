"""Accuracy of models on problems with a checkable answer, and whether they differ."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_proxy.recipes.library.running import RecipeConfig, at_least, compile_pattern, newlines, run
from hf_proxy.recipes.library.screen import print_table
from hf_proxy.records.defaults import MAX_ANSWER_TOKENS, SYSTEM_PROMPT
from hf_proxy.records.errors import InputError

if TYPE_CHECKING:
    from hf_proxy.tokens.prompts import Prompts


@dataclass(frozen=True, kw_only=True)
class AccuracyConfig(RecipeConfig):
    """Fields are flags and YAML keys."""

    models: list[str] = field(
        metadata={
            "help": "Model folders, hub ids, checkpoints or LoRA adapters; the first one's prompt "
            "is given to all."
        }
    )
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
    num_problems: int | None = field(
        default=None, metadata={"help": "Take the first so many; unset: all."}
    )
    output_dir: str = field(
        metadata={"help": "Folder of the answers, items.jsonl and results.json."}
    )
    context: str = field(
        default="chat",
        metadata={
            "help": "Text before the answer: {prompt} is replaced, \\n is a newline; or 'chat': "
            "the first model's chat template."
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
    batch_size: int = field(
        default=32, metadata={"help": "Problems answered together; fewer take less memory."}
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = field(
        default="auto", metadata={"help": "Precision of the weights; auto: as they were saved."}
    )

    def __post_init__(self) -> None:
        at_least(self, 1, "num_problems", "max_new_tokens", "batch_size")
        if self.answer_pattern is not None:
            compile_pattern(self.answer_pattern, "answer_pattern")
        if len(set(self.models)) < len(self.models):
            raise InputError.at("one is named twice", remedy="name each once", field="models")


def main(config: AccuracyConfig) -> dict[str, Any]:
    """Greedy answers of each model to the same problems, graded; each pair compared by McNemar.

    Reads:   models, and problems with an answer that can be checked.
    Writes:  every answer, items.jsonl and results.json in output_dir, a table to the screen. The
             same line again goes on where it stopped.
    Example: hf-proxy accuracy --models Qwen/Qwen2.5-Coder-1.5B-Instruct outputs/selective-sft
             --problems gsm8k_test.jsonl --answer_pattern '#### (.+)' --num_problems 100
             --output_dir outputs/accuracy
    """
    from accelerate import Accelerator

    from hf_proxy.models.parallel import is_main, stop_together
    from hf_proxy.recipes.library.answering import answer_problems, end_settings
    from hf_proxy.recipes.library.checkpoints import (
        common_fingerprint,
        find_checkpoints,
        load_model,
        load_tokenizer,
    )
    from hf_proxy.records.lines import write_lines
    from hf_proxy.records.storage import write_text
    from hf_proxy.tokens.tokenizers import tokenizer_fingerprint

    accelerator = Accelerator()
    folder = Path(config.output_dir)
    with stop_together(accelerator):
        names, questions, gold = _problems(config)
        checkpoints = {spec: find_checkpoints(spec)[-1] for spec in config.models}
        tokenizers = {spec: load_tokenizer(found) for spec, found in checkpoints.items()}
        prompts = _prompts(config, names, questions, tokenizers)
    items: dict[str, list[dict[str, Any]]] = {}
    for spec, checkpoint in checkpoints.items():
        weights = common_fingerprint(checkpoint, accelerator)
        with stop_together(accelerator):
            content = {
                "weights": weights,
                "dtype": config.dtype,
                "tokenizer": tokenizer_fingerprint(tokenizers[spec]),
                "ends": end_settings(checkpoint, tokenizers[spec]),
            }

        def load(checkpoint=checkpoint):
            return load_model(checkpoint, dtype=config.dtype, device=accelerator.device)

        answers = answer_problems(
            load,
            tokenizers[spec],
            prompts[spec],
            folder,
            content,
            accelerator,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.batch_size,
        )
        with stop_together(accelerator):
            if is_main(accelerator):
                given = dict(zip(names, prompts[spec].input_ids, strict=True))
                items[spec] = [
                    _item(spec, name, given[name], text, gold[name], tokenizers[spec])
                    for name, text in answers.items()
                ]
    result: dict[str, Any] = {}  # the main process's to tell
    with stop_together(accelerator):
        if is_main(accelerator):
            result = _result(config, items, prompts[config.models[0]])
            write_lines(folder / "items.jsonl", (item for own in items.values() for item in own))
            write_text(folder / "results.json", json.dumps(result, indent=2))
            _print_result(result, config.max_new_tokens)
            print(f"{len(names)} problems, {len(items)} models, every answer in {folder}")
    return result


def _problems(config: AccuracyConfig) -> tuple[list[str], list[str], dict[str, list]]:
    """Names, questions, and by name what is right."""
    from hf_proxy.answers.grading import gold_answer
    from hf_proxy.recipes.library.rows import load_problems

    rows = load_problems(
        config.problems, config.question_column, config.answer_column, config.num_problems
    )
    names = list(rows["example_id"])
    gold = {
        name: gold_answer(str(text), config.answer_pattern, row=name, source=config.problems)
        for name, text in zip(names, rows["answer"], strict=True)
    }
    return names, list(rows["prompt"]), gold


def _prompts(config, names, questions, tokenizers) -> dict[str, Prompts]:
    """The same text for every model: a chat template is the first model's."""
    from datasets import Dataset

    from hf_proxy.tokens.prompts import read_prompts
    from hf_proxy.tokens.tokenizers import tokenizer_fingerprint

    rows = Dataset.from_dict({"prompt": questions, "example_id": names})
    first = tokenizers[config.models[0]]
    prompts = {}
    for spec, tokenizer in tokenizers.items():
        if config.context == "chat":
            if tokenizer_fingerprint(tokenizer) != tokenizer_fingerprint(first):
                raise InputError.at(
                    "it has another tokenizer, so it cannot be given the first one's chat turns",
                    remedy="evaluate it alone, or set a context in text for all",
                    source=spec,
                )
            tokenizer.chat_template = first.chat_template
        prompts[spec] = read_prompts(
            rows,
            tokenizer,
            context=newlines(config.context),
            system_prompt=config.system_prompt,
            chat_template_kwargs=config.chat_template_kwargs,
        )
    return prompts


def _item(spec, name, prompt, written, gold, tokenizer) -> dict[str, Any]:
    from hf_proxy.answers.grading import grade
    from hf_proxy.answers.texts import text_to_grade

    text = tokenizer.decode(written.ids, skip_special_tokens=True)
    found = grade(text_to_grade(tokenizer, prompt, written.ids), gold)
    return {
        "model": spec,
        "example_id": name,
        "correct": found.correct,
        "answer": found.answer,
        "gold": str(gold[-1]),
        "num_tokens": len(written.ids),
        "ended": written.ended,
        "text": text,
    }


def _result(config, items: dict[str, list[dict[str, Any]]], prompts: Prompts) -> dict[str, Any]:
    """Accuracies and comparisons, with what was asked and what was counted."""
    from hf_proxy.answers.pairs import compare_accuracy
    from hf_proxy.intervals import LEAST_FOR_INTERVAL, wilson_interval
    from hf_proxy.records.storage import fingerprint, provenance_of

    models = []
    for spec, own in items.items():
        num_correct = sum(item["correct"] for item in own)
        low, high = wilson_interval(num_correct, len(own))
        models.append(
            {
                "model": spec,
                "num_problems": len(own),
                "num_correct": num_correct,
                "accuracy": num_correct / len(own),
                "low": low,
                "high": high,
                "num_cut": sum(not item["ended"] for item in own),
                "num_without_answer": sum(item["answer"] is None for item in own),
                "tokens_mean": sum(item["num_tokens"] for item in own) / len(own),
            }
        )
    comparisons = []
    for a, b in combinations(items, 2):
        if len(items[a]) >= LEAST_FOR_INTERVAL:
            found = compare_accuracy(
                [item["correct"] for item in items[a]], [item["correct"] for item in items[b]]
            )
            comparisons.append({"a": a, "b": b} | dataclasses.asdict(found))
    return {
        "models": models,
        "comparisons": comparisons,
        "provenance": provenance_of(
            settings=dataclasses.asdict(config),
            prompts=fingerprint([prompts.example_id, prompts.input_ids]),
            template_hash=fingerprint(prompts.template),
        ),
    }


def _print_result(result: dict[str, Any], max_new_tokens: int) -> None:
    rows = [
        [row["model"], f"{row['accuracy']:.3f}", f"{row['low']:.3f} .. {row['high']:.3f}"]
        + [f"{row['num_cut']} of {row['num_problems']}" if row["num_cut"] else "0"]
        + [str(row["num_correct"]), str(row["num_without_answer"])]
        + [f"{row['tokens_mean']:.0f}"]
        for row in result["models"]
    ]
    head = ("model", "pass@1", "90 % interval", "cut", "right", "none", "tokens")
    print_table(head, rows, words=("model",), names=("model",))
    for row in result["models"]:
        if row["num_cut"]:
            cut = f"{row['num_cut']} of {row['num_problems']} answers of {row['model']}"
            print(
                f"note: {cut} were cut at {max_new_tokens} tokens and are graded as they are; more "
                "may be right with a higher --max_new_tokens"
            )
    for row in result["comparisons"]:
        detectable = row["detectable"]
        power = (
            "with so many and so few that differ no difference would show reliably"
            if detectable is None
            else f"a difference of {detectable:.3f} would show in 80 % of such comparisons"
        )
        # where none differs the bootstrap has no width, which is no certainty
        interval = (
            f"[{row['low']:+.3f}, {row['high']:+.3f}]"
            if row["only_a"] + row["only_b"]
            else "(no interval: none differs)"
        )
        print(
            f"{row['b']} minus {row['a']}: {row['difference']:+.3f} {interval}, right alone "
            f"{row['only_b']} and {row['only_a']}, McNemar p {row['p_value']:.3f}; {power}"
        )


def cli(argv: list[str] | None = None) -> int:
    """`hf-proxy accuracy`."""
    return run(AccuracyConfig, main, argv, prog="hf-proxy accuracy")


if __name__ == "__main__":
    raise SystemExit(cli())
