"""Folders that are handed on: what they say, in which precision, and what they leave out."""

import re
import tomllib
from types import SimpleNamespace

import pytest
import torch
from helpers.models import make_model
from helpers.processes import ROOT
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl.trainer.utils import generate_model_card

from hf_proxy.recipes.library.sharing import (
    is_hub_id,
    save_merged,
    save_tuned,
    shared_name,
    write_card,
)
from hf_proxy.records.errors import InputError


def test_only_a_hub_id_is_a_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert is_hub_id("Qwen/Qwen2.5-Coder-0.5B") and is_hub_id("gpt2")
    for name in ("org/model", str(tmp_path), "outputs/a/b", "../gone", "/gone/model", "a..b"):
        assert not is_hub_id(name), name
    assert shared_name("Qwen/Qwen2.5-Coder-0.5B") == "Qwen/Qwen2.5-Coder-0.5B"
    assert shared_name("/home/someone/models/expert") == "expert"
    for base, named in (("org/model", None), ("Qwen/Qwen2.5-Coder-0.5B",) * 2):
        write_card(tmp_path / "card", "# A model", base, library="transformers")
        data = ModelCard.load(tmp_path / "card" / "README.md").data
        assert (data.base_model, data.library_name) == (named, "transformers")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_merged_model_is_as_precise_as_its_base(tmp_path, tokenizer, dtype):
    base = str(tmp_path / "base")
    make_model("llama", len(tokenizer), dtype=dtype).save_pretrained(base)
    trained = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    said = save_merged(trained, tokenizer, tmp_path / "merged", base, "main")
    assert said == str(dtype).removeprefix("torch.")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert again.dtype == again.config.dtype == dtype
    for mine, theirs in zip(
        again.parameters(),
        make_model("llama", len(tokenizer), dtype=dtype).parameters(),
        strict=True,
    ):
        assert torch.equal(mine, theirs)  # nothing was learnt, so nothing has changed


@pytest.mark.parametrize("should_save", [True, False])
def test_no_pickle_and_no_path_of_this_machine_go_along(tmp_path, tokenizer, should_save):
    model = make_model("llama", len(tokenizer))
    model.name_or_path = str(tmp_path / "base")
    make_model("llama", len(tokenizer)).save_pretrained(tmp_path / "base")
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    folder = tmp_path / "run"

    def save_model():  # as Trainer does
        tuned.save_pretrained(folder)
        torch.save({}, folder / "training_args.bin")

    args = SimpleNamespace(should_save=should_save, output_dir=str(folder))
    plain = {"is_fsdp_enabled": False, "is_deepspeed_enabled": False}
    save_tuned(SimpleNamespace(save_model=save_model, model=tuned, args=args, **plain))
    assert (folder / "training_args.bin").exists() is not should_save
    text = (folder / "README.md").read_text()
    assert (str(tmp_path) in text) is not should_save
    ModelCard.load(folder / "README.md")


@pytest.mark.parametrize("is_adapter", [True, False])
def test_no_card_speaks_of_a_model_none(tmp_path, tokenizer, is_adapter):
    """TRL names a base that is a folder None, with a link, and tells a user to load it."""
    model = make_model("llama", len(tokenizer))
    model.config.name_or_path = str(tmp_path / "base")
    if is_adapter:
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    card = generate_model_card(
        base_model=None, model_name="run", hub_model_id=None, dataset_name=None, tags=[],
        wandb_url=None, trackio_url=None, trainer_name="SFT",
    )  # fmt: skip
    assert "[None](" in str(card) and 'model="None"' in str(card)
    (tmp_path / "run").mkdir()
    trainer = SimpleNamespace(
        save_model=lambda: card.save(tmp_path / "run" / "README.md"),
        model=model,
        args=SimpleNamespace(should_save=True, output_dir=str(tmp_path / "run")),
        is_fsdp_enabled=False,
        is_deepspeed_enabled=False,
    )
    save_tuned(trainer)
    text = (tmp_path / "run" / "README.md").read_text()
    assert "None" not in text and str(tmp_path) not in text
    assert "a fine-tuned version of base" in text and 'model="run"' in text


def test_shards_that_deepspeed_keeps_apart_are_no_model(tmp_path):
    plugin = SimpleNamespace(zero_stage=3)
    trainer = SimpleNamespace(
        is_fsdp_enabled=False,
        is_deepspeed_enabled=True,
        accelerator=SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin)),
        model_wrapped=SimpleNamespace(zero_gather_16bit_weights_on_model_save=lambda: False),
        args=SimpleNamespace(output_dir=str(tmp_path)),
    )
    with pytest.raises(InputError, match="set zero3_save_16bit_model: true"):
        save_tuned(trainer)


def test_only_python_versions_are_named_on_which_the_suite_ran():
    """They stand at the head of the constraints, which are written when it passed."""
    head = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()[0]
    ran = set(re.findall(r"Python (3\.\d+)", head))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [re.findall(r"Python :: (3\.\d+)", c) for c in project["classifiers"]]
    assert set(sum(named, [])) == ran and ran
    readme = (ROOT / "README.md").read_text() + (ROOT / "recipes" / "README.md").read_text()
    assert set(re.findall(r"[Pp]ython ?(3\.\d+)", readme)) <= ran
    assert "3.11 on" not in readme
