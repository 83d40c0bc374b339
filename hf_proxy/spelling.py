"""Which bytes of a text each token stands for, for any tokenizer; and what makes two the same.

First the tokens are read as text: byte-level symbols, SentencePiece pieces with byte fallback, or one
character per byte. Where they spell the text, their byte spans are known exactly, also of tokens that
end inside a letter, and of slow tokenizers. Only where a normaliser has rewritten the text (NFC), the
character offsets of a fast tokenizer are used instead.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from hf_proxy.schemas import fingerprint

SPIECE_UNDERLINE = "\u2581"  # how SentencePiece writes a space
_BYTE_OF_CHAR = {char: byte for byte, char in bytes_to_unicode().items()}
_BYTE_PIECE = re.compile("<0x([0-9A-Fa-f]{2})>")


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of everything that decides which ids a text gets; not path, padding or truncation.

    A pad token that was added behind the vocabulary, as training scripts do, changes nothing.
    """
    added = [
        [id, token.content, token.lstrip, token.rstrip, token.single_word, token.normalized]
        for id, token in sorted(tokenizer.added_tokens_decoder.items())
    ]
    added_ids = {id for id, *_ in added}
    if added and added[-1][1] == tokenizer.pad_token and added[-1][0] == len(tokenizer) - 1:
        added.pop()
    content: dict[str, Any] = {"added": added}
    if tokenizer.is_fast:
        parts = json.loads(tokenizer.backend_tokenizer.to_str())
        names = ("model", "normalizer", "pre_tokenizer", "post_processor", "decoder")
        content |= {name: parts[name] for name in names}
    else:
        content["class"] = type(tokenizer).__name__
        content["vocabulary"] = sorted(
            (id, token) for token, id in tokenizer.get_vocab().items() if id not in added_ids
        )
        if hasattr(tokenizer, "sp_model"):
            model = tokenizer.sp_model.serialized_model_proto()
            content["sentencepiece"] = hashlib.sha256(model).hexdigest()
    return fingerprint(content)


def encode_contexts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, chat: bool
) -> list[list[int]]:
    """Ids of each context, with the special tokens that the tokenizer puts before a text.

    Those it puts behind (an EOS) would part context and trace, so they are left out. A text that
    brings its own BOS, as chat templates do, gets no second one.
    """
    encoded = []
    for text in texts:
        plain = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        has_bos = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        if chat or has_bos:
            encoded.append(plain)
            continue
        full = tokenizer(text, verbose=False)["input_ids"]
        num_before = next(
            start
            for start in range(len(full) - len(plain) + 1)
            if full[start : start + len(plain)] == plain
        )
        encoded.append(full[:num_before] + plain)
    return encoded


def encode_traces(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> list[tuple[list[int], np.ndarray] | str]:
    """Ids of each text without special tokens, and the byte span `[n, 2]` of each id.

    Spans tile the bytes of the text in order. Only a tokenizer's dummy leading-space marker covers no
    byte. Where the tokens do not stand for the text, there is a sentence instead that says why.
    """
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_offsets_mapping=tokenizer.is_fast,
        return_attention_mask=False,
        verbose=False,
    )
    added = {id: token for id, token in tokenizer.added_tokens_decoder.items()}
    results: list[tuple[list[int], np.ndarray] | str] = []
    for index, (text, ids) in enumerate(zip(texts, encoded["input_ids"], strict=True)):
        pieces = tokenizer.convert_ids_to_tokens(ids)
        spans: np.ndarray | str | None = _spans_by_spelling(text, ids, pieces, added)
        if spans is None and tokenizer.is_fast:
            offsets = encoded["offset_mapping"][index]
            spans = _spans_by_offsets(tokenizer, text, ids, pieces, offsets)
        elif spans is None:
            spans = (
                f"{type(tokenizer).__name__} gives no offsets, and its tokens do not spell the trace "
                f"by byte-level or byte-fallback symbols ({' '.join(pieces[:8])} ...)"
            )
        results.append(spans if isinstance(spans, str) else (ids, spans))
    return results


def _byte_level(piece: str) -> bytes | None:
    try:
        return bytes(_BYTE_OF_CHAR[char] for char in piece)
    except KeyError:
        return None


