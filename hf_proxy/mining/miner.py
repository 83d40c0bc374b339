"""One batch of mining: an expert writes, an amateur is held against it, partings become rows.

A batch is padded alike and drawn with a generator seeded by (seed, its number), so its rows depend
on nothing else.

Source: arXiv 2510.07962, algorithm 1. Unlike the published script: ids end to end, raw logits of
one teacher-forced pass of each model, the first step too, the end-of-text token too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_proxy.mining.amateurs import amateur_tokenizer
from hf_proxy.mining.correctness import Answers, is_correct
from hf_proxy.mining.divergence import Contrast, contrast_steps
from hf_proxy.mining.settings import MiningSettings
from hf_proxy.mining.trajectory_steps import (
    TrajectorySteps,
    choose_in_batch,
    soft_targets_row,
    steps_by_trajectory,
)
from hf_proxy.models.access import (
    has_shards,
    head_width,
    input_rows,
    scoring_mode,
    trained_dtype,
    unwrapped,
    weights_checksum,
)
from hf_proxy.models.adapters import check_adapter, check_causal_adapter
from hf_proxy.models.batching import group_by_tokens, token_batch
from hf_proxy.models.generation import end_ids_of, generate, vocabulary_ids
from hf_proxy.models.logits import LogitTransform, measure_logit_transform, read_logit_pairs
from hf_proxy.models.parallel import Processes
from hf_proxy.models.positions import length_kinds, window_of
from hf_proxy.models.probes import require_causal
from hf_proxy.models.whole import is_in_reach
from hf_proxy.records.errors import InputError
from hf_proxy.records.storage import fingerprint
from hf_proxy.tokens.prompts import Prompts, check_lengths
from hf_proxy.tokens.tokenizers import tokenizer_fingerprint
from hf_proxy.tokens.vocabulary import IdMap, match_vocabularies

TOKENS_PER_BATCH = 4096  # of one teacher-forced pass, with padding; chosen here


class Miner:
    """Expert, amateur and settings, ready to turn batches of prompts into rows.

    Args:
        expert: a causal language model; where its weights are sharded, `weights_in_reach` stands
            around whatever is mined.
        amateur: another, whole on this process. They may differ in size, dtype and padded width.
        processing_class: the expert's tokenizer.
        amateur_processing_class: the amateur's, checked token by token; None: read from where the
            amateur was loaded, see `amateur_tokenizer`.
        settings: see `mine_soft_targets`.
        answers: what is right, for `only_correct`.

    Raises:
        InputError: the tokenizers are of other families, the amateur's cannot be had, PEFT cannot
            run an adapter on text alone (see `check_adapter`), or it reads later tokens.
        ValueError: an amateur in shards, no end-of-text token that the head could give.
    """

    def __init__(
        self,
        expert: Any,
        amateur: Any,
        *,
        processing_class: PreTrainedTokenizerBase,
        amateur_processing_class: Any,
        settings: MiningSettings,
        answers: Answers | None = None,
    ):
        self._answers = answers
        self.expert, self.amateur, self.settings = expert, amateur, settings
        self.processing_class = processing_class
        self.amateur_processing_class = amateur_tokenizer(amateur, amateur_processing_class)
        bare, bare_amateur = unwrapped(expert), unwrapped(amateur)
        if has_shards(bare_amateur):
            raise InputError.at(
                "the amateur's weights are sharded", remedy="load a whole one on each process"
            )
        for model in (bare, bare_amateur):
            check_adapter(model)
            check_causal_adapter(model)
        self.id_map: IdMap = match_vocabularies(processing_class, self.amateur_processing_class)
        self._transforms: list[LogitTransform] | None = None
        self.end_ids = end_ids_of(bare, processing_class)
        tokens = vocabulary_ids(processing_class) | set(self.end_ids)
        # of the logits that both have and that stand for tokens: a head may be wider than the
        # tokenizer, or narrower where its last tokens stand in no text
        self.width = min(head_width(bare), head_width(bare_amateur), max(tokens) + 1)
        self._free = torch.tensor(sorted({*range(self.width)} - tokens), dtype=torch.int64)
        self._rows = {"expert": input_rows(bare), "amateur": input_rows(bare_amateur)}
        own = {int(theirs): int(moved) for theirs, moved in self.id_map.moved}
        self.writable = [
            id
            for id in vocabulary_ids(processing_class)
            if id < self._rows["expert"] and own.get(id, id) < self._rows["amateur"]
        ]
        windows = [window_of(model) for model in (bare, bare_amateur)]
        self.window = min((window for window in windows if window is not None), default=None)

    def check_lengths(self, prompts: Prompts) -> None:
        """Refuse prompts that leave no room for `max_new_tokens`, and those without any token."""
        check_lengths(prompts, self.settings.max_new_tokens, self.window)
        for id, ids in zip(prompts.example_id, prompts.input_ids, strict=True):
            self._as_read(ids, row=id)

    def _as_read(self, ids: list[int], *, row: str, source: str | None = None) -> list[int]:
        """The amateur's ids of a text, once every id is seen to be one that its model can read."""
        theirs = self.id_map(ids, row=row)
        for (name, rows), own in zip(self._rows.items(), (ids, theirs), strict=True):
            if not 0 <= min(own) <= max(own) < rows:
                raise InputError.at(
                    f"an id is beyond the models' vocabulary of {rows} (the {name}'s)",
                    remedy="drop the row, or choose models with the tokenizer's own vocabulary",
                    source=source,
                    row=row,
                    field="input_ids",
                )
        return theirs

    def check_readable(self, rows: Dataset, source: str) -> None:
        """Refuse trajectories that either model could not read.

        Raises:
            InputError: an id beyond the vocabulary or without a like in the amateur's, a text
                beyond the window.
        """
        for row in rows:
            ids, name = row["input_ids"], row["example_id"]
            self._as_read(ids[:-1], row=name, source=source)  # the last is only ever predicted
            if self.window is not None and len(ids) > self.window:
                raise InputError.at(
                    f"{len(ids)} tokens are more than the models' window of {self.window}",
                    remedy="drop the row",
                    source=source,
                    row=name,
                    field="input_ids",
                )

    def over_same_tokens(self, expert_CV: Tensor, amateur_CV: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of both over the tokens that both have, as the expert counts them.

        In place: the amateur's control tokens move, and ids of no token get the least number.
        """
        expert_CV, amateur_CV = (head_CV[:, : self.width] for head_CV in (expert_CV, amateur_CV))
        if len(self.id_map.moved):
            # gathered before it is written: two control tokens may have changed places
            moved = torch.from_numpy(self.id_map.moved)
            here = moved[(moved < self.width).all(1)].to(amateur_CV.device)
            amateur_CV[:, here[:, 0]] = amateur_CV[:, here[:, 1]]
        for head_CV in (expert_CV, amateur_CV) if len(self._free) else ():
            # ids of no token take no share; the least number, since none may be infinite
            head_CV[:, self._free.to(head_CV.device)] = torch.finfo(head_CV.dtype).min / 2
        return expert_CV, amateur_CV

    def describe(self, prompts: Prompts, processes: Processes = None) -> dict[str, Any]:
        """What decides the rows, by value or by hash; the same on every rank.

        Args:
            processes: who holds the expert's weights where they are sharded.
        """
        models = {"expert": self.expert, "amateur": self.amateur}
        shared = processes if has_shards(unwrapped(self.expert)) else None
        checksums = {
            "expert": weights_checksum(self.expert, shared),
            "amateur": weights_checksum(self.amateur),
        }
        # named only where there are any: folders of a version without them are gone on with
        given = {"chat_template_kwargs": dict(prompts.chat_template_kwargs)}
        return {
            "settings": vars(self.settings),
            "prompts": fingerprint([prompts.example_id, prompts.input_ids]),
            "num_prompts": len(prompts.example_id),
            "template": prompts.template,
            "template_hash": fingerprint(prompts.template),
            "system_prompt": prompts.system_prompt,
            "tokenizer": tokenizer_fingerprint(self.processing_class),
            "end_ids": self.end_ids,
            **self._describe_answers(prompts),
            **{
                name: [checksums[name], str(trained_dtype(unwrapped(model)))]
                for name, model in models.items()
            },
            **(given if prompts.chat_template_kwargs else {}),
        }

    def _describe_answers(self, prompts: Prompts) -> dict[str, str]:
        if self._answers is None:
            return {}
        return {"answers": fingerprint([str(self._answers[name]) for name in prompts.example_id])}

    def _begin(self) -> None:
        """Before the first forward: a trainer shards after the miner was made."""
        if not is_in_reach(self.expert):
            raise ValueError("the expert's weights are sharded: mine inside of weights_in_reach")
        for model in (self.expert, self.amateur):
            with scoring_mode(model) as bare:
                require_causal(bare, device=bare.device)

    def is_echo(self, row: Mapping[str, Any], system_prompt: str | None) -> bool:
        """Whether a trajectory repeats the system prompt."""
        if not system_prompt:
            return False
        trajectory = row["input_ids"][row["prompt_length"] :]
        return system_prompt in self.processing_class.decode(trajectory)

    def mine(self, example_ids: list[str], prompts: list[list[int]], batch: int) -> list[dict]:
        """`SoftTargets` rows of one batch of prompts; under `only_correct` of the right ones.

        Args:
            example_ids: their names.
            prompts: their ids.
            batch: its number, which with the settings' seed seeds the draws.
        """
        self._begin()
        with scoring_mode(self.expert) as expert:
            trajectories = generate(
                expert,
                prompts,
                processing_class=self.processing_class,
                max_new_tokens=self.settings.max_new_tokens,
                temperature=self.settings.temperature,
                seed=[self.settings.seed, batch],
                allowed=self.writable,
            )
        if self._answers is not None:
            right = [
                place
                for place, (name, prompt) in enumerate(zip(example_ids, prompts, strict=True))
                if is_correct(
                    self.processing_class, prompt, trajectories[place], self._answers[name]
                )
            ]
            example_ids = [example_ids[place] for place in right]
            prompts = [prompts[place] for place in right]
            trajectories = [trajectories[place] for place in right]
        return self.rows(example_ids, prompts, trajectories, seed=[self.settings.seed, batch])

    def rows(
        self,
        example_ids: list[str],
        prompts: list[list[int]],
        trajectories: list[list[int]],
        *,
        seed: Sequence[int] = (0,),
    ) -> list[dict]:
        """`SoftTargets` rows of trajectories that are there already, whoever wrote them.

        Args:
            seed: of the batch that they make, see `choose_steps`.
        """
        steps = self.steps(example_ids, prompts, trajectories)
        columns = (example_ids, prompts, trajectories)
        chosen = choose_in_batch(steps, self.settings, seed)
        return [soft_targets_row(*one) for one in zip(*columns, chosen, strict=True)]

    def steps(
        self, example_ids: list[str], prompts: list[list[int]], trajectories: list[list[int]]
    ) -> list[TrajectorySteps]:
        """The steps of trajectories, before `choose_in_batch`."""
        self._begin()
        with (
            scoring_mode(self.expert) as expert,
            scoring_mode(self.amateur) as amateur,
        ):
            return self._contrast(expert, amateur, example_ids, prompts, trajectories)

    def _contrast(
        self,
        expert: Any,
        amateur: Any,
        example_ids: list[str],
        prompts: list[list[int]],
        trajectories: list[list[int]],
    ) -> list[TrajectorySteps]:
        """Each trajectory's steps, from one teacher-forced pass of each model."""
        devices: dict[str, Any] = {"device": expert.device, "amateur_device": amateur.device}
        if self._transforms is None:  # of the architecture: training does not move them
            self._transforms = [
                measure_logit_transform(model, device=model.device) for model in (expert, amateur)
            ]
        transforms = self._transforms
        whole = [p + t for p, t in zip(prompts, trajectories, strict=True)]
        found: list[TrajectorySteps | None] = [None] * len(whole)
        lengths = list(map(len, whole))
        read = [length - 1 for length in lengths]
        kinds = list(zip(length_kinds(expert, read), length_kinds(amateur, read), strict=True))
        for group in group_by_tokens(lengths, TOKENS_PER_BATCH, padding_free=False, kinds=kinds):
            starts = [len(prompts[i]) for i in group]
            for i in group:
                self._as_read(whole[i][:-1], row=example_ids[i])
            theirs = [self.id_map(whole[i], row=example_ids[i]) for i in group]
            batch = token_batch(group, [whole[i] for i in group], starts, padding_free=False)
            amateur_batch = token_batch(group, theirs, starts, padding_free=False)
            parts: list[Contrast] = []

            def consume(
                expert_CV: Tensor, amateur_CV: Tensor, where: slice, parts=parts, batch=batch
            ) -> None:
                logits = []
                for head_CV, transform in zip((expert_CV, amateur_CV), transforms, strict=True):
                    if not transform.is_identity:
                        dtype = torch.promote_types(head_CV.dtype, torch.float32)
                        head_CV = transform(head_CV.to(dtype, copy=True))
                    logits.append(head_CV)
                label_C = batch.label_N[where]
                both = self.over_same_tokens(*logits)
                parts.append(contrast_steps(*both, self.settings, label_C))

            try:
                read_logit_pairs(expert, amateur, batch, amateur_batch, consume, **devices)
                whole_N = Contrast.concatenate(parts).on_host()
                whole_N.require_finite()
            except ValueError as error:
                names = ", ".join(example_ids[i] for i in group)
                raise InputError.at(str(error), remedy="see there", row=names) from error
            skip_first = self.settings.parity == "official"  # the published loop starts at step 1
            steps = steps_by_trajectory(whole_N, batch.num_labels, skip_first)
            for i, own in zip(group, steps, strict=True):
                found[i] = own
        return [steps for steps in found if steps is not None]
