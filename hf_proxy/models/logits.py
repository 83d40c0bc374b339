"""The only place that asks a model for logits, `[C, V]` at a time: `[T, V]` never exists.

The model's own forward runs, through every wrapper's hooks (FSDP2 and ZeRO-3 gather their weights
there). A hook in front of its output head takes the hidden states at the label positions, applies
the head to them in chunks, and lets a single row pass on. What the model does to logits after its
head (scale, softcap) is measured on the model itself, see `measure_logit_transform`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, no_type_check

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hf_proxy.models.access import output_head, unwrapped
from hf_proxy.models.adapters import adapter_inputs, num_virtual_tokens, text_states
from hf_proxy.models.batching import TokenBatch, token_batch
from hf_proxy.records.errors import InputError

LABELS_PER_CHUNK = 128  # C; chosen here: 256 gained nothing in bfloat16 on two CPU cores
# Rows of a chunk that meet the softmax together, chosen here. On a CPU a few stay in cache, 2x
# faster than all C; elsewhere half of C, so that three fp32 copies of a block stay under 2 * C * V
# * 4 bytes.
CPU_ROWS_PER_BLOCK = 4
ROWS_PER_BLOCK = 64


@dataclass(frozen=True)
class LogitTransform:
    """`logit = cap * tanh(scale * head / cap)`, or `scale * head` without a cap."""

    scale: float = 1.0
    cap: float | None = None

    @property
    def is_identity(self) -> bool:
        """Whether the head's output is the logits already."""
        return self.scale == 1.0 and self.cap is None

    def __call__(self, logits: Tensor) -> Tensor:
        """Apply in place."""
        if self.scale != 1.0:
            logits.mul_(self.scale)
        if self.cap is not None:
            logits.div_(self.cap).tanh_().mul_(self.cap)
        return logits


def _forward(model: nn.Module, batch: TokenBatch, device: torch.device) -> Any:
    inputs: dict[str, Any] = {"input_ids": batch.input_ids_BT.to(device)}
    inputs |= adapter_inputs(model, batch)
    if batch.position_ids_BT is not None:
        inputs["position_ids"] = batch.position_ids_BT.to(device)
    # use_cache=False is no mere economy: with a cache, packed rows attend to each other in silence
    return model(**inputs, use_cache=False)


def read_logits(
    model: nn.Module,
    batch: TokenBatch,
    consume: Callable[[Tensor, slice], None],
    *,
    device: torch.device,
) -> None:
    """One forward pass; `consume(head_CV, where)` sees the head's output for each chunk of labels.

    `head_CV` is what the head gave, in the dtype it computes in, before the model's own scale or
    softcap; it is overwritten by the next chunk. `where` is the slice of `batch.label_N`.

    Args:
        model: as `scoring_mode` yields it.
        device: where the model takes its input.

    Raises:
        ValueError: the model's forward never calls its output head as a module.
    """

    def chunks(head: nn.Module, hidden_ND: Tensor, index_N: Tensor) -> None:
        apply = _chunked_head(head, hidden_ND, len(index_N))
        for start in range(0, len(index_N), LABELS_PER_CHUNK):
            where = slice(start, min(start + LABELS_PER_CHUNK, len(index_N)))
            consume(apply(hidden_ND[index_N[where]]), where)

    _before_head(model, batch, chunks, device=device)


def read_logit_pairs(
    expert: nn.Module,
    amateur: nn.Module,
    batch: TokenBatch,
    amateur_batch: TokenBatch,
    consume: Callable[[Tensor, Tensor, slice], None],
    *,
    device: torch.device,
    amateur_device: torch.device,
) -> None:
    """One forward pass of each; `consume(expert_CV, amateur_CV, where)` sees the same labels.

    As `read_logits` for the expert. The amateur's hidden states at the labels are kept, `[N, D]`,
    and meet its head outside of its forward, so its weights must lie whole on this process.
    """
    kept: list[Tensor] = []

    def keep(head: nn.Module, hidden_ND: Tensor, index_N: Tensor) -> None:
        kept.append(hidden_ND[index_N])

    _before_head(amateur, amateur_batch, keep, device=amateur_device)
    apply = _chunked_head(output_head(amateur), kept[0], len(kept[0]))

    def both(expert_CV: Tensor, where: slice) -> None:
        consume(expert_CV, apply(kept[0][where]).to(expert_CV.device), where)

    read_logits(expert, batch, both, device=device)


def kept_logits(
    model: nn.Module, inputs: dict[str, Any], index_M: Int64[Tensor, " M"]
) -> Float[Tensor, "M V"]:
    """Logits at some places of the flattened inputs, from the model's own forward.

    With gradient: the model is called as it is wrapped (DDP, FSDP2), a hook in front of its head
    lets only those hidden states pass, and what the model does behind its head it does to them.

    Args:
        inputs: keyword arguments of the forward, on the model's device.
        index_M: places in `input_ids.flatten()`, possibly none.
    """
    for tensor in (index_M, *(x for x in inputs.values() if isinstance(x, Tensor))):
        torch._dynamo.maybe_mark_dynamic(tensor, list(range(tensor.dim())))
    bare = unwrapped(model)
    _selected.append((index_M, inputs["input_ids"], num_virtual_tokens(bare)))
    handle = output_head(bare).register_forward_pre_hook(_select)
    try:
        return model(**inputs, use_cache=False).logits[0]
    finally:
        handle.remove()
        _selected.pop()


