"""What a model lets a token see: the probes against what plain forwards show."""

import random

import numpy as np
import pytest
import torch
from helpers.models import make_model
from helpers.zoo import build
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_flash_attention_utils import _is_packed_sequence
from transformers.modeling_outputs import CausalLMOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_proxy import (
    InputError,
    align_traces,
    mine_soft_targets,
    score_traces,
    token_logprobs,
)
from hf_proxy.models import probes
from hf_proxy.models.access import scoring_mode
from hf_proxy.models.positions import length_kinds, window_of
from hf_proxy.models.probes import require_causal, why_not_packed

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def aligned(traces, tokenizer):
    return align_traces(traces, tokenizer)


def plain_nlls(model, aligned):
    """Mean NLL of each row by a full-logit forward of its own."""
    found = []
    for row in aligned:
        ids = torch.tensor(row["input_ids"])
        with torch.no_grad():
            logits = model(input_ids=ids[None, :-1], use_cache=False).logits[0].double()
        logprob = torch.log_softmax(logits, -1).gather(1, ids[1:, None])[row["label_start"] - 1 :]
        found.append(-logprob.mean().item())
    return found


def is_packable(model, longest=2048):
    with scoring_mode(model) as bare:
        return why_not_packed(bare, longest=longest, device=CPU) == ""


@pytest.mark.parametrize(
    ("name", "packs"),
    [
        ("llama", True),
        ("qwen3", True),
        ("gemma3_text", True),
        ("phi3", True),
        ("opt", False),
        ("gpt_oss", False),
        ("lfm2", False),
        ("llama4_text", True),
        ("mamba", False),
        ("biogpt", False),
    ],
)
def test_packed_rows_stay_apart_or_packing_is_refused(name, packs, aligned, tokenizer):
    """A part of tests/long/architectures.py, which goes through all that transformers has."""
    model = build(name, len(tokenizer))
    expected = np.mean(plain_nlls(model, aligned))
    assert is_packable(model) is packs
    if packs:
        score = score_traces(model, aligned, padding_free=True)
        assert score.trace_nll == pytest.approx(expected, rel=1e-5)
    else:
        with pytest.raises(InputError, match="cannot tell packed rows apart.*padding_free=False"):
            score_traces(model, aligned, padding_free=True)
    assert score_traces(model, aligned).trace_nll == pytest.approx(expected, rel=1e-5)


class MixerConfig(PretrainedConfig):
    model_type = "mixer"


