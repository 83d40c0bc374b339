"""What the recipes that train have in common: the model, the rows held out, where to go on."""

import logging
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments
from transformers.trainer_utils import IntervalStrategy
from trl import ModelConfig, SFTConfig, get_peft_config, get_quantization_config

from hf_proxy.models.parallel import Processes, num_processes, stop_together
from hf_proxy.models.whole import made_whole
from hf_proxy.recipes.library.checkpoints import loading
from hf_proxy.records.errors import InputError
from hf_proxy.records.run_folders import checkpoints_of
from hf_proxy.records.storage import fingerprint

logger = logging.getLogger(__name__)


# fields of the trainer's config that no recipe reads: values that change nothing, and the remedy
_UNREAD: dict[str, tuple[tuple[Any, ...], str]] = {
    "batch_eval_metrics": ((False,), "no metric is computed from logits here: leave it out"),
    "dataset_text_field": (("text",), "prompt_column and completion_column name the columns"),
    "do_predict": ((False,), "hold rows out with --num_eval and set --eval_strategy"),
    "eval_do_concat_batches": ((True,), "no metric is computed from logits here: leave it out"),
    "include_for_metrics": (([],), "no metric is computed from logits here: leave it out"),
    "label_names": ((None,), "no metric is computed from logits here: leave it out"),
    "model_init_kwargs": (
        (None,),
        "write --dtype, --attn_implementation, --model_revision or --trust_remote_code",
    ),
    "resume_from_checkpoint": (
        (None,),
        "a run goes on from the last checkpoint in its output_dir; --resume false starts anew",
    ),
}
# fields of the model's config that are read where another one is set
_READ_WITH = {
    "use_peft": (
        "lora_r",
        "lora_alpha",
        "lora_dropout",
        "lora_target_modules",
        "lora_target_parameters",
        "lora_modules_to_save",
        "use_rslora",
        "use_dora",
        "load_in_8bit",
        "load_in_4bit",
    ),
    "load_in_4bit": ("bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"),
}


def check_flags(arguments: SFTConfig, model_config: ModelConfig) -> None:
    """Refuse fields that would do nothing in a recipe.

    Raises:
        InputError: naming the field, and what to write instead.
    """
    for name, (harmless, remedy) in _UNREAD.items():
        if getattr(arguments, name) not in harmless:
            raise InputError.at("no recipe reads it", remedy=remedy, field=name)
    if arguments.do_eval and IntervalStrategy(arguments.eval_strategy).value == "no":
        raise InputError.at(
            "alone it evaluates nothing", remedy="set --eval_strategy", field="do_eval"
        )
    usual = {field.name: field.default for field in fields(arguments)}
    for what in ("eval", "save", "logging"):
        name, strategy = f"{what}_steps", f"{what}_strategy"
        every = IntervalStrategy(getattr(arguments, strategy)).value
        if every != "steps" and getattr(arguments, name) != usual[name]:
            held_out = " and hold rows out with --num_eval" if what == "eval" else ""
            raise InputError.at(
                f"it is not read with {strategy} {every!r}",
                remedy=f"add --{strategy} steps{held_out}",
                field=name,
            )
    defaults = {field.name: field.default for field in fields(model_config)}
    for switch, names in _READ_WITH.items():
        for name in names:
            if not getattr(model_config, switch) and getattr(model_config, name) != defaults[name]:
                raise InputError.at(
                    f"it is read with {switch} only", remedy=f"add --{switch}", field=name
                )
    if model_config.lora_task_type != "CAUSAL_LM":
        raise InputError.at(
            f"{model_config.lora_task_type!r} is not what is trained here",
            remedy="leave it out: models are causal language models",
            field="lora_task_type",
        )
    name = str(model_config.model_name_or_path)
    if model_config.model_revision != "main" and Path(name).exists():
        raise InputError.at(
            f"{name} is a folder, which has no revisions",
            remedy="leave it out, or name a hub id",
            field="model_revision",
        )
    if model_config.load_in_4bit and model_config.dtype == "auto":
        raise InputError.at(
            "load_in_4bit computes in a dtype that has to be named",
            remedy="write --dtype bfloat16 or float32",
            field="dtype",
        )


def is_quantized(model_config: ModelConfig) -> bool:
    """Whether the weights are rounded as they are loaded."""
    return model_config.load_in_4bit or model_config.load_in_8bit


def load_trainable(
    model_config: ModelConfig, *, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """Model and tokenizer; weights are safetensors.

    Args:
        trust_remote_code: run code that comes with the model.

    Raises:
        InputError: there is no such model, or it cannot be loaded.
    """
    name = str(model_config.model_name_or_path)
    where = {"revision": model_config.model_revision, "trust_remote_code": trust_remote_code}
    if is_quantized(model_config) and find_spec("bitsandbytes") is None:
        raise InputError.at(
            "the package bitsandbytes is not installed",
            remedy="pip install bitsandbytes",
            field="load_in_4bit" if model_config.load_in_4bit else "load_in_8bit",
        )
    with loading("tokenizer", name):
        tokenizer = AutoTokenizer.from_pretrained(name, **where)
    with loading("model", name):
        model = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=model_config.dtype,
            attn_implementation=model_config.attn_implementation,
            quantization_config=get_quantization_config(model_config),
            use_safetensors=True,
            **where,
        )
    return model, tokenizer


