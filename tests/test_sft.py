"""Selective SFT: the loss of one record per step, from one forward per trajectory."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from helpers.memory import Dtypes
from helpers.models import make_model
from helpers.selective import (
    TRAINERS,
    make_rows,
    online_trainer,
    plain_loss,
    selective_trainer,
    update_norm,
    weights_of,
)
from helpers.tokenizers import ImageProcessor, Processor
from helpers.zoo import build
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from test_probes import longrope
from transformers import AutoModelForCausalLM
from trl import SFTConfig

from hf_proxy import (
    InputError,
    SelectiveSFTConfig,
    SelectiveSFTTrainer,
    load_soft_targets,
    mine_soft_targets,
)
from hf_proxy.cli import main
from hf_proxy.records.rows import SOFT_TARGET_FEATURES
from hf_proxy.training.collators import SoftTargetCollator
from hf_proxy.training.loss import selective_loss
from hf_proxy.training.rows import check_trainable


def plain_update(tokenizer, rows, sft_weight=0.0):
    """Weights after one SGD step of the plain loss."""
    model = make_model("llama", len(tokenizer))
    loss = plain_loss(model, rows, sft_weight)
    loss.backward()
    parts = [(p.detach() - p.grad).flatten() for p in model.parameters()]
    return torch.cat(parts), loss.item()


# parts


def test_the_batch_by_hand():
    rows = [
        {
            "example_id": "x",
            "input_ids": [1, 2, 3, 4, 5],
            "position": [2, 3],
            "offset": [0, 2, 3],
            "token_id": [7, 9, 8],
            "prob": [0.25, 0.75, 1.0],
        },
        {
            "example_id": "y",
            "input_ids": [6, 7, 8],
            "position": [1],
            "offset": [0, 1],
            "token_id": [5],
            "prob": [1.0],
        },
    ]
    padded = SoftTargetCollator(padding_free=False, pad_token_id=0)(rows)
    assert padded["input_ids"].tolist() == [[1, 2, 3], [6, 0, 0]]  # ends before the last target
    assert padded["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert padded["logit_index"].tolist() == [1, 2, 3]
    assert "label" not in padded and "kept" not in padded
    whole = SoftTargetCollator(padding_free=False, pad_token_id=0, whole=True)(
        [rows[0] | {"prompt_length": 2}, rows[1] | {"prompt_length": 1}]
    )
    assert whole["input_ids"].tolist() == [[1, 2, 3, 4], [6, 7, 0, 0]]  # ends before the last token
    assert whole["logit_index"].tolist() == [1, 2, 3, 4, 5]
    assert whole["label"].tolist() == [3, 4, 5, 7, 8]
    assert whole["row"].tolist() == [0, 0, 0, 1, 1]
    assert whole["kept"].tolist() == [0, 1, 3]
    assert whole["step"].tolist() == [0, 0, 1, 2]
    assert padded["row"].tolist() == [0, 0, 1]
    assert padded["example_id"] == ["x", "y"]
    assert padded["step"].tolist() == [0, 0, 1, 2]
    assert padded["token_id"].tolist() == [7, 9, 8, 5]
    assert padded["prob"].tolist() == [0.25, 0.75, 1.0, 1.0]
    free = SoftTargetCollator(padding_free=True, pad_token_id=0)(rows)
    assert free["input_ids"].tolist() == [[1, 2, 3, 6]]
    assert free["position_ids"].tolist() == [[0, 1, 2, 0]]
    assert free["logit_index"].tolist() == [1, 2, 3]


def test_the_loss_against_dense_targets():
    torch.manual_seed(0)
    logits = torch.randn(3, 11, dtype=torch.float64, requires_grad=True)
    step, token = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([1, 4, 10, 0, 3])
    prob = torch.tensor([0.3, 0.7, 1.0, 0.5, 0.5], dtype=torch.float64)
    kl = selective_loss(logits, step, token, prob)
    dense = torch.zeros(3, 11, dtype=torch.float64)
    dense[step, token] = prob
    expected = torch.nn.functional.kl_div(torch.log_softmax(logits, -1), dense, reduction="none")
    torch.testing.assert_close(kl, expected.sum(-1), atol=1e-12, rtol=0)
    (grad,) = torch.autograd.grad(kl.sum(), logits)
    torch.testing.assert_close(grad, torch.softmax(logits, -1) - dense, atol=1e-12, rtol=0)


def test_the_papers_vectors():
    """Vector A: KL loss 0.423936, gradient as printed; B: 0.105361; C: loss 1.036600 as soft CE."""
    expert = torch.tensor([[0.50, 0.25, 0.12, 0.09, 0.04]]).double().log().requires_grad_()
    step, token = torch.tensor([0, 0, 0]), torch.tensor([0, 1, 2])
    prob = torch.tensor([0.452489, 0.113122, 0.434389], dtype=torch.float64)
    kl = selective_loss(expert, step, token, prob)
    assert kl.item() == pytest.approx(0.423936, abs=2e-6)
    assert (kl + torch.special.entr(prob).sum()).item() == pytest.approx(1.391481, abs=2e-6)
    (grad,) = torch.autograd.grad(kl.sum(), expert)
    printed = [0.047511, 0.136878, -0.314389, 0.09, 0.04]
    assert grad[0].tolist() == pytest.approx(printed, abs=1e-6)
    one = torch.tensor([[0.90, 0.05, 0.03, 0.015, 0.005]]).log()
    kl = selective_loss(one, torch.tensor([0]), torch.tensor([0]), torch.tensor([1.0]))
    assert kl.item() == pytest.approx(0.105361, abs=1e-6)


# one optimizer step


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
        {"padding_free": True},
        {"gradient_checkpointing": False},
    ],
    ids=["batch 8", "2 x 4", "1 x 8", "padding-free", "no checkpointing"],
)
def test_the_update_is_that_of_one_record_per_step(tmp_path, tokenizer, changes):
    rows = make_rows(tokenizer)
    expected, loss = plain_update(tokenizer, rows)
    trainer = selective_trainer(tmp_path, tokenizer, rows, **changes)
    trainer.train()
    torch.testing.assert_close(weights_of(trainer.model), expected, atol=1e-6, rtol=0)
    (row,) = [row for row in trainer.state.log_history if "loss" in row]
    assert row["loss"] == pytest.approx(loss, rel=1e-5)
    assert row["num_kept"] == sum(map(len, rows["position"]))
    assert 0 <= row["kept_accuracy"] <= 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"padding_free": True},
    ],
    ids=["batch 8", "2 x 4", "padding-free"],
)
def test_plain_cross_entropy_has_a_count_of_its_own(tmp_path, tokenizer, changes):
    rows = make_rows(tokenizer)
    expected, loss = plain_update(tokenizer, rows, sft_weight=0.3)
    trainer = selective_trainer(tmp_path, tokenizer, rows, sft_weight=0.3, **changes)
    trainer.train()
    torch.testing.assert_close(weights_of(trainer.model), expected, atol=1e-6, rtol=0)
    (row,) = [row for row in trainer.state.log_history if "loss" in row]
    assert row["loss"] == pytest.approx(loss, rel=1e-5)
    assert row["kept_kl"] + 0.3 * row["completion_nll"] == pytest.approx(loss, rel=1e-5)
    after = plain_loss(trainer.model, rows, sft_weight=0.3).item()
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(after, rel=1e-5)


def test_plain_cross_entropy_learns_from_rows_without_kept_steps(tmp_path, tokenizer):
    rows = make_rows(tokenizer).to_list()
    none = {name: [] for name in ("position", "token_id", "prob", "expert_logprob")}
    none |= {"amateur_logprob": [], "offset": [0]}
    rows = Dataset.from_list([rows[0] | none, *rows[1:]], features=SOFT_TARGET_FEATURES)
    assert len(selective_trainer(tmp_path / "a", tokenizer, rows).train_dataset) == 7
    trainer = selective_trainer(tmp_path / "b", tokenizer, rows, sft_weight=1.0)
    expected, _ = plain_update(tokenizer, rows, sft_weight=1.0)
    trainer.train()
    torch.testing.assert_close(weights_of(trainer.model), expected, atol=1e-6, rtol=0)


@pytest.mark.distributed
def test_one_update_by_loss_batch_accumulation_and_ranks(tmp_path, tokenizer, of_ranks):
    """The table of an update's size: only one division by the count of the whole step holds."""

    shapes = {"8 x 1": (8, 1), "2 x 4": (2, 4)}
    norms = {
        (kind, name): update_norm(
            tmp_path / f"{kind} {name}",
            tokenizer,
            kind,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
        )
        for kind in TRAINERS
        for name, (batch, accumulation) in shapes.items()
    }
    found = of_ranks("sft", 2)
    norms |= {(kind, "2 ranks"): norm for kind, norm in found["norms"].items()}
    true = norms["ours", "8 x 1"]
    for kind in ("ours", "mean", "mean of means"):
        assert norms[kind, "8 x 1"] == pytest.approx(true, rel=1e-6)
    for name in ("2 x 4", "2 ranks"):
        assert norms["ours", name] == pytest.approx(true, rel=1e-5)
        means = norms["mean of means", name]
        assert abs(means / true - 1) > 1e-3  # uneven micro-batches: another mean
    # four micro-batches summed instead of averaged; on two ranks DDP averages half of that away
    assert norms["mean", "2 x 4"] == pytest.approx(4 * norms["mean of means", "2 x 4"], rel=1e-5)
    assert norms["mean", "2 ranks"] == pytest.approx(
        2 * norms["mean of means", "2 ranks"], rel=1e-5
    )
    expected, _ = plain_update(tokenizer, make_rows(tokenizer))
    check_two_ranks(tmp_path, tokenizer, found, expected)


