"""What an accelerator would be asked to do, told on a CPU: see `helpers.recorder`."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import PartialState
from helpers.models import make_model
from helpers.recorder import META, DeviceRecorder, autocast_knows_meta
from helpers.selective import make_rows, selective_trainer
from helpers.traces import make_traces

from hf_proxy import align_traces, contrast, score_traces
from hf_proxy.mining.miner import Miner
from hf_proxy.mining.settings import MiningSettings
from hf_proxy.models import logits
from hf_proxy.models.access import input_device, is_sharded, weights_checksum
from hf_proxy.models.batching import token_batch
from hf_proxy.models.labels import label_logprobs
from hf_proxy.models.parallel import balanced_shards, merge_over_ranks, sum_over_ranks
from hf_proxy.models.whole import is_in_reach, on_device
from hf_proxy.scoring import forwards


@pytest.fixture(autouse=True)
def meta(monkeypatch):
    with autocast_knows_meta(monkeypatch):
        yield


def test_a_forward_of_scoring_waits_once(tokenizer):
    model = make_model("llama", len(tokenizer)).to(META)
    batch = token_batch([0, 1], [[*range(5, 390)], [*range(5, 300)]], [10, 10], padding_free=False)
    assert len(batch.label_N) > 4 * logits.LABELS_PER_CHUNK
    with torch.no_grad(), DeviceRecorder() as recorder:
        label_logprobs(model, batch, logits.LogitTransform(), device=META)
    assert recorder.host_copies == {"labels.py": 1} and not recorder.float64


def test_a_transform_is_measured_with_one_wait(tokenizer):
    probe = torch.tensor([1.0, 1e30, -50.0, -3.0, 7.0])
    model = make_model("llama", len(tokenizer)).to(META)
    with torch.no_grad(), DeviceRecorder(lambda shape: probe) as recorder:
        assert logits.measure_logit_transform(model, device=META).is_identity
    assert recorder.host_copies == {"logits.py": 1} and not recorder.float64


def test_a_checksum_waits_once_for_all_weights(tokenizer):
    model = make_model("llama", len(tokenizer))
    expected = sum(
        (2 * place + 1) * int(tensor.detach().view(torch.int32).long().sum())
        for place, tensor in enumerate((*model.parameters(), *model.buffers()))
    )
    assert weights_checksum(model) == expected % 2**40
    with DeviceRecorder() as recorder:
        weights_checksum(model.to(META))
    assert recorder.host_copies == {"access.py": 1} and not recorder.float64


@pytest.mark.parametrize("target", ["contrast", "token"])
def test_mining_waits_once_for_each_block_and_thrice_for_a_forward(tokenizer, monkeypatch, target):
    # probes of a model, made once, are no part of the budget
    monkeypatch.setattr("hf_proxy.mining.miner.require_causal", lambda *a, **k: None)
    monkeypatch.setattr(
        "hf_proxy.mining.miner.measure_logit_transform", lambda *a, **k: logits.LogitTransform()
    )
    expert, amateur = (make_model("llama", len(tokenizer)).to(META) for _ in range(2))
    miner = Miner(
        expert,
        amateur,
        processing_class=tokenizer,
        amateur_processing_class=tokenizer,
        settings=MiningSettings(target=target),
    )
    lengths = [150, 100]
    texts = [[5] * length for length in lengths]
    with DeviceRecorder() as recorder:
        steps = miner.steps(["a", "b"], [[5, 6], [7]], texts)
    assert [len(own.columns["kl"]) for own in steps] == lengths
    per_chunk = logits.LABELS_PER_CHUNK // logits.ROWS_PER_BLOCK
    num_blocks = sum(per_chunk for _ in range(0, sum(lengths), logits.LABELS_PER_CHUNK))
    assert recorder.host_copies["divergence.py"] <= num_blocks + 3  # dtypes: float, bool, int
    assert set(recorder.host_copies) == {"divergence.py"} and not recorder.float64


@pytest.mark.parametrize("settings", [{}, {"sft_weight": 0.3}, {"padding_free": True}])
def test_a_micro_batch_waits_for_nothing(tmp_path, tokenizer, settings):
    rows = make_rows(tokenizer)
    trainer = selective_trainer(tmp_path, tokenizer, rows, **settings)
    trainer._is_checked = True  # the model's own probes, made once
    trainer._prepare_inputs = lambda inputs: {
        name: value.to(META) if isinstance(value, torch.Tensor) else value
        for name, value in inputs.items()
    }
    model = trainer.model.to(META)
    for training in (True, False):
        model.train(training)
        batch = trainer._collate([*rows])
        with DeviceRecorder() as recorder:
            count = torch.ones(2, dtype=torch.int64, device=META)
            loss = trainer.compute_loss(model, batch, num_items_in_batch=count)
            if training:
                loss.backward()
        assert not recorder.host_copies and not recorder.float64
    with DeviceRecorder() as recorder:
        trainer.log({"loss": 1.0})
    assert recorder.host_copies == {"trainer.py": 1} and not recorder.float64


def test_the_recorder_sees_what_it_is_there_for():
    # as a function of ours
    wrong = compile(
        "import torch\ndef work(x):\n    y = x.double().sum()\n    return y.item(), x[0].cpu(), "
        "x.nonzero(), bool(x.any())",
        forwards.__file__,
        "exec",
    )
    scope = {}
    exec(wrong, scope)
    with DeviceRecorder() as recorder:
        scope["work"](torch.ones(3, device=META))
    assert recorder.host_copies == {"forwards.py": 4} and recorder.float64["forwards.py"] >= 2


def test_a_device_map_says_where_the_input_goes(tokenizer):
    """The process's own device may be another: here one that holds nothing."""
    aligned = align_traces(make_traces(6), tokenizer)
    model = make_model("llama", len(tokenizer))
    expected = score_traces(model, aligned).value
    elsewhere = SimpleNamespace(device=META, num_processes=1, process_index=0, is_main_process=True)
    model.hf_device_map = {"": "cpu"}
    assert score_traces(model, aligned, accelerator=elsewhere).value == expected
    model.hf_device_map = {"model": "disk", "lm_head": "meta"}
    assert input_device(model, PartialState()) == META
    del model.hf_device_map
    assert (input_device(model, elsewhere), input_device(model)) == (META, torch.device("cpu"))


