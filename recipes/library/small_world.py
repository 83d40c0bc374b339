"""Models of the carry chains: a tokenizer, Llamas of a hundred thousand parameters, their training.

Small enough for two CPU cores: an expert learns in a minute and a half. `build_small_world` makes
the files in `recipes/assets` with it.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
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

END_TOKEN = "<|end|>"
VOCABULARY = 400
# the question and a newline: a chat with these models is what they were trained on
CHAT_TEMPLATE = "{% for turn in messages if turn.role == 'user' %}{{ turn.content }}\n{% endfor %}"
HELD_OUT = 64  # problems of an evaluation
LONGEST_TRACE = 32  # tokens; no worked solution of three steps is longer
# a word keeps the space before and the one behind it, so that a step is written in few tokens
PIECES = r"\d| ?[^\d\s]+ ?|\s+"


def train_tokenizer(texts: Sequence[str], vocab_size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of these texts, every digit a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
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
        # so narrow a model learns its tables in half the steps that it takes from 0.02
        initializer_range=0.1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config)


def solve(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[dict[str, str]],
    *,
    temperature: float = 0.0,
    seed: int = 0,
) -> tuple[list[str], list[bool]]:
    """What the model writes to each problem, and whether math-verify finds its answer right.

    Args:
        temperature: 0: greedy; above: plain sampling.
        seed: of the sampling.
    """
    prompts = tokenizer([f"{row['prompt']}\n" for row in rows])["input_ids"]
    with scoring_mode(model) as bare:
        written = generate(
            bare,
            prompts,
            processing_class=tokenizer,
            max_new_tokens=LONGEST_TRACE,
            temperature=temperature,
            seed=[seed],
        )
    texts = [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in written]
    gold = [gold_answer(row["answer"], None, row=row["prompt"]) for row in rows]
    right = [grade(text, wanted).correct for text, wanted in zip(texts, gold, strict=True)]
    return texts, right


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: Iterable[dict[str, str]],
    num_steps: int,
    *,
    batch_size: int,
    **more: Any,
) -> float:
    """One pass over new documents: `train_on` of as many rows as that takes.

    Args:
        rows: documents, as `problems` gives them; the first `HELD_OUT` are not trained on.
        more: of `train_on`.

    Returns:
        loss of the held-out rows at the end, in nats per token of their solutions.
    """
    documents = encode_documents(tokenizer, islice(rows, HELD_OUT + num_steps * batch_size))
    return train_on(model, tokenizer, documents, num_steps, batch_size=batch_size, **more)


def train_on(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    documents: Sequence[dict[str, list[int]]],
    num_steps: int,
    *,
    batch_size: int,
    learning_rate: float,
    seed: int,
    output_dir: Path,
    warmup_steps: int = 50,
    save_steps: int | None = None,
    attach: Sequence[Any] = (),
    measure: Callable[[int], None] = lambda step: None,
) -> float:
    """Train with `Trainer`, which learns the solutions and not the questions.

    Args:
        documents: of `encode_documents`; the first `HELD_OUT` are not trained on. Where there are
            fewer than the steps take, they come again.
        save_steps: between checkpoints, evaluations and calls of `measure`; None: none of them.
        attach: callbacks of ours, attached to the trainer.
        measure: called with the step, beside each checkpoint and before the first step.

    Returns:
        loss of the held-out rows at the end, in nats per token of their solutions.
    """

    class _Measure(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            measure(0)

        def on_save(self, args, state, control, **kwargs):
            measure(state.global_step)

    arguments = TrainingArguments(
        output_dir=str(output_dir),
        max_steps=num_steps,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=HELD_OUT,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=warmup_steps,
        weight_decay=0.01,
        adam_beta2=0.98,
        save_strategy="no" if save_steps is None else "steps",
        save_steps=save_steps or num_steps,
        eval_strategy="no" if save_steps is None else "steps",
        eval_steps=save_steps,
        logging_strategy="no",
        include_num_input_tokens_seen="non_padding",
        disable_tqdm=not sys.stderr.isatty(),
        dataloader_pin_memory=False,
        report_to="none",
        seed=seed,
        use_cpu=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=documents[HELD_OUT:],
        eval_dataset=documents[:HELD_OUT],
        data_collator=collate,
        processing_class=tokenizer,  # saved in each checkpoint
        callbacks=[_Measure()],
    )
    for callback in attach:
        callback.attach(trainer)
    trainer.remove_callback(PrinterCallback)  # without a terminal it would print every row
    trainer.train()
    return trainer.evaluate()["eval_loss"]


def encode_documents(
    tokenizer: PreTrainedTokenizerFast, rows: Iterable[dict[str, str]]
) -> list[dict[str, list[int]]]:
    """`input_ids` of question, newline, solution and end; `labels` of the last two alone."""
    rows = list(rows)
    asked = tokenizer([f"{row['prompt']}\n" for row in rows])["input_ids"]
    worked = tokenizer([f"{row['trace']}{END_TOKEN}" for row in rows])["input_ids"]
    return [
        {"input_ids": before + behind, "labels": [-100] * len(before) + behind}
        for before, behind in zip(asked, worked, strict=True)
    ]


def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Padded behind; a padded position is masked, and is no label."""
    width = max(len(row["input_ids"]) for row in rows)

    def padded(lists: Iterable[list[int]], value: int) -> torch.Tensor:
        return torch.tensor([values + [value] * (width - len(values)) for values in lists])

    return {
        "input_ids": padded((row["input_ids"] for row in rows), 0),
        "attention_mask": padded(([1] * len(row["input_ids"]) for row in rows), 0),
        "labels": padded((row["labels"] for row in rows), -100),
    }
