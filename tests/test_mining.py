"""Mining with real models: rows, resume, ranks, and what it refuses."""

import copy
import json
import os

import mining_worker
import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.mining import PROMPTS, TEMPLATE, mine, with_controls
from helpers.models import make_model, sharp_pair
from helpers.processes import Forked
from helpers.tokenizers import ImageProcessor, Processor, with_gaps
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from hf_proxy import InputError, contrast, load_soft_targets
from hf_proxy.mining.miner import Miner
from hf_proxy.mining.settings import MiningSettings
from hf_proxy.records.defaults import SYSTEM_PROMPT
from hf_proxy.tokens.prompts import read_prompts
from hf_proxy.tokens.vocabulary import match_vocabularies


@pytest.fixture
def pair(tokenizer):
    """Two architectures of other depth; the expert's head is padded beyond the vocabulary."""
    return sharp_pair(len(tokenizer))


def test_rows_against_the_plain_way(pair, tokenizer, tmp_path):
    """Greedy continuation one prompt at a time, full logits of each model, `contrast` on them."""
    everything = mine(pair, tokenizer, tmp_path / "all", divergence_beta=0.0)
    beta = float(np.median(np.concatenate(everything["kl"])))
    rows = mine(pair, tokenizer, tmp_path / "set", divergence_beta=beta)
    assert list(rows["example_id"]) == ["0", "1", "2", "3", "4"]
    expert, amateur = pair
    for prompt, row in zip(PROMPTS, rows, strict=True):
        ids = tokenizer(prompt + "\n")["input_ids"]
        start = len(ids)
        assert row["prompt_length"] == start and row["input_ids"][:start] == ids
        whole = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            logits = [model(whole).logits[0, start - 1 : -1] for model in (expert, amateur)]
        width = len(tokenizer)
        assert row["input_ids"][start:] == logits[0][:, :width].argmax(-1).tolist()
        plain = contrast(*(model_NV[:, :width] for model_NV in logits), divergence_beta=beta)
        assert row["kl"] == pytest.approx(plain.kl_N.tolist(), abs=2e-5)
        assert row["top1_agree"] == plain.top1_agree_N.tolist()
        kept = plain.keep_N.nonzero()[:, 0] + start
        assert row["position"] == kept.tolist()
        assert row["support_size"] == plain.support_size_N.tolist()
        assert row["offset"] == plain.offset.tolist()
        assert row["token_id"] == plain.token_id.tolist()
        for name in ("prob", "expert_logprob", "amateur_logprob"):
            assert row[name] == pytest.approx(getattr(plain, name).tolist(), abs=2e-5)


def test_the_amateurs_row_is_the_experts(tokenizer, tmp_path):
    """The same model twice parts nowhere; one step beside itself it would part everywhere."""
    model = make_model("llama", len(tokenizer))
    rows = mine((model, model), tokenizer, tmp_path / "set")
    assert max(abs(kl) for row in rows for kl in row["kl"]) < 1e-5
    assert all(row["position"] == [] and row["offset"] == [0] for row in rows)
    assert all(all(row["top1_agree"]) for row in rows)


def test_invariants_of_every_row(pair, tokenizer, tmp_path):
    for row in mine(pair, tokenizer, tmp_path / "set", temperature=1.0):
        num = len(row["input_ids"]) - row["prompt_length"]
        assert 1 <= num <= 10
        assert all(len(row[n]) == num for n in ("kl", "top1_agree", "expert_entropy"))
        offset = np.array(row["offset"])
        assert len(offset) == len(row["position"]) + 1 and (np.diff(offset) >= 1).all()
        for m, position in enumerate(row["position"]):
            own = slice(offset[m], offset[m + 1])
            assert row["kl"][position - row["prompt_length"]] >= 0.4
            assert sum(row["prob"][own]) == pytest.approx(1, abs=1e-5)
            assert (np.diff(row["token_id"][own]) > 0).all()
            best = max(row["expert_logprob"][own])
            assert min(row["expert_logprob"][own]) >= best + np.log(0.2) - 1e-5


