"""An expert writes, an amateur is held against it, and the steps where they part become a set.

Batch b holds prompts [b * batch_size, (b + 1) * batch_size) in the order given, padded alike, drawn
with a generator seeded by (seed, b), and is one file. So the set is the same, row for row, wherever
it was interrupted and on however many processes it was mined.

Source: arXiv 2510.07962, algorithm 1. Unlike the published script: ids end to end, raw logits of
one teacher-forced pass of each model, the first step too, the end-of-text token too.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor
from tqdm.auto import tqdm
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
)

from hf_proxy import logprobs
from hf_proxy.batching import group_by_tokens, token_batch
from hf_proxy.divergence import Contrast, check_settings, contrast
from hf_proxy.parallel import (
    Processes,
    is_main,
    num_processes,
    require_equal,
    stop_together,
    sum_over_ranks,
)
from hf_proxy.schemas import (
    SOFT_TARGET_FEATURES,
    InputError,
    fingerprint,
    provenance_of,
    write_arrow,
    write_text,
)
from hf_proxy.soft_targets import Tally
from hf_proxy.spelling import encode_contexts, tokenizer_fingerprint
from hf_proxy.traces import check_unique_ids
from hf_proxy.vocabulary import IdMap, check_widths, match_vocabularies
from hf_proxy.weights import is_sharded, weights_checksum

logger = logging.getLogger(__name__)

# paper, appendix H.3.3: one prompt for expert, amateur and training
SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."
BATCH_SIZE = 32  # chosen here: see tests/benchmarks/contrast.py
TOKENS_PER_BATCH = 4096  # of one teacher-forced pass, with padding; chosen here


@dataclass(frozen=True)
class MiningSettings:
    """What decides a row beside the two models and its prompt; see `mine_soft_targets`."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    batch_size: int = BATCH_SIZE
    seed: int = 0
    divergence_beta: float = 0.4
    plausibility_alpha: float = 0.2
    contrast_temperature: float = 1.0
    parity: str | None = None

    def __post_init__(self) -> None:
        check_settings(
            self.divergence_beta, self.plausibility_alpha, self.contrast_temperature, self.parity
        )
        if self.max_new_tokens < 1 or self.batch_size < 1:
            raise ValueError("max_new_tokens and batch_size must be at least 1")
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be >= 0 (0: greedy), not {self.temperature}")


@dataclass(frozen=True)
class Prompts:
    """Prompts as ids, with what they were made of.

    Attributes:
        example_id: [n].
        input_ids: ids of each.
        template: text of the chat template, or the context text.
        system_prompt: where the template was given one.
    """

    example_id: list[str]
    input_ids: list[list[int]]
    template: str
    system_prompt: str | None


def read_prompts(
    prompts: Dataset | Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    context: str = "chat",
    system_prompt: str | None = SYSTEM_PROMPT,
) -> Prompts:
    """Prompts as the expert reads them.

    Args:
        prompts: rows with `prompt` and, if they have names, `example_id`; or texts.
        context: `"chat"`, the tokenizer's template with its generation prompt; or text in which
            `{prompt}` is replaced.
        system_prompt: for `"chat"`; None: the template's own.

    Raises:
        InputError: a prompt that is empty or no text, a name that stands twice, no prompts, a
            context without `{prompt}`, a tokenizer without template.
    """
    if isinstance(prompts, Dataset):
        if "prompt" not in prompts.column_names:
            raise InputError.at(
                f"there is no column 'prompt', only {prompts.column_names}",
                remedy="rename_column it",
                field="prompt",
            )
        texts = list(prompts["prompt"])
        named = "example_id" in prompts.column_names
        ids = [str(i) for i in (prompts["example_id"] if named else range(len(texts)))]
    else:
        texts = list(prompts)
        ids = [str(i) for i in range(len(texts))]
    if not texts:
        raise InputError.at("there are no prompts", remedy="give at least one")
    check_unique_ids(ids)
    for id, text in zip(ids, texts, strict=True):
        if not isinstance(text, str) or not text:
            raise InputError.at(
                f"expected text, found {text!r:.40}",
                remedy="fill it or drop the row",
                row=id,
                field="prompt",
            )
    if context == "chat":
        if not tokenizer.chat_template:
            raise InputError.at(
                "the tokenizer has no chat template", remedy="pass a context with {prompt}"
            )
        head = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        rendered = [
            str(
                tokenizer.apply_chat_template(
                    [*head, {"role": "user", "content": text}],
                    add_generation_prompt=True,
                    tokenize=False,
                )
            )
            for text in texts
        ]
        template = str(tokenizer.chat_template)
    elif "{prompt}" in context:
        rendered = [context.replace("{prompt}", text) for text in texts]
        template, system_prompt = context, None
    else:
        raise InputError.at(
            f"context {context!r} has no {{prompt}}", remedy="write it where the prompt goes"
        )
    input_ids = encode_contexts(tokenizer, rendered, chat=context == "chat")
    return Prompts(ids, input_ids, template, system_prompt)


