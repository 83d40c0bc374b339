"""Sets of soft targets on disk: one file for each batch, gone on with wherever they were left.

Batch b holds prompts [b * batch_size, (b + 1) * batch_size) in the order given and is one file that
appears whole or not at all. Batches, not prompts, are dealt to the ranks. So the set is the same,
row for row, wherever it was interrupted and on however many processes it was mined.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from hf_proxy.mining.correctness import read_answers
from hf_proxy.mining.miner import Miner
from hf_proxy.mining.mining_record import REMEDY, MiningRecord
from hf_proxy.mining.settings import MiningSettings, with_later
from hf_proxy.mining.shards import read_shard
from hf_proxy.mining.soft_targets import Tally
from hf_proxy.models.parallel import (
    Processes,
    is_main,
    num_processes,
    require_equal,
    stop_together,
    sum_over_ranks,
)
from hf_proxy.records.defaults import SYSTEM_PROMPT
from hf_proxy.records.errors import InputError
from hf_proxy.records.record import checked, read_json, read_record
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
    amateur_processing_class: PreTrainedTokenizerBase | None = None,
    output_dir: str | Path,
    accelerator: Processes = None,
    context: str = "chat",
    system_prompt: str | None = SYSTEM_PROMPT,
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
    facts: Mapping[str, Any] | None = None,
) -> Dataset:
    """Soft targets of the steps where the expert and the amateur part ways.

    A folder that holds some batches already is gone on with; the set is the same then.

    Args:
        expert, amateur: causal language models, whole on this process.
        prompts: rows with `prompt` and `example_id`, or texts.
        processing_class: the expert's tokenizer, or a processor that holds it; its template is
            used for both models.
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
        select: which steps are kept, see `hf_proxy.mining.selection`: `"kl"` (paper), `"all"`,
            `"random"`, `"entropy"`, `"low_entropy_high_kl"`; all but `"all"` keep as many steps of
            a batch as `"kl"`.
        target: what is aimed at there, see `hf_proxy.mining.targets`: `"contrast"` (paper),
            `"expert"`, `"token"`, `"mixture"`.
        mixture_weight: of the contrast in the mixture; the rest is the expert's.
        only_correct: leave out trajectories whose answer is wrong, as `hf-proxy accuracy` grades;
            prompts are rows with `answer` then.
        facts: names of models and data, for `provenance.json`.

    Returns:
        `Dataset` of `SoftTargets` rows, in the order of the prompts, mapped from the shards.

    Raises:
        InputError: see `read_prompts`; a prompt beyond the window, tokenizers of other families, a
            folder mined with other settings, a logit that is not finite.
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
    with stop_together(accelerator):
        processing_class = tokenizer_of(processing_class)
        if amateur_processing_class is not None:
            amateur_processing_class = tokenizer_of(amateur_processing_class)
        read = read_prompts(prompts, processing_class, context=context, system_prompt=system_prompt)
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
    missing = [batch for batch in batches if not _shard_path(folder, batch).exists()]
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
            write_arrow(_shard_path(folder, batch), SOFT_TARGET_FEATURES, rows)
        # what an earlier run left is counted by the main process, what is new by who wrote it
        there = sorted(set(batches) - set(missing)) if is_main(accelerator) else []
        for batch in [*there, *own]:
            for row in read_shard(_shard_path(folder, batch)):
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
                amateur_ids="checked" if miner.ids_checked else "unchecked",
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
            f"{_shard_path(folder, first).name}",
            remedy="run the same mining again, it goes on",
            source=folder,
        )
    shards = [read_shard(_shard_path(folder, batch)) for batch in there]
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


def _open_folder(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `mining.json`, or see that it says the same."""
    path = folder / "mining.json"
    if not path.exists():
        # a dot-file is what a killed run has left of a file that was to appear by rename; the
        # path itself may have appeared just now, from another rank
        inside = [file for file in folder.iterdir() if file != path] if folder.is_dir() else []
        if any(not file.name.startswith(".") for file in inside):
            raise InputError.at(
                "the folder holds something else", remedy="name an empty one", source=folder
            )
        write_text(path, json.dumps(content, indent=2))
        return
    theirs, mine = read_json(path, remedy=REMEDY), json.loads(json.dumps(content))
    checked(MiningRecord, theirs, source=path, remedy=REMEDY)
    differing = [name for name in mine if theirs.get(name) != mine[name]]
    if "settings" in differing:
        differing.remove("settings")
        known = with_later(theirs["settings"])
        pairs = [(n, known.get(n), v) for n, v in mine["settings"].items()]
        differing += [f"{name} ({old!r}, now {new!r})" for name, old, new in pairs if old != new]
    if differing:
        raise InputError.at(
            f"the folder was mined with other {', '.join(differing)}",
            remedy="name another output_dir, or delete this one",
            source=folder,
        )


def _num_batches(num_prompts: int, batch_size: int) -> int:
    return -(-num_prompts // batch_size)


def _shard_path(folder: Path, batch: int) -> Path:
    return folder / "shards" / f"{batch:06d}.arrow"