def check_two_ranks(folder, tokenizer, found, expected):
    """Equal across ranks, the update of one record per step, the evaluation of one process."""
    assert found["equal across ranks"]
    torch.testing.assert_close(torch.tensor(found["weights"]), expected, atol=1e-6, rtol=0)
    rows = make_rows(tokenizer)
    assert found["eval_num_kept"] == sum(map(len, rows["position"]))
    alone = selective_trainer(folder / "alone", tokenizer, rows)
    alone.train()
    assert found["eval_loss"] == pytest.approx(alone.evaluate(rows)["eval_loss"], rel=1e-5)
    # one rank without any kept step: it waits for nobody, and has a part in the one update; the
    # step is drawn of those of both
    one = online_trainer(folder / "one", tokenizer, select="random")
    one.train()
    online = torch.tensor(found["online"])
    assert found["online kept"] == [r["num_kept"] for r in one.state.log_history if "loss" in r]
    torch.testing.assert_close(online, weights_of(one.model), atol=1e-6, rtol=0)
    both, _ = plain_update(tokenizer, rows, sft_weight=0.3)
    torch.testing.assert_close(torch.tensor(found["with sft_weight"]), both, atol=1e-6, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_evaluation_is_the_mean_over_all_kept_steps(tmp_path, tokenizer, batch_size):
    rows = make_rows(tokenizer)
    model = make_model("llama", len(tokenizer))
    trainer = selective_trainer(
        tmp_path, tokenizer, rows, model=model, per_device_eval_batch_size=batch_size
    )
    found = trainer.evaluate(rows)
    assert found["eval_loss"] == pytest.approx(plain_loss(model, rows).item(), rel=1e-5)
    assert found["eval_num_kept"] == sum(map(len, rows["position"]))


def test_a_batch_without_kept_steps_is_a_loss_of_zero_with_a_graph(tmp_path, tokenizer):
    rows = make_rows(tokenizer)
    trainer = selective_trainer(tmp_path, tokenizer, rows)
    empty = {"position": [], "offset": [0], "token_id": [], "prob": []}
    batch = trainer.data_collator([rows[0] | empty, rows[1] | empty])
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor([0, 0]))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in trainer.model.parameters())


