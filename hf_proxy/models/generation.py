"""Ids that a model writes after a batch of prompts: plain greedy or plain sampling, seeded.

Nothing of the model's own generation config is left in: temperatures, penalties and cut-offs that a
model ships with would make another distribution of it than the one that is measured.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
)

from hf_proxy.models.access import adapters_off, head_width, output_head, unwrapped
from hf_proxy.models.adapters import active_config, check_adapter, generation_inputs
from hf_proxy.models.groups import writing_groups
from hf_proxy.records.errors import InputError
from hf_proxy.records.storage import fingerprint


def end_ids_of(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end a text: the tokenizer's, and those that the model was tuned to end with.

    Raises:
        ValueError: there are none, or none that the model's output head can give.
    """
    configured = unwrapped(model).generation_config.eos_token_id
    ends = [tokenizer.eos_token_id]
    ends += configured if isinstance(configured, list) else [configured]
    found = sorted({token for token in ends if token is not None})
    if not found:
        raise InputError("the tokenizer has no end-of-text token; set processing_class.eos_token")
    width = head_width(unwrapped(model))
    if found[0] >= width:
        raise InputError(
            f"the end-of-text ids {found} are beyond the model's {width} output rows, so no text "
            "could end; resize its embeddings or use its own tokenizer"
        )
    return found


def vocabulary_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids that stand for a token; between them may lie some that do not, also below `len`."""
    return {*tokenizer.get_vocab().values(), *tokenizer.added_tokens_decoder}


def generate(
    model: Any,
    prompts: list[list[int]],
    *,
    processing_class: PreTrainedTokenizerBase,
    max_new_tokens: int,
    temperature: float,
    seed: Sequence[int],
    allowed: Iterable[int] | None = None,
) -> list[list[int]]:
    """New ids after each prompt, the end-of-text id included where it came.

    With an adapter through the model as PEFT runs it, so equal to `PeftModel.generate`.

    Args:
        model: unwrapped and in eval mode, see `scoring_mode`.
        prompts: ids of each; padded on the left, all in one batch where the adapter allows it.
        temperature: 0: greedy.
        seed: numbers that decide the draws; the process's own random streams stay as they are.
        allowed: ids that may be written beside those that end a text; None: the vocabulary's.

    Raises:
        InputError: PEFT itself cannot write with this adapter, see `check_adapter`.
    """
    check_adapter(model)
    end_ids = end_ids_of(model, processing_class)
    pad_id = pad_id_of(processing_class, end_ids)
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0}
    config = GenerationConfig(eos_token_id=end_ids, pad_token_id=pad_id, use_cache=True, **sampling)
    trajectories: list[list[int]] = [[] for _ in prompts]
    allowed = vocabulary_ids(processing_class) if allowed is None else allowed
    only = LogitsProcessorList([OnlyTokens({*allowed, *end_ids}, head_width(model))])
    write = partial(write_batch, model, pad_id)
    try_one = partial(write, prompts[:1], only, 1)
    with clean_generation(model, config), contiguous_head(model), _named_failure(model, try_one):
        with _own_draws(model.device, seed):  # their measurement draws too
            groups = writing_groups(model, prompts, max_new_tokens, write)
        with _own_draws(model.device, seed):
            for group in groups:
                rows = write([prompts[i] for i in group], only, max_new_tokens)
                for i, row in zip(group, rows, strict=True):
                    trajectories[i] = up_to_end(row, end_ids)
    return trajectories


def write_batch(
    model: Any,
    pad_id: int,
    prompts: list[list[int]],
    processors: LogitsProcessorList,
    max_new_tokens: int,
) -> list[list[int]]:
    """What stands behind each prompt of one batch, padding behind its end included."""
    found_BT = model.generate(
        logits_processor=processors,
        max_new_tokens=max_new_tokens,
        synced_gpus=False,  # no rank waits for another here, see `whole`
        **padded_inputs(model, prompts, pad_id),
    )
    return found_BT[:, max(map(len, prompts)) :].tolist()


def pad_id_of(tokenizer: PreTrainedTokenizerBase, end_ids: list[int]) -> int:
    """The id that fills a batch: the tokenizer's own, else one that ends a text."""
    pad_id: int | None = tokenizer.pad_token_id
    return end_ids[0] if pad_id is None else pad_id


