"""Texts as ids with the bytes that each stands for; what makes two tokenizers the same."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from hf_proxy.records.errors import InputError
from hf_proxy.records.storage import fingerprint
from hf_proxy.tokens.spans import byte_ends


def tokenizer_of(processing_class: Any) -> PreTrainedTokenizerBase:
    """The tokenizer that a processing class is, or that a processor holds.

    Raises:
        InputError: it is none and holds none.
    """
    for found in (processing_class, getattr(processing_class, "tokenizer", None)):
        if isinstance(found, PreTrainedTokenizerBase):
            return found
    raise InputError.at(
        f"{type(processing_class).__name__} is no tokenizer and holds none",
        remedy="pass a tokenizer, or a processor that has one",
        field="processing_class",
    )


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or a hub id; nothing of it is run.

    Raises:
        InputError: there is none.
    """
    from transformers import AutoTokenizer  # it loads torch

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source))
        if not set(tokenizer.get_vocab()) - set(tokenizer.get_added_vocab()):
            # of a model's folder that holds none some are made up, empty
            raise ValueError("it has no tokens")
        return tokenizer
    except Exception as error:  # the libraries below raise whatever they come upon
        raise InputError.at(
            f"no tokenizer can be had ({type(error).__name__})",
            remedy="name the folder of a model, or a hub id that is in the cache",
            source=source,
            field="tokenizer",
        ) from error


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of everything that decides which ids a text gets; not path, padding or truncation.

    A pad token that was added behind the vocabulary, as training scripts do, changes nothing.
    """
    added = [
        [id, token.content, token.lstrip, token.rstrip, token.single_word, token.normalized]
        for id, token in sorted(tokenizer.added_tokens_decoder.items())
    ]
    added_ids = {id for id, *_ in added}
    named = tokenizer.special_tokens_map
    pad = named.pop("pad_token", None)
    last = max(tokenizer.get_vocab().values(), default=None)  # ids may have gaps
    if added and added[-1][:2] == [last, pad] and pad not in named.values():
        added.pop()
    content: dict[str, Any] = {"added": added, "split": tokenizer.split_special_tokens}
    if tokenizer.is_fast:
        parts = json.loads(tokenizer.backend_tokenizer.to_str())
        names = ("model", "normalizer", "pre_tokenizer", "post_processor", "decoder")
        content |= {name: parts[name] for name in names}
    else:
        content["class"] = type(tokenizer).__name__
        content |= {
            name: getattr(tokenizer, name, None) for name in ("legacy", "special_tokens_pattern")
        }
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
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    if chat:
        return encoded
    # read off a letter, since an empty text would not tell what stands before it from what behind
    letter = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    num_before = next(
        start for start in range(len(full)) if full[start : start + len(letter)] == letter
    )
    before = full[:num_before]
    return [ids if ids[:1] == [tokenizer.bos_token_id] else before + ids for ids in encoded]


def encode_traces(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> list[tuple[list[int], np.ndarray] | str]:
    """Ids of each text without special tokens, and the byte span `[n, 2]` of each id.

    Spans tile the bytes of the text in order. Only a tokenizer's dummy leading-space marker covers
    no byte. Where the tokens do not stand for the text, there is a sentence instead that says why.
    """
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    added = tokenizer.added_tokens_decoder
    results: list[tuple[list[int], np.ndarray] | str] = []
    for text, ids in zip(texts, encoded, strict=True):
        ends = byte_ends(tokenizer, text, ids, added)
        spans = ends if isinstance(ends, str) else np.array([[0, *ends[:-1]], ends], np.int64).T
        results.append(spans if isinstance(spans, str) else (ids, spans))
    return results