def test_only_what_is_needed_is_computed(tmp_path, tokenizer):
    """The forward ends at the last kept step, the head meets kept steps only."""
    rows = make_rows(tokenizer)
    trainer = selective_trainer(tmp_path, tokenizer, rows)
    seen = {}
    model = trainer.model

    def of_model(module, args, kwargs, out):
        seen["width"] = out[0].shape[1]

    def of_head(module, args, out):
        seen["head"] = tuple(args[0].shape[:2])

    model.model.register_forward_hook(of_model, with_kwargs=True)
    model.lm_head.register_forward_hook(of_head)
    trainer.train()
    assert seen["width"] == max(max(position) for position in rows["position"])
    assert seen["head"] == (1, sum(map(len, rows["position"])))


def test_an_adapter_learns_and_the_base_stays(tmp_path, tokenizer):
    rows = make_rows(tokenizer)
    model = make_model("llama", len(tokenizer))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = selective_trainer(
        tmp_path,
        tokenizer,
        rows,
        model=model,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
        max_steps=30,
        optim="adamw_torch",
        learning_rate=0.02,
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]
    after = dict(trainer.model.get_base_model().named_parameters())
    for name, value in before.items():
        own = after.get(name, after.get(name.replace(".weight", ".base_layer.weight")))
        assert torch.equal(own, value), name


