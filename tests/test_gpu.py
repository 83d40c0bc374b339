"""What only an accelerator can show; run with `pytest -m gpu` where a card is at hand."""

import pytest
import torch
from accelerate import Accelerator
from conftest import make_traces
from tiny_models import make_model

from hf_proxy import align_traces, logprobs, parallel, score_traces

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DEVICE = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def aligned(tokenizer):
    return align_traces(make_traces(24), tokenizer)


def test_float64_equals_the_cpu(aligned, tokenizer):
    model = make_model("llama", len(tokenizer), dtype=torch.float64)
    expected = score_traces(model, aligned)
    score = score_traces(model.to(DEVICE), aligned)
    assert score.value == pytest.approx(expected.value, rel=1e-12)
    assert score.mean_rank == expected.mean_rank


def test_float32_equals_the_cpu(aligned, tokenizer):
    model = make_model("qwen2", len(tokenizer))
    expected = score_traces(model, aligned)
    for padding_free in (False, True):
        score = score_traces(model.to(DEVICE), aligned, padding_free=padding_free)
        assert score.value == pytest.approx(expected.value, rel=1e-5)


def test_bfloat16_is_near_float32_padded_and_packed(aligned, tokenizer):
    expected = score_traces(make_model("llama", len(tokenizer)), aligned).value
    model = make_model("llama", len(tokenizer), dtype=torch.bfloat16).to(DEVICE)
    for padding_free in (False, True):
        for tokens_per_batch in (256, 4096):
            score = score_traces(
                model, aligned, padding_free=padding_free, tokens_per_batch=tokens_per_batch
            )
            assert score.value == pytest.approx(expected, rel=0.02)


def test_flash_attention_packs_by_itself(aligned, tokenizer):
    pytest.importorskip("flash_attn", reason="flash-attn is not installed")
    model = make_model("llama", len(tokenizer), dtype=torch.bfloat16, hidden_size=64)
    expected = score_traces(model.to(DEVICE), aligned).value
    model.set_attn_implementation("flash_attention_2")
    assert logprobs.prefers_padding_free(model)
    assert score_traces(model, aligned).value == pytest.approx(expected, rel=0.02)


def test_autocast_and_collectives_on_the_device(aligned, tokenizer):
    accelerator = Accelerator(mixed_precision="bf16")
    assert accelerator.device.type == "cuda"
    model = accelerator.prepare_model(make_model("llama", len(tokenizer)), evaluation_mode=True)
    expected = score_traces(make_model("llama", len(tokenizer)), aligned).value
    score = score_traces(model, aligned, accelerator=accelerator)
    assert score.value == pytest.approx(expected, rel=0.02)
    ones = torch.ones(3, dtype=torch.float64).numpy()
    assert parallel.sum_over_ranks(ones, accelerator).tolist() == [accelerator.num_processes] * 3


def test_memory_stays_below_the_bar(tokenizer):
    """V = 151,936, one batch of 4,096 tokens: headless forward + 64 MiB + 2 * C * V * 4 bytes."""
    vocab_size = 151_936
    aligned = align_traces(make_traces(40), tokenizer)
    model = make_model("llama", vocab_size, dtype=torch.bfloat16).to(DEVICE)

    def peak(work):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before

    headless = peak(lambda: model.model(torch.zeros(1, 4096, dtype=torch.long, device=DEVICE)))
    ours = peak(lambda: score_traces(model, aligned, tokens_per_batch=4096))
    assert ours - headless <= 64 * 2**20 + 2 * logprobs.LABELS_PER_CHUNK * vocab_size * 4
