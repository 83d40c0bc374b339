"""What a model writes, and that a frozen head does not multiply its weight by the batch."""

import copy

import pytest
import torch
from helpers.models import make_model
from helpers.tokenizers import with_gaps
from peft import LoraConfig, get_peft_model

from hf_proxy.models.access import scoring_mode
from hf_proxy.models.generation import end_ids_of, generate
from hf_proxy.models.positions import window_of
from hf_proxy.tokens.tokenizers import tokenizer_fingerprint


def written(model, prompts, tokenizer, **changes):
    settings = {"max_new_tokens": 12, "temperature": 0.0, "seed": [0]} | changes
    with scoring_mode(model) as bare:
        return generate(bare, prompts, processing_class=tokenizer, **settings)


PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13, 14], [20]]


def test_greedy_is_the_argmax_of_plain_forwards_whatever_the_batch(tokenizer):
    model = make_model("llama", len(tokenizer)).eval()
    model.lm_head.weight.data *= 6
    together = written(model, PROMPTS, tokenizer)
    for prompt, found in zip(PROMPTS, together, strict=True):
        ids = list(prompt)
        for token in found:
            with torch.no_grad():
                assert model(torch.tensor([ids])).logits[0, -1].argmax().item() == token
            ids.append(token)
        assert len(found) == 12 or found[-1] in end_ids_of(model, tokenizer)
    assert [written(model, [prompt], tokenizer)[0] for prompt in PROMPTS] == together


def test_draws_depend_on_the_seed_alone(tokenizer):
    model = make_model("llama", len(tokenizer)).eval()
    state = torch.get_rng_state()
    first = written(model, PROMPTS, tokenizer, temperature=1.0, seed=[3, 1])
    torch.rand(5)
    assert written(model, PROMPTS, tokenizer, temperature=1.0, seed=[3, 1]) == first
    assert written(model, PROMPTS, tokenizer, temperature=1.0, seed=[3, 2]) != first
    torch.set_rng_state(state)


@pytest.mark.parametrize("adapter", [True, False])
def test_the_head_gets_a_contiguous_input(tokenizer, adapter):
    model = make_model("llama", len(tokenizer)).eval().requires_grad_(False)
    head = model.lm_head
    if adapter:
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    seen = []
    hook = head.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    written(model, PROMPTS, tokenizer)
    hook.remove()
    # the prompts' last positions; behind those of the rows that padding is measured on
    assert [3, 1] in [list(hidden.shape[:2]) for hidden in seen]
    assert all(hidden.is_contiguous() for hidden in seen)
    assert not head._forward_pre_hooks  # and the model is left as it was


def toward(token, vocab_size=40):
    """A model that writes this token first of all, and the next best where it may not."""
    model = make_model("phi", vocab_size).eval()
    with torch.no_grad():
        model.lm_head.bias[token] = 1e4
    return model


def test_the_end_may_lie_beyond_free_ids():
    gaps = with_gaps()
    assert (len(gaps), gaps.eos_token_id) == (22, 30)
    assert written(toward(30), [[1, 2], [3]], gaps) == [[30], [30]]
    words = {*range(20), 25, 30}
    for free in (22, 29, 31, 39):  # between the tokens, behind them, in a padded head
        for row in written(toward(free), [[1, 2], [3]], gaps):
            assert {*row} <= words
        for row in written(toward(free), [[1, 2]], gaps, temperature=1.0):
            assert {*row} <= words


def test_an_end_of_the_model_alone_may_be_written():
    model = toward(37)
    model.generation_config.eos_token_id = [30, 37]
    assert written(model, [[1, 2]], with_gaps()) == [[37]]


def test_an_end_beyond_the_head_is_refused():
    model = toward(3, vocab_size=30)
    model.generation_config.eos_token_id = None
    with pytest.raises(ValueError, match=r"\[30\] are beyond the model's 30 output rows"):
        written(model, [[1, 2]], with_gaps())


def test_a_head_may_be_narrower_than_the_tokenizer():
    gaps = with_gaps()
    gaps.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    found = written(toward(30, vocab_size=31), [[1, 2]], gaps)
    assert max(gaps.get_vocab().values()) == 31 and found == [[30]]


def test_a_pad_token_behind_gaps_changes_no_fingerprint():
    assert tokenizer_fingerprint(with_gaps(pad=True)) == tokenizer_fingerprint(with_gaps())


def test_a_model_without_an_end_is_refused(tokenizer):
    model = make_model("llama", len(tokenizer))
    assert window_of(model) == 640
    model.generation_config.eos_token_id = None
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(ValueError, match="no end-of-text token"):
        end_ids_of(model, endless)
