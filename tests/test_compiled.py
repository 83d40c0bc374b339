"""`torch.compile`: once for each kind of shape, not once for each batch."""

import pytest
import torch
from helpers.models import make_model
from helpers.selective import make_rows, selective_trainer
from test_sft import plain_loss
from torch._dynamo.utils import counters

from hf_proxy import align_traces, score_traces
from hf_proxy.models.logits import kept_logits


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def num_graphs():
    return counters["stats"]["unique_graphs"]


def one_layer(tokenizer):
    return make_model("llama", len(tokenizer), num_hidden_layers=1)


@pytest.mark.parametrize("padding_free", [False, True], ids=["padded", "padding-free"])
def test_a_compiled_training_is_compiled_a_bounded_number_of_times(
    tmp_path, tokenizer, traces, padding_free
):
    rows = make_rows(tokenizer, num_rows=36)
    trainer = selective_trainer(
        tmp_path,
        tokenizer,
        rows,
        model=one_layer(tokenizer),
        eval_dataset=rows.select(range(10)),
        torch_compile=True,
        torch_compile_backend="eager",  # compiles, and computes what the model computes
        gradient_checkpointing=False,
        padding_free=padding_free,
        per_device_train_batch_size=3,
        per_device_eval_batch_size=4,
        max_steps=12,
        eval_strategy="steps",  # in eval mode, without gradient: other graphs
        eval_steps=4,
        learning_rate=1e-3,
    )
    trainer.train()
    widths = {max(map(max, rows["position"][i : i + 3])) for i in range(0, 36, 3)}
    assert len(widths) > 4  # shapes that a graph of its own each would be too many for
    trained = num_graphs()
    assert 1 <= trained <= 4  # of 15 batches; with 8 torch gives up
    # scored in between, by the eager module: nothing is compiled for it or after it
    score_traces(trainer.model_wrapped, align_traces(traces, tokenizer))
    assert num_graphs() == trained
    loss = trainer.evaluate()["eval_loss"]
    expected = plain_loss(trainer.model, rows.select(range(10))).item()
    assert loss == pytest.approx(expected, rel=1e-4)
    assert num_graphs() == trained


def test_the_guard_can_fail(tokenizer, monkeypatch):
    """A hook that holds the index itself, as it once was, is compiled for every number of steps."""
    compiled = torch.compile(one_layer(tokenizer), backend="eager")

    def with_closure(ids, index):
        def select(module, args):
            return (args[0].reshape(-1, args[0].shape[-1])[index][None],)

        handle = compiled._orig_mod.lm_head.register_forward_pre_hook(select)
        try:
            return compiled(input_ids=ids, use_cache=False).logits[0]
        finally:
            handle.remove()

    for call in (with_closure, lambda ids, index: kept_logits(compiled, {"input_ids": ids}, index)):
        torch._dynamo.reset()
        counters.clear()
        for number in range(2, 5):
            ids = torch.arange(24).view(2, 12)
            assert call(ids, torch.arange(number)).shape == (number, len(tokenizer))
        assert (num_graphs() == 3) is (call is with_closure)
    assert num_graphs() == 1
