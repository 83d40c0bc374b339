"""An amateur's tokenizer is read, given or asked for, whichever door the amateur comes in by."""

import pytest
from helpers.mining import PROMPTS, make_callback, mine
from helpers.models import make_model, sharp_pair
from helpers.selective import make_rows
from helpers.tokenizers import ImageProcessor, Processor
from helpers.trainers import plain_trainer
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from hf_proxy import InputError, SelectiveSFTConfig, SelectiveSFTTrainer, foretell_gain
from hf_proxy.mining.amateurs import amateur_tokenizer

SIZE = 340


def by_mining(amateur, tokenizer, folder):
    expert = sharp_pair(SIZE)[0]
    mine((expert, amateur), tokenizer, folder / "set", amateur_processing_class=None)


def by_foretelling(amateur, tokenizer, folder):
    problems = [{"prompt": prompt, "answer": "5"} for prompt in PROMPTS[:3]]
    foretell_gain(
        sharp_pair(SIZE)[0],
        amateur,
        problems,
        processing_class=tokenizer,
        context="{prompt}\n",
        max_new_tokens=2,
    )


def by_callback(amateur, tokenizer, folder):
    callback = make_callback(tokenizer, amateur=amateur, amateur_processing_class=None)
    trainer = plain_trainer(folder, tokenizer, callbacks=[callback], max_steps=1, eval_steps=1)
    trainer.evaluate()


def by_trainer(amateur, tokenizer, folder):
    arguments = SelectiveSFTConfig(str(folder), max_steps=1, bf16=False, use_cpu=True)
    SelectiveSFTTrainer(
        model=make_model("llama", SIZE),
        args=arguments,
        train_dataset=make_rows(tokenizer, 2),
        processing_class=tokenizer,
        amateur=amateur,
    )


DOORS = (by_mining, by_foretelling, by_callback, by_trainer)


@pytest.fixture(scope="module")
def amateurs(tokenizer, other_tokenizer, tmp_path_factory):
    """Objects as they are loaded from folders: with its tokenizer, another's, none, one made up."""
    found = {}
    for name, kind, own in (
        ("own", "llama", tokenizer),
        ("other", "llama", other_tokenizer),
        ("none", "llama", None),
        ("made up", "qwen2", None),  # AutoTokenizer makes an empty one of such a folder
    ):
        folder = tmp_path_factory.mktemp("amateur") / name.replace(" ", "-")
        make_model(kind, SIZE).save_pretrained(folder)
        if own is not None:
            own.save_pretrained(folder)
        found[name] = AutoModelForCausalLM.from_pretrained(folder)
    return found


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_an_object_is_checked_by_every_door(door, amateurs, tokenizer, tmp_path):
    assert make_model("llama", SIZE).name_or_path == ""
    line = r"; give it: amateur_processing_class=AutoTokenizer.from_pretrained\(...\)"
    for amateur, message in (
        (amateurs["other"], "tokens of the expert are others for the amateur"),
        (
            amateurs["none"],
            f"none, field amateur_processing_class: .*no tokenizer can be read{line}",
        ),
        (amateurs["made up"], f"no tokenizer can be read{line}"),
        (make_model("llama", SIZE), f"does not say where it was loaded from.*{line}"),
    ):
        with pytest.raises(InputError, match=message):
            door(amateur, tokenizer, tmp_path)
    door(amateurs["own"], tokenizer, tmp_path)


def test_which_tokenizer_is_the_amateurs(amateurs, tokenizer, other_tokenizer):
    own = amateurs["own"]
    assert amateur_tokenizer(own, None).get_vocab() == tokenizer.get_vocab()
    assert amateur_tokenizer(own, other_tokenizer) is other_tokenizer  # what is given stands
    assert amateur_tokenizer(own, Processor(tokenizer)) is tokenizer
    with pytest.raises(InputError, match="ImageProcessor is no tokenizer and holds none"):
        amateur_tokenizer(own, ImageProcessor())
    tuned = get_peft_model(own, LoraConfig(r=2, target_modules=["q_proj"]))
    assert amateur_tokenizer(tuned, None).get_vocab() == tokenizer.get_vocab()
