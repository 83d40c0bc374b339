"""Models on disk: finding them, naming their weights, loading them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError

from hf_proxy.records.errors import InputError
from hf_proxy.records.record import Record, Text, checked, read_json
from hf_proxy.records.run_folders import TrainerState
from hf_proxy.records.storage import file_hash, fingerprint

# their libraries take seconds: what is wrong with a path is said before
if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
# config entries that say where a model came from, not what it computes; dtype is named separately
_INCIDENTAL_KEYS = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache")
_HALF = "the folder may be half copied: write or fetch it again"


class AdapterRecord(Record):
    """Of `adapter_config.json` what names the model under it."""

    base_model_name_or_path: Text | None = None


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights.

    Attributes:
        name: as the user wrote it, or folder and step.
        folder: a model, or a LoRA adapter.
        base: folder of the model under an adapter; None for a model.
        step: global step that `trainer_state.json` names; None without one.
    """

    name: str
    folder: Path
    base: Path | None
    step: int | None


def find_checkpoints(spec: str) -> list[Checkpoint]:
    """The weights that a model folder, hub id, checkpoint, adapter or run folder stands for.

    A run folder without weights of its own stands for its `checkpoint-*` folders, in order of step.

    Raises:
        InputError: there is nothing to load, or only pickled weights.
    """
    folder = Path(spec)
    if not folder.exists():
        folder = _from_hub(spec)
    if (folder / "adapter_config.json").exists():
        return [_adapter(spec, folder)]
    if (folder / "config.json").exists():
        return [Checkpoint(spec, folder, None, _step(folder))]
    inside = [path for path in folder.glob("checkpoint-*") if re.search(r"-\d+$", path.name)]
    if not inside:
        _refuse_shards(folder)
        raise InputError.at(
            "no config.json, adapter_config.json or checkpoint-* folder here",
            remedy="name a model folder, adapter, checkpoint, run folder or hub id",
            source=spec,
        )
    inside.sort(key=lambda path: int(path.name.rsplit("-", 1)[1]))
    for path in inside:
        _refuse_shards(path)
    return [found for path in inside for found in find_checkpoints(str(path))]


def _refuse_shards(folder: Path) -> None:
    """Name the way from a sharded training's own files to a model.

    Raises:
        InputError: the folder holds shards and no whole weights.
    """
    if any(folder.glob("*.safetensors")):
        return
    if (shards := folder / "pytorch_model_fsdp_0").is_dir():
        raise InputError.at(
            "only the shards of an FSDP training, no whole weights",
            remedy=f"run `accelerate merge-weights {shards} {folder}`, and copy config.json and "
            "the tokenizer's files there; or train with fsdp_state_dict_type: FULL_STATE_DICT",
            source=folder,
        )
    if any(folder.glob("global_step*/*model_states.pt")):
        raise InputError.at(
            "only the shards of a DeepSpeed training, no whole weights",
            remedy=f"run `python {folder / 'zero_to_fp32.py'} {folder} {folder} "
            "--safe_serialization`, and copy config.json and the tokenizer's files there; or train "
            "with zero3_save_16bit_model: true",
            source=folder,
        )


def _from_hub(spec: str, revision: str | None = None) -> Path:
    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(spec, revision=revision, allow_patterns=patterns))
    except Exception as error:
        raise InputError.at(
            f"neither a folder nor a hub model that can be had ({type(error).__name__})",
            remedy="check the path; offline, only models already in the cache are found",
            source=spec,
        ) from error


def _adapter(spec: str, folder: Path) -> Checkpoint:
    path = folder / "adapter_config.json"
    config = read_json(path, remedy=_HALF)
    name = checked(AdapterRecord, config, source=path).base_model_name_or_path
    if not name:
        raise InputError.at(
            "it names no base model",
            remedy="write the folder of the base model there",
            source=folder / "adapter_config.json",
            field="base_model_name_or_path",
        )
    base = Path(name) if Path(name).exists() else _from_hub(name, config.get("revision"))
    return Checkpoint(spec, folder, base, _step(folder))


def _step(folder: Path) -> int | None:
    state = folder / "trainer_state.json"
    if not state.exists():
        return None
    return checked(TrainerState, read_json(state, remedy=_HALF), source=state).global_step


