"""Folders of tuned models as one shares them: a card, the base's precision, nothing pickled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig

from hf_proxy.records.errors import InputError
from hf_proxy.records.storage import write_text

if TYPE_CHECKING:
    import torch

TAGS = ("lightreasoner",)


def save_tuned(trainer: Any) -> None:
    """Save the model to the trainer's `output_dir`, without what is of no use elsewhere.

    `training_args.bin` is a pickle: who loads it runs what it holds. A base that is a folder of
    this machine is nothing to anybody else. Checkpoints keep both.

    The weights are whole, however the checkpoints are written: shards load nowhere.

    Raises:
        InputError: DeepSpeed was told not to gather them.
    """
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    if trainer.is_deepspeed_enabled and trainer.accelerator.state.deepspeed_plugin.zero_stage == 3:
        if not trainer.model_wrapped.zero_gather_16bit_weights_on_model_save():
            raise InputError.at(
                "DeepSpeed keeps the shards of the weights apart, and no model would be saved",
                remedy="set zero3_save_16bit_model: true (stage3_gather_16bit_weights_on_model_save"
                ") and start again: it goes on from the last checkpoint",
                source=trainer.args.output_dir,
            )
    trainer.save_model()
    if not trainer.args.should_save:
        return
    folder = Path(trainer.args.output_dir)
    (folder / "training_args.bin").unlink(missing_ok=True)
    path = folder / "README.md"
    if path.exists():  # PEFT's or TRL's, which name the base as it was loaded
        bare = getattr(trainer.model, "get_base_model", lambda: trainer.model)()
        base = shared_name(bare.config.name_or_path or "a model without a name")
        # TRL's words for a base that is a folder, and for a model that is not on the hub
        text = path.read_text(encoding="utf-8")
        text = text.replace("[None](https://huggingface.co/None)", base)
        write_text(path, text.replace('model="None"', f'model="{folder.name}"'))
        card = ModelCard.load(path)
        if card.data.base_model is not None and not is_hub_id(card.data.base_model):
            card.data.base_model = None
            card.data.tags = [t for t in card.data.tags or [] if not t.startswith("base_model:")]
            write_text(path, str(card))


def save_merged(model: Any, tokenizer: Any, folder: Path, base: str, revision: str) -> str:
    """Save a model whose adapter has been merged, in the precision of its base's weights.

    Args:
        model: of any precision; it is rounded where the base is.
        base, revision: the model under the adapter, folder or hub id.

    Returns:
        the precision, as a card names it.
    """
    dtype = dtype_of(base, revision)
    if dtype is not None:
        model = model.to(dtype)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(model.dtype).removeprefix("torch.")


def dtype_of(base: str, revision: str) -> torch.dtype | None:
    """The precision in which a model's weights were saved; None: its config does not say."""
    return getattr(AutoConfig.from_pretrained(base, revision=revision), "dtype", None)


def write_card(folder: Path, text: str, base: str, *, library: str) -> None:
    """A model card that the hub can read.

    Args:
        base: of the tuned model; a folder of this machine is nothing to anybody else, so only a hub
            id is named in the head.
        library: that loads the folder, `"peft"` or `"transformers"`.
    """
    named: dict[str, Any] = {"base_model": base} if is_hub_id(base) else {}
    data = ModelCardData(library_name=library, tags=list(TAGS), **named)
    write_text(folder / "README.md", f"---\n{data.to_yaml()}\n---\n\n{text}")
    ModelCard.load(folder / "README.md")  # a card that the hub could not read is no card


def shared_name(name: str) -> str:
    """A model or a data set as a card names it: a hub id, or the last part of a path."""
    return name if is_hub_id(name) else Path(name).name


def is_hub_id(name: str) -> bool:
    """Whether a model's name is one of the hub's rather than a folder's."""
    if Path(name).exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