def test_an_end_of_text_is_a_step_and_the_last(tokenizer, tmp_path):
    """A model that only ever ends: one step each, and the set says how many."""
    expert = make_model("llama", len(tokenizer))
    end = tokenizer.eos_token_id
    with torch.no_grad():
        expert.model.norm.weight.zero_()
        head = torch.nn.Linear(32, len(tokenizer))
        torch.nn.init.zeros_(head.weight)
        head.bias.zero_()
        head.bias[end] = 9.0
        expert.lm_head = head
    amateur = make_model("llama", len(tokenizer))
    rows = mine((expert, amateur), tokenizer, tmp_path / "set")
    assert all(row["input_ids"][row["prompt_length"] :] == [end] for row in rows)
    statistics = json.loads((tmp_path / "set" / "statistics.json").read_text())
    assert statistics["num_ended_at_once"] == statistics["num_steps"] == 5


def test_decoding_is_ours_whatever_the_generation_config_says(pair, tokenizer, tmp_path):
    rows = mine(pair, tokenizer, tmp_path / "plain")
    wild = GenerationConfig(
        do_sample=True,
        temperature=3.0,
        repetition_penalty=5.0,
        no_repeat_ngram_size=1,
        top_k=2,
        max_length=3,
        forced_eos_token_id=5,
    )
    pair[0].generation_config = wild
    before = wild.to_dict()
    assert mine(pair, tokenizer, tmp_path / "wild").to_dict() == rows.to_dict()
    assert pair[0].generation_config is wild and wild.to_dict() == before