class Mixer(PreTrainedModel):
    """Each token adds the mean of what it may see, so that every leak has a size of its own."""

    config_class = MixerConfig

    def __init__(self, *, chunk=None, ahead=0.0, leak=0.0, shift=0, sees=1.0):
        super().__init__(MixerConfig(vocab_size=64, attention_chunk_size=chunk))
        torch.manual_seed(0)
        self.embed = nn.Embedding(64, 16)
        self.lm_head = nn.Linear(16, 64, bias=False)
        self.chunk, self.ahead, self.leak, self.shift, self.sees = chunk, ahead, leak, shift, sees

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, position_ids=None, use_cache=None):
        hidden = self.embed(input_ids)
        place = torch.arange(input_ids.shape[1])
        given = place[None] if position_ids is None else position_ids + self.shift
        row = (given.diff(dim=1, prepend=given[:, :1] - 1) != 1).cumsum(1)[:, :, None]
        earlier = (place[:, None] >= place)[None]
        own = earlier & (row == row.mT)
        if self.chunk is not None:  # of the line, not of the row: packing moves its borders
            own = own & (place[:, None] // self.chunk == place // self.chunk)
        for mask, size in ((own, self.sees), (earlier, self.leak), (~earlier, self.ahead)):
            mean = mask.to(hidden.dtype) / mask.sum(-1, keepdim=True).clamp(min=1)
            hidden = hidden + size * mean @ self.embed(input_ids)
        angle = 0.01 * given.to(hidden.dtype)
        return CausalLMOutput(logits=self.lm_head(hidden + angle[:, :, None]))


@pytest.mark.parametrize(
    ("changes", "packs"),
    [
        ({}, True),
        ({"leak": 1.0}, False),
        ({"leak": 1e-4}, False),  # 0.01 % of what it sees: thousands of spacings in float32
        ({"leak": 1e-4, "sees": 0.1}, False),
        ({"shift": 2}, False),  # its own count starts elsewhere: apart, but not as it stands alone
    ],
)
def test_a_leak_of_any_size_is_found(changes, packs):
    assert is_packable(Mixer(**changes)) is packs


def test_a_row_outruns_the_smallest_window():
    model = Mixer(chunk=40)
    assert probes.ROW_TOKENS < 40
    assert not is_packable(model)
    assert is_packable(model, longest=39)  # no line is long enough to cross a border
    with scoring_mode(model) as bare:
        assert probes._row_tokens(bare, 2048) == 48


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_that_looks_ahead_is_refused(dtype):
    for ahead, causal in ((0.0, True), (1.0, False), (0.3, False)):
        model = Mixer(ahead=ahead).to(dtype)
        with scoring_mode(model) as bare:
            if causal:
                require_causal(bare, device=CPU)
            else:
                with pytest.raises(InputError, match="Mixer is not causal: .*is_decoder=True"):
                    require_causal(bare, device=CPU)


@pytest.mark.parametrize("name", ["bert", "xlnet", "cpmant", "electra", "xlm"])
def test_models_that_are_not_causal_are_neither_scored_nor_mined(
    name, aligned, tokenizer, tmp_path
):
    model = build(name, len(tokenizer))
    with pytest.raises(InputError, match="is not causal: a later token moves an earlier logit"):
        score_traces(model, aligned)
    good = make_model("llama", len(tokenizer))
    for number, pair in enumerate(((model, good), (good, model))):
        with pytest.raises(InputError, match="is not causal"):
            mine_soft_targets(
                *pair,
                ["a question"],
                processing_class=tokenizer,
                amateur_processing_class=tokenizer,
                context="{prompt}",
                system_prompt=None,
                output_dir=tmp_path / str(number),
            )
    if name == "bert":  # of one kind, yet causal
        decoder = build("bert", len(tokenizer), is_decoder=True)
        expected = np.mean(plain_nlls(decoder, aligned))
        assert score_traces(decoder, aligned).trace_nll == pytest.approx(expected, rel=1e-5)


def test_prompt_learning_is_never_packed(aligned, tokenizer):
    base = make_model("llama", len(tokenizer))
    tuned = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))
    assert is_packable(tuned)
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    tuned = get_peft_model(make_model("llama", len(tokenizer)), config)
    with pytest.raises(InputError, match="type PREFIX_TUNING takes a line for one"):
        score_traces(tuned, aligned, padding_free=True)
    assert score_traces(tuned, aligned).num_traces == len(aligned)


def test_activated_lora_is_never_packed(aligned, tokenizer):
    """It acts from its invocation on, which it looks for once in a line."""
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    config.alora_invocation_tokens = [5, 6]
    tuned = get_peft_model(make_model("llama", len(tokenizer)), config)
    with pytest.raises(InputError, match="type LORA takes a line for one row"):
        score_traces(tuned, aligned, padding_free=True)


def test_a_window_too_short_for_a_probe_is_no_refusal():
    model = Mixer()
    for window in (1, 2, 5):
        model.config.max_position_embeddings = window
        with scoring_mode(model) as bare:
            require_causal(bare, device=CPU)
            assert why_not_packed(bare, longest=64, device=CPU) == ""


