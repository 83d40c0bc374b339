"""Training on soft targets alone: one forward for all kept steps of a trajectory.

    loss = mean over the kept steps of the global batch of KL(soft target || model)

The mean is over all micro-batches and ranks of an optimizer step together: sums are divided by that
one count, so accumulation and ranks change nothing. A trajectory's forward ends at its last kept
step, and the output head meets hidden states of kept steps only.

Source: arXiv 2510.07962, equations 7 and 8. Unlike the published trainer: the position that is read
is the step's own, special tokens keep their share, one forward serves all steps of a trajectory.
"""

import logging
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from transformers import DataCollator, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from hf_proxy.logprobs import kept_logits, supports_padding_free, unwrapped
from hf_proxy.mining import Miner, MiningSettings
from hf_proxy.sft_rows import (
    SoftTargetCollator,
    TrajectoryCollator,
    check_rows,
    trajectories_of,
    with_kept_steps,
)
from hf_proxy.traces import check_unique_ids
from hf_proxy.weights import adapters_off

logger = logging.getLogger(__name__)


@dataclass
class SelectiveSFTConfig(SFTConfig):
    """`SFTConfig` of TRL with the defaults that this trainer needs.

    `remove_unused_columns` is False, since rows are `SoftTargets`; `max_length` is None, since rows
    are as long as they were mined. The other fields are read where the trainer has an amateur.
    """

    remove_unused_columns: bool = False
    max_length: int | None = None
    expert: str | None = field(
        default=None,
        metadata={
            "help": "With an amateur: 'base' (adapters off) or 'live' (the model as it stands); "
            "None: base under PEFT, else live."
        },
    )
    divergence_beta: float = field(default=0.4, metadata={"help": "With an amateur: nats (0.4)."})
    plausibility_alpha: float = field(default=0.2, metadata={"help": "With an amateur (0.2)."})
    contrast_temperature: float = field(default=1.0, metadata={"help": "With an amateur (1)."})

    def __post_init__(self) -> None:
        if self.packing:
            raise ValueError(
                "packing=True would cut the steps from their trajectories; set padding_free=True, "
                "which spends nothing on padding"
            )
        if self.expert not in (None, "base", "live"):
            raise ValueError(f"expert must be 'base', 'live' or None, not {self.expert!r}")
        super().__post_init__()


def selective_loss(logits_MV: Tensor, step_S: Tensor, token_id_S: Tensor, prob_S: Tensor) -> Tensor:
    """KL(soft target || model) of each kept step.

    Equals `F.kl_div(log_softmax(logits), q, reduction="none").sum(-1)` with q as dense rows.

    Args:
        logits_MV: of the kept steps, any dtype; the softmax runs in fp32 (float64 for float64).
        step_S, token_id_S, prob_S: entries of the targets: their step, token and probability.

    Returns:
        `kl_M`, nats, with gradient, not reduced.
    """
    dtype = torch.promote_types(logits_MV.dtype, torch.float32)
    logprob_MV = torch.log_softmax(logits_MV.to(dtype), dim=-1)
    prob_S = prob_S.to(dtype)
    # q ln q - q ln p, entry by entry
    part_S = -torch.special.entr(prob_S) - prob_S * logprob_MV[step_S, token_id_S]
    return logprob_MV.new_zeros(len(logprob_MV)).scatter_add(0, step_S, part_S)