class Miner:
    """Expert, amateur and settings, ready to turn batches of prompts into rows.

    Args:
        expert, amateur: causal language models, whole on this process (not FSDP2 or ZeRO-3 shards).
            They may differ in size, dtype and padded width.
        processing_class: the expert's tokenizer.
        amateur_processing_class: the amateur's, checked token by token; None: unchecked.
        settings: see `mine_soft_targets`.

    Raises:
        InputError: the tokenizers are of other families.
        ValueError: sharded weights, a head narrower than the tokenizer, no end-of-text token.
    """

    def __init__(
        self,
        expert: Any,
        amateur: Any,
        *,
        processing_class: PreTrainedTokenizerBase,
        amateur_processing_class: PreTrainedTokenizerBase | None,
        settings: MiningSettings,
    ):
        self.expert, self.amateur, self.settings = expert, amateur, settings
        self.processing_class = processing_class
        bare, bare_amateur = logprobs.unwrapped(expert), logprobs.unwrapped(amateur)
        for name, model in (("expert", bare), ("amateur", bare_amateur)):
            if is_sharded(model):
                raise ValueError(
                    f"the {name}'s weights are sharded (FSDP2 or ZeRO-3); mining needs them whole "
                    "on each process: mine with DDP or one process"
                )
        self.ids: IdMap = match_vocabularies(processing_class, amateur_processing_class)
        self.ids_checked = amateur_processing_class is not None
        self.num_tokens = len(processing_class)
        self.width = check_widths(bare, bare_amateur, self.num_tokens)
        configured = bare.generation_config.eos_token_id
        ends = [processing_class.eos_token_id]
        ends += configured if isinstance(configured, list) else [configured]
        self.end_ids = sorted({token for token in ends if token is not None})
        if not self.end_ids:
            raise ValueError(
                "the tokenizer has no end-of-text token; set processing_class.eos_token"
            )
        pad = processing_class.pad_token_id
        self.pad_id = self.end_ids[0] if pad is None else pad
        # how far each model's positions reach
        windows = [
            getattr(model.config.get_text_config(), "max_position_embeddings", None)
            for model in (bare, bare_amateur)
        ]
        self.window = min((window for window in windows if window is not None), default=None)

    def check_lengths(self, prompts: Prompts) -> None:
        """Refuse prompts that leave no room for `max_new_tokens`, and those without any token."""
        for id, ids in zip(prompts.example_id, prompts.input_ids, strict=True):
            needed = len(ids) + self.settings.max_new_tokens
            if not ids:
                raise InputError.at("the prompt has no token", remedy="give it a context", row=id)
            if self.window is not None and needed > self.window:
                raise InputError.at(
                    f"{len(ids)} tokens and {self.settings.max_new_tokens} new ones are more than "
                    f"the models' window of {self.window}",
                    remedy="drop the row or lower max_new_tokens",
                    row=id,
                    field="prompt",
                )
            self.ids(ids, row=id)

    def describe(self, prompts: Prompts) -> dict[str, Any]:
        """What decides the rows, by value or by hash; the same on every rank."""
        models = {"expert": self.expert, "amateur": self.amateur}
        return {
            "settings": vars(self.settings),
            "prompts": fingerprint([prompts.example_id, prompts.input_ids]),
            "num_prompts": len(prompts.example_id),
            "template": prompts.template,
            "template_hash": fingerprint(prompts.template),
            "system_prompt": prompts.system_prompt,
            "tokenizer": tokenizer_fingerprint(self.processing_class),
            "end_ids": self.end_ids,
            **{
                name: [weights_checksum(model), str(logprobs.unwrapped(model).dtype)]
                for name, model in models.items()
            },
        }

    def is_echo(self, row: Mapping[str, Any], system_prompt: str | None) -> bool:
        """Whether a trajectory repeats the system prompt."""
        if not system_prompt:
            return False
        trajectory = row["input_ids"][row["prompt_length"] :]
        return system_prompt in self.processing_class.decode(trajectory)

    def mine(self, example_ids: list[str], prompts: list[list[int]], batch: int) -> list[dict]:
        """`SoftTargets` rows of one batch of prompts.

        Args:
            example_ids: their names.
            prompts: their ids.
            batch: its number, which with the settings' seed seeds the draws.
        """
        with logprobs.scoring_mode(self.expert) as expert:
            trajectories = self._generate(expert, prompts, batch)
        return self.rows(example_ids, prompts, trajectories)

    def rows(
        self, example_ids: list[str], prompts: list[list[int]], trajectories: list[list[int]]
    ) -> list[dict]:
        """`SoftTargets` rows of trajectories that are there already, whoever wrote them."""
        with (
            logprobs.scoring_mode(self.expert) as expert,
            logprobs.scoring_mode(self.amateur) as amateur,
        ):
            contrasts = self._contrast(expert, amateur, example_ids, prompts, trajectories)
        return [
            _row(id, prompt, trajectory, found)
            for id, prompt, trajectory, found in zip(
                example_ids, prompts, trajectories, contrasts, strict=True
            )
        ]

    def _generate(self, expert: Any, prompts: list[list[int]], batch: int) -> list[list[int]]:
        """New ids of each prompt, the end-of-text token included where it came."""
        # adapters live inside the base model; prompt tuning would not, and is refused by the heads
        model = expert.get_base_model() if hasattr(expert, "get_base_model") else expert
        width = max(map(len, prompts))
        ids_BT = torch.tensor([[self.pad_id] * (width - len(p)) + p for p in prompts])
        mask_BT = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        device = model.device
        with (
            _clean_generation(model, self._generation_config()),
            _own_draws(device, self.settings.seed, batch),
        ):
            found_BT = model.generate(
                logits_processor=LogitsProcessorList([_OnlyTokens(self.num_tokens)]),
                input_ids=ids_BT.to(device),
                attention_mask=mask_BT.to(device),
            )
        trajectories = []
        for row in found_BT[:, width:].tolist():
            ends = [place for place, token in enumerate(row) if token in self.end_ids]
            trajectories.append(row[: ends[0] + 1] if ends else row)
        return trajectories

    def _generation_config(self) -> GenerationConfig:
        """Plain greedy or plain sampling, whatever the model's own config says."""
        sampling: dict[str, Any] = {"do_sample": False}
        if self.settings.temperature > 0:
            sampling = {"do_sample": True, "temperature": self.settings.temperature, "top_k": 0}
        return GenerationConfig(
            max_new_tokens=self.settings.max_new_tokens,
            eos_token_id=self.end_ids,
            pad_token_id=self.pad_id,
            use_cache=True,
            **sampling,
        )

    def _contrast(
        self,
        expert: Any,
        amateur: Any,
        example_ids: list[str],
        prompts: list[list[int]],
        trajectories: list[list[int]],
    ) -> list["_Steps"]:
        """Each trajectory's steps, from one teacher-forced pass of each model."""
        devices: dict[str, Any] = {"device": expert.device, "amateur_device": amateur.device}
        transforms = [
            logprobs.measure_logit_transform(model, device=model.device)
            for model in (expert, amateur)
        ]
        whole = [p + t for p, t in zip(prompts, trajectories, strict=True)]
        found: list[_Steps | None] = [None] * len(whole)
        moved = torch.from_numpy(self.ids.moved)
        for group in group_by_tokens(list(map(len, whole)), TOKENS_PER_BATCH, padding_free=False):
            starts = [len(prompts[i]) for i in group]
            theirs = [self.ids(whole[i], row=example_ids[i]) for i in group]
            batch = token_batch(group, [whole[i] for i in group], starts, padding_free=False)
            amateur_batch = token_batch(group, theirs, starts, padding_free=False)
            parts: list[Contrast] = []

            def consume(expert_CV: Tensor, amateur_CV: Tensor, where: slice, parts=parts) -> None:
                logits = []
                for head_CV, transform in zip((expert_CV, amateur_CV), transforms, strict=True):
                    if not transform.is_identity:
                        dtype = torch.promote_types(head_CV.dtype, torch.float32)
                        head_CV = transform(head_CV.to(dtype, copy=True))
                    logits.append(head_CV[:, : self.width])
                if len(moved):
                    # gathered before it is written: two control tokens may have changed places
                    here = moved[(moved < self.width).all(1)].to(logits[1].device)
                    logits[1][:, here[:, 0]] = logits[1][:, here[:, 1]]
                parts.append(
                    contrast(
                        *logits,
                        divergence_beta=self.settings.divergence_beta,
                        plausibility_alpha=self.settings.plausibility_alpha,
                        contrast_temperature=self.settings.contrast_temperature,
                        parity=self.settings.parity,
                    )
                )

            try:
                logprobs.read_logit_pairs(expert, amateur, batch, amateur_batch, consume, **devices)
            except ValueError as error:
                names = ", ".join(example_ids[i] for i in group)
                raise InputError.at(str(error), remedy="see there", row=names) from error
            skip_first = self.settings.parity == "official"  # the published loop starts at step 1
            steps = _split(Contrast.concatenate(parts), batch.num_labels, skip_first)
            for i, own in zip(group, steps, strict=True):
                found[i] = own
        return [steps for steps in found if steps is not None]


