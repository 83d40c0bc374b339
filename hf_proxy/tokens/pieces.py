"""The bytes that an id stands for on its own, without the text that it came from."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from hf_proxy.records.errors import InputError
from hf_proxy.tokens.spans import SPIECE_UNDERLINE, byte_level, char_per_byte, sentencepiece


class SpeltId(NamedTuple):
    """What an id stands for; a special token's text is its name, not letters."""

    data: bytes
    is_special: bool


class IdSpeller:
    """The bytes of ids, for one tokenizer: its vocabulary is looked through once.

    Raises:
        InputError: the tokenizer's pieces are no symbols that spell bytes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self._scheme = _scheme_of(tokenizer)
        self._added = tokenizer.added_tokens_decoder
        self._size = max(tokenizer.get_vocab().values(), default=-1) + 1

    def spell(self, ids: Sequence[int]) -> list[SpeltId] | str:
        """The bytes of each id, or a sentence that says which has none."""
        spelt = []
        for id in ids:
            if id in self._added:
                token = self._added[id]
                spelt.append(SpeltId(token.content.encode(), token.special))
                continue
            known = self._tokenizer.convert_ids_to_tokens([id]) if 0 <= id < self._size else [None]
            data = None if known[0] is None else self._scheme(known[0])
            if data is None:
                return f"id {id} is none of the tokenizer's {self._size}"
            spelt.append(SpeltId(data, False))
        return spelt


def _scheme_of(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], bytes | None]:
    """How the vocabulary writes bytes, told by how it writes a blank."""
    vocabulary = tokenizer.get_vocab()
    if "\u0120" in vocabulary:  # a blank in GPT-2's letters for bytes
        return byte_level
    if SPIECE_UNDERLINE in vocabulary or "<0x20>" in vocabulary:
        return sentencepiece
    if " " in vocabulary and "\xff" in vocabulary:
        return char_per_byte
    raise InputError.at(
        f"the pieces of {type(tokenizer).__name__} do not tell their bytes",
        remedy="name the server's own tokenizer",
        field="tokenizer",
    )
