"""A part of the long run over architectures (tests/long/generation.py)."""

import random

import pytest
import torch
from helpers import writing
from helpers.writing import KINDS, judge
from helpers.zoo import build
from test_probes import longrope

from hf_proxy import InputError
from hf_proxy.models import groups

# positions that count padding; latent keys, states and a layer whose output is a pair
WRITES = [
    ("bart", KINDS),
    ("marian", KINDS[:1]),
    ("minimax", KINDS[1:2]),
    ("gemma3_text", KINDS),
    ("falcon_h1", KINDS[:3]),
    ("gpt_oss", KINDS[3:]),
    ("gpt2", KINDS[3:]),
]


@pytest.mark.filterwarnings("ignore")  # PEFT's own: settings of untrained adapters
@pytest.mark.parametrize(("name", "kinds"), WRITES, ids=[name for name, _ in WRITES])
def test_prompts_together_get_what_each_gets_alone(name, kinds):
    assert [judge(name, kind)["verdict"] for kind in kinds] == ["right"] * len(kinds)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "kind"),
    [("deepseek_v3", "PREFIX_TUNING"), ("bamba", "PREFIX_TUNING"), ("llama4_text", "LORA")],
)
def test_what_peft_cannot_write_is_refused_by_name(name, kind):
    found = judge(name, kind)
    assert found["verdict"] == "refused, PEFT cannot"
    assert f"field adapter: PEFT cannot write with an adapter of type {kind} on" in found["why"]


def test_padding_that_counts_as_places_is_found(monkeypatch):
    """The guard can fail: without the measurement BART writes something else beside longer rows."""
    monkeypatch.setattr(groups, "_padding_moves", lambda model, write: False)
    assert judge("bart", "head one row short")["verdict"] == "WRONG"


@pytest.mark.parametrize(("name", "together"), [("llama", True), ("mamba", True), ("bart", False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_only_rows_that_padding_moves_are_written_apart(name, together, dtype, monkeypatch):
    found = []
    grouped = groups.writing_groups
    monkeypatch.setattr(
        "hf_proxy.models.generation.writing_groups",
        lambda *args: found.append(grouped(*args)) or found[0],
    )
    writing.product(build(name, writing.VOCAB_SIZE, dtype=dtype), [*range(64)], 0)
    assert found == [[[0, 1, 2]] if together else [[2], [0], [1]]]


@pytest.mark.parametrize("guarded", [True, False])
def test_longrope_texts_do_not_depend_on_the_batch(guarded, monkeypatch):
    """Texts on either side of the border, and some that grow over it."""
    if not guarded:
        monkeypatch.setattr(groups, "writing_kinds", lambda model, lengths, n: [()] * len(lengths))
    rng = random.Random(0)
    prompts = [rng.choices(range(5, 64), k=length) for length in range(30, 62)]
    monkeypatch.setattr(writing, "PROMPTS", prompts)
    equal = []
    for border in (40, 45):
        model = longrope("phi3", writing.VOCAB_SIZE, border)
        model.generation_config.eos_token_id = 0
        wanted = [writing.by_peft(model, prompt) for prompt in prompts]
        equal.append(writing.product(model, [*range(writing.VOCAB_SIZE)], 0) == wanted)
    assert all(equal) is guarded


@pytest.mark.parametrize("adapter", [False, True])
def test_a_failure_that_is_not_the_adapters_keeps_its_own_name(adapter):
    def fail(*args, **kwargs):
        raise ValueError("no such mask")

    model = build("llama", writing.VOCAB_SIZE)
    model.forward = fail
    if adapter:
        model = writing.with_adapter(model, "LORA")
    with pytest.raises(ValueError, match="no such mask") as failure:
        writing.product(model, [*range(64)], 0)
    assert not isinstance(failure.value, InputError)
