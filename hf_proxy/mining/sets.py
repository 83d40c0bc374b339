"""Sets of soft targets on disk: one file for each batch, gone on with wherever they were left.

Batch b holds prompts [b * batch_size, (b + 1) * batch_size) in the order given and is one file that
appears whole or not at all. Batches, not prompts, are dealt to the ranks. So the set is the same,
row for row, wherever it was interrupted and on however many processes it was mined.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from hf_proxy.mining.correctness import read_answers
from hf_proxy.mining.miner import Miner
from hf_proxy.mining.mining_record import REMEDY, MiningRecord
from hf_proxy.mining.set_folders import open_folder
from hf_proxy.mining.settings import MiningSettings
from hf_proxy.mining.shards import read_shard, shard_path
from hf_proxy.mining.soft_targets import Tally
from hf_proxy.models.access import num_parameters, unwrapped
from hf_proxy.models.disks import require_shared
from hf_proxy.models.meshes import refuse_same_rows
from hf_proxy.models.parallel import (
    Processes,
    from_main,
    is_main,
    own_share,
    require_equal,
    stop_together,
    sum_over_ranks,
)
from hf_proxy.models.whole import Gather, check_gather, made_whole, weights_in_reach
from hf_proxy.records.defaults import SYSTEM_PROMPT
from hf_proxy.records.errors import InputError
from hf_proxy.records.progress import Progress
from hf_proxy.records.record import read_record
from hf_proxy.records.rows import SOFT_TARGET_FEATURES
from hf_proxy.records.storage import fingerprint, provenance_of, write_arrow, write_text
from hf_proxy.tokens.prompts import Prompts, read_prompts
from hf_proxy.tokens.tokenizers import tokenizer_of

logger = logging.getLogger(__name__)


def mine_soft_targets(
    expert: Any,
    amateur: Any,
    prompts: Dataset | Sequence[str],
    *,
    processing_class: PreTrainedTokenizerBase,
    amateur_processing_class: Any = None,
    output_dir: str | Path,
    accelerator: Processes = None,
    context: str = "chat",
    system_prompt: str | None = SYSTEM_PROMPT,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    max_new_tokens: int = MiningSettings.max_new_tokens,
    temperature: float = MiningSettings.temperature,
    batch_size: int = MiningSettings.batch_size,
    seed: int = MiningSettings.seed,
    divergence_beta: float = MiningSettings.divergence_beta,
    plausibility_alpha: float = MiningSettings.plausibility_alpha,
    contrast_temperature: float = MiningSettings.contrast_temperature,
    parity: str | None = None,
    select: str = MiningSettings.select,
    target: str = MiningSettings.target,
    mixture_weight: float | None = MiningSettings.mixture_weight,
    only_correct: bool = MiningSettings.only_correct,
    gather: Gather = "whole",
    facts: Mapping[str, Any] | None = None,
) -> Dataset:
    """Soft targets of the steps where the expert and the amateur part ways.

    A folder that holds some batches already is gone on with; the set is the same then. So is one of
    fewer prompts, where these begin with them.

    Args:
        expert: a causal language model, which may be sharded (FSDP2, ZeRO-3).
        amateur: another, whole on this process.
        prompts: rows with `prompt` and `example_id`, or texts.
        processing_class: the expert's tokenizer, or a processor that holds it; its template is
            used for both models.
        amateur_processing_class: the amateur's, checked token by token; None: read from the folder
            or hub id that the amateur was loaded from.
        output_dir: shards, `mining.json` (settings) and `provenance.json`.
        accelerator: who shares the work; None: this process alone.
        context, system_prompt, chat_template_kwargs: see `read_prompts`.
        max_new_tokens: of each trajectory (paper: 128).
        temperature: 0 for greedy; above, plain sampling (no top-k, no top-p).
        batch_size: prompts that are generated together.
        seed: of the sampling.
        divergence_beta, plausibility_alpha, contrast_temperature: of `contrast`.
        parity: `"official"`: the published epsilon form, and each trajectory's first step is not
            kept.
        select: which steps are kept, see `hf_proxy.mining.selection`: `"kl"` (paper), `"all"`,
            `"random"`, `"entropy"`, `"low_entropy_high_kl"`; all but `"all"` keep as many steps of
            a batch as `"kl"`.
        target: what is aimed at there, see `hf_proxy.mining.targets`: `"contrast"` (paper),
            `"expert"`, `"token"`, `"mixture"`.
        mixture_weight: of the contrast in the mixture; the rest is the expert's.
        only_correct: leave out trajectories whose answer is wrong, as `hf-proxy accuracy` grades;
            prompts are rows with `answer` then.
        gather: how ranks reach an expert's weights that are sharded: `"whole"`: for as long each
            holds all of them; `"shards"`: every forward goes through the shards, slower, where a
            whole model has no room on one device.
        facts: names of models and data, for `provenance.json`.

    Returns:
        `Dataset` of `SoftTargets` rows, in the order of the prompts, mapped from the shards.

    Raises:
        InputError: see `read_prompts`; a prompt beyond the window, tokenizers of other families or
            none of the amateur's, a folder mined with other settings, a logit that is not finite.
    """
    settings = MiningSettings(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        batch_size=batch_size,
        seed=seed,
        divergence_beta=divergence_beta,
        plausibility_alpha=plausibility_alpha,
        contrast_temperature=contrast_temperature,
        parity=parity,
        select=select,
        target=target,
        mixture_weight=mixture_weight,
        only_correct=only_correct,
    )
    amateur = made_whole(amateur)
    with stop_together(accelerator):
        check_gather(gather)
        processing_class = tokenizer_of(processing_class)
        read = read_prompts(
            prompts,
            processing_class,
            context=context,
            system_prompt=system_prompt,
            chat_template_kwargs=chat_template_kwargs,
        )
        answers = None
        if only_correct:
            found = read_answers(prompts, read.example_id)
            answers = dict(zip(read.example_id, found, strict=True))
        miner = Miner(
            expert,
            amateur,
            processing_class=processing_class,
            amateur_processing_class=amateur_processing_class,
            settings=settings,
            answers=answers,
        )
        miner.check_lengths(read)
        sizes = [num_parameters(model) for model in (expert, amateur)]
        if sizes[1] > sizes[0]:
            logger.warning("the amateur has %d parameters, the expert only %d", *sizes[::-1])
    folder = Path(output_dir)
    mine_folder(miner, read, folder, accelerator, gather=gather, facts=facts or {})
    return load_soft_targets(folder)


def mine_folder(
    miner: Miner,
    prompts: Prompts,
    folder: Path,
    accelerator: Processes,
    *,
    facts: Mapping[str, Any],
    gather: str = "whole",
    first_batch: int = 0,
) -> tuple[Tally, dict[str, Any]]:
    """Write the shards of `folder` that are missing, dealt to the ranks batch by batch.

    Args:
        facts: names of models and data, for `provenance.json`.
        gather: see `mine_soft_targets`.
        first_batch: number of the first batch among all that share the seed.

    Returns:
        the tally of the whole folder, the same on every rank, and what `mining.json` says.
    """
    for model in (miner.expert, miner.amateur):
        refuse_same_rows(unwrapped(model), accelerator, "mining")
    with stop_together(accelerator):
        content = miner.describe(prompts, accelerator)
    require_equal(
        fingerprint(content),
        accelerator,
        what="what is mined",
        remedy="give every rank the same models, prompts and settings",
    )
    require_shared(folder, accelerator)
    with stop_together(accelerator):
        if is_main(accelerator):
            # a later set of a run has batches of other numbers in a longer one: it is not extended
            open_folder(folder, content, None if first_batch else partial(_first, miner, prompts))
    size = miner.settings.batch_size
    batches = range(_num_batches(len(prompts.example_id), size))
    # a rank that looked later would see the others' shards and deal differently
    missing = from_main(
        accelerator,
        lambda: [batch for batch in batches if not shard_path(folder, batch).exists()],
    )
    lengths = {b: list(map(len, prompts.input_ids[b * size : (b + 1) * size])) for b in batches}
    sizes = {batch: len(own) for batch, own in lengths.items()}
    new = miner.settings.max_new_tokens
    costs = [sizes[batch] * (max(lengths[batch]) + new) for batch in missing]
    own = own_share(missing, costs, accelerator)
    tally = Tally()
    there = len(prompts.example_id) - sum(sizes[batch] for batch in missing)
    progress = Progress(
        # what is here, and this rank's share of what is not
        there + sum(sizes[batch] for batch in own),
        "Mining",
        "prompts",
        is_shown=is_main(accelerator),
        done=there,
    )
    in_reach = weights_in_reach(miner.expert, gather, accelerator)
    with stop_together(accelerator), progress, in_reach:
        for batch in own:
            where = slice(batch * size, (batch + 1) * size)
            ids, texts = prompts.example_id[where], prompts.input_ids[where]
            rows = miner.mine(ids, texts, first_batch + batch)
            write_arrow(shard_path(folder, batch), SOFT_TARGET_FEATURES, rows)
            progress.update(sizes[batch])
        # what an earlier run left is counted by the main process, what is new by who wrote it
        earlier = sorted(set(batches) - set(missing)) if is_main(accelerator) else []
        for batch in [*earlier, *own]:
            for row in read_shard(shard_path(folder, batch)):
                tally.add(row, is_echo=miner.is_echo(row, prompts.system_prompt))
    whole = Tally.from_array(sum_over_ranks(tally.to_array(), accelerator))
    with stop_together(accelerator):
        if is_main(accelerator):
            statistics = whole.statistics()
            write_text(folder / "statistics.json", json.dumps(statistics, indent=2))
            counts: dict[str, Any] = {"prompts": len(prompts.example_id), "rows": whole.num_rows}
            if miner.settings.only_correct:
                counts["dropped"] = {"wrong answer": counts["prompts"] - counts["rows"]}
            stamp = provenance_of(
                **content,
                amateur_ids="checked",  # older versions mined unchecked ones too
                facts=dict(facts),
                counts=counts,
            )
            write_text(folder / "provenance.json", json.dumps(stamp, indent=2))
    return whole, content


def load_soft_targets(folder: str | Path) -> Dataset:
    """The rows of a mined folder, mapped from its shards.

    Raises:
        InputError: it is none, batches are missing, or a shard is not as it was written.
    """
    folder = Path(folder)
    path = folder / "mining.json"
    if not path.is_file():
        raise InputError.at(
            "this is no folder of soft targets (no mining.json)",
            remedy="name the output_dir of `hf-proxy contrast mine`",
            source=folder,
        )
    mined = read_record(path, MiningRecord, remedy=REMEDY)
    # by what is there, not by a number in a file
    number, names = mined.num_batches, (shard.stem for shard in (folder / "shards").glob("*.arrow"))
    there = sorted(int(name) for name in names if name.isdecimal())
    wanted = [batch for batch in there if batch < number]
    if len(wanted) < number:
        first = next((b for b, found in enumerate(wanted) if b != found), len(wanted))
        raise InputError.at(
            f"{number - len(wanted)} of {number} batches are missing, the first "
            f"{shard_path(folder, first).name}",
            remedy="run the same mining again, it goes on",
            source=folder,
        )
    shards = [read_shard(shard_path(folder, batch)) for batch in there]
    num_rows = sum(map(len, shards))
    least = 0 if mined.settings.only_correct else mined.num_prompts
    if len(there) > number or not least <= num_rows <= mined.num_prompts:
        raise InputError.at(
            f"{mined.num_prompts} in batches of {mined.settings.batch_size}, but "
            f"{num_rows} rows in {len(there)} shards are there",
            remedy=REMEDY,
            source=path,
            field="num_prompts",
        )
    rows = concatenate_datasets(shards)
    # goes with the rows through select and shuffle, so that a trainer can tell whose they are
    is_chat = "{prompt}" not in mined.template  # a context in text has it, see read_prompts
    rows.info.description = json.dumps(
        {
            "tokenizer": mined.tokenizer,
            "chat_template": mined.template_hash if is_chat else None,
        }
    )
    return rows


def _first(miner: Miner, prompts: Prompts, number: int) -> dict[str, Any]:
    """What `mining.json` would say of the first so many prompts."""
    ids, texts = prompts.example_id[:number], prompts.input_ids[:number]
    return miner.describe(dataclasses.replace(prompts, example_id=ids, input_ids=texts))


def _num_batches(num_prompts: int, batch_size: int) -> int:
    return -(-num_prompts // batch_size)