# What the hook selects, of the call that runs. A global, because a compiled model takes what hangs
# on its modules for constant: a hook with the index inside it was compiled anew for each number of
# kept steps, and after 8 the model was compiled no more.
_selected: list[tuple[Tensor, Tensor, int]] = []


@no_type_check  # the tests' checker of shapes is none of what is to be compiled
def _select(head: Any, args: tuple) -> tuple:
    """In front of the head: only the hidden states that it is to meet."""
    index_M, input_ids, num_virtual = _selected[-1]
    hidden = args[0]
    if num_virtual and hidden.shape[1] == input_ids.shape[1] + num_virtual:
        hidden = hidden[:, num_virtual:]
    hidden_ND = hidden.reshape(-1, hidden.shape[-1])
    if len(hidden_ND) != input_ids.numel():
        raise InputError(
            f"{len(hidden_ND)} positions reach the output head for {input_ids.numel()} tokens; "
            "its steps cannot be told"
        )
    return (hidden_ND[index_M][None], *args[1:])


def next_logits(outputs: Any) -> Tensor:
    """Of the token behind the last, `[B, V]`, from what a model's forward gives."""
    return outputs.logits[:, -1]


def _chunked_head(head: Any, hidden_ND: Tensor, num_labels: int) -> Callable[[Tensor], Tensor]:
    """The head as a function of `[C, D]`; its result is overwritten by the next call."""
    plain = (
        type(head) is nn.Linear
        and type(head.weight) is nn.Parameter
        and head.bias is None
        and "forward" not in vars(head)
        and head.weight.dtype == hidden_ND.dtype
        and not torch.is_autocast_enabled(hidden_ND.device.type)
    )
    if not plain:
        return head.forward
    # one buffer for all chunks: fresh memory for each would cost a third of the head's time
    rows = min(LABELS_PER_CHUNK, num_labels)
    buffer_CV = hidden_ND.new_empty(rows, head.weight.shape[0])

    def apply(hidden_CD: Tensor) -> Tensor:
        head_CV = buffer_CV[: len(hidden_CD)]
        torch.mm(hidden_CD, head.weight.t(), out=head_CV)
        return head_CV

    return apply


def _before_head(
    model: nn.Module,
    batch: TokenBatch,
    use: Callable[[nn.Module, Tensor, Tensor], None],
    *,
    device: torch.device,
) -> None:
    """One forward pass in which `use(head, hidden_ND, index_N)` stands in front of the head."""
    head = output_head(model)
    called = False

    def hook(module: Any, args: tuple) -> tuple:
        nonlocal called
        if called:
            raise InputError(f"{type(model).__name__}.forward calls its output head twice")
        called = True
        hidden_ND = text_states(model, args[0], batch.input_ids_BT.shape[1])
        if len(hidden_ND) != batch.input_ids_BT.numel():
            raise InputError(
                f"{type(model).__name__} hands {len(hidden_ND)} positions to its output head for "
                f"{batch.input_ids_BT.numel()} tokens; it cannot be scored"
            )
        use(module, hidden_ND, batch.index_N.to(hidden_ND.device))
        return (hidden_ND[:1][None], *args[1:])

    handle = head.register_forward_pre_hook(hook)
    try:
        _forward(model, batch, device)
    finally:
        handle.remove()
    if not called:
        raise _head_not_called(model)


def _head_not_called(model: nn.Module) -> ValueError:
    return ValueError(
        f"{type(model).__name__}.forward does not call its output head as a module, so its "
        "logits cannot be read in chunks; this architecture is not supported"
    )


def measure_logit_transform(model: nn.Module, *, device: torch.device) -> LogitTransform:
    """What the model does to the output of its head: nothing, a scale, a softcap, or both.

    One forward of one token in which the head's output is replaced by known numbers, so Gemma's
    softcap, Cohere's and Granite's scales are honoured without knowing what each config calls them.

    Raises:
        ValueError: it does anything else.
    """
    probe = (1.0, 1e30, -50.0, -3.0, 7.0)
    called = False

    def replace(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        nonlocal called
        called = True
        # at least fp32: a scale of 1/13 read through bfloat16 would be wrong in every logit
        dtype = torch.promote_types(output.dtype, torch.float32)
        replaced = torch.zeros(output.shape, dtype=dtype, device=output.device)
        replaced[..., : len(probe)] = replaced.new_tensor(probe)
        return replaced

    handle = output_head(model).register_forward_hook(replace)
    try:
        batch = token_batch([0], [[0, 0]], [1], padding_free=False)
        logits = _forward(model, batch, device).logits
    finally:
        handle.remove()
    if not called:
        raise _head_not_called(model)
    at_one, at_infinity, *rest = logits.flatten()[: len(probe)].tolist()
    if abs(at_infinity) > 1e25:
        transform = LogitTransform(scale=at_one)
    else:
        scale = at_infinity * math.atanh(at_one / at_infinity)
        transform = LogitTransform(1.0 if abs(scale - 1) < 1e-5 else scale, at_infinity)
    expected = transform(torch.tensor(probe[2:], dtype=torch.float64)).tolist()
    if not all(
        math.isclose(x, y, rel_tol=1e-4, abs_tol=1e-5) for x, y in zip(rest, expected, strict=True)
    ):
        raise InputError(
            f"{type(model).__name__} changes its logits after the head in a way that is neither a "
            f"scale nor a softcap ({probe[2:]} became {rest}); this architecture is not supported"
        )
    return transform
