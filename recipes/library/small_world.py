"""A small world of arithmetic reasoning: problems of several levels, a tokenizer, Llama models.

Large enough that a bigger model reasons better, and that wording is a matter of taste while numbers
are not (what rBridge's weights tell apart); small enough for two CPU cores. `build_small_world`
makes the files in `recipes/assets` with it. Not reasoning-gym: its one task with worked steps is a
hundred GSM8K texts without levels, whose English is beyond models of this size.
"""

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from hf_proxy.answers.grading import gold_answer, grade
from hf_proxy.models.access import scoring_mode
from hf_proxy.models.generation import generate

LEVELS = (1, 2, 3, 4, 5)  # operations to get to the answer
LARGEST_RESULT = 99  # no intermediate result is above it, none below 1
NAMES = ("Ada", "Ben", "Chloé", "Dana", "Emil", "Fatima", "Goro", "Hana")
THINGS = ("apples", "books", "coins", "eggs", "kites", "pens")
END_TOKEN = "<|end|>"
VOCABULARY = 400
# the question and a newline: a chat with these models is what they were trained on
CHAT_TEMPLATE = "{% for turn in messages if turn.role == 'user' %}{{ turn.content }}\n{% endfor %}"
HELD_OUT = 64  # problems of an evaluation
LONGEST_TRACE = 96  # tokens; no worked solution of five steps is longer
# what a step says in a chain, and in a story
_ADD = ("Add {n}.", "{name} {verb} {n} more.")
_TAKE = ("Subtract {n}.", "{name} {verb} {n}.")
_DOUBLE = ("Double it.", "Then {name} gets as many again.")
_TRIPLE = ("Multiply by 3.", "Then {name} has three times as many.")
_GAINS = ("buys", "finds", "gets")
_LOSSES = ("gives away", "loses", "sells")
# how a solution may word it: the frontier is unsure of these words, not of the numbers
_OPENINGS = ("", "So ", "Then ", "Now ", "Next, ", "We get ")
_CLOSINGS = ("The answer is {n}.", "So the answer is {n}.", "That makes {n}.")


def problems(rng: random.Random, levels: Sequence[int] = LEVELS) -> Iterator[dict[str, str]]:
    """Problems without end: `prompt`, a worked `trace`, `answer`, `level`, `kind`.

    Args:
        rng: decides numbers, words and levels.
        levels: how many operations, each as likely.
    """
    while True:
        level = rng.choice(levels)
        story = rng.random() < 0.5
        name, thing = rng.choice(NAMES), rng.choice(THINGS)
        total = rng.randint(2, 20)
        prompt = [f"{name} has {total} {thing}." if story else f"Start with {total}."]
        solution = []
        for _ in range(level):
            said, number, equation, total = _step(rng, total)
            verb = rng.choice(_GAINS if said is _ADD else _LOSSES)
            prompt.append(said[story].format(name=name, verb=verb, n=number))
            solution.append(f"{rng.choice(_OPENINGS)}{equation}.")
        prompt.append(f"How many {thing} does {name} have?" if story else "What do you get?")
        solution.append(rng.choice(_CLOSINGS).format(n=total))
        yield {
            "prompt": " ".join(prompt),
            "trace": " ".join(solution),
            "answer": str(total),
            "level": str(level),
            "kind": "story" if story else "chain",
        }


def _step(rng: random.Random, total: int) -> tuple[tuple[str, str], int, str, int]:
    """An operation within 1 .. LARGEST_RESULT: its wordings, its equation, its result."""
    number = rng.randint(2, 9)
    possible = [(_ADD, "+", number, total + number), (_TAKE, "-", number, total - number)]
    possible += [(_DOUBLE, "*", 2, total * 2), (_TRIPLE, "*", 3, total * 3)]
    possible = [found for found in possible if 1 <= found[3] <= LARGEST_RESULT]
    said, sign, number, result = rng.choice(possible)
    return said, number, f"{total}{sign}{number}={result}", result


def train_tokenizer(texts: Sequence[str], vocab_size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of these texts, every digit a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_TOKEN)


def make_model(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> LlamaForCausalLM:
    """A Llama of random weights with this tokenizer's vocabulary."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config)


def take_rows(source: Iterator[dict[str, str]], number: int) -> Dataset:
    """The next so many problems."""
    return Dataset.from_list(list(islice(source, number)))


def solve(
    model: Any, tokenizer: PreTrainedTokenizerFast, rows: Dataset, *, temperature: float = 0.0
) -> tuple[list[str], list[bool]]:
    """What the model writes to each problem, and whether math-verify finds its answer right."""
    prompts = tokenizer([f"{prompt}\n" for prompt in rows["prompt"]])["input_ids"]
    with scoring_mode(model) as bare:
        written = generate(
            bare,
            prompts,
            processing_class=tokenizer,
            max_new_tokens=LONGEST_TRACE,
            temperature=temperature,
            seed=[0],
        )
    texts = [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in written]
    gold = [gold_answer(answer, None, row=answer) for answer in rows["answer"]]
    right = [grade(text, wanted).correct for text, wanted in zip(texts, gold, strict=True)]
    return texts, right


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: Dataset,
    *,
    batch_size: int,
    learning_rate: float,
    save_steps: int,
    output_dir: Path,
    seed: int,
    attach: Sequence[Any] = (),
    measure: Callable[[int], None],
) -> float:
    """One pass over `rows` with `Trainer`, from wherever the model stands.

    Args:
        rows: problems; the last `HELD_OUT` are not trained on.
        save_steps: between checkpoints, evaluations and calls of `measure`.
        attach: callbacks of ours, attached to the trainer.
        measure: called with the step, beside each checkpoint and before the first step.

    Returns:
        loss of the held-out rows at the end, in nats per token.
    """

    def collate(batch: list[dict]) -> dict[str, torch.Tensor]:
        ids = [torch.tensor(row["input_ids"]) for row in batch]
        labels = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-100)
        mask = (labels >= 0).long()
        return {"input_ids": labels.clamp(min=0), "attention_mask": mask, "labels": labels}

    class _Measure(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            measure(0)

        def on_save(self, args, state, control, **kwargs):
            measure(state.global_step)

    encoded = tokenizer([f"{row['prompt']}\n{row['trace']}{END_TOKEN}" for row in rows])[
        "input_ids"
    ]
    dataset = Dataset.from_dict({"input_ids": encoded})
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=1,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=50,
        weight_decay=0.01,
        save_steps=save_steps,
        eval_strategy="steps",
        eval_steps=save_steps,
        logging_strategy="no",
        include_num_input_tokens_seen="non_padding",
        disable_tqdm=not sys.stderr.isatty(),
        dataloader_pin_memory=False,
        report_to="none",
        seed=seed,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=dataset.select(range(len(dataset) - HELD_OUT)),
        eval_dataset=dataset.select(range(len(dataset) - HELD_OUT, len(dataset))),
        data_collator=collate,
        processing_class=tokenizer,  # saved in each checkpoint
        callbacks=[_Measure()],
    )
    for callback in attach:
        callback.attach(trainer)
    trainer.remove_callback(PrinterCallback)  # without a terminal it would print every row
    trainer.train()
    return trainer.evaluate()["eval_loss"]
