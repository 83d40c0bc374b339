"""How far a model's positions reach, and lengths whose positions it turns differently."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from hf_proxy.models.access import unwrapped
from hf_proxy.models.adapters import num_virtual_tokens

# kinds of rotary angles that are the same for every length, though some name a length of their own
_STATIC = ("default", "linear", "yarn", "llama3", "proportional")


def window_of(model: Any) -> int | None:
    """How many tokens of text the model's positions reach; None where its config says no end."""
    bare = unwrapped(model)
    window = getattr(bare.config.get_text_config(), "max_position_embeddings", None)
    if window is None or window <= 0:  # XLNet says -1
        return None
    return window - num_virtual_tokens(bare)


def length_kinds(model: nn.Module, num_tokens: Sequence[int]) -> list[tuple[int, ...]]:
    """For each length of a row what decides its rotary angles; rows of one kind may share a batch.

    Some models choose the angles of a whole batch by its longest row: LongRoPE (Phi-3) on either
    side of `original_max_position_embeddings`, dynamic NTK for every length beyond the window.
    Read from the parameters that the model's own modules hold.

    Args:
        num_tokens: that the forward pass reads of each row.
    """
    num_virtual = num_virtual_tokens(unwrapped(model))
    borders = {(border - num_virtual, is_dynamic) for border, is_dynamic in _borders(model)}
    return [
        tuple(
            (length if is_dynamic else border) if length > border else 0
            for border, is_dynamic in sorted(borders)
        )
        for length in num_tokens
    ]


def writing_kinds(
    model: nn.Module, lengths: Sequence[int], max_new_tokens: int
) -> list[tuple[int, ...]]:
    """The same for prompts that are written after: a text that grows over a border is of its own.

    Args:
        lengths: tokens of each prompt.
        max_new_tokens: most tokens behind it.
    """
    longest = [length + max_new_tokens - 1 for length in lengths]  # the last one is never read
    kinds = zip(length_kinds(model, lengths), length_kinds(model, longest), strict=True)
    # where nothing changes on the way they are of one kind; else only texts of one length are
    return [
        now if now == then else (*now, length)
        for length, (now, then) in zip(lengths, kinds, strict=True)
    ]


def _borders(model: nn.Module) -> Iterator[tuple[int, bool]]:
    """Lengths beyond which the angles are others, and whether then each length has its own."""
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    for config in configs.values():
        own = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
        for parameters in _rope_dicts(own):
            kind = str(parameters.get("rope_type", parameters.get("type", "default")))
            if "dynamic" in kind:
                if (window := getattr(config, "max_position_embeddings", None)) is not None:
                    yield window, True
            elif kind not in _STATIC:
                border = parameters.get("original_max_position_embeddings")
                border = border or getattr(config, "original_max_position_embeddings", None)
                if border is not None:
                    yield int(border), False


def _rope_dicts(entries: Any) -> Iterator[dict]:
    """The parameters themselves, which some configs hold by type of layer."""
    if isinstance(entries, dict):
        if "rope_type" in entries or "type" in entries:
            yield entries
        else:
            for value in entries.values():
                yield from _rope_dicts(value)
