"""What the recipes that train have in common: the model, the rows held out, where to go on."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_utils import get_last_checkpoint
from trl import ModelConfig


def load_trainable(model_config: ModelConfig) -> tuple[Any, Any]:
    """Model and tokenizer; weights are safetensors.

    Raises:
        ValueError: the model is not named.
    """
    if model_config.model_name_or_path is None:
        raise ValueError("name the model: --model_name_or_path")
    tokenizer = AutoTokenizer.from_pretrained(model_config.model_name_or_path)
    model = AutoModelForCausalLM.from_pretrained(
        model_config.model_name_or_path,
        dtype=model_config.dtype,
        attn_implementation=model_config.attn_implementation,
        use_safetensors=True,
    )
    return model, tokenizer


def hold_out(rows: Dataset, num_eval: int) -> tuple[Dataset, Dataset | None]:
    """The last `num_eval` rows for evaluation, those before for training.

    Raises:
        ValueError: none is left to train on.
    """
    num_train = len(rows) - num_eval
    if num_train < 1:
        raise ValueError(f"num_eval={num_eval} leaves no row of {len(rows)} to train on")
    held_out = rows.select(range(num_train, len(rows))) if num_eval else None
    return rows.select(range(num_train)), held_out


def last_checkpoint(folder: Path, *, resume: bool) -> str | None:
    """The checkpoint to go on from, if any."""
    return get_last_checkpoint(str(folder)) if resume and folder.is_dir() else None
