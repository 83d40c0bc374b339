"""From ids that a model wrote to the text in which its answer is looked for."""

from typing import Any

from hf_proxy.answers.finding import is_thinking_mark, opens_thinking


def text_to_grade(tokenizer: Any, prompt: list[int], ids: list[int]) -> str:
    """What a model wrote, with every mark of thinking.

    Some tokenizers count such marks among the special tokens, which a text is shown without; some
    templates open the thinking at the end of the prompt.
    """
    special = {id: str(t) for id, t in tokenizer.added_tokens_decoder.items() if t.special}
    marks = {id for id, token in special.items() if is_thinking_mark(token)}
    if marks & set(ids):
        shown = [id for id in ids if id in marks or id not in special]
        text = str(tokenizer.decode(shown, skip_special_tokens=False))
    else:
        text = str(tokenizer.decode(ids, skip_special_tokens=True))
    opened = opens_thinking(str(tokenizer.decode(prompt, skip_special_tokens=False)))
    return f"<think>{text}" if opened else text
