"""Chat templates by themselves: what one makes of turns alone, and which names it reads.

A tokenizer renders more into a text than its template and the turns: special tokens, arguments, the
date of the day. Two renderings of one template are one setting only where none of these is in them.
"""

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerBase

from hf_proxy.records.errors import InputError


class _Generation(Extension):
    """`{% generation %}`, which marks what a model wrote and prints nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers has it, but that nothing in it changes from call to call."""
    found = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **how)

    found.filters["tojson"] = tojson
    found.filters["random"] = lambda items: ""
    found.globals |= {"raise_exception": raise_exception, "strftime_now": lambda form: ""}
    found.globals["lipsum"] = lambda *how, **more: ""
    return found


def chat_template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template that turns are rendered by.

    Raises:
        InputError: there is none.
    """
    if not tokenizer.chat_template:
        raise InputError.at(
            "the tokenizer has no chat template",
            remedy="pass a context in text, as '{prompt}\\n'",
            field="context",
        )
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise InputError.at(
            "the tokenizer has several chat templates and none named 'default'",
            remedy="set tokenizer.chat_template to the one to use",
            field="context",
        ) from error


def is_alone(
    template: str, turns: Sequence[Sequence[Mapping[str, str]]], rendered: Sequence[str]
) -> bool:
    """Whether these texts are what the template makes of the turns, and of nothing else.

    Args:
        turns: of each conversation, role and content.
        rendered: its text by the tokenizer.
    """
    try:
        compiled = _environment().from_string(template)
        return all(
            compiled.render(messages=own, add_generation_prompt=True) == text
            for own, text in zip(turns, rendered, strict=True)
        )
    except Exception:  # whatever a template raises where it misses what it was given
        return False


def check_template_kwargs(
    tokenizer: PreTrainedTokenizerBase, template: str, kwargs: Mapping[str, Any]
) -> None:
    """Refuse arguments that the template would not read.

    Raises:
        InputError: naming the argument.
    """
    own = {*inspect.signature(tokenizer.apply_chat_template).parameters, "messages"} - {"kwargs"}
    environment = _environment()
    read = meta.find_undeclared_variables(environment.parse(template))
    offered = sorted(read - own - {*environment.globals} - {*tokenizer.special_tokens_map})
    for name, value in kwargs.items():
        field = f"chat_template_kwargs {name}"
        if name in own:
            raise InputError.at(
                "it is set here, and no argument of the template's own",
                remedy="leave it out",
                field=field,
            )
        if name not in read:
            raise InputError.at(
                f"the chat template does not read it, only {', '.join(offered) or 'the turns'}",
                remedy="leave it out, or use a tokenizer whose template has it",
                field=field,
            )
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError.at(
                f"{value!r:.60} is no value of JSON",
                remedy="give text, a number, true, false, null, a list or a mapping",
                field=field,
            ) from error
