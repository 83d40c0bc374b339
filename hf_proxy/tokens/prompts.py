"""What a model reads before it answers: contexts of traces, prompts of trajectories."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from datasets import Dataset
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from hf_proxy.records.defaults import SYSTEM_PROMPT
from hf_proxy.records.errors import InputError, check_unique_ids
from hf_proxy.records.storage import fingerprint
from hf_proxy.tokens.tokenizers import encode_contexts


@dataclass(frozen=True)
class Context:
    """How a row's question becomes the text that stands before its answer.

    Attributes:
        render: row to text; reads the row's `prompt`.
        is_chat: the text is a chat template's, which brings its own special tokens.
        template: the chat template, the text that holds `{prompt}`, or the function's name.
        setting: what a setting records of it: kind, and text, hash or name.
        system_prompt: the chat's system turn, where it has one of ours.
    """

    render: Callable[[Mapping], str]
    is_chat: bool
    template: str
    setting: str
    system_prompt: str | None = None


def read_context(
    context: str | Callable[[Mapping], str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str | None = None,
    system_prompt: str | None = None,
) -> Context:
    """The context that a user names.

    Args:
        context: `"chat"`: the tokenizer's template, the prompt as user turn, with its generation
            prompt; text in which `{prompt}` is replaced; or a function of the row.
        name: of the function.
        system_prompt: for `"chat"`; None or empty: the template's own. Where the template
            refuses a system turn it stands before the question, in the user's.

    Raises:
        InputError: a text without `{prompt}`, a tokenizer without template.
    """
    if callable(context):
        return Context(context, False, str(name), f"function {name}")
    if context == "chat":
        if not tokenizer.chat_template:
            raise InputError.at(
                "the tokenizer has no chat template",
                remedy="pass a context in text, as '{prompt}\\n'",
                field="context",
            )
        system_prompt = system_prompt or None
        head: list[dict[str, str]] = []
        before = ""
        if system_prompt is not None and _takes_system_turn(tokenizer, system_prompt):
            head = [{"role": "system", "content": system_prompt}]
        elif system_prompt is not None:
            before = f"{system_prompt}\n\n"

        def chat(row: Mapping) -> str:
            turn = {"role": "user", "content": before + row["prompt"]}
            return _rendered(tokenizer, [*head, turn])

        template = tokenizer.chat_template
        return Context(chat, True, str(template), f"chat {fingerprint(template)}", system_prompt)
    return text_context(context)


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> str:
    return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))


def _takes_system_turn(tokenizer: PreTrainedTokenizerBase, system_prompt: str) -> bool:
    """Whether the template makes anything of a system turn; some refuse it, as Gemma's."""
    turns = [{"role": "system", "content": system_prompt}, {"role": "user", "content": "a"}]
    try:
        _rendered(tokenizer, turns)
    except TemplateError:
        return False
    return True


def text_context(text: str) -> Context:
    """The context that is a text in which `{prompt}` is replaced, wherever it stands.

    Raises:
        InputError: there is none in it.
    """
    if "{prompt}" not in text:
        raise InputError.at(
            f"{text!r} has no {{prompt}}", remedy="write it where the prompt goes", field="context"
        )
    return Context(lambda row: text.replace("{prompt}", row["prompt"]), False, text, f"text {text}")


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
        context, system_prompt: of `read_context`, in text.

    Raises:
        InputError: a prompt that is empty or no text, a name that stands twice, no prompts; see
            `read_context`.
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
    read = read_context(context, tokenizer, system_prompt=system_prompt)
    rendered = [read.render({"prompt": text}) for text in texts]
    input_ids = encode_contexts(tokenizer, rendered, chat=read.is_chat)
    return Prompts(ids, input_ids, read.template, read.system_prompt)


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
