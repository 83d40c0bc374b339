"""Which bytes of a text each token stands for, for any tokenizer.

The tokens are read as text: byte-level symbols, SentencePiece pieces with byte fallback, one
character per byte, or words between blanks. Where they spell the text, their byte spans are known
exactly, also of tokens that end inside a letter, and of slow tokenizers. Where a normaliser has
rewritten the text (NFC), they spell what it has made, whose letters are followed back to the text.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tokenizers import PreTokenizedString, Regex
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

SPIECE_UNDERLINE = "\u2581"  # how SentencePiece writes a space
_BYTE_OF_CHAR = {char: byte for byte, char in bytes_to_unicode().items()}
_BYTE_PIECE = re.compile("<0x([0-9A-Fa-f]{2})>")
_BLANK = re.compile(
    b"|".join(re.escape(chr(code).encode()) for code in range(0x3001) if chr(code).isspace())
)


def byte_level(piece: str) -> bytes | None:
    """Bytes of a piece of byte-level symbols (GPT-2's letters for bytes), if it is one."""
    try:
        return bytes(_BYTE_OF_CHAR[char] for char in piece)
    except KeyError:
        return None


def sentencepiece(piece: str) -> bytes:
    """Bytes of a SentencePiece piece, a byte-fallback one too."""
    byte = _BYTE_PIECE.fullmatch(piece)
    if byte:
        return bytes([int(byte[1], 16)])
    return piece.replace(SPIECE_UNDERLINE, " ").encode()


def char_per_byte(piece: str) -> bytes | None:
    """Bytes of a piece that is one letter for one byte (ByT5), if it is one."""
    return bytes([ord(piece)]) if len(piece) == 1 and ord(piece) < 256 else None


_SCHEMES = (byte_level, sentencepiece, char_per_byte)


def byte_ends(
    tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int], added: dict[int, Any]
) -> Sequence[int] | str:
    """Where each token ends in the bytes of `text`, or why that is not certain."""
    if not ids:
        return "the tokenizer gives no token for it"
    pieces = tokenizer.convert_ids_to_tokens(ids)
    ends = _spelt(text.encode(), ids, pieces, added)
    if ends is not None:
        return ends
    words = _without_affixes(tokenizer, pieces)
    readings: list[tuple[Callable, str, Any]] = [(_spelt_in_words, text, None)]
    rewrites = False
    if tokenizer.is_fast:
        seen, borders = _rewritten(tokenizer, text)
        rewrites = _plain_letters(seen) != _plain_letters(text)
        if not rewrites:
            readings = [(_spelt, seen, borders), *readings, (_spelt_in_words, seen, borders)]
    for read, spelt, traced in readings:
        ends = read(spelt.encode(), ids, words, added)
        if ends is not None and traced is None:
            return ends
        if ends is not None:
            return _followed_back(ends, *traced)
    if tokenizer.unk_token_id in ids:
        return f"the tokenizer has no token for {_first_unknown(tokenizer, text)}"
    if rewrites:
        return "the tokenizer rewrites the text: it drops or changes letters"
    return (
        f"the tokens of {type(tokenizer).__name__} do not spell it by byte-level symbols, "
        f"byte-fallback symbols or words ({' '.join(pieces[:8])} ...)"
    )


