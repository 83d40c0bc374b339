"""What the recipes that train have in common: the model, the rows held out, where to go on."""

import logging
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments
from transformers.trainer_utils import IntervalStrategy
from trl import ModelConfig

from hf_proxy.recipes.library.checkpoints import loading
from hf_proxy.records.errors import InputError
from hf_proxy.records.run_folders import checkpoints_of

logger = logging.getLogger(__name__)


def load_trainable(model_config: ModelConfig) -> tuple[Any, Any]:
    """Model and tokenizer; weights are safetensors.

    Raises:
        InputError: there is no such model, or it cannot be loaded.
    """
    name = str(model_config.model_name_or_path)
    with loading("tokenizer", name):
        tokenizer = AutoTokenizer.from_pretrained(name)
    with loading("model", name):
        model = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=model_config.dtype,
            attn_implementation=model_config.attn_implementation,
            use_safetensors=True,
        )
    return model, tokenizer


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
