"""An amateur and its own tokenizer: only with it can be seen that it reads ids as meant."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from hf_proxy.models.access import unwrapped
from hf_proxy.records.errors import InputError
from hf_proxy.tokens.tokenizers import load_tokenizer, tokenizer_of


def amateur_model(amateur: Any) -> Any:
    """The model, loaded where a folder or hub id is given."""
    if not isinstance(amateur, (str, Path)):
        return amateur
    # new modules draw their first weights, which would move a training's own stream
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        return AutoModelForCausalLM.from_pretrained(amateur, dtype="auto", use_safetensors=True)


def amateur_tokenizer(amateur: Any, given: Any) -> PreTrainedTokenizerBase:
    """The one that is given, else the one of the folder or hub id that the model was loaded from.

    Args:
        amateur: a model; with adapters it is named by what is under them.
        given: its tokenizer, or a processor that holds it; None: it is read.

    Raises:
        InputError: none is given, and none can be read.
    """
    if given is not None:
        return tokenizer_of(given)
    remedy = "give it: amateur_processing_class=AutoTokenizer.from_pretrained(...)"
    name = str(getattr(unwrapped(amateur), "name_or_path", None) or "")
    if not name:
        raise InputError.at(
            "the amateur does not say where it was loaded from, so its tokenizer cannot be read",
            remedy=remedy,
            field="amateur_processing_class",
        )
    try:
        return load_tokenizer(name)
    except InputError as error:
        raise InputError.at(
            "the amateur was loaded from here, and no tokenizer can be read",
            remedy=remedy,
            source=name,
            field="amateur_processing_class",
        ) from error
