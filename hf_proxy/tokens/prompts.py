"""Questions as the ids that an expert reads, with what they were made of."""

from collections.abc import Sequence
from dataclasses import dataclass

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_proxy.records.defaults import SYSTEM_PROMPT
from hf_proxy.records.errors import InputError, check_unique_ids
from hf_proxy.tokens.tokenizers import encode_contexts


@dataclass(frozen=True)
class Prompts:
    """Prompts as ids, with what they were made of.

    Attributes:
        example_id: [n].
        input_ids: ids of each.
        template: text of the chat template, or the context text.
        system_prompt: where the template was given one.
    """

    example_id: list[str]
    input_ids: list[list[int]]
    template: str
    system_prompt: str | None


def read_prompts(
    prompts: Dataset | Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    context: str = "chat",
    system_prompt: str | None = SYSTEM_PROMPT,
) -> Prompts:
    """Prompts as the expert reads them.

    Args:
        prompts: rows with `prompt` and, if they have names, `example_id`; or texts.
        context: `"chat"`, the tokenizer's template with its generation prompt; or text in which
            `{prompt}` is replaced.
        system_prompt: for `"chat"`; None: the template's own.

    Raises:
        InputError: a prompt that is empty or no text, a name that stands twice, no prompts, a
            context without `{prompt}`, a tokenizer without template.
    """
    if isinstance(prompts, Dataset):
        if "prompt" not in prompts.column_names:
            raise InputError.at(
                f"there is no column 'prompt', only {prompts.column_names}",
                remedy="rename_column it",
                field="prompt",
            )
        texts = list(prompts["prompt"])
        named = "example_id" in prompts.column_names
        ids = [str(i) for i in (prompts["example_id"] if named else range(len(texts)))]
    else:
        texts = list(prompts)
        ids = [str(i) for i in range(len(texts))]
    if not texts:
        raise InputError.at("there are no prompts", remedy="give at least one")
    check_unique_ids(ids)
    for id, text in zip(ids, texts, strict=True):
        if not isinstance(text, str) or not text:
            raise InputError.at(
                f"expected text, found {text!r:.40}",
                remedy="fill it or drop the row",
                row=id,
                field="prompt",
            )
    if context == "chat":
        if not tokenizer.chat_template:
            raise InputError.at(
                "the tokenizer has no chat template",
                remedy="pass a context with {prompt}, as '{prompt}\\n'",
            )
        head = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        rendered = [
            str(
                tokenizer.apply_chat_template(
                    [*head, {"role": "user", "content": text}],
                    add_generation_prompt=True,
                    tokenize=False,
                )
            )
            for text in texts
        ]
        template = str(tokenizer.chat_template)
    elif "{prompt}" in context:
        rendered = [context.replace("{prompt}", text) for text in texts]
        template, system_prompt = context, None
    else:
        raise InputError.at(
            f"context {context!r} has no {{prompt}}", remedy="write it where the prompt goes"
        )
    input_ids = encode_contexts(tokenizer, rendered, chat=context == "chat")
    return Prompts(ids, input_ids, template, system_prompt)


def check_lengths(prompts: Prompts, max_new_tokens: int, window: int | None) -> None:
    """Refuse prompts that leave no room for `max_new_tokens`, and those without any token."""
    for id, ids in zip(prompts.example_id, prompts.input_ids, strict=True):
        if not ids:
            raise InputError.at("the prompt has no token", remedy="give it a context", row=id)
        if window is not None and len(ids) + max_new_tokens > window:
            raise InputError.at(
                f"{len(ids)} tokens and {max_new_tokens} new ones are more than the models' window "
                f"of {window}",
                remedy="drop the row or lower max_new_tokens",
                row=id,
                field="prompt",
            )
