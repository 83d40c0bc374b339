"""Soft targets that a trainer makes of its own batches, with an amateur beside its model."""

import zlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_proxy.mining.miner import Miner
from hf_proxy.mining.settings import MiningSettings
from hf_proxy.mining.trajectory_steps import (
    TrajectorySteps,
    choose_among,
    choose_in_batch,
    soft_targets_row,
)
from hf_proxy.models.access import adapters_off, unwrapped
from hf_proxy.models.parallel import stop_together
from hf_proxy.models.whole import weights_in_reach
from hf_proxy.records.errors import InputError

Rows = Sequence[Mapping[str, Any]]  # `example_id`, `input_ids`, `prompt_length`
_Steps = list[TrajectorySteps]


class OnlineContrast:
    """A trainer's model held against an amateur on the completions that it is given.

    Args:
        model: of the trainer.
        amateur: whole on this process, on its device, without gradient.
        args: `SelectiveSFTConfig`: settings of the contrast, and who is the expert.
        processing_class, amateur_processing_class: see `Miner`.

    Raises:
        InputError: see `Miner`; `expert="base"` of a model without adapters.
    """

    def __init__(
        self,
        model: Any,
        amateur: Any,
        args: Any,
        *,
        processing_class: PreTrainedTokenizerBase,
        amateur_processing_class: Any,
    ):
        self._bare = unwrapped(model)
        has_adapters = hasattr(self._bare, "disable_adapter")
        self._expert = args.expert or ("base" if has_adapters else "live")
        if self._expert == "base" and not has_adapters:
            raise InputError("expert='base' needs a model with adapters (PEFT); set 'live'")
        self.settings = MiningSettings(
            seed=args.seed if args.data_seed is None else args.data_seed,
            **args.contrast_settings,
        )
        self._miner = Miner(
            model,
            amateur,
            processing_class=processing_class,
            amateur_processing_class=amateur_processing_class,
            settings=self.settings,
        )

    def check_readable(self, rows: Dataset, name: str) -> None:
        """See `Miner`."""
        self._miner.check_readable(rows, name)

    def step_rows(
        self, batches: Sequence[Rows], step: int, accelerator: Accelerator
    ) -> list[list[dict]]:
        """`SoftTargets` rows of the micro-batches of optimizer step `step`.

        The mining batch is all of them, those of every process, in the order in which one process
        would have had them; so what is kept does not depend on the number of processes.
        """
        with weights_in_reach(self._bare, "whole", accelerator):
            found = [self._steps(rows, accelerator) for rows in batches]
        if self.settings.ranks_steps:
            found = self._chosen(found, step, accelerator)
        return [_rows(rows, own) for rows, own in zip(batches, found, strict=True)]

    def single_rows(self, rows: Rows, accelerator: Accelerator) -> list[dict]:
        """`SoftTargets` rows, each trajectory a mining batch of its own.

        So what is kept in an evaluation does not depend on its batches.
        """
        with weights_in_reach(self._bare, "whole", accelerator):
            of_rows = self._steps(rows, accelerator)
        found = []
        for row, steps in zip(rows, of_rows, strict=True):
            seed = [self.settings.seed, zlib.crc32(row["example_id"].encode())]
            found += choose_in_batch([steps], self.settings, seed)
        return _rows(rows, found)

    def _steps(self, rows: Rows, accelerator: Accelerator) -> _Steps:
        expert = adapters_off(self._bare) if self._expert == "base" else nullcontext()
        # a logit that is not finite on one rank stops all; every rank has as many batches
        with stop_together(accelerator), expert:
            return self._miner.steps([row["example_id"] for row in rows], *_parts(rows))

    def _chosen(self, found: list[_Steps], step: int, accelerator: Accelerator) -> list[_Steps]:
        """The micro-batches with the steps that are kept of those of all processes."""
        # micro-batch i of process r is number i * processes + r of the step
        everyone = gather_object([[[one.ranking for one in batch] for batch in found]])
        order = [(i, rank) for i in range(len(found)) for rank in range(len(everyone))]
        flat = [one for i, rank in order for one in everyone[rank][i]]
        keep = iter(choose_among(flat, self.settings, [self.settings.seed, step]))
        chosen = {place: [next(keep) for _ in everyone[place[1]][place[0]]] for place in order}
        rank = accelerator.process_index
        return [
            [one.keeping(keep_G) for one, keep_G in zip(batch, chosen[i, rank], strict=True)]
            for i, batch in enumerate(found)
        ]


def _parts(rows: Rows) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and completions."""
    pairs = [(list(row["input_ids"]), row["prompt_length"]) for row in rows]
    return [ids[:n] for ids, n in pairs], [ids[n:] for ids, n in pairs]


def _rows(rows: Rows, steps: _Steps) -> list[dict]:
    names = [row["example_id"] for row in rows]
    return [soft_targets_row(*one) for one in zip(names, *_parts(rows), steps, strict=True)]