class SelectiveSFTTrainer(SFTTrainer):
    """TRL's `SFTTrainer` on `SoftTargets` rows.

    Logs, beside the loss, `kept_accuracy` (share of kept steps where the model's first token is the
    target's) and `num_kept`; in evaluation `eval_loss` is the exact mean over all kept steps of the
    set.

    Args:
        model: model or its name; with `peft_config` an adapter is tuned.
        args: `SelectiveSFTConfig`.
        train_dataset, eval_dataset: rows of `mine_soft_targets` or `load_soft_targets`. Rows
            without a kept step teach nothing and are left out, counted in the log.
        processing_class: the tokenizer that the rows were mined with.
        amateur: a causal language model: the targets are then made from the batch's own
            completions, for all micro-batches of an optimizer step before its first forward; rows
            need `example_id`, `input_ids` and `prompt_length` only.
        amateur_processing_class: its tokenizer, checked token by token; None: unchecked.
        other arguments: of `SFTTrainer`.

    Raises:
        InputError: a row that does not fit (ids beyond the vocabulary, positions or probabilities
            that are none), a set of another tokenizer, no kept step at all.
    """

    loss_is_scaled_for_ga: Any = True  # Trainer: the sum is divided by the whole step already

    def __init__(
        self,
        model: Any,
        args: SelectiveSFTConfig,
        train_dataset: Dataset,
        eval_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        data_collator: DataCollator | None = None,
        amateur: Any = None,
        amateur_processing_class: PreTrainedTokenizerBase | None = None,
        **arguments: Any,
    ):
        if data_collator is not None:
            raise ValueError("SelectiveSFTTrainer has a collator of its own")
        if not isinstance(args, SelectiveSFTConfig):
            raise ValueError(f"args must be a SelectiveSFTConfig, not {type(args).__name__}")
        if processing_class is None:
            raise ValueError("give the processing_class that the soft targets were mined with")
        pad_id = processing_class.pad_token_id
        pad_id = processing_class.eos_token_id if pad_id is None else pad_id
        self._collate = SoftTargetCollator(args.padding_free, pad_id)
        collator = self._collate if amateur is None else TrajectoryCollator(pad_id)
        sets = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
        ready = {
            name: with_kept_steps(rows, name, processing_class)
            if amateur is None
            else trajectories_of(rows, name)
            for name, rows in sets.items()
            if rows is not None
        }
        # TRL refuses a collator under padding_free, and prepares text; ours is ready
        if eval_dataset is not None:  # whose sums are kept by name
            check_unique_ids(list(eval_dataset["example_id"]), source="eval_dataset")
        padding_free = args.padding_free
        kwargs: Any = args.dataset_kwargs
        args.padding_free = False
        args.dataset_kwargs = {**dict(kwargs or {}), "skip_prepare_dataset": True}
        try:
            super().__init__(
                model=model,
                args=args,
                data_collator=collator,
                processing_class=processing_class,
                **ready,
                **arguments,
            )
        finally:
            args.padding_free, args.dataset_kwargs = padding_free, kwargs
        assert self.model is not None
        bare = unwrapped(self.model)
        if padding_free and not supports_padding_free(bare):
            raise ValueError(
                f"{type(bare).__name__} cannot tell packed rows apart; set padding_free=False"
            )
        width = bare.get_output_embeddings().weight.shape[0]
        for name, rows in ready.items():
            if amateur is None:
                check_rows(rows, name, width)
        self._miner: Miner | None = None
        if amateur is not None:
            self._expert = args.expert or ("base" if hasattr(bare, "disable_adapter") else "live")
            if self._expert == "base" and not hasattr(bare, "disable_adapter"):
                raise ValueError("expert='base' needs a model with adapters (PEFT); set 'live'")
            self._miner = Miner(
                self.model,
                amateur.to(self.args.device).eval().requires_grad_(False),
                processing_class=processing_class,
                amateur_processing_class=amateur_processing_class,
                settings=MiningSettings(
                    divergence_beta=args.divergence_beta,
                    plausibility_alpha=args.plausibility_alpha,
                    contrast_temperature=args.contrast_temperature,
                ),
            )
        # KL, first tokens right, kept steps; in evaluation by row, since the loader repeats some to
        # give every rank as many
        self._train_sums = np.zeros(3)
        self._eval_sums: dict[str, list[float]] = {}

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of an optimizer step, and the kept steps of all ranks in them."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = [self._with_targets(batch) for batch in batches]
        num_kept = torch.tensor(sum(len(batch["logit_index"]) for batch in batches), device=device)
        return batches, self.accelerator.gather(num_kept).sum()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Summed KL of this micro-batch over the kept steps of the global batch.

        DDP averages gradients over ranks, so the sum is multiplied by their number first. Without
        any kept step the loss is 0, and still part of the graph, so that ranks do not wait.
        """
        if return_outputs:
            raise ValueError("compute_metrics needs full logits, which are never made here")
        inputs = self._prepare_inputs(self._with_targets(inputs))
        targets = {name: inputs.pop(name) for name in ("step", "token_id", "prob")}
        index, row = inputs.pop("logit_index"), inputs.pop("row")
        example_ids = inputs.pop("example_id")
        logits_MV = kept_logits(model, inputs, index)
        kl_M = selective_loss(logits_MV, targets["step"], targets["token_id"], targets["prob"])
        mode = "train" if unwrapped(model).training else "eval"
        with torch.no_grad():
            correct = _first_is_the_targets(logits_MV, **targets)
            sums_R3 = kl_M.new_zeros(len(example_ids), 3, dtype=torch.float64)
            columns = torch.stack([kl_M, correct.to(kl_M.dtype), torch.ones_like(kl_M)], dim=1)
            sums_R3.index_add_(0, row, columns.double())
        if mode == "train":
            self._train_sums += sums_R3.sum(0).cpu().numpy()
        else:
            self._eval_sums.update(zip(example_ids, sums_R3.tolist(), strict=True))
        total = kl_M.sum() if len(kl_M) else logits_MV.sum() * 0.0
        if num_items_in_batch is None:
            return total / max(len(kl_M), 1)
        return total / num_items_in_batch.clamp(min=1) * self.accelerator.num_processes

    def _with_targets(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch that the loss is made of; what has its targets stays as it is."""
        if "rows" not in batch:
            return batch
        assert self._miner is not None and self.model is not None
        names, prompts, trajectories = [], [], []
        for row in batch["rows"]:
            names.append(row["example_id"])
            prompts.append(list(row["input_ids"][: row["prompt_length"]]))
            trajectories.append(list(row["input_ids"][row["prompt_length"] :]))
        bare = unwrapped(self.model)
        with adapters_off(bare) if self._expert == "base" else nullcontext():
            return self._collate(self._miner.rows(names, prompts, trajectories))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Our figures in the row of the training loss."""
        if "loss" in logs:
            own = torch.from_numpy(self._train_sums).to(self.accelerator.device)
            self._train_sums = np.zeros(3)
            _, correct, num_kept = self.accelerator.reduce(own, reduction="sum").tolist()
            if num_kept:
                logs |= {"kept_accuracy": correct / num_kept, "num_kept": num_kept}
        super().log(logs, start_time)

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        """Evaluation whose loss is the mean over all kept steps, whatever the batches."""
        self._eval_sums = {}
        kwargs["metric_key_prefix"] = metric_key_prefix
        output = super().evaluation_loop(*args, **kwargs)
        assert output.metrics is not None
        rows = dict(gather_object(list(self._eval_sums.items())))
        kl_sum, correct, num_kept = np.array([rows[name] for name in sorted(rows)]).sum(0).tolist()
        if not num_kept:  # possible with an amateur only; there is no mean of nothing
            output.metrics.pop(f"{metric_key_prefix}_loss", None)
            output.metrics[f"{metric_key_prefix}_num_kept"] = 0.0
            return output
        output.metrics.update(
            {
                f"{metric_key_prefix}_loss": kl_sum / num_kept,
                f"{metric_key_prefix}_kept_accuracy": correct / num_kept,
                f"{metric_key_prefix}_num_kept": num_kept,
            }
        )
        return output


def _first_is_the_targets(
    logits_MV: Tensor, step: Tensor, token_id: Tensor, prob: Tensor
) -> Tensor:
    """Whether the model's first token is the target's most probable one, bool `[M]`."""
    num_steps = len(logits_MV)
    most = prob.new_zeros(num_steps).scatter_reduce(0, step, prob, "amax")
    is_most = prob == most[step]
    first = logits_MV.argmax(-1) if num_steps else step.new_zeros(0)
    hit = (token_id == first[step]) & is_most
    return prob.new_zeros(num_steps).scatter_reduce(0, step, hit.to(prob.dtype), "amax")
