"""What the golden outputs are made of: texts, a tokenizer, models, traces; how they are kept."""

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from hf_proxy import load_traces

ROOT = Path(__file__).resolve().parent.parent.parent
ASSETS = ROOT / "recipes" / "assets"
# differ from run to run, and are no result
PASSING = re.compile(r"run_id|date|versions|.*seconds|.*_runtime|.*_per_second")
TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
PROMPTS = ["What is 2 + 3?", "Tom eats 1 of 4 apples.", "12 - 7 =", "Add 5 and 6.", "Chloé: 9?"]
TRACES = (
    ("What is 2 + 3?", "Two and three make five. So 2 + 3 = 5."),
    ("Tom has 4 apples and eats one.", "He had 4, then 4 - 1 = 3 apples are left."),
    ("12 - 7 =", "12 - 7 = 5."),
    ("Chloé buys 3 cafés for 6 €.", "Each café costs 6 / 3 = 2 €, says Chloé. The answer: 2 €."),
    ("數 5 and 6.", "五 + 六: 5 + 6 = 11 🎉, so the answer is 11."),
    ("How many in 2 times 9?", "2 * 9 = 18. " + "We check: 9 + 9 = 18. " * 4 + "So 18."),
)


def make_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of the texts above."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*PROMPTS, *(text for pair in TRACES for text in pair)], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    made.chat_template = TEMPLATE
    return made


def make_model(
    tokenizer,
    kind: str,
    seed: int,
    *,
    layers: int = 2,
    dtype=torch.float32,
    sharpness: float = 1.0,
    **config,
):
    """A model of random weights that are the same under every torch."""
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    shared = {"vocab_size": len(tokenizer)} | ids | config
    if kind == "gpt2":  # holds float64 from end to end
        shared |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        model = GPT2LMHeadModel(
            GPT2Config(n_embd=16, n_head=2, n_layer=layers, n_positions=256, **shared)
        )
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=512,
                **shared,
            )
        )
    model = model.to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                # a frozen stream; by name, so that models of other depth have layers in common
                draws = np.random.RandomState([seed, zlib.crc32(name.encode())])
                values = draws.random_sample(tuple(parameter.shape)) - 0.5
                parameter.copy_(torch.from_numpy(values) * 0.9)
        model.get_output_embeddings().weight.mul_(sharpness)
    return model


def make_traces(folder: Path, weighting: str = "logprob", number: int = len(TRACES)) -> Dataset:
    """A JSONL file of the traces above, each word a frontier token, as `load_traces` reads it."""
    rows = []
    for index, (prompt, trace) in enumerate(TRACES[:number]):
        row: dict[str, Any] = {"example_id": f"t{index}", "prompt": prompt, "trace": trace}
        if weighting != "none":
            ends = np.cumsum([len(w.encode()) + 1 for w in trace.split(" ")])
            ends[-1] -= 1
            spans = np.stack([[0, *ends[:-1]], ends], axis=1).tolist()
            row["weighting"] = weighting
            row["frontier_spans"] = spans if weighting == "logprob" else spans[::2]
            row["frontier_logprobs"] = (
                [-((7 * index + 3 * i) % 11) / 5 for i in range(len(spans))]
                if weighting == "logprob"
                else []
            )
        rows.append(row)
    path = folder / f"traces-{weighting}-{number}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_traces(path, format="text" if weighting == "none" else "trace")


def plain(value: Any, folder: Path) -> Any:
    """`value` as JSON holds it, without what passes; floats keep every bit."""
    if isinstance(value, Dataset):
        value = value.to_dict()
    elif isinstance(value, torch.Tensor):
        value = value.tolist()
    elif is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        named = {str(plain(name, folder)): child for name, child in value.items()}
        return {n: plain(child, folder) for n, child in named.items() if not PASSING.fullmatch(n)}
    if isinstance(value, (list, tuple)):
        return [plain(child, folder) for child in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (str, Path)):
        return str(value).replace(str(folder), "OUT").replace(str(ROOT), "ROOT")
    return value


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights_of(model, *, hashed: bool) -> Any:
    """Sums of the weights, and, where every bit is to be equal, their hash."""
    arrays = [p.detach().double().numpy() for _, p in sorted(model.named_parameters())]
    found: dict[str, Any] = {
        "sum": float(sum(a.sum() for a in arrays)),
        "square_sum": float(sum((a * a).sum() for a in arrays)),
    }
    if hashed:
        content = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
        found["sha256"] = hashlib.sha256(content).hexdigest()
    return found