def test_low_precision_trains(tmp_path, tokenizer):
    model = make_model("llama", len(tokenizer)).bfloat16()
    trainer = selective_trainer(tmp_path, tokenizer, make_rows(tokenizer), model=model, max_steps=3)
    trainer.train()
    assert all(np.isfinite(row["loss"]) for row in trainer.state.log_history if "loss" in row)


def test_mined_rows_are_learnt(tmp_path, tokenizer):
    """From two models to a trained one: the targets of the set become more likely."""
    expert = make_model("llama", len(tokenizer))
    expert.lm_head.weight.data *= 6
    amateur = make_model("qwen2", len(tokenizer), num_hidden_layers=1)
    mine_soft_targets(
        expert,
        amateur,
        ["1 + 1 =", "2 + 5 =", "What is 3?"],
        processing_class=tokenizer,
        amateur_processing_class=tokenizer,
        output_dir=tmp_path / "set",
        context="{prompt}\n",
        max_new_tokens=8,
        batch_size=2,
    )
    rows = load_soft_targets(tmp_path / "set")
    trainer = selective_trainer(
        tmp_path / "run", tokenizer, rows, model=expert, max_steps=20, learning_rate=0.01
    )
    before = trainer.evaluate(rows)["eval_loss"]
    trainer.train()
    assert trainer.evaluate(rows)["eval_loss"] < 0.9 * before


# targets from the batch as it comes


@pytest.fixture
def online(tmp_path, tokenizer):
    """Rows mined with a sharp pair, a fresh copy of its expert, and the amateur."""

    def expert():
        model = make_model("llama", len(tokenizer))
        model.lm_head.weight.data *= 6
        return model

    amateur = make_model("qwen2", len(tokenizer), num_hidden_layers=1)
    mine_soft_targets(
        expert(),
        amateur,
        ["1 + 1 =", "2 + 5 =", "What is 3?", "7 - 1"],
        processing_class=tokenizer,
        amateur_processing_class=tokenizer,
        output_dir=tmp_path / "set",
        context="{prompt}\n",
        max_new_tokens=10,
        divergence_beta=1.0,
    )
    return expert, amateur, load_soft_targets(tmp_path / "set")


@pytest.mark.parametrize("peft", [False, True], ids=["full", "adapter"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_online_targets_give_the_update_of_mined_ones(
    tmp_path, tokenizer, online, peft, accumulation
):
    """The first step: the live model and the base model are the one that was mined with."""
    expert, amateur, rows = online
    found = []
    for name in ("mined", "online"):
        arguments = {} if name == "mined" else {"amateur": amateur, "divergence_beta": 1.0}
        torch.manual_seed(0)
        trainer = selective_trainer(
            tmp_path / name,
            tokenizer,
            rows,
            model=expert(),
            peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]) if peft else None,
            per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation,
            learning_rate=0.1,
            **arguments,
        )
        modes = [module.training for module in amateur.modules()]
        trainer.train()
        (row,) = [row for row in trainer.state.log_history if "loss" in row]
        found.append((weights_of(trainer.model), row["loss"], row["num_kept"]))
        assert [module.training for module in amateur.modules()] == modes
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-6, rtol=0)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)
    assert found[0][2] == found[1][2] > 0


def test_the_base_stays_and_the_live_expert_moves(tmp_path, tokenizer, online):
    """After the adapter has learnt, base targets are those of the start, live ones are not."""
    expert, amateur, rows = online
    beta = float(np.median(np.concatenate(rows["kl"])))
    kept = {}
    for name in ("base", "live"):
        trainer = selective_trainer(
            tmp_path / name,
            tokenizer,
            rows,
            model=expert(),
            peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
            max_steps=6,
            learning_rate=5.0,
            amateur=amateur,
            expert=name,
            divergence_beta=beta,
        )
        trainer.train()
        kept[name] = [r["num_kept"] for r in trainer.state.log_history if "num_kept" in r]
    assert len(set(kept["base"])) == 1
    assert kept["live"][0] == kept["base"][0] and len(set(kept["live"])) > 1


def test_weights_in_shards_are_not_mined_as_they_are(tmp_path, tokenizer, online, monkeypatch):
    expert, amateur, rows = online
    trainer = selective_trainer(tmp_path, tokenizer, rows, model=expert(), amateur=amateur)
    # as if nobody had gathered them
    monkeypatch.setattr("hf_proxy.mining.miner.is_in_reach", lambda model: False)
    with pytest.raises(ValueError, match="weights are sharded: mine inside of weights_in_reach"):
        trainer.train()