def load_amateur(name: str, dtype: Any, *, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """A weaker model in the expert's precision, and its tokenizer; weights are safetensors.

    Raises:
        InputError: there is no such model, or it cannot be loaded.
    """
    with loading("tokenizer", name):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    with loading("model", name):
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
        )
    return made_whole(model), tokenizer


def adapter_config(model_config: ModelConfig) -> Any:
    """The LoRA config that the flags describe, of this revision of the model; None without."""
    config = get_peft_config(model_config)
    if config is not None and model_config.model_revision != "main":
        config.revision = model_config.model_revision
    return config


def hold_out(rows: Dataset, num_eval: int) -> tuple[Dataset, Dataset | None]:
    """The last `num_eval` rows for evaluation, those before for training.

    Raises:
        InputError: none is left to train on.
    """
    num_train = len(rows) - num_eval
    if num_train < 1:
        raise InputError.at(
            f"num_eval={num_eval} leaves no row of {len(rows)} to train on",
            remedy="set num_eval lower",
        )
    held_out = rows.select(range(num_train, len(rows))) if num_eval else None
    return rows.select(range(num_train)), held_out


def last_checkpoint(folder: Path, *, resume: bool) -> str | None:
    """The newest checkpoint that was written to its end, if any.

    One that was not is written anew when the run comes by its step again.
    """
    if not resume or not folder.is_dir():
        return None
    for _, checkpoint, state in checkpoints_of(folder):
        if state is not None:
            return str(checkpoint)
        logger.warning("%s was not written to its end; going on from the one before", checkpoint)
    return None


def common_checkpoint(folder: Path, *, resume: bool, processes: Processes) -> str | None:
    """The newest checkpoint from which every process can go on, the same on all; None: begin anew.

    On nodes without a shared disk each has files of its own: one that found no checkpoint would
    begin anew while the others go on, and all would wait for ever.

    Raises:
        InputError: some process has checkpoints, and none of them is on all.
    """
    if num_processes(processes) == 1:
        return last_checkpoint(folder, resume=resume)
    with stop_together(processes):
        own = _whole_checkpoints(folder) if resume and folder.is_dir() else {}
    every = gather_object([own])
    common = [step for step in own if len({theirs.get(step) for theirs in every}) == 1]
    if common:
        return str(folder / f"checkpoint-{max(common)}")
    if any(every):
        has = next(rank for rank, theirs in enumerate(every) if theirs)
        odd = next(rank for rank, theirs in enumerate(every) if theirs != every[has])
        raise InputError.at(
            f"rank {has} would go on from checkpoint-{max(every[has])}, which rank {odd} does not "
            "have, or has of another run",
            remedy="copy it to every node, put output_dir on a disk that all nodes share, or begin "
            "anew with --resume false",
            source=folder,
        )
    return None


def _whole_checkpoints(folder: Path) -> dict[int, str]:
    """By step what tells a checkpoint of one run from another's, the same on every node."""
    found = {}
    for step, path, state in checkpoints_of(folder):
        # another node's own files are there without its weights: optimizer, random streams
        if state is not None and any(map(_holds_weights, path.iterdir())):
            rows = state.get("log_history", [])
            losses = [[row.get("step"), row["loss"]] for row in rows if "loss" in row]
            found[step] = fingerprint([state.get("max_steps"), losses])
    return found


def _holds_weights(path: Path) -> bool:
    """Whether it is weights, or a folder of FSDP's or DeepSpeed's shards of them."""
    is_shards = path.is_dir() and path.name.startswith(("pytorch_model_fsdp", "global_step"))
    return is_shards or path.suffix == ".safetensors"


def check_evaluation(arguments: TrainingArguments, num_eval: int) -> None:
    """Refuse an evaluation without a row held out for it.

    Raises:
        InputError: there would be nothing to evaluate on.
    """
    strategy = IntervalStrategy(arguments.eval_strategy).value
    if strategy != "no" and not num_eval:
        raise InputError.at(
            f"eval_strategy={strategy} evaluates, on no row",
            remedy="set num_eval to the number of rows that are held out for it",
            field="num_eval",
        )


def check_world_size(asked: int | None, recipe: str) -> None:
    """Refuse a launch that started another number of processes than was meant."""
    found = PartialState().num_processes
    if asked not in (None, found):
        raise InputError(
            f"{found} processes run, world_size={asked} was asked for; see the launch lines at the "
            f"head of recipes/{recipe}.yaml"
        )


def trace_sets(specs: list[str]) -> dict[str, str]:
    """`path` under the name rbridge, `name=path` under its own."""
    named = [spec.split("=", 1) if "=" in spec else ["rbridge", spec] for spec in specs]
    sets = {name: path for name, path in named}
    if len(sets) < len(specs):
        raise InputError("several trace sets need names of their own: name=path name=path")
    return sets
