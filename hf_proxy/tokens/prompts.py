"""What a model reads before it answers: contexts of traces, prompts of trajectories."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from hf_proxy.records.defaults import SYSTEM_PROMPT
from hf_proxy.records.errors import InputError, check_unique_ids
from hf_proxy.records.storage import fingerprint
from hf_proxy.tokens.messages import is_messages, text_of_prompt, turns_of
from hf_proxy.tokens.templates import chat_template_of, check_template_kwargs, is_alone
from hf_proxy.tokens.tokenizers import encode_contexts


@dataclass(frozen=True)
class Context:
    """How a row's question becomes the text that stands before its answer.

    Attributes:
        render: row to text; reads the row's `prompt`.
        is_chat: the text is a chat template's, which brings its own special tokens.
        template: the chat template, the text that holds `{prompt}`, or the function's name.
        setting: kind, and text, hash or name; see `setting_of`.
        system_prompt: the chat's system turn, where it has one of ours.
        chat_template_kwargs: what the chat template is given beside the turns.
        turns: row to the turns of its chat.
    """

    render: Callable[[Mapping], str]
    is_chat: bool
    template: str
    setting: str
    system_prompt: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    turns: Callable[[Mapping], list[dict[str, str]]] | None = None

    def setting_of(self, rows: Sequence[Mapping], rendered: Sequence[str]) -> str:
        """What a setting records of these contexts, whatever their order.

        Where a chat's text holds more than template and turns say (a date, special tokens, what
        `chat_template_kwargs` changed) its hash goes along: equal settings mean equal texts.

        Args:
            rows: what they were rendered from.
            rendered: the text of each.
        """
        if self.turns is None:
            return self.setting
        if is_alone(self.template, [self.turns(row) for row in rows], rendered):
            return self.setting
        return f"{self.setting} rendered {fingerprint(sorted(rendered))}"


def read_context(
    context: str | Callable[[Mapping], str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str | None = None,
    system_prompt: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> Context:
    """The context that a user names. The one way in which contexts are rendered.

    Args:
        context: `"chat"`: the tokenizer's template, the prompt as user turn, with its generation
            prompt; text in which `{prompt}` is replaced; or a function of the row.
        name: of the function.
        system_prompt: for `"chat"`; None or empty: the template's own. Where the template
            refuses a system turn it stands before the question, in the user's.
        chat_template_kwargs: for `"chat"`: what its template reads beside the turns, as
            `{"enable_thinking": False}` (Qwen3).

    Raises:
        InputError: a text without `{prompt}`, a tokenizer without template, arguments that no
            template would read.
    """
    kwargs = dict(chat_template_kwargs or {})
    if kwargs and context != "chat":
        raise InputError.at(
            "there is no chat template under this context, so they would change nothing",
            remedy="set the context to 'chat', or leave them out",
            field="chat_template_kwargs",
        )
    if callable(context):
        return Context(context, False, str(name), f"function {name}")
    if context == "chat":
        template = chat_template_of(tokenizer)
        check_template_kwargs(tokenizer, template, kwargs)
        system_prompt = system_prompt or None
        head: list[dict[str, str]] = []
        before = ""
        if system_prompt is not None and _takes_system_turn(tokenizer, system_prompt, kwargs):
            head = [{"role": "system", "content": system_prompt}]
        elif system_prompt is not None:
            before = f"{system_prompt}\n\n"

        def turns(row: Mapping) -> list[dict[str, str]]:
            prompt = row["prompt"]
            if not is_messages(prompt):
                return [*head, {"role": "user", "content": before + prompt}]
            own = [dict(turn) for turn in prompt]
            if own[0]["role"] != "user":  # a system turn of its own stands for ours
                return own
            own[0]["content"] = before + own[0]["content"]
            return [*head, *own]

        def chat(row: Mapping) -> str:
            try:
                return _rendered(tokenizer, turns(row), kwargs)
            except TemplateError as error:
                raise InputError.at(
                    f"the chat template refuses it ({error})",
                    remedy="mend chat_template_kwargs, or pass a context in text",
                    field="context",
                ) from error

        # the hash of the attribute as it stands, as settings have held it from the first version
        hashed = fingerprint(tokenizer.chat_template)
        whole = str(tokenizer.chat_template)
        return Context(chat, True, whole, f"chat {hashed}", system_prompt, kwargs, turns)
    return text_context(context)


def _rendered(
    tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], kwargs: Mapping[str, Any]
) -> str:
    return str(
        tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, **kwargs)
    )


def _takes_system_turn(
    tokenizer: PreTrainedTokenizerBase, system_prompt: str, kwargs: Mapping[str, Any]
) -> bool:
    """Whether the template makes anything of a system turn; some refuse it, as Gemma's."""
    turns = [{"role": "system", "content": system_prompt}, {"role": "user", "content": "a"}]
    try:
        _rendered(tokenizer, turns, kwargs)
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

    def render(row: Mapping) -> str:
        return text.replace("{prompt}", text_of_prompt(row["prompt"], {"field": "prompt"}))

    return Context(render, False, text, f"text {text}")


@dataclass(frozen=True)
class Prompts:
    """Prompts as ids, with what they were made of.

    Attributes:
        example_id: [n].
        input_ids: ids of each.
        template: text of the chat template, or the context text.
        system_prompt: where the template was given one.
        chat_template_kwargs: what else it was given.
    """

    example_id: list[str]
    input_ids: list[list[int]]
    template: str
    system_prompt: str | None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)


def read_prompts(
    prompts: Dataset | Sequence[str] | Sequence[Sequence[Mapping]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    context: str = "chat",
    system_prompt: str | None = SYSTEM_PROMPT,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> Prompts:
    """Prompts as the expert reads them.

    Args:
        prompts: rows with `prompt` and, if they have names, `example_id`; or prompts alone. Each is
            a text, or a list of chat messages. Under `"chat"` these are the turns, and a system
            turn among them stands for `system_prompt`; under a text they are `text_of_messages`.
        context, system_prompt, chat_template_kwargs: of `read_context`, in text.

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
        texts: list[Any] = list(prompts["prompt"])
        named = "example_id" in prompts.column_names
        ids = [str(i) for i in (prompts["example_id"] if named else range(len(texts)))]
    else:
        texts = list(prompts)
        ids = [str(i) for i in range(len(texts))]
    if not texts:
        raise InputError.at("there are no prompts", remedy="give at least one")
    check_unique_ids(ids)
    for number, (id, text) in enumerate(zip(ids, texts, strict=True)):
        if is_messages(text):
            texts[number] = turns_of(text, {"row": id, "field": "prompt"})
        elif not isinstance(text, str) or not text:
            raise InputError.at(
                f"expected text, found {text!r:.40}",
                remedy="fill it or drop the row",
                row=id,
                field="prompt",
            )
    read = read_context(
        context,
        tokenizer,
        system_prompt=system_prompt,
        chat_template_kwargs=chat_template_kwargs,
    )
    rendered = [read.render({"prompt": text}) for text in texts]
    input_ids = encode_contexts(tokenizer, rendered, chat=read.is_chat)
    return Prompts(ids, input_ids, read.template, read.system_prompt, read.chat_template_kwargs)


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