def test_flash_packs_by_itself_only_where_rows_stay_apart(aligned, tokenizer, monkeypatch):
    """Flash attention as transformers' own rule parts rows, on the CPU; one model drops positions.

    What it gives must be right either way.
    """
    lines = []

    def flash(module, query, key, value, attention_mask, scaling=None, position_ids=None, **_):
        B, H, T, D = query.shape
        lines.append(B)
        key, value = (x.repeat_interleave(H // x.shape[1], 1) for x in (key, value))
        seen = torch.ones(T, T, dtype=torch.bool).tril()
        if _is_packed_sequence(position_ids, B):
            row = (position_ids[0] == 0).cumsum(0)
            seen = seen & (row[:, None] == row)
        weight = query @ key.mT * (D**-0.5 if scaling is None else scaling)
        weight = weight.masked_fill(~seen, -torch.inf).softmax(-1)
        return (weight @ value).transpose(1, 2).contiguous(), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flash_attention_2", flash)
    for name, packs in (("llama", True), ("gpt_bigcode", False)):
        model = build(name, len(tokenizer))
        for module in model.modules():
            if hasattr(module, "config"):
                module.config._attn_implementation_internal = "flash_attention_2"
        expected = np.mean(plain_nlls(model, aligned))
        assert is_packable(model) is packs
        lines.clear()
        score = score_traces(model, aligned, tokens_per_batch=100_000)
        assert score.trace_nll == pytest.approx(expected, rel=1e-5)
        assert (max(lines) == 1) is packs


def test_a_probe_leaves_the_model_and_the_random_streams_as_they_were():
    model = make_model("llama", 64, attention_dropout=0.5).train()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    weights = [p.clone() for p in model.parameters()]
    assert is_packable(model)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    assert all(map(torch.equal, weights, model.parameters()))
    assert all(module.training and not module._forward_pre_hooks for module in model.modules())


def test_a_probe_is_kept_for_the_model_but_not_where_nothing_was_shown(aligned, monkeypatch):
    calls = []
    read = probes.read_logits
    monkeypatch.setattr(probes, "read_logits", lambda *a, **k: calls.append(1) or read(*a, **k))

    def forwards(model):
        calls.clear()
        assert is_packable(model)
        return len(calls)

    model = Mixer()
    assert [forwards(model), forwards(model)] == [7, 0]
    with torch.no_grad():  # weights move, masks do not
        model.embed.weight.mul_(1.5)
    assert forwards(model) == 0
    model.to(torch.bfloat16)
    assert forwards(model) == 7
    blind = Mixer(sees=0.0)  # nothing arrives yet, so that a leak could not be seen either
    assert [forwards(blind), forwards(blind)] == [7, 7]


# rotary angles that depend on the longest row


def longrope(name, vocab_size, border):
    factors = {"short_factor": [1.0] * 4, "long_factor": [1.0, 4.0, 16.0, 60.0]}
    scaling = {"rope_type": "longrope", "original_max_position_embeddings": border, **factors}
    if name == "phimoe":
        scaling |= {"short_mscale": 1.0, "long_mscale": 1.3}
    own = {"original_max_position_embeddings": border} if name == "phi3" else {}
    return build(name, vocab_size, rope_parameters=scaling | {"rope_theta": 1e4}, **own)


@pytest.mark.parametrize("name", ["phi3", "phimoe", "llama"])
def test_longrope_scores_do_not_depend_on_the_batch(name, aligned, tokenizer):
    lengths = sorted(len(row["input_ids"]) for row in aligned)
    border = lengths[len(lengths) // 2] - 1  # that row is the longest of the short ones
    model = longrope(name, len(tokenizer), border)
    expected = plain_nlls(model, aligned)
    for tokens_per_batch in (1, 100_000):
        for padding_free in (False, True):
            settings = {"tokens_per_batch": tokens_per_batch, "padding_free": padding_free}
            rows = token_logprobs(model, aligned, **settings)["label_logprobs"]
            found = [-np.mean(row) for row in rows]
            np.testing.assert_allclose(found, expected, rtol=1e-5)
    # the guard can fail: beside a longer row, a short one has other angles
    short, long = (
        torch.tensor(next(r["input_ids"] for r in aligned if len(r["input_ids"]) == length))
        for length in (lengths[0], lengths[-1])
    )
    with torch.no_grad():
        alone = model(input_ids=short[None]).logits[0]
        padded = torch.nn.functional.pad(short, (0, len(long) - len(short)))[None]
        beside = model(input_ids=padded).logits[0, : len(short)]
    assert (alone - beside).abs().max() > 1e-2


def test_scoring_leaves_the_angles_of_the_last_batch(aligned, tokenizer):
    model = longrope("phi3", len(tokenizer), 60)
    model(input_ids=torch.ones(1, 20, dtype=torch.long))
    before = model.model.rotary_emb.inv_freq.clone()
    score_traces(model, aligned)
    assert torch.equal(model.model.rotary_emb.inv_freq, before)
    model(input_ids=torch.ones(1, 80, dtype=torch.long))
    assert not torch.equal(model.model.rotary_emb.inv_freq, before)  # the guard can fail


def test_length_kinds_by_hand():
    lengths = [5, 60, 61, 700, 701]
    assert len(set(length_kinds(make_model("llama", 64), lengths))) == 1
    assert length_kinds(longrope("phi3", 64, 60), lengths) == [(0,), (0,), (60,), (60,), (60,)]
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    model = build("llama", 64, rope_parameters=dynamic)
    assert length_kinds(model, lengths) == [(0,), (0,), (0,), (700,), (701,)]


def test_a_window_of_minus_one_is_none(aligned, tokenizer):
    assert window_of(build("xlnet", 64)) is None
    assert window_of(make_model("llama", 64)) == 640
    model = make_model("llama", len(tokenizer))
    expected = score_traces(model, aligned).value
    model.config.max_position_embeddings = -1
    assert score_traces(model, aligned).value == expected