def padded_inputs(model: Any, prompts: list[list[int]], pad_id: int) -> dict[str, Any]:
    """What `model.generate` takes of one batch, padded on the left."""
    width = max(map(len, prompts))
    ids_BT = torch.tensor([[pad_id] * (width - len(p)) + p for p in prompts])
    mask_BT = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return {
        "input_ids": ids_BT.to(model.device),
        "attention_mask": mask_BT.to(model.device),
        **generation_inputs(model, prompts),
    }


def up_to_end(ids: list[int], end_ids: list[int]) -> list[int]:
    """A row without the padding behind its end."""
    ends = [place for place, token in enumerate(ids) if token in end_ids]
    return ids[: ends[0] + 1] if ends else ids


class OnlyTokens(LogitsProcessor):
    """No id without a token: heads have rows between and beyond them, which stand for nothing."""

    def __init__(self, ids: set[int], width: int):
        self.banned_V = torch.ones(width, dtype=torch.bool)
        self.banned_V[[id for id in ids if id < width]] = False

    def __call__(self, input_ids: Tensor | None, scores: Tensor) -> Tensor:
        """The scores with those of other ids at minus infinity."""
        self.banned_V = self.banned_V.to(scores.device)
        return scores.masked_fill(self.banned_V, -torch.inf)


@contextmanager
def clean_generation(model: Any, config: GenerationConfig) -> Iterator[None]:
    """`generate` fills what a caller leaves open from the model's own config; here it has none.

    PEFT hands the config and its own preparation of inputs on to modules inside, and leaves them
    there: every module gets back what it had.
    """
    names = ("generation_config", "prepare_inputs_for_generation")
    before = [(m, {n: vars(m)[n] for n in names if n in vars(m)}) for m in model.modules()]
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner.generation_config = config
    if "generation_config" in vars(model):
        model.generation_config = config
    try:
        with warnings.catch_warnings():
            # harmless: such prompts are grouped so that none is padded
            warnings.filterwarnings("ignore", "Position ids are not supported")
            yield
    finally:
        for module, own in before:
            for name in names:
                vars(module).pop(name, None)
            vars(module).update(own)


@contextmanager
def _named_failure(model: Any, try_one: Callable[[], Any]) -> Iterator[None]:
    """What PEFT cannot write, and the model without the adapter can, is said by its name.

    Prefixes are keys and values of one shape for every layer, and there are models whose layers
    keep another shape or a state (latent attention, a recurrence); adapters may wrap layers whose
    output their model takes apart.
    """
    try:
        yield
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        config = active_config(model)
        if config is None:
            raise
        try:
            with adapters_off(model):
                try_one()
        except Exception:  # it is not the adapter
            raise error from None
        inner = type(model.get_base_model()).__name__
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise InputError.at(
            f"PEFT cannot write with an adapter of type {kind} on {inner} "
            f"({type(error).__name__}: {error})",
            remedy="use an adapter of another type, as LORA on the attention's projections",
            field="adapter",
        ) from error


@contextmanager
def contiguous_head(model: Any) -> Iterator[None]:
    """Hand the output head a contiguous input.

    The prompts' last positions are a strided slice. A head that needs no gradient (frozen, or under
    an adapter) then multiplies as a batch of matrices, on a CPU with a copy of its weight for each
    row: 24 copies of 151,936 x 1,536 for a batch of 24, and minutes instead of milliseconds.
    """

    def contiguous(module: Any, args: tuple) -> tuple:
        return (args[0].contiguous(), *args[1:])

    handle = output_head(model).register_forward_pre_hook(contiguous)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _own_draws(device: torch.device, seed: Sequence[int]) -> Iterator[None]:
    """Random numbers that depend on `seed` alone; the process's own streams stay."""
    kind = "cuda" if device.type == "cpu" else device.type
    # manual_seed reaches every device of the process, so all of their streams are kept
    every = range(torch.get_device_module(kind).device_count())
    with torch.random.fork_rng(every, device_type=kind):
        torch.manual_seed(int(fingerprint(list(seed)), 16) % 2**63)
        yield