def _sentencepiece(piece: str) -> bytes | None:
    byte = _BYTE_PIECE.fullmatch(piece)
    if byte:
        return bytes([int(byte[1], 16)])
    return piece.replace(SPIECE_UNDERLINE, " ").encode()


def _char_per_byte(piece: str) -> bytes | None:
    return bytes([ord(piece)]) if len(piece) == 1 and ord(piece) < 256 else None


_SCHEMES = (_byte_level, _sentencepiece, _char_per_byte)


def _spans_by_spelling(
    text: str, ids: Sequence[int], pieces: Sequence[str], added: dict[int, Any]
) -> np.ndarray | None:
    """Spans from what the pieces spell, or None where they do not spell `text`."""
    data = text.encode()
    for scheme in _SCHEMES:
        ends = _walk(data, ids, pieces, added, scheme)
        if ends is not None:
            return np.array([[0, *ends[:-1]], ends], dtype=np.int64).T
    return None


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
            spelt = scheme(pieces[place])
            end = None
            opens = place == 0 or ids[place - 1] in added
            if spelt is not None:
                if opens and spelt[:1] == b" " and dummy_at != place:
                    other_reading.append(place)
                elif dummy_at == place:
                    spelt = spelt[1:]
                end = _end_of(data, at, spelt, pieces[place], scheme)
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
    if scheme is _sentencepiece and SPIECE_UNDERLINE in piece:
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
        while not data.startswith(content, at) and data[at : at + 1].isspace():
            at += 1
    if not data.startswith(content, at):
        return None
    at += len(content)
    if token.rstrip:
        while data[at : at + 1].isspace():
            at += 1
    return at


def _spans_by_offsets(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    ids: Sequence[int],
    pieces: Sequence[str],
    offsets: Sequence[tuple[int, int]],
) -> np.ndarray | str:
    """Spans from character offsets, where a normaliser has rewritten the text.

    Tokens whose offsets overlap share those letters: their bytes are cut in the proportion of the
    tokens' own bytes, exactly where those are the same bytes. What no offset covers goes to the token
    before it (a combining mark that was composed), blanks to the token behind.
    """
    unknown = tokenizer.unk_token_id
    for id, (start, end) in zip(ids, offsets, strict=True):
        if id == unknown and text[start:end] != tokenizer.unk_token:
            return f"the tokenizer has no token for {text[start:end]!r} at character {start}"
    normalizer = tokenizer.backend_tokenizer.normalizer
    seen = text if normalizer is None else normalizer.normalize_str(text)
    if _plain_letters(seen) != _plain_letters(text):
        return (
            "the tokenizer rewrites the text (it drops or changes letters), so no span is certain"
        )
    groups: list[list[int]] = []  # tokens that share letters
    starts: list[int] = []
    ends: list[int] = []
    for place, (start, end) in enumerate(offsets):
        if groups and (start < ends[-1] or start == end):
            groups[-1].append(place)
            ends[-1] = max(ends[-1], end)
        else:
            groups.append([place])
            starts.append(start)
            ends.append(end)
        if start < starts[-1]:
            return f"the tokenizer's offsets go back at token {place} ({pieces[place]!r})"
    byte_at = np.concatenate([[0], np.cumsum([len(char.encode()) for char in text])])
    spans = np.empty((len(ids), 2), dtype=np.int64)
    begin = 0
    for number, group in enumerate(groups):
        if number + 1 < len(groups):
            gap = text[ends[number] : starts[number + 1]]
            finish = ends[number] + len(gap.rstrip())
        else:
            finish = len(text)
        first, last = int(byte_at[begin]), int(byte_at[finish])
        spelt = [_byte_level(pieces[place]) or pieces[place].encode() for place in group]
        total = sum(map(len, spelt))
        cuts = [first]
        for piece in spelt:
            done = cuts[-1] - first if total == last - first else None
            if done is not None:
                cuts.append(cuts[-1] + len(piece))
            else:
                share = sum(map(len, spelt[: len(cuts)])) / total
                cuts.append(first + round((last - first) * share))
        spans[group, 0], spans[group, 1] = cuts[:-1], cuts[1:]
        begin = finish
    return spans


def _plain_letters(text: str) -> str:
    """The letters without blanks, with canonical and compatible forms made one."""
    return "".join(unicodedata.normalize("NFKC", text).replace(SPIECE_UNDERLINE, " ").split())