class Rank(SimpleNamespace):
    """One of several processes that are played one after the other."""

    device = torch.device("cpu")
    is_main_process = False


def test_any_number_of_ranks_gives_the_same_score_dealt_by_cost(tokenizer, monkeypatch):
    """A long context with few labels costs less than a long trace: the head meets labels only."""
    traces = make_traces(18).map(
        lambda row, i: {"prompt": row["prompt"] * (1 + i % 5)}, with_indices=True
    )
    aligned = align_traces(traces, tokenizer)
    model = make_model("llama", len(tokenizer), dtype=torch.float64)
    rows = forwards.read_rows(aligned)
    expected = forwards.read_labels(model, aligned, rows, None, 512, False)
    monkeypatch.setattr(forwards, "require_equal", lambda *a, **k: None)
    monkeypatch.setattr("hf_proxy.models.probes.merge_over_ranks", lambda array, _: array)
    costs = np.array(forwards._costs(model, rows))
    for size in (2, 5):
        table = 0
        for index in range(size):
            rank = Rank(num_processes=size, process_index=index)
            parts = forwards._forwards(model, aligned, rows, rank, 512, False)
            start, end = rows.blocks()
            own = np.zeros((len(expected) - 1, end[-1]))
            for place, part in parts:
                assert not own[:, start[place] : end[place]].any()
                own[:, start[place] : end[place]] = part
            table = table + own
        for found, column in zip(table, expected[:-1], strict=True):
            np.testing.assert_allclose(found, column, rtol=1e-12, atol=1e-12)
        loads = [costs[shard].sum() for shard in balanced_shards(costs.tolist(), size)]
        assert max(loads) <= np.mean(loads) + costs.max() * 0.5


def test_an_amateur_is_on_the_device_while_it_measures(tokenizer, monkeypatch):
    placed = []
    model = make_model("llama", len(tokenizer))
    monkeypatch.setattr(model, "to", lambda device: placed.append(str(device)))
    for offload in (True, False):
        with on_device(model, META, offload=offload):
            placed.append("measures")
    model.hf_device_map = {"": "cpu"}  # it was placed by its owner
    with on_device(model, META, offload=True):
        pass
    assert placed == ["meta", "measures", "cpu", "meta", "measures"]


def test_weights_that_are_gathered_just_now_are_in_shards_all_the_same(tokenizer):
    """As ZeRO-3 leaves them behind a forward where it has room: the next one lets them go."""
    model = make_model("llama", len(tokenizer))
    assert is_in_reach(model)
    weight = model.lm_head.weight
    weight.ds_tensor, weight.ds_shape = torch.zeros(1), weight.shape
    assert not is_sharded(model) and not is_in_reach(model)


def test_bits_travel_as_integers():
    """Of one process the array itself; of several see test_distributed."""
    array = np.array([[0.1, -0.0], [np.inf, 3e-310]])
    assert sum_over_ranks(array, None) is array and merge_over_ranks(array, None) is array
    found = contrast(torch.eye(3), torch.zeros(3, 3), divergence_beta=0.0)
    assert found.on_host().offset.tolist() == found.offset.tolist()