class _OnlyTokens(LogitsProcessor):
    """No id beyond the tokenizer: a padded head has such rows, which stand for nothing."""

    def __init__(self, num_tokens: int):
        self.num_tokens = num_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, self.num_tokens :] = -torch.inf
        return scores


@dataclass(frozen=True)
class _Steps:
    """One trajectory's share of a `Contrast`, as numpy arrays; `kept` are step numbers."""

    columns: dict[str, np.ndarray]
    kept: np.ndarray
    offset: np.ndarray
    entries: dict[str, np.ndarray]


def _split(whole: Contrast, num_steps: list[int], skip_first: bool) -> list[_Steps]:
    """The steps of each trajectory."""
    columns = {
        name: getattr(whole, f"{name}_N").cpu().numpy()
        for name in ("kl", "top1_agree", "expert_entropy", "amateur_entropy", "support_size")
    }
    names = ("token_id", "prob", "expert_logprob", "amateur_logprob")
    entries = {name: getattr(whole, name).cpu().numpy() for name in names}
    offset = whole.offset.cpu().numpy()
    kept = np.flatnonzero(whole.keep_N.cpu().numpy())
    found, start = [], 0
    for num in num_steps:
        first, last = np.searchsorted(kept, [start + int(skip_first), start + num])
        own = slice(offset[first], offset[last])
        found.append(
            _Steps(
                {name: column[start : start + num] for name, column in columns.items()},
                kept[first:last] - start,
                offset[first : last + 1] - offset[first],
                {name: column[own] for name, column in entries.items()},
            )
        )
        start += num
    return found