def test_online_evaluation_equals_that_of_mined_rows(tmp_path, tokenizer, online):
    expert, amateur, rows = online
    mined = selective_trainer(tmp_path / "a", tokenizer, rows, model=expert()).evaluate(rows)
    trainer = selective_trainer(
        tmp_path / "b", tokenizer, rows, model=expert(), amateur=amateur, divergence_beta=1.0
    )
    found = trainer.evaluate(rows)
    assert found["eval_num_kept"] == mined["eval_num_kept"]
    assert found["eval_loss"] == pytest.approx(mined["eval_loss"], rel=1e-5)


# refused


def test_rows_that_do_not_fit_are_named(tmp_path, tokenizer, other_tokenizer):
    rows = make_rows(tokenizer).to_list()

    def refused(message, **changes):
        changed = [rows[0] | changes, *rows[1:]]
        data = Dataset.from_list(changed, features=SOFT_TARGET_FEATURES)
        with pytest.raises(InputError, match=message):
            selective_trainer(tmp_path, tokenizer, data)

    far = [*rows[0]["token_id"][:-1], 999]
    refused("row 0, field token_id: an id is beyond the model's vocabulary of 340", token_id=far)
    refused("row 0, field input_ids: an id is beyond", input_ids=[999, *rows[0]["input_ids"][1:]])
    ids = [*rows[0]["input_ids"][:-1], 999]
    refused("row 0, field input_ids: an id is beyond", input_ids=ids)
    refused("row 0, field prob: a target does not sum to 1", prob=[0.1] * len(rows[0]["prob"]))
    wrong = [*rows[0]["prob"]]
    wrong[0] = -wrong[0] - 1.0
    refused("row 0, field prob: a probability is negative", prob=wrong)
    assert len(rows[0]["position"]) > 1
    same = [rows[0]["position"][0]] * len(rows[0]["position"])
    refused("row 0, field position: does not ascend", position=same)
    refused("row 0, field position: does not ascend", position=rows[0]["position"][::-1])
    with pytest.raises(InputError, match=r"train_dataset: columns \['example_id', 'input_ids'"):
        selective_trainer(tmp_path, tokenizer, Dataset.from_dict({"text": ["a"]}))
    none = make_rows(tokenizer).map(
        lambda row: (
            {"position": [], "offset": [0], "token_id": [], "prob": []}
            | {"expert_logprob": [], "amateur_logprob": []}
        ),
        features=SOFT_TARGET_FEATURES,
    )
    with pytest.raises(InputError, match="no row has a kept step"):
        selective_trainer(tmp_path, tokenizer, none)
    mined = make_rows(tokenizer)
    mined.info.description = json.dumps({"tokenizer": "another"})
    with pytest.raises(InputError, match="train_dataset: it was mined with another tokenizer"):
        selective_trainer(tmp_path, tokenizer, mined)
    mined.info.description = json.dumps({"chat_template": "another"})
    with pytest.raises(InputError, match="train_dataset: it was mined with another chat template"):
        selective_trainer(tmp_path, tokenizer, mined)


def test_sharded_weights_are_asked_at_the_first_step(tmp_path, tokenizer, monkeypatch):
    class Sharded(SelectiveSFTTrainer):
        def create_accelerator_and_postprocess(self):
            super().create_accelerator_and_postprocess()
            self.is_fsdp_enabled = True

    monkeypatch.setitem(TRAINERS, "sharded", Sharded)
    asked = []

    def answer(model, **kwargs):
        asked.append(kwargs)
        return "rows of this model see each other"

    monkeypatch.setattr("hf_proxy.training.checks.why_not_packed", answer)
    causal = []
    monkeypatch.setattr(
        "hf_proxy.training.checks.require_causal", lambda model, **kwargs: causal.append(kwargs)
    )
    rows = make_rows(tokenizer)
    trainer = selective_trainer(tmp_path, tokenizer, rows, padding_free=True, kind="sharded")
    assert not asked and not causal  # its weights do not stand yet
    trainer.is_fsdp_enabled = False  # nothing is sharded here
    with pytest.raises(InputError, match="see each other; set padding_free=False"):
        trainer.train()
    for found in (asked, causal):
        assert found[0]["processes"] is trainer.accelerator  # each forward is a collective


