"""The trainer on soft targets: mined before, made of each batch, or fed by a callback as it goes.

    loss = mean over the kept steps of the global batch of KL(soft target || model)
           + sft_weight * mean over its completion tokens of -ln p(token)

The means are over all micro-batches and ranks of an optimizer step together: sums are divided by
those two counts, so accumulation and ranks change nothing. One forward serves all kept steps of a
trajectory; without `sft_weight` it ends at the last of them, and the output head meets hidden
states of kept steps only.

Source: arXiv 2510.07962, equations 7 and 8. Unlike the published trainer: the position that is read
is the step's own, and special tokens keep their share.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import PreTrainedTokenizerBase
from trl import SFTTrainer

from hf_proxy.mining.correctness import read_answers
from hf_proxy.models.access import head_width, input_rows, unwrapped
from hf_proxy.models.logits import kept_logits
from hf_proxy.models.parallel import sum_over_ranks
from hf_proxy.models.whole import made_whole, moved
from hf_proxy.records.errors import InputError, check_unique_ids
from hf_proxy.tokens.tokenizers import tokenizer_of
from hf_proxy.training.checks import (
    check_arguments,
    check_fed,
    check_in_memory,
    check_lengths,
    check_mining_fields,
    check_model,
    check_parallelism,
)
from hf_proxy.training.collators import PlaceCollator, SoftTargetCollator, TrajectoryCollator
from hf_proxy.training.config import SelectiveSFTConfig
from hf_proxy.training.feeding import Feeding, check_feeders, feeding_for
from hf_proxy.training.learnt import LearntSteps
from hf_proxy.training.loss import LossSums, loss_counts, prefers_target_token, selective_loss
from hf_proxy.training.online import OnlineContrast
from hf_proxy.training.rows import (
    check_trainable,
    for_each_set,
    trajectories_of,
    with_kept_steps,
    with_right_answers,
)


class SelectiveSFTTrainer(SFTTrainer):
    """TRL's `SFTTrainer` on `SoftTargets` rows.

    Logs, beside the loss, `kept_accuracy` (share of kept steps where the model's first token is the
    target's) and `num_kept`, and `train_num_kept` at the end, of the whole run; in evaluation
    `eval_loss` is the exact mean over all kept steps of the set.

    Args:
        model: model or its name; with `peft_config` an adapter is tuned.
        args: `SelectiveSFTConfig`.
        train_dataset, eval_dataset: rows of `mine_soft_targets` or `load_soft_targets`, the latter
            one set or a dict of them. Rows without a kept step teach nothing (unless `sft_weight`
            is set) and are left out, counted in the log. Without a train_dataset a
            `ContrastCallback(feed=True)` among the callbacks gives the rows: those of its newest
            mining, each once before any comes again, in an order seeded by `data_seed` (`seed`)
            and the mining. `max_steps` is required then.
        processing_class: the tokenizer that the rows were mined with, or a processor that holds it.
        amateur: a causal language model: the targets are then made from the batch's own
            completions, for all micro-batches of an optimizer step before its first forward; rows
            need `example_id`, `input_ids` and `prompt_length` only, and `answer` under
            `only_correct`. What `select` keeps, it keeps of all micro-batches and processes of a
            step; in evaluation of each trajectory alone. Under FSDP2 and ZeRO-3 each process holds
            the model whole while it makes them.
        amateur_processing_class: its tokenizer, checked token by token; None: read from the folder
            or hub id that the amateur was loaded from.
        other arguments: of `SFTTrainer`.

    Raises:
        InputError: a row that does not fit (ids beyond the vocabulary, more tokens than the model's
            window or `max_length`, positions or probabilities that are none), a set of another
            tokenizer or one that is streamed, no kept step at all, an argument of `SFTTrainer` or a
            field of `args` that would change nothing, what `check_model` and `check_lengths` name.
    """

    loss_is_scaled_for_ga: Any = True  # Trainer: the sum is divided by the whole step already

    def __init__(
        self,
        model: Any,
        args: SelectiveSFTConfig,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        amateur: Any = None,
        amateur_processing_class: Any = None,
        **arguments: Any,
    ):
        if not isinstance(args, SelectiveSFTConfig):
            raise InputError(f"args must be a SelectiveSFTConfig, not {type(args).__name__}")
        if processing_class is None:
            raise InputError("give the processing_class that the soft targets were mined with")
        check_arguments(model, args, arguments)
        processing_class = tokenizer_of(processing_class)
        pad_id = processing_class.pad_token_id
        pad_id = processing_class.eos_token_id if pad_id is None else pad_id
        self._collate = SoftTargetCollator(args.padding_free, pad_id, whole=args.sft_weight > 0)
        collator: Any = self._collate if amateur is None else TrajectoryCollator(pad_id)
        self._sft_weight, self._is_online = args.sft_weight, amateur is not None
        self._only_correct = args.only_correct
        ready = {
            name: for_each_set(given, name, partial(self._read, tokenizer=processing_class))
            for name, given in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset))
            if given is not None
        }
        places: dict[str, Any] = {}
        self._is_fed = train_dataset is None
        check_feeders(arguments.get("callbacks"), is_fed=self._is_fed, has_amateur=self._is_online)
        self._feeding: Feeding | None = None
        if self._is_fed:
            check_fed(args)
            # one place for each row of the run, so that batches come as many and as large as ever
            num_rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            places["train_dataset"] = Dataset.from_dict({"place": range(args.max_steps * num_rows)})
            collator = PlaceCollator(collator)
        # TRL refuses a collator under padding_free, and prepares text; ours is ready
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
                **ready | places,
                **arguments,
            )
        finally:
            args.padding_free, args.dataset_kwargs = padding_free, kwargs
        assert self.model is not None
        self._is_checked = False
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):  # whose weights stand later
            self._check_model(self.model)
        check_parallelism(self.accelerator.parallelism_config)
        self.add_callback(LearntSteps())
        self._online: OnlineContrast | None = None
        if amateur is not None:
            self._online = OnlineContrast(
                self.model,
                moved(made_whole(amateur), self.args.device).eval().requires_grad_(False),
                args,
                processing_class=processing_class,
                amateur_processing_class=amateur_processing_class,
            )
        elif not self._is_fed:
            check_mining_fields(args, {})
        for name, given in ready.items():
            for_each_set(given, name, self._check)
        # of each micro-batch, on its device, until they are logged
        self._train_sums: list[torch.Tensor] = []
        # by row, since the loader repeats some to give every rank as many
        self._eval_sums: list[tuple[list[str], torch.Tensor]] = []

    def _read(self, rows: Any, name: str, tokenizer: Any = None) -> Dataset:
        """The rows of a set that its forward passes read."""
        check_in_memory(rows, name)
        tokenizer = tokenizer or self.processing_class
        if self._is_online:
            given, rows = rows, trajectories_of(rows, name, tokenizer)
            if self._only_correct:
                answers = read_answers(given, [str(id) for id in rows["example_id"]], name)
                rows = with_right_answers(rows, answers, name, tokenizer)
        else:
            rows = with_kept_steps(rows, name, tokenizer, keep_all=self._sft_weight > 0)
        if name != "train_dataset":  # its sums are kept by name
            check_unique_ids(list(rows["example_id"]), source=name)
        return rows

    def _check(self, rows: Dataset, name: str) -> None:
        """Refuse rows that this model cannot take in, or not learn from."""
        model, args = cast(Any, self.model), cast(SelectiveSFTConfig, self.args)
        bare = unwrapped(model)
        if self._online is None:
            check_trainable(rows, name, input_rows(bare), head_width(bare))
        else:
            self._online.check_readable(rows, name)
        to_the_end = self._online is not None or self._sft_weight > 0
        check_lengths(rows, name, bare, args, to_the_end=to_the_end)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """As `Trainer`'s; a set given here is read and refused as the constructor's are."""
        # of several sets each comes by here again, by its name where the constructor had it
        if eval_dataset is not None and not isinstance(eval_dataset, (str, Mapping)):
            eval_dataset = self._read(eval_dataset, "eval_dataset")
            self._check(eval_dataset, "eval_dataset")
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix="test"):
        """The loss and figures of a set, as `evaluate` gives them; no logits are kept."""
        rows = self._read(test_dataset, "test_dataset")
        self._check(rows, "test_dataset")
        return super().predict(rows, ignore_keys, metric_key_prefix)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The loss alone: full logits are never made here."""
        return super().prediction_step(model, inputs, True, ignore_keys)

    def get_train_dataloader(self):
        """Where mined rows are fed, they are accepted before the callbacks begin."""
        self._feeding = feeding_for(
            self.callback_handler.callbacks,
            is_fed=self._is_fed,
            has_amateur=self._online is not None,
        )
        if self._feeding is not None:
            check_mining_fields(self.args, self._feeding.mined_with)
            tokenizer = cast(Any, self.processing_class)
            self._feeding.accept(tokenizer, keep_all=self._sft_weight > 0, check=self._check)
        return super().get_train_dataloader()

    def _get_train_sampler(self, train_dataset=None):
        if self._is_fed:  # places stand for nothing: no order to draw, no lengths to group by
            places: Any = self.train_dataset
            return SequentialSampler(places)
        return super()._get_train_sampler(train_dataset)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of an optimizer step, and the counts of all ranks in them.

        Returns:
            batches, and `[2]`: kept steps, and completion tokens where they count.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._is_fed:
            batches = self._fed_batches([len(batch["place"]) for batch in batches])
        if self._online is not None:
            rows = [batch["rows"] for batch in batches]
            made = self._online.step_rows(rows, self.state.global_step, self.accelerator)
            batches = [self._collate(own) for own in made]
        counts = torch.tensor([loss_counts(batch) for batch in batches], device=device).sum(0)
        counts = self.accelerator.gather(counts).view(-1, 2).sum(0)
        self._learnt.add(int(counts[0]))
        return batches, counts

    @property
    def _learnt(self) -> LearntSteps:
        # by its class: Trainer may put another object there as it resumes
        callbacks = self.callback_handler.callbacks
        return next(callback for callback in callbacks if isinstance(callback, LearntSteps))

    def _fed_batches(self, sizes: list[int]) -> list[dict[str, Any]]:
        """Micro-batches of the newest mining, this process's share of what all draw alike."""
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        assert self._feeding is not None
        rows = self._feeding.draw(self.state.global_step, sum(sizes) * ranks, seed)[rank::ranks]
        ends = np.cumsum(sizes)
        return [
            self._collate(rows[end - size : end]) for end, size in zip(ends, sizes, strict=True)
        ]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Summed KL of this micro-batch over the kept steps of the global batch.

        DDP averages gradients over ranks, so the sum is multiplied by their number first. Without
        any kept step the loss is 0, and still part of the graph, so that ranks do not wait.
        """
        assert not return_outputs, "no logits are kept, see prediction_step"
        self._check_model(model)
        if "rows" in inputs:  # of an evaluation; those of a step have their targets
            assert self._online is not None
            inputs = self._collate(self._online.single_rows(inputs["rows"], self.accelerator))
        inputs = self._prepare_inputs(inputs)
        targets = {name: inputs.pop(name) for name in ("step", "token_id", "prob")}
        index, row = inputs.pop("logit_index"), inputs.pop("row")
        label, kept = inputs.pop("label", None), inputs.pop("kept", None)
        example_ids = inputs.pop("example_id")
        logits_NV = kept_logits(model, inputs, index)
        logits_MV = logits_NV if kept is None else logits_NV[kept]
        kl_M = selective_loss(logits_MV, targets["step"], targets["token_id"], targets["prob"])
        sums = [kl_M.sum() if len(kl_M) else logits_NV.sum() * 0.0]
        with torch.no_grad():
            # on the device, where not every one has float64, and no copy waits for it
            table = kl_M.new_zeros(len(example_ids), len(LossSums._fields))
            by_row = LossSums(*table.unbind(1))  # views, by row of the batch
            correct = prefers_target_token(logits_MV, **targets)
            whose = row if kept is None else row[kept]
            by_row.kl_sum.index_add_(0, whose, kl_M)
            by_row.num_correct.index_add_(0, whose, correct.to(table.dtype))
            by_row.num_kept.index_add_(0, whose, torch.ones_like(whose, dtype=table.dtype))
        if label is not None:
            nll_N = torch.nn.functional.cross_entropy(
                logits_NV.to(kl_M.dtype), label, reduction="none"
            )
            sums.append(self._sft_weight * nll_N.sum())
            by_row.nll_sum.index_add_(0, row, nll_N.detach())
            by_row.num_tokens.index_add_(0, row, torch.ones_like(row, dtype=table.dtype))
        if unwrapped(model).training:
            self._train_sums.append(table.sum(0))
        else:
            self._eval_sums.append((example_ids, table))
        if num_items_in_batch is None:
            counts, ranks = (max(len(kl_M), 1), max(len(index), 1)), 1
        else:
            counts, ranks = num_items_in_batch.clamp(min=1), self.accelerator.num_processes
        parts = zip(sums, counts, strict=False)  # one sum without sft_weight
        return sum(part / count for part, count in parts) * ranks

    def _check_model(self, model: Any) -> None:
        if not self._is_checked:
            check_model(model, self.args, self.accelerator)
            self._is_checked = True

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Our figures in the row of the training loss, and the steps learnt in the last row."""
        if "loss" in logs:
            own = np.zeros(len(LossSums._fields))
            if self._train_sums:
                own += torch.stack(self._train_sums).cpu().double().sum(0).numpy()
            self._train_sums = []
            logs |= LossSums(*sum_over_ranks(own, self.accelerator).tolist()).figures()
        if "train_runtime" in logs and self._learnt.total is not None:
            logs["train_num_kept"] = self._learnt.total
        super().log(logs, start_time)

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        """Evaluation whose loss is the mean over all kept steps, whatever the batches."""
        self._eval_sums = []
        kwargs["metric_key_prefix"] = metric_key_prefix
        output = super().evaluation_loop(*args, **kwargs)
        assert output.metrics is not None
        tables = [(ids, table.cpu().double().tolist()) for ids, table in self._eval_sums]
        own = [pair for ids, table in tables for pair in zip(ids, table, strict=True)]
        rows = dict(gather_object(own))
        sums = LossSums(*np.array([rows[name] for name in sorted(rows)]).sum(0).tolist())
        sums.put_into(output.metrics, metric_key_prefix, self._sft_weight)
        return output