def _row(example_id: str, prompt: list[int], trajectory: list[int], steps: _Steps) -> dict:
    """A `SoftTargets` row."""
    return {
        "example_id": example_id,
        "input_ids": prompt + trajectory,
        "prompt_length": len(prompt),
        "position": steps.kept + len(prompt),
        "offset": steps.offset,
        **steps.columns,
        **steps.entries,
    }


@contextmanager
def _clean_generation(model: Any, config: GenerationConfig) -> Iterator[None]:
    """`generate` fills what a caller leaves open from the model's own config; here it has none."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own


@contextmanager
def _own_draws(device: torch.device, seed: int, batch: int) -> Iterator[None]:
    """Random numbers that depend on seed and batch alone; the process's own streams stay."""
    kind = "cuda" if device.type == "cpu" else device.type
    # manual_seed reaches every device of the process, so all of their streams are kept
    every = range(torch.get_device_module(kind).device_count())
    with torch.random.fork_rng(every, device_type=kind):
        torch.manual_seed(int(fingerprint([seed, batch]), 16) % 2**63)
        yield


def mine_soft_targets(
    expert: Any,
    amateur: Any,
    prompts: Dataset | Sequence[str],
    *,
    processing_class: PreTrainedTokenizerBase,
    amateur_processing_class: PreTrainedTokenizerBase | None = None,
    output_dir: str | Path,
    accelerator: Processes = None,
    context: str = "chat",
    system_prompt: str | None = SYSTEM_PROMPT,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    divergence_beta: float = 0.4,
    plausibility_alpha: float = 0.2,
    contrast_temperature: float = 1.0,
    parity: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Dataset:
    """Soft targets of the steps where the expert and the amateur part ways.

    A folder that holds some batches already is gone on with; the set is the same then.

    Args:
        expert, amateur: causal language models, whole on this process.
        prompts: rows with `prompt` and `example_id`, or texts.
        processing_class: the expert's tokenizer; its template is used for both models.
        amateur_processing_class: the amateur's, checked token by token; None: unchecked, and said.
        output_dir: shards, `mining.json` (settings) and `provenance.json`.
        accelerator: who shares the work; None: this process alone.
        context, system_prompt: see `read_prompts`.
        max_new_tokens: of each trajectory (paper: 128).
        temperature: 0 for greedy; above, plain sampling (no top-k, no top-p).
        batch_size: prompts that are generated together.
        seed: of the sampling.
        divergence_beta, plausibility_alpha, contrast_temperature: of `contrast`.
        parity: `"official"`: the published epsilon form, and each trajectory's first step is not
            kept.
        facts: names of models and data, for `provenance.json`.

    Returns:
        `Dataset` of `SoftTargets` rows, in the order of the prompts, mapped from the shards.

    Raises:
        InputError: see `read_prompts`; a prompt beyond the window, tokenizers of other families, a
            folder mined with other settings, a logit that is not finite.
    """
    settings = MiningSettings(
        max_new_tokens,
        temperature,
        batch_size,
        seed,
        divergence_beta,
        plausibility_alpha,
        contrast_temperature,
        parity,
    )
    with stop_together(accelerator):
        miner = Miner(
            expert,
            amateur,
            processing_class=processing_class,
            amateur_processing_class=amateur_processing_class,
            settings=settings,
        )
        read = read_prompts(prompts, processing_class, context=context, system_prompt=system_prompt)
        miner.check_lengths(read)
        sizes = [sum(p.numel() for p in model.parameters()) for model in (expert, amateur)]
        if sizes[1] > sizes[0]:
            logger.warning("the amateur has %d parameters, the expert only %d", *sizes[::-1])
        if amateur_processing_class is None:
            logger.warning("the amateur's tokenizer was not given, so its ids are not checked")
    folder = Path(output_dir)
    mine_folder(miner, read, folder, accelerator, facts=facts or {})
    return load_soft_targets(folder)


def mine_folder(
    miner: Miner,
    prompts: Prompts,
    folder: Path,
    accelerator: Processes,
    *,
    facts: Mapping[str, Any],
    first_batch: int = 0,
) -> tuple[Tally, dict[str, Any]]:
    """Write the shards of `folder` that are missing, dealt to the ranks batch by batch.

    Args:
        facts: names of models and data, for `provenance.json`.
        first_batch: number of the first batch among all that share the seed.

    Returns:
        the tally of the whole folder, the same on every rank, and what `mining.json` says.
    """
    with stop_together(accelerator):
        content = miner.describe(prompts)
    require_equal(
        fingerprint(content),
        accelerator,
        what="what is mined",
        remedy="give every rank the same models, prompts and settings",
    )
    with stop_together(accelerator):
        if is_main(accelerator):
            _open_folder(folder, content)
    size = miner.settings.batch_size
    batches = range(_num_batches(len(prompts.example_id), size))
    missing = [batch for batch in batches if not _shard(folder, batch).exists()]
    # a rank that looked later would see the others' shards and deal differently
    require_equal(
        fingerprint(missing),
        accelerator,
        what="the set of missing batches",
        remedy="put output_dir on a disk that all ranks share, and start again",
    )
    rank = 0 if accelerator is None else accelerator.process_index
    own = missing[rank :: num_processes(accelerator)]
    tally = Tally()
    with stop_together(accelerator):
        for batch in tqdm(
            own,
            desc="Mining",
            unit=" batches",
            leave=False,
            disable=None if is_main(accelerator) else True,
        ):
            where = slice(batch * size, (batch + 1) * size)
            ids, texts = prompts.example_id[where], prompts.input_ids[where]
            rows = miner.mine(ids, texts, first_batch + batch)
            write_arrow(_shard(folder, batch), SOFT_TARGET_FEATURES, rows)
        # what an earlier run left is counted by the main process, what is new by who wrote it
        there = sorted(set(batches) - set(missing)) if is_main(accelerator) else []
        for batch in [*there, *own]:
            for row in Dataset.from_file(str(_shard(folder, batch))):
                tally.add(row, is_echo=miner.is_echo(row, prompts.system_prompt))
    whole = Tally.from_array(sum_over_ranks(tally.to_array(), accelerator))
    with stop_together(accelerator):
        if is_main(accelerator):
            statistics = whole.statistics()
            write_text(folder / "statistics.json", json.dumps(statistics, indent=2))
            stamp = provenance_of(
                **content,
                amateur_ids="checked" if miner.ids_checked else "unchecked",
                facts=dict(facts),
                counts={"prompts": len(prompts.example_id), "rows": statistics["num_rows"]},
            )
            write_text(folder / "provenance.json", json.dumps(stamp, indent=2))
    return whole, content


def load_soft_targets(folder: str | Path) -> Dataset:
    """The rows of a mined folder, mapped from its shards.

    Raises:
        InputError: it is none, or batches are missing.
    """
    folder = Path(folder)
    try:
        content = json.loads((folder / "mining.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError.at(
            "this is no folder of soft targets (no mining.json)",
            remedy="name the output_dir of `hf-proxy contrast mine`",
            source=folder,
        ) from error
    number = _num_batches(content["num_prompts"], content["settings"]["batch_size"])
    shards = [_shard(folder, batch) for batch in range(number)]
    missing = [shard.name for shard in shards if not shard.exists()]
    if missing:
        raise InputError.at(
            f"{len(missing)} of {number} batches are missing, the first {missing[0]}",
            remedy="run the same mining again, it goes on",
            source=folder,
        )
    rows = concatenate_datasets([Dataset.from_file(str(shard)) for shard in shards])
    # goes with the rows through select and shuffle, so that a trainer can tell whose they are
    names = ("tokenizer", "template_hash")
    rows.info.description = json.dumps({name: content[name] for name in names})
    return rows


def _open_folder(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `mining.json`, or see that it says the same."""
    path = folder / "mining.json"
    if not path.exists():
        # a dot-file is what a killed run has left of a file that was to appear by rename
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise InputError.at(
                "the folder holds something else", remedy="name an empty one", source=folder
            )
        write_text(path, json.dumps(content, indent=2))
        return
    theirs, mine = json.loads(path.read_text()), json.loads(json.dumps(content))
    differing = [name for name in mine if theirs.get(name) != mine[name]]
    if "settings" in differing:
        differing.remove("settings")
        pairs = [(n, theirs["settings"].get(n), v) for n, v in mine["settings"].items()]
        differing += [f"{name} ({old!r}, now {new!r})" for name, old, new in pairs if old != new]
    if differing:
        raise InputError.at(
            f"the folder was mined with other {', '.join(differing)}",
            remedy="name another output_dir, or delete this one",
            source=folder,
        )


def _num_batches(num_prompts: int, batch_size: int) -> int:
    return -(-num_prompts // batch_size)


def _shard(folder: Path, batch: int) -> Path:
    return folder / "shards" / f"{batch:06d}.arrow"
