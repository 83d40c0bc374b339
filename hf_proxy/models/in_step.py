"""One text that two models write together: each reads it with a cache of its own, token by token.

Both run as `generate` runs them, padding, positions, caches and adapters included; only the loop is
ours, since at every step a token is chosen from the logits of both.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from hf_proxy.models.adapters import check_adapter
from hf_proxy.models.generation import (
    clean_generation,
    contiguous_head,
    end_ids_of,
    pad_id_of,
    padded_inputs,
    up_to_end,
    write_batch,
)
from hf_proxy.models.groups import writing_groups
from hf_proxy.models.logits import next_logits


def generate_in_step(
    expert: Any,
    amateur: Any,
    prompts: list[list[int]],
    amateur_prompts: list[list[int]],
    choose: Callable[[Tensor, Tensor], Tensor],
    *,
    processing_class: PreTrainedTokenizerBase,
    max_new_tokens: int,
    translate: Callable[[list[int]], list[int]],
) -> list[list[int]]:
    """New ids after each prompt, the end-of-text id included where it came.

    Args:
        expert, amateur: unwrapped and in eval mode, see `scoring_mode`.
        prompts, amateur_prompts: ids of the same texts as each of the two counts them.
        choose: from the logits of both, `[B, V]` each on the expert's device, in the dtype of their
            heads, the next token of each row, `[B]`; it may overwrite them.
        processing_class: the expert's tokenizer.
        translate: ids of the expert's as the amateur counts them.

    Raises:
        InputError: PEFT itself cannot write with an adapter, see `check_adapter`.
    """
    for model in (expert, amateur):
        check_adapter(model)
    end_ids = end_ids_of(expert, processing_class)
    pad_id = pad_id_of(processing_class, end_ids)
    # of the amateur any id that it can read: padding is masked, and rows that have ended stand idle
    pads = (pad_id, amateur_prompts[0][0])
    written: list[list[int]] = [[] for _ in prompts]
    with ExitStack() as stack:
        for model, pad in zip((expert, amateur), pads, strict=True):
            config = GenerationConfig(
                max_new_tokens=max_new_tokens,
                eos_token_id=end_ids,
                pad_token_id=pad,
                use_cache=True,
                do_sample=False,
            )
            stack.enter_context(clean_generation(model, config))
            stack.enter_context(contiguous_head(model))
        ways = [
            writing_groups(model, texts, max_new_tokens, partial(write_batch, model, pad))
            for model, texts, pad in zip(
                (expert, amateur), (prompts, amateur_prompts), pads, strict=True
            )
        ]
        for group in _together_in_both(ways):
            inputs = [
                padded_inputs(model, [texts[i] for i in group], pad)
                for model, texts, pad in zip(
                    (expert, amateur), (prompts, amateur_prompts), pads, strict=True
                )
            ]

            def write(own: _Reader, theirs: _Reader) -> Tensor:
                return _write(own, theirs, choose, translate, end_ids, pads, max_new_tokens)

            new_BT = _together((expert, amateur), inputs, write)
            for i, row in zip(group, new_BT.tolist(), strict=True):
                written[i] = up_to_end(row, end_ids)
    return written


def _together_in_both(ways: list[list[list[int]]]) -> list[list[int]]:
    """Which prompts may be written after together where each model has groups of its own."""
    place: dict[int, tuple[int, ...]] = {}
    for groups in ways:
        for number, group in enumerate(groups):
            for i in group:
                place[i] = (*place.get(i, ()), number)
    found: dict[tuple[int, ...], list[int]] = {}
    for i, key in place.items():
        found.setdefault(key, []).append(i)
    return list(found.values())


class _Reader:
    """A model and what it has read so far."""

    def __init__(self, model: Any, ids_BT: Tensor, inputs: dict[str, Any]):
        self._model, self._ids_BT, self._inputs = model, ids_BT, inputs
        self._is_first = True

    def read(self) -> Tensor:
        """Of the next token, `[B, V]`, once what is new has been read."""
        only_new = not self._is_first and self._inputs.get("use_cache")
        inputs = self._model.prepare_inputs_for_generation(
            self._ids_BT,
            next_sequence_length=1 if only_new else None,
            is_first_iteration=self._is_first,
            **self._inputs,
        )
        outputs = self._model(**inputs, return_dict=True)
        # the step of every decoding loop of one's own, see `custom_generate` of transformers
        self._inputs = self._model._update_model_kwargs_for_generation(outputs, self._inputs)
        self._is_first = False
        return next_logits(outputs)

    def append(self, token_B: Tensor) -> None:
        """Give each row its next token."""
        self._ids_BT = torch.cat([self._ids_BT, token_B.to(self._ids_BT.device)[:, None]], dim=1)


def _together(
    models: tuple[Any, Any],
    inputs: list[dict[str, Any]],
    write: Callable[[_Reader, _Reader], Tensor],
) -> Tensor:
    """What `write` gives while both models stand as `generate` sets them up.

    The amateur's `generate` runs inside of the expert's: each prepares caches and adapters, then
    leaves the loop to its `custom_generate`.
    """
    expert, amateur = models
    readers: list[_Reader] = []

    def of_expert(
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        **model_kwargs: Any,
    ) -> Tensor:
        readers.append(_Reader(model, input_ids, model_kwargs))
        return amateur.generate(custom_generate=of_amateur, synced_gpus=False, **inputs[1])

    def of_amateur(
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        **model_kwargs: Any,
    ) -> Tensor:
        return write(readers[0], _Reader(model, input_ids, model_kwargs))

    return expert.generate(custom_generate=of_expert, synced_gpus=False, **inputs[0])


def _write(
    expert: _Reader,
    amateur: _Reader,
    choose: Callable[[Tensor, Tensor], Tensor],
    translate: Callable[[list[int]], list[int]],
    end_ids: list[int],
    pads: tuple[int, int],
    max_new_tokens: int,
) -> Tensor:
    """New ids of a batch, `[B, T]`, until every row has ended."""
    new: list[Tensor] = []
    is_open_B: Tensor | None = None
    while True:
        expert_BV = expert.read()
        token_B = choose(expert_BV, amateur.read().to(expert_BV.device))
        if is_open_B is None:
            is_open_B = torch.ones_like(token_B, dtype=torch.bool)
        token_B = token_B.where(is_open_B, pads[0])
        new.append(token_B)
        is_open_B = is_open_B & ~torch.isin(token_B, token_B.new_tensor(end_ids))
        open_rows = is_open_B.tolist()
        if len(new) == max_new_tokens or not any(open_rows):
            return torch.stack(new, dim=1)
        expert.append(token_B)
        # a row that has ended may hold what the amateur has no word for
        ids = [
            translate([token])[0] if is_open else pads[1]
            for token, is_open in zip(token_B.tolist(), open_rows, strict=True)
        ]
        amateur.append(token_B.new_tensor(ids))
