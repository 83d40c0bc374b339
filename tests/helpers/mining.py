"""Mining with a pair of small models, alone and in a callback."""

import json

from helpers.models import sharp_pair
from hf_proxy import mine_soft_targets
from hf_proxy.callbacks import ContrastCallback

PROMPTS = ["What is 2 + 3?", "Tom has 4 apples and eats one.", "12 - 7 =", "Add 5 and 6.", "9?"]


TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def mine(pair, tokenizer, folder, prompts=PROMPTS, **changes):
    settings = {
        "processing_class": tokenizer,
        "amateur_processing_class": tokenizer,
        "output_dir": folder,
        "context": "{prompt}\n",
        "max_new_tokens": 10,
        "batch_size": 2,
    }
    return mine_soft_targets(*pair, prompts, **settings | changes)


def with_controls(tokenizer, names):
    copy = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>")
    copy.add_special_tokens({"additional_special_tokens": list(names)})
    return copy


SETTINGS = {
    "num_prompts": 3,
    "context": "{prompt}\n",
    "max_new_tokens": 6,
    "batch_size": 2,
    "temperature": 1.0,
    "divergence_beta": 0.05,
}


def make_callback(tokenizer, **changes):
    amateur = changes.pop("amateur", None) or sharp_pair(len(tokenizer))[1]
    prompts = changes.pop("prompts", PROMPTS)
    settings = SETTINGS | {"amateur_processing_class": tokenizer} | changes
    return ContrastCallback(amateur, prompts, **settings)


def contrast_lines(folder, name="run"):
    text = (folder / name / "hf_proxy" / "contrast.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]