def _rewritten(
    tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[str, tuple[list[int], list[int]]]:
    """What the normaliser makes of `text`, and the bytes where both have a border of letters.

    A dummy prefix is left out. Several letters made of one stand between two borders. A letter that
    is gone goes with the one before (a composed accent), a blank with the one behind.
    """
    normalizer = tokenizer.backend_tokenizer.normalizer
    parts = PreTokenizedString(text)
    num_dummy = 0
    if normalizer is not None:
        parts.normalize(normalizer.normalize)
        num_dummy = len(normalizer.normalize_str("a").removesuffix("a"))
    parts.split(lambda _, part: part.split(Regex(r"[\s\S]"), "isolated"))
    byte_at = [0, *np.cumsum([len(char.encode()) for char in text]).tolist()]
    seen, seen_at, text_at = "", [0], [0]
    num_bytes, last_start, last_end = 0, 0, 0
    for letter, (start, end), _ in parts.get_splits("original", "char")[num_dummy:]:
        if start > last_start and num_bytes:
            seen_at.append(num_bytes)
            text_at.append(byte_at[last_end + len(text[last_end:start].rstrip())])
        seen += letter
        num_bytes += len(letter.encode())
        last_start, last_end = start, end
    return seen, ([*seen_at, num_bytes], [*text_at, byte_at[-1]])


def _followed_back(ends: list[int], seen_at: list[int], text_at: list[int]) -> list[int]:
    """Ends in a rewritten text as ends in the text itself.

    One that lies between two borders stays between them where there is a byte to stay on: each
    piece of a letter that was made several is a piece of it, and of no other.
    """
    found = np.rint(np.interp(ends, seen_at, text_at)).astype(int)
    part = np.searchsorted(seen_at, ends, side="right") - 1
    inside = np.asarray(seen_at)[part] < ends
    low, high = (np.asarray(text_at)[part[inside] + step] for step in (0, 1))
    found[inside] = np.clip(found[inside], low + (high > low + 1), np.maximum(high - 1, low))
    return found.tolist()


def _spelt(
    data: bytes, ids: Sequence[int], pieces: Sequence[str], added: dict[int, Any]
) -> list[int] | None:
    """Where each piece ends in `data`, or None where they do not spell it by any scheme."""
    walks = (_walk(data, ids, pieces, added, scheme) for scheme in _SCHEMES)
    return next((ends for ends in walks if ends is not None), None)


def _walk(
    data: bytes,
    ids: Sequence[int],
    pieces: Sequence[str],
    added: dict[int, Any],
    scheme: Callable[[str], bytes | None],
) -> list[int] | None:
    """Where each piece ends in `data`, if all of them together spell it exactly.

    A leading space of the first piece, or of one behind an added token, may be a dummy that the
    tokenizer has put there. Both readings are tried; at most one reaches the end.
    """
    ends: list[int] = []
    other_reading: list[int] = []  # pieces whose dummy reading has not been tried
    dummy_at = -1
    while True:
        place = len(ends)
        at = ends[-1] if ends else 0
        if place == len(pieces):
            if at == len(data):
                return ends
            end = None
        elif ids[place] in added:
            end = _end_of_added(data, at, added[ids[place]])
        else:
            piece = pieces[place]
            spelt = scheme(piece)
            end = None
            opens = place == 0 or ids[place - 1] in added
            if spelt is not None:
                if opens and spelt[:1] == b" " and dummy_at != place:
                    other_reading.append(place)
                elif dummy_at == place:
                    spelt, piece = spelt[1:], piece[1:]
                end = _end_of(data, at, spelt, piece, scheme)
        if end is not None:
            ends.append(end)
        elif other_reading:
            dummy_at = other_reading.pop()
            del ends[dummy_at:]
        else:
            return None


def _end_of(data: bytes, at: int, spelt: bytes, piece: str, scheme) -> int | None:
    if data.startswith(spelt, at):
        return at + len(spelt)
    if scheme is sentencepiece and SPIECE_UNDERLINE in piece:
        # the text holds the very letter that SentencePiece writes for a space
        for char in piece:
            choices = (char.encode(), b" ") if char == SPIECE_UNDERLINE else (char.encode(),)
            match = next((choice for choice in choices if data.startswith(choice, at)), None)
            if match is None:
                return None
            at += len(match)
        return at
    return None


def _end_of_added(data: bytes, at: int, token: Any) -> int | None:
    """An added token stands for its own text, and for the blanks it strips."""
    content = token.content.encode()
    if token.lstrip:
        while not data.startswith(content, at) and (blank := _BLANK.match(data, at)):
            at = blank.end()
    if not data.startswith(content, at):
        return None
    at += len(content)
    if token.rstrip:
        while blank := _BLANK.match(data, at):
            at = blank.end()
    return at


def _spelt_in_words(
    data: bytes, ids: Sequence[int], words: Sequence[str], added: dict[int, Any]
) -> list[int] | None:
    """Where each word ends in `data`, if they spell all but blanks, which go with the next word."""
    ends = []
    at = 0
    for id, word in zip(ids, words, strict=True):
        letters = added[id].content.encode() if id in added else sentencepiece(word).strip()
        while not data.startswith(letters, at) and (blank := _BLANK.match(data, at)):
            at = blank.end()
        if not data.startswith(letters, at):
            return None
        at += len(letters)
        ends.append(at)
    while blank := _BLANK.match(data, at):
        at = blank.end()
    return [*ends[:-1], at] if at == len(data) else None


def _without_affixes(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[str]) -> list[str]:
    """Pieces without the marks that they go on a word or end it (`##ing`, `ing</w>`)."""
    model = tokenizer.backend_tokenizer.model if tokenizer.is_fast else None
    prefix = getattr(model, "continuing_subword_prefix", None) or ""
    suffix = getattr(model, "end_of_word_suffix", None) or ""
    return [piece.removeprefix(prefix).removesuffix(suffix) for piece in pieces]


def _first_unknown(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    if tokenizer.is_fast:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        for id, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if id == tokenizer.unk_token_id and text[start:end] != tokenizer.unk_token:
                return f"{text[start:end]!r} at character {start}"
    return "a part of it"


def _plain_letters(text: str) -> str:
    """The letters without blanks, with canonical and compatible forms made one."""
    return "".join(unicodedata.normalize("NFKC", text).replace(SPIECE_UNDERLINE, " ").split())