@pytest.mark.parametrize("padding_free", [False, True])
@pytest.mark.parametrize("name", ["bert", "xlnet"])
def test_a_model_that_looks_ahead_is_refused(tmp_path, tokenizer, name, padding_free):
    model = build(name, len(tokenizer))
    with pytest.raises(InputError, match="is not causal: a later token moves an earlier logit"):
        selective_trainer(
            tmp_path, tokenizer, make_rows(tokenizer), model=model, padding_free=padding_free
        )


@pytest.mark.filterwarnings("ignore")  # PEFT's own: settings of untrained adapters
@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "CARTRIDGE", "LILY", "PROMPT_TUNING"])
def test_adapters_that_the_host_cannot_train_are_refused_by_name(tmp_path, tokenizer, kind):
    message = {
        "PROMPT_TUNING": None,
        "LILY": "field adapter: .*whose router reads later tokens",
    }.get(kind, f"type {kind} stands in a cache.*set gradient_checkpointing=False")
    cls = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    own = {"target_modules": ["q_proj"]} if kind == "LILY" else {"num_virtual_tokens": 2}
    adapter = cls(task_type="CAUSAL_LM", **own)
    rows = make_rows(tokenizer)
    if message is None:  # the host's default: gradient checkpointing
        trainer = selective_trainer(tmp_path, tokenizer, rows, peft_config=adapter)
        assert trainer.args.gradient_checkpointing and trainer.train()
        return
    with pytest.raises(InputError, match=message):
        selective_trainer(tmp_path, tokenizer, rows, peft_config=adapter)


def test_rows_on_two_sides_of_a_longrope_border_share_no_batch(tmp_path, tokenizer):
    """A short row beside a long one would be read with the long one's angles."""
    rows = make_rows(tokenizer)
    read = sorted(max(position) for position in rows["position"])
    longest = sorted(len(ids) - 1 for ids in rows["input_ids"])
    assert read[-1] < longest[-1]
    model = longrope("phi3", len(tokenizer), read[3])
    changes = {"model": model, "learning_rate": 0.0}
    with pytest.raises(
        InputError, match="train_dataset, row .*; set per_device_train_batch_size=1"
    ):
        selective_trainer(tmp_path, tokenizer, rows, **changes)
    one = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    with pytest.raises(InputError, match="eval_dataset 'a', row .*per_device_eval_batch_size=1"):
        selective_trainer(tmp_path, tokenizer, rows, eval_dataset={"a": rows}, **one, **changes)
    trainer = selective_trainer(
        tmp_path, tokenizer, rows, eval_dataset=rows, per_device_eval_batch_size=1, **one, **changes
    )
    inputs = [row for row in rows if max(row["position"]) <= read[3]]
    assert 0 < len(inputs) < len(rows)
    short = Dataset.from_list(inputs, features=SOFT_TARGET_FEATURES)
    assert trainer.evaluate(short)["eval_loss"] == pytest.approx(plain_loss(model, short).item())
    # what is read ends at the last kept step; with every token learnt it goes further
    beyond = {"model": longrope("phi3", len(tokenizer), read[-1])}
    selective_trainer(tmp_path, tokenizer, rows, **beyond)
    with pytest.raises(InputError, match="turns the positions of a whole batch otherwise"):
        selective_trainer(tmp_path, tokenizer, rows, sft_weight=0.5, **beyond)