def weights_fingerprint(checkpoint: Checkpoint) -> str:
    """Hash of the weights and of the config that they run under, wherever they lie."""
    folders = [checkpoint.folder] + ([checkpoint.base] if checkpoint.base else [])
    content: list = []
    for folder in folders:
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            _refuse_shards(folder)
            raise InputError.at(
                "there are no .safetensors weights",
                remedy="pickled weights are not read; save with safe_serialization=True",
                source=folder,
            )
        content += [[file.name, file_hash(file)] for file in files]
        for name in ("config.json", "adapter_config.json"):
            if (folder / name).exists():
                config = read_json(folder / name, remedy=_HALF)
                content.append({k: v for k, v in config.items() if k not in _INCIDENTAL_KEYS})
    return fingerprint(content)


def common_fingerprint(checkpoint: Checkpoint, processes: Accelerator) -> str:
    """`weights_fingerprint`, seen to be one on all nodes; gigabytes, read once on each.

    Raises:
        InputError: one name stands for other weights on another node.
    """
    from accelerate.utils import gather_object

    from hf_proxy.models.parallel import stop_together

    own = None
    with stop_together(processes):
        if processes.is_local_main_process:
            own = weights_fingerprint(checkpoint)
    every = gather_object([own])
    odd = [rank for rank, theirs in enumerate(every) if theirs not in (None, every[0])]
    if odd:
        raise InputError.at(
            f"rank {odd[0]} has other weights here than rank 0",
            remedy="copy them anew to every node, or run on one",
            source=checkpoint.folder,
        )
    return str(every[0])


@contextmanager
def loading(what: str, source: str | Path) -> Iterator[None]:
    """Name the folder or hub id when the libraries cannot load `what` from it.

    Raises:
        InputError: the body failed as it does where files are missing, cut or of another kind.
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        if not Path(source).exists() and isinstance(error, OSError):
            raise InputError.at(
                f"neither a folder nor a hub model that can be had ({type(error).__name__})",
                remedy="check the path; offline, only models already in the cache are found",
                source=source,
            ) from error
        if what == "tokenizer" and not any(Path(source).glob("*token*")):
            raise InputError.at(
                "there is no tokenizer here",
                remedy="tokenizer.save_pretrained(folder) writes it",
                source=source,
            ) from error
        said = " ".join(str(error).split())
        raise InputError.at(
            f"no {what} can be loaded ({type(error).__name__}: {said:.200})",
            remedy="the folder needs its config, whole .safetensors weights and the tokenizer",
            source=source,
        ) from error


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """The tokenizer beside the weights, for an adapter without one that of its base."""
    from transformers import AutoTokenizer

    has_own = (checkpoint.folder / "tokenizer_config.json").exists()
    folder = checkpoint.folder if has_own or checkpoint.base is None else checkpoint.base
    with loading("tokenizer", folder):
        return AutoTokenizer.from_pretrained(folder)


def find_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, a run or an adapter.

    Raises:
        InputError: there is none, or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    # an adapter's own tokenizer is there even where its base is not
    if (Path(folder) / "tokenizer_config.json").exists():
        return AutoTokenizer.from_pretrained(folder)
    return load_tokenizer(find_checkpoints(folder)[-1])


def load_model(
    checkpoint: Checkpoint,
    *,
    dtype: str,
    device: torch.device,
    attn_implementation: str | None = None,
) -> PreTrainedModel | PeftModel:
    """The weights in `dtype` ("auto": as they were saved) on `device`, in eval mode."""
    import torch
    from transformers import AutoModelForCausalLM

    from hf_proxy.models.whole import made_whole

    with loading("model", checkpoint.base or checkpoint.folder):
        model: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint.base or checkpoint.folder,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            attn_implementation=attn_implementation,
            use_safetensors=True,
        )
    model = made_whole(model)
    if checkpoint.base is not None:
        from peft import PeftModel

        with loading("adapter", checkpoint.folder):
            model = PeftModel.from_pretrained(model, checkpoint.folder, use_safetensors=True)
    return model.to(device).eval()