def test_sampling_is_seeded_and_leaves_the_streams_alone(pair, tokenizer, tmp_path):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = mine(pair, tokenizer, tmp_path / "a", temperature=1.0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert mine(pair, tokenizer, tmp_path / "b", temperature=1.0).to_dict() == first.to_dict()
    other = mine(pair, tokenizer, tmp_path / "c", temperature=1.0, seed=1)
    assert list(other["input_ids"]) != list(first["input_ids"])


def test_modes_and_caches_come_back(pair, tokenizer, tmp_path):
    expert, amateur = pair
    expert.train()
    expert.model.layers[0].eval()
    expert.config.use_cache = False
    expert.gradient_checkpointing_enable()
    modes = [module.training for module in expert.modules()]
    rows = mine(pair, tokenizer, tmp_path / "a")
    assert [module.training for module in expert.modules()] == modes
    assert expert.config.use_cache is False and expert.is_gradient_checkpointing
    assert all(parameter.grad is None for parameter in expert.parameters())
    expert.eval()
    assert mine(pair, tokenizer, tmp_path / "b").to_dict() == rows.to_dict()


def test_an_adapter_writes_as_the_merged_model(pair, tokenizer, tmp_path):
    torch.manual_seed(0)
    expert = make_model("llama", len(tokenizer) + 7)
    tuned = get_peft_model(expert, LoraConfig(r=4, init_lora_weights=False))
    rows = mine((tuned, pair[1]), tokenizer, tmp_path / "adapter")
    merged = tuned.merge_and_unload()
    expected = mine((merged, pair[1]), tokenizer, tmp_path / "merged")
    assert list(rows["input_ids"]) == list(expected["input_ids"])
    for mine_kl, theirs in zip(rows["kl"], expected["kl"], strict=True):
        assert mine_kl == pytest.approx(theirs, abs=1e-4)
    plain = mine(pair, tokenizer, tmp_path / "plain")
    assert list(plain["input_ids"]) != list(rows["input_ids"])


def test_models_of_other_precision_and_softcap(tokenizer, tmp_path):
    expert = make_model("gemma2", len(tokenizer)).bfloat16()
    amateur = make_model("granite", len(tokenizer), dtype=torch.float64)
    rows = mine((expert, amateur), tokenizer, tmp_path / "set", divergence_beta=0.0)
    for row in rows:
        start = row["prompt_length"]
        whole = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            logits = [m(whole).logits[0, start - 1 : -1].double() for m in (expert, amateur)]
        plain = contrast(*logits, divergence_beta=0.0)
        assert row["kl"] == pytest.approx(plain.kl_N.tolist(), abs=2e-2)  # bfloat16


def test_the_published_rules(pair, tokenizer, tmp_path):
    """The first step is scored but never kept."""
    ours = mine(pair, tokenizer, tmp_path / "ours", divergence_beta=0.0)
    theirs = mine(pair, tokenizer, tmp_path / "theirs", divergence_beta=0.0, parity="official")
    for mine_row, row in zip(ours, theirs, strict=True):
        assert mine_row["position"][0] == mine_row["prompt_length"]
        assert row["position"] == mine_row["position"][1:]
        assert len(row["kl"]) == len(mine_row["kl"])
        assert row["offset"][0] == 0 and len(row["offset"]) == len(row["position"]) + 1


def test_the_chat_template_is_used_and_recorded(pair, tokenizer, tmp_path):
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>")
    tokenizer.chat_template = TEMPLATE
    rows = mine(pair, tokenizer, tmp_path / "set", context="chat")
    text = f"<|system|>{SYSTEM_PROMPT}\n<|user|>{PROMPTS[0]}\n<|assistant|>"
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert rows[0]["input_ids"][: rows[0]["prompt_length"]] == expected
    record = json.loads((tmp_path / "set" / "mining.json").read_text())
    assert record["template"] == TEMPLATE and record["system_prompt"] == SYSTEM_PROMPT
    assert len(record["template_hash"]) == 16


# resume and ranks


@pytest.fixture(scope="module")
def uninterrupted(shared, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "set"
    mining_worker.work(shared / "inputs", output)
    return load_soft_targets(output).to_dict()


@pytest.mark.distributed
def test_killed_and_started_again_it_is_the_same_set(shared, uninterrupted, tmp_path):
    output = tmp_path / "killed"
    for number, more in ((1, 1), (3, 2)):
        arguments = [mining_worker.__file__, shared / "inputs", output, more]
        process = Forked(shared, *arguments)
        process.kill_once(lambda number=number: len(list(output.glob("shards/*.arrow"))) >= number)
        with pytest.raises(InputError, match="of 6 batches are missing"):
            load_soft_targets(output)
    first = (output / "shards" / "000000.arrow").stat().st_mtime_ns
    mining_worker.work(shared / "inputs", output)
    assert load_soft_targets(output).to_dict() == uninterrupted
    assert (output / "shards" / "000000.arrow").stat().st_mtime_ns == first  # not mined again


def test_a_set_is_extended_to_more_prompts(pair, tokenizer, tmp_path):
    """Whether its last batch was full or not: the set is the one that all would have given."""
    own = {"temperature": 1.0, "batch_size": 2}
    whole = mine(pair, tokenizer, tmp_path / "whole", **own).to_dict()
    for number in (2, 3):
        folder = tmp_path / str(number)
        mine(pair, tokenizer, folder, PROMPTS[:number], **own)
        first = (folder / "shards" / "000000.arrow").stat().st_mtime_ns
        assert mine(pair, tokenizer, folder, **own).to_dict() == whole
        assert (folder / "shards" / "000000.arrow").stat().st_mtime_ns == first  # not mined again
        stamp = json.loads((folder / "provenance.json").read_text())
        assert stamp["num_prompts"] == stamp["counts"]["prompts"] == 5
    # fewer, others first, or otherwise mined: another set
    for prompts, changes, message in (
        (PROMPTS[:4], {}, "with other prompts, num_prompts"),
        (["other?", *PROMPTS], {}, "with other prompts, num_prompts"),
        ([*PROMPTS, "other?"], {"seed": 1}, r"with other prompts, num_prompts, seed \(0, now 1\)"),
    ):
        with pytest.raises(InputError, match=message):
            mine(pair, tokenizer, folder, prompts, **own | changes)
    assert load_soft_targets(folder).to_dict() == whole


@pytest.mark.distributed
def test_ranks_give_the_set_of_one_process(shared, of_ranks, uninterrupted):
    of_ranks("mining", 3)
    assert load_soft_targets(shared / "inputs" / "mining-3").to_dict() == uninterrupted


# refused


def test_other_settings_in_the_same_folder_are_named(pair, tokenizer, tmp_path):
    mine(pair, tokenizer, tmp_path / "set")
    with pytest.raises(
        InputError, match=r"set: the folder was mined with other divergence_beta \(0.4, n"
    ):
        mine(pair, tokenizer, tmp_path / "set", divergence_beta=0.3)
    with pytest.raises(InputError, match="with other prompts; name another"):
        mine(pair, tokenizer, tmp_path / "set", PROMPTS[::-1])
    with torch.no_grad():
        pair[0].lm_head.weight[0, 0] += 1
    with pytest.raises(InputError, match="with other expert"):
        mine(pair, tokenizer, tmp_path / "set")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="the folder holds something else"):
        mine(pair, tokenizer, tmp_path / "else")


def test_folders_that_are_no_sets_are_named(tmp_path):
    with pytest.raises(InputError, match="this is no folder of soft targets"):
        load_soft_targets(tmp_path)


def test_prompts_that_cannot_be_read_are_named(tokenizer):
    rows = Dataset.from_dict({"prompt": ["a", ""], "example_id": ["x", "y"]})
    with pytest.raises(InputError, match="row y, field prompt: expected text, found ''"):
        read_prompts(rows, tokenizer, context="{prompt}")
    with pytest.raises(InputError, match="there is no column 'prompt'"):
        read_prompts(Dataset.from_dict({"question": ["a"]}), tokenizer)
    with pytest.raises(InputError, match="example_id.*x.*"):
        twice = Dataset.from_dict({"prompt": ["a", "b"], "example_id": ["x", "x"]})
        read_prompts(twice, tokenizer, context="{prompt}")
    with pytest.raises(InputError, match="there are no prompts"):
        read_prompts([], tokenizer)
    with pytest.raises(InputError, match="has no chat template"):
        read_prompts(["a"], tokenizer)
    with pytest.raises(InputError, match="has no {prompt}"):
        read_prompts(["a"], tokenizer, context="Question:")


def test_a_prompt_beyond_the_window_is_named(pair, tokenizer, tmp_path):
    with pytest.raises(InputError, match="row 1, field prompt: .* window of 640; drop the row"):
        mine(pair, tokenizer, tmp_path / "set", ["short", "1 + 1 = 2. " * 200])
    assert not (tmp_path / "set").exists()


def test_logits_that_are_not_finite_stop_the_mining(pair, tokenizer, tmp_path):
    with torch.no_grad():
        pair[1].lm_head.weight[3] = float("nan")
    with pytest.raises(InputError, match="row 1, 0: step 0: the amateur has a logit that is not"):
        mine(pair, tokenizer, tmp_path / "set")
    assert not list((tmp_path / "set").glob("shards/*"))


def test_a_full_disk_leaves_nothing_half_written(pair, tokenizer, tmp_path, monkeypatch):
    replace = os.replace

    def full(source, target):
        if str(target).endswith("000001.arrow"):
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr("hf_proxy.records.storage.os.replace", full)
    with pytest.raises(OSError, match="No space left on device.*000001.arrow"):
        mine(pair, tokenizer, tmp_path / "set")
    monkeypatch.undo()
    left = sorted(path.name for path in (tmp_path / "set" / "shards").iterdir())
    assert left == ["000000.arrow", "000000.arrow.sha256", "000001.arrow.sha256"]
    with pytest.raises(InputError, match="2 of 3 batches are missing"):
        load_soft_targets(tmp_path / "set")
    assert len(mine(pair, tokenizer, tmp_path / "set")) == 5


def test_settings_that_mean_nothing_are_refused(pair, tokenizer, tmp_path):
    for setting, message in (
        ({"max_new_tokens": 0}, "must be at least 1"),
        ({"temperature": -1.0}, "temperature must be >= 0"),
        ({"divergence_beta": -1.0}, "divergence_beta must be"),
    ):
        with pytest.raises(ValueError, match=message):
            mine(pair, tokenizer, tmp_path / "set", **setting)


def test_ids_that_an_amateur_cannot_read_are_refused_where_they_occur(pair, tokenizer, tmp_path):
    """A head may be narrower than the tokenizer: Gemma 3 has 262,145 tokens and 262,144 rows."""
    narrow = make_model("qwen2", len(tokenizer) - 5, num_hidden_layers=1)
    rows = mine((pair[0], narrow), tokenizer, tmp_path / "set", max_new_tokens=40)
    prompts = {tuple(row["input_ids"][: row["prompt_length"]]) for row in rows}
    assert max(map(max, prompts)) < 335 > max(max(row["input_ids"]) for row in rows)
    beyond = tokenizer.convert_ids_to_tokens(337)
    question = tokenizer.decode([337])
    assert 337 in tokenizer(question)["input_ids"], beyond
    with pytest.raises(
        InputError, match="row 0.*beyond the models' vocabulary of 335 .the amateur's"
    ):
        mine((pair[0], narrow), tokenizer, tmp_path / "other", prompts=[question])
    miner = Miner(
        pair[0],
        narrow,
        processing_class=tokenizer,
        amateur_processing_class=tokenizer,
        settings=MiningSettings(),
    )
    row = {"example_id": "far", "input_ids": [1, 337, 2], "prompt_length": 1}
    with pytest.raises(
        InputError, match="row far.*beyond the models' vocabulary of 335 .the amateur's"
    ):
        miner.check_readable(Dataset.from_list([row]), "rows")
    with pytest.raises(
        InputError, match="row far.*beyond the models' vocabulary of 335 .the amateur's"
    ):
        miner.rows(["far"], [[1]], [[337, 2]])
    assert miner.rows(["last"], [[1]], [[2, 337]])[0]["input_ids"] == [1, 2, 337]


def test_a_token_that_no_text_holds_may_lie_beyond_both_heads(pair, tokenizer, tmp_path):
    with_image = copy.deepcopy(tokenizer)
    with_image.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    for model in pair:
        model.resize_token_embeddings(len(tokenizer))
    assert len(with_image) == 341
    rows = mine(pair, with_image, tmp_path / "image")
    assert rows["input_ids"] == mine(pair, tokenizer, tmp_path / "set")["input_ids"]


def with_rows(model, num_rows):
    """The same model with a wider head, whose new rows give every text the logit 0."""
    before = model.get_output_embeddings().weight.shape[0]
    model.resize_token_embeddings(num_rows)
    with torch.no_grad():
        model.get_output_embeddings().weight[before:] = 0
    return model


def test_rows_of_a_head_that_stand_for_no_token_take_no_share(tokenizer, tmp_path):
    """Padded heads, and free ids between the tokens: the divergence is that of the tokens alone."""
    size = len(tokenizer)
    plain = [make_model("llama", size), make_model("qwen2", size, tie_word_embeddings=False)]
    wanted = mine(plain, tokenizer, tmp_path / "plain")
    wide = [with_rows(copy.deepcopy(model), size + 60) for model in plain]
    found = mine(wide, tokenizer, tmp_path / "wide")
    assert found["input_ids"] == wanted["input_ids"]
    for ours, theirs in zip(found["kl"], wanted["kl"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)

    gaps, settings = with_gaps(), MiningSettings()
    pair = [make_model("llama", 40), make_model("qwen2", 40, tie_word_embeddings=False)]
    tokenizers = {"processing_class": gaps, "amateur_processing_class": gaps}
    (row,) = Miner(*pair, **tokenizers, settings=settings).rows(["a"], [[1, 2]], [[3, 30]])
    logprobs = []
    for model in pair:
        with torch.no_grad():
            logits = model(torch.tensor([[1, 2, 3, 30]])).logits[0, 1:3].double()
        logprobs.append(logits[:, [*range(20), 25, 30]].log_softmax(-1))
    kl = (logprobs[0].exp() * (logprobs[0] - logprobs[1])).sum(-1)
    np.testing.assert_allclose(row["kl"], kl.numpy(), rtol=1e-4, atol=1e-6)


def test_a_processor_stands_for_the_tokenizer_that_it_holds(pair, tokenizer, tmp_path):
    held = {name: Processor(tokenizer) for name in ("processing_class", "amateur_processing_class")}
    rows = mine(pair, tokenizer, tmp_path / "held", **held)
    assert rows["input_ids"] == mine(pair, tokenizer, tmp_path / "set")["input_ids"]
    for name in held:
        with pytest.raises(InputError, match="ImageProcessor is no tokenizer and holds none"):
            mine(pair, tokenizer, tmp_path / "other", **{name: ImageProcessor()})


def test_an_amateur_in_shards_is_refused(pair, tokenizer, tmp_path, monkeypatch):
    """An expert's are gathered: test_sharded_mining."""
    monkeypatch.setattr("hf_proxy.mining.miner.has_shards", lambda model: model is pair[1])
    with pytest.raises(InputError, match="the amateur's weights are sharded; load a whole one"):
        mine(pair, tokenizer, tmp_path / "set")
    monkeypatch.undo()
    with pytest.raises(InputError, match="gather must be one of"):
        mine(pair, tokenizer, tmp_path / "set", gather="some")


def test_an_amateur_above_the_expert_is_warned_of(pair, tokenizer, tmp_path, caplog):
    mine(pair[::-1], tokenizer, tmp_path / "set")
    assert "the amateur has" in caplog.text


# vocabularies


def test_families_that_do_not_match_are_refused(pair, tokenizer, other_tokenizer, tmp_path):
    with pytest.raises(
        InputError, match=r"of 339 tokens of the expert are others.* the first is '"
    ):
        mine(pair, tokenizer, tmp_path / "set", amateur_processing_class=other_tokenizer)


def test_control_tokens_are_matched_by_name(tokenizer, tmp_path):
    """Two control tokens that have changed places: mapped, the models part nowhere."""
    ours = with_controls(tokenizer, ["<|user|>", "<|assistant|>"])
    theirs = with_controls(tokenizer, ["<|assistant|>", "<|user|>"])
    places = match_vocabularies(ours, theirs)
    user, assistant = ours.convert_tokens_to_ids(["<|user|>", "<|assistant|>"])
    assert places.moved.tolist() == [[user, assistant], [assistant, user]]
    expert = make_model("llama", len(ours))
    amateur = make_model("llama", len(ours))
    with torch.no_grad():
        for weight in (amateur.get_input_embeddings().weight, amateur.lm_head.weight):
            weight[[user, assistant]] = weight[[assistant, user]]
    changes = {"context": "<|user|>{prompt}<|assistant|>", "amateur_processing_class": theirs}
    rows = mine((expert, amateur), ours, tmp_path / "a", **changes)
    assert max(abs(kl) for row in rows for kl in row["kl"]) < 1e-5
    unmapped = mine((expert, amateur), ours, tmp_path / "b", context=changes["context"])
    assert max(kl for row in unmapped for kl in row["kl"]) > 0.1

    poorer = with_controls(tokenizer, ["<|user|>"])
    with pytest.raises(InputError, match="row 0, field input_ids: control token '<|assistant|>' m"):
        mine(
            (expert, amateur),
            ours,
            tmp_path / "c",
            **changes | {"amateur_processing_class": poorer},
        )


def test_what_a_killed_run_left_of_its_record_does_not_block(pair, tokenizer, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / ".mining.json.0123").write_text("{")
    assert len(mine(pair, tokenizer, folder)) == 5