def test_settings_that_cannot_work_are_refused(tmp_path, tokenizer):
    rows = make_rows(tokenizer)
    with pytest.raises(ValueError, match="packing=True would cut"):
        SelectiveSFTConfig(output_dir=str(tmp_path), packing=True, bf16=False)
    with pytest.raises(ValueError, match="adapter"):
        selective_trainer(
            tmp_path,
            tokenizer,
            rows,
            peft_config=LoraConfig(r=4, target_modules=["q_proj", "lm_head"]),
        )
    for model in (make_model("mamba", len(tokenizer)), build("opt", len(tokenizer))):
        with pytest.raises(InputError, match="cannot tell packed rows apart.*padding_free=False"):
            selective_trainer(tmp_path, tokenizer, rows, model=model, padding_free=True)
    with pytest.raises(InputError, match="type PREFIX_TUNING takes a line for one"):
        selective_trainer(
            tmp_path,
            tokenizer,
            rows,
            peft_config=PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
            padding_free=True,
        )
    with pytest.raises(ValueError, match="sft_weight must be a number from 0 on, not -1"):
        SelectiveSFTConfig(output_dir=str(tmp_path), sft_weight=-1.0, bf16=False)
    amateur = make_model("llama", len(tokenizer))
    with pytest.raises(ValueError, match="expert='base' needs a model with adapters"):
        selective_trainer(tmp_path, tokenizer, rows, amateur=amateur, expert="base")
    with pytest.raises(ValueError, match="expert must be 'base', 'live' or None"):
        selective_trainer(tmp_path, tokenizer, rows, amateur=amateur, expert="frozen")
    with pytest.raises(InputError, match="row 0, field prompt_length: 0 of"):
        wrong = Dataset.from_list([rows[0] | {"prompt_length": 0}], features=SOFT_TARGET_FEATURES)
        selective_trainer(tmp_path, tokenizer, wrong, amateur=amateur)
    for wrong, message in (
        ([400, *rows[0]["input_ids"][1:]], "row 0, field input_ids: an id is beyond the models'"),
        ([1] * 700, "row 0, field input_ids: 700 tokens are more than the models' window of 640"),
    ):
        data = Dataset.from_list([rows[0] | {"input_ids": wrong}], features=SOFT_TARGET_FEATURES)
        with pytest.raises(InputError, match=message):
            selective_trainer(tmp_path, tokenizer, data, amateur=amateur)
    with pytest.raises(ValueError, match="must be a SelectiveSFTConfig, not SFTConfig"):
        SelectiveSFTTrainer(
            model=make_model("llama", len(tokenizer)),
            args=SFTConfig(output_dir=str(tmp_path), bf16=False),
            train_dataset=rows,
            processing_class=tokenizer,
        )


def test_the_command_trains_resumes_and_records(tmp_path, tokenizer, capsys):
    expert = make_model("llama", len(tokenizer))
    expert.lm_head.weight.data *= 6
    amateur = make_model("qwen2", len(tokenizer), num_hidden_layers=1)
    mine_soft_targets(
        expert,
        amateur,
        ["1 + 1 =", "2 + 5 =", "What is 3?"],
        processing_class=tokenizer,
        amateur_processing_class=tokenizer,
        output_dir=tmp_path / "set",
        context="{prompt}\n",
        max_new_tokens=8,
        facts={"amateur": "small"},
    )
    expert.save_pretrained(tmp_path / "expert")
    tokenizer.save_pretrained(tmp_path / "expert")
    out = tmp_path / "out"
    command = ["train", "--model_name_or_path", str(tmp_path / "expert"), "--soft_targets"]
    command += [str(tmp_path / "set"), "--output_dir", str(out), "--use_peft", "--lora_r", "4"]
    command += ["--lora_target_modules", "q_proj", "v_proj", "--learning_rate", "0.01"]
    command += ["--bf16", "false", "--use_cpu", "--save_steps", "2", "--logging_steps", "1"]
    command += ["--dtype", "float32", "--num_eval", "1", "--json"]
    assert main([*command, "--max_steps", "4"]) == 0
    said = capsys.readouterr().out
    assert "4 steps," in said
    short = command[: command.index("--logging_steps")]
    short += ["--logging_strategy", "no", "--dtype", "float32", "--max_steps", "1"]
    short[short.index("--output_dir") + 1] = str(tmp_path / "short")
    assert main(short) == 0  # no loss was logged
    assert "(a mean of steps; a lower --logging_steps shows" in capsys.readouterr().out
    assert main([*command, "--max_steps", "6"]) == 0  # goes on from step 4
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["optimizer_steps"] == 6 and len(found["losses"]) == 6
    assert (out / "adapter_model.safetensors").exists()
    merged = AutoModelForCausalLM.from_pretrained(out / "merged")
    tuned = PeftModel.from_pretrained(make_base(tmp_path / "expert"), out)
    ids = torch.arange(9)[None]
    torch.testing.assert_close(merged(ids).logits, tuned(ids).logits, atol=1e-4, rtol=1e-4)
    card = (out / "README.md").read_text()
    # a folder of this machine is no base to anybody else, and a pickle nothing to hand on
    assert "`small`" in card and "`expert`" in card and str(tmp_path) not in card
    of_merged = (out / "merged" / "README.md").read_text()
    assert "library_name: peft" in card and "library_name: transformers" in of_merged
    assert "base_model" not in card + of_merged and "they are float32" in of_merged
    assert not (out / "training_args.bin").exists()
    stamp = json.loads((out / "provenance.json").read_text())
    assert stamp["soft_targets"]["num_prompts"] == 3
    # the same line again: finished, and left as it is
    before = (out / "adapter_model.safetensors").read_bytes()
    assert main([*command, "--max_steps", "6"]) == 0
    said = capsys.readouterr().out
    assert "this run is finished; nothing was done" in said
    assert json.loads(said.splitlines()[-1]) == found
    assert (out / "adapter_model.safetensors").read_bytes() == before
    assert main([*command, "--max_steps", "6", "--lora_alpha", "9"]) == 2
    assert "a run with other flags stands here: lora_alpha (32, now 9)" in capsys.readouterr().err
    command[4], command[command.index("--output_dir") + 1] = str(tmp_path), str(tmp_path / "none")
    assert main(command) == 2
    assert "no folder of soft targets" in capsys.readouterr().err


