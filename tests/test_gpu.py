"""What only an accelerator can show; run with `pytest -m gpu` where a card is at hand.

Tests of two devices have not run yet: no machine with two was at hand.
"""

import pytest
import torch
from accelerate import Accelerator
from helpers import sharded_matrix as matrix
from helpers.feeding import FEED, feeding_trainer
from helpers.mining import contrast_lines, make_callback, mine
from helpers.models import make_model, sharp_pair
from helpers.selective import selective_trainer
from helpers.sharded import job, launch, results
from helpers.traces import make_traces

from hf_proxy import align_traces, contrast, score_traces
from hf_proxy.models.access import prefers_padding_free, scoring_mode
from hf_proxy.models.logits import LABELS_PER_CHUNK
from hf_proxy.models.parallel import sum_over_ranks
from hf_proxy.models.probes import why_not_packed

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
    assert prefers_padding_free(model)
    with scoring_mode(model) as bare:
        assert why_not_packed(bare, longest=4096, device=DEVICE) == ""
    assert score_traces(model, aligned).value == pytest.approx(expected, rel=0.02)


def test_autocast_and_collectives_on_the_device(aligned, tokenizer):
    accelerator = Accelerator(mixed_precision="bf16")
    assert accelerator.device.type == "cuda"
    model = accelerator.prepare_model(make_model("llama", len(tokenizer)), evaluation_mode=True)
    expected = score_traces(make_model("llama", len(tokenizer)), aligned).value
    score = score_traces(model, aligned, accelerator=accelerator)
    assert score.value == pytest.approx(expected, rel=0.02)
    ones = torch.ones(3, dtype=torch.float64).numpy()
    assert sum_over_ranks(ones, accelerator).tolist() == [accelerator.num_processes] * 3


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
    assert ours - headless <= 64 * 2**20 + 2 * LABELS_PER_CHUNK * vocab_size * 4


def test_contrast_equals_the_cpu():
    torch.manual_seed(0)
    expert, amateur = torch.randn(2, 200, 5000)
    expected, found = contrast(expert, amateur), contrast(expert.to(DEVICE), amateur.to(DEVICE))
    assert found.kl_N.device.type == "cuda"
    torch.testing.assert_close(found.kl_N.cpu(), expected.kl_N, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.token_id.cpu(), expected.token_id)
    torch.testing.assert_close(found.prob.cpu(), expected.prob, atol=1e-5, rtol=1e-5)


def test_mining_and_training_on_the_device(tokenizer, tmp_path):
    pair = [model.to(DEVICE) for model in sharp_pair(len(tokenizer))]
    states = torch.cuda.get_rng_state_all()
    settings = {"temperature": 1.0, "divergence_beta": 0.0}
    rows = mine(pair, tokenizer, tmp_path / "a", **settings)
    assert mine(pair, tokenizer, tmp_path / "b", **settings).to_dict() == rows.to_dict()
    assert all(map(torch.equal, torch.cuda.get_rng_state_all(), states))
    trainer = selective_trainer(
        tmp_path / "run", tokenizer, rows, model=pair[0], use_cpu=False, learning_rate=0.01
    )
    before = trainer.evaluate(rows)["eval_loss"]
    trainer.train()
    assert trainer.evaluate(rows)["eval_loss"] < before


def test_a_run_feeds_itself_on_the_device(tokenizer, tmp_path):
    callback = make_callback(tokenizer, **FEED)
    trainer = feeding_trainer(
        tmp_path, tokenizer, [callback], use_cpu=False, bf16=True, sft_weight=0.1
    )
    trainer.train()
    assert next(trainer.model.parameters()).device.type == "cuda"
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows) == 8 and all(0 < row["loss"] < 100 and row["num_kept"] > 0 for row in rows)
    assert [line["step"] for line in contrast_lines(tmp_path)] == [0, 3, 6]


@pytest.mark.distributed
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_sharded_over_two_devices(tmp_path):
    """NCCL: FSDP2 through SFTTrainer, watched and not, resumed; deterministic kernels."""
    case = matrix.Case("FSDP2", "fsdp2", options={"full_determinism": True}, resumes=True)
    update = matrix.Update("fsdp2")
    launch(tmp_path, "fsdp2", 2, [*case.jobs(), *update.jobs()], on_gpus=True)
    assert matrix.neutral(tmp_path, case) == [] and matrix.resumed(tmp_path, case) == []
    assert matrix.score_gap(tmp_path, case) < 1e-5
    matrix.one_process(tmp_path / "one", update)
    assert matrix.update_gap(tmp_path, update, tmp_path / "one") < 1e-4
    for rank in results(tmp_path, f"{case.key}-scored", 2):
        assert rank["distributed_type"] == "FSDP" and rank["share"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.distributed
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_scoring_shards_holds_no_whole_model(tmp_path):
    """What scoring adds to a sharded model is less than the model that a rank does not hold."""
    launch(tmp_path, "fsdp2", 2, [job("peak", "fsdp2", "sharded_jobs:peak")], on_gpus=True)
    for rank in results(tmp_path, "peak", 2):
        assert rank["peak_bytes"] < rank["whole_bytes"] / 2