def test_evaluation_sets_keep_their_sums_by_name(tmp_path, tokenizer, online):
    expert, amateur, rows = online
    twice = concatenate_datasets([rows, rows])
    with pytest.raises(InputError, match="eval_dataset"):
        selective_trainer(tmp_path, tokenizer, rows, model=expert(), eval_dataset=twice)
    trainer = selective_trainer(
        tmp_path, tokenizer, rows, model=expert(), amateur=amateur, divergence_beta=99.0
    )
    found = trainer.evaluate(rows)
    assert found["eval_num_kept"] == 0 and "eval_loss" not in found


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig])
def test_prompt_learning_is_taught_at_the_steps_of_the_text(tmp_path, tokenizer, config):
    """Virtual tokens move every position: against plain forwards, one row at a time."""
    rows = make_rows(tokenizer)
    adapter = config(task_type="CAUSAL_LM", num_virtual_tokens=4)
    trainer = selective_trainer(
        tmp_path,
        tokenizer,
        rows,
        peft_config=adapter,
        eval_dataset=rows,
        gradient_checkpointing=False,
    )
    before = trainer.evaluate()["eval_loss"]
    divergences = []
    for row in rows:
        with torch.no_grad():
            ids = torch.tensor([row["input_ids"]])
            logits = trainer.model(input_ids=ids, use_cache=False).logits[0, -ids.shape[1] :]
        logprob = logits.log_softmax(-1)
        for step, (first, last) in enumerate(zip(row["offset"], row["offset"][1:], strict=False)):
            p = torch.tensor(row["prob"][first:last])
            q = logprob[row["position"][step] - 1, row["token_id"][first:last]]
            divergences.append((p.xlogy(p) - p * q).sum().item())
    assert before == pytest.approx(np.mean(divergences), rel=1e-4)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] != before


def test_a_processor_trains_as_its_tokenizer(tmp_path, tokenizer):
    rows = make_rows(tokenizer)
    losses = [
        selective_trainer(tmp_path, own, rows, model=make_model("llama", len(tokenizer)))
        .train()
        .training_loss
        for own in (tokenizer, Processor(tokenizer))
    ]
    assert losses[0] == losses[1]
    with pytest.raises(InputError, match="ImageProcessor is no tokenizer and holds none"):
        selective_trainer(
            tmp_path, ImageProcessor(), rows, model=make_model("llama", len(tokenizer))
        )


def make_base(folder):
    return AutoModelForCausalLM.from_pretrained(folder)


def test_a_completion_that_the_head_cannot_give_is_named(tokenizer):
    """An embedding may have a row more than the head: such an id is read, never predicted."""
    rows = make_rows(tokenizer)
    start = rows[0]["prompt_length"]
    ids = rows[0]["input_ids"]
    for place, refused in ((0, False), (start, True)):
        changed = rows[0] | {"input_ids": [*ids[:place], 340, *ids[place + 1 :]]}
        data = Dataset.from_list([changed], features=SOFT_TARGET_FEATURES)
        if refused:
            with pytest.raises(InputError, match="vocabulary of 340 .its output head's"):
                check_trainable(data, "rows", 341, 340)
        else:
            check_trainable(data, "rows", 341, 340)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_loss_is_made_where_there_is_no_float64(mode, tmp_path, tokenizer):
    """Apple's MPS has none; figures are added up on the host, when they are logged."""
    rows = make_rows(tokenizer)
    trainer = selective_trainer(tmp_path, tokenizer, rows, sft_weight=0.3)
    batch = trainer._collate([rows[i] for i in range(4)])
    getattr(trainer.model, mode)()
    trainer._check_model(trainer.model)
    with Dtypes() as dtypes:
        trainer.compute_loss(trainer.model, batch)
    assert torch.float32 in dtypes.found and torch.float64 not in dtypes.found
