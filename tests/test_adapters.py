"""Every adapter that PEFT ships: written and scored as PEFT runs it, or refused by name."""

import dataclasses
import random
import warnings

import pytest
import torch
from helpers.models import make_model
from peft import (
    LoraConfig,
    PrefixTuningConfig,
    get_peft_model,
)
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from hf_proxy import InputError
from hf_proxy.mining.miner import Miner
from hf_proxy.mining.settings import MiningSettings
from hf_proxy.models.access import adapters_off, scoring_mode
from hf_proxy.models.batching import token_batch
from hf_proxy.models.generation import end_ids_of, generate
from hf_proxy.models.in_step import generate_in_step
from hf_proxy.models.labels import label_logprobs
from hf_proxy.models.logits import (
    LogitTransform,
    kept_logits,
    measure_logit_transform,
)
from hf_proxy.models.positions import window_of
from hf_proxy.models.probes import why_not_packed

SIZE = 60  # of the vocabulary
INVOCATION = [30, 31]
PROMPTS = [[5, 6, 7, 30, 31], [9, 10, 11, 30, 31, 12, 13, 14, 8], [20, 30, 31]]
# what a type needs beside its defaults, on a model this small
NEEDS = {
    "ADALORA": {"total_step": 10, "tinit": 1, "tfinal": 1},
    "ADAMSS": {"r": 4, "num_subspaces": 2},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 1, "target_modules": "self_attn"},
    "C3A": {"block_size": 8},
    "CPT": {"cpt_token_ids": [1, 2], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]},
    "FOURIERFT": {"n_frequency": 50},
    "IA3": {"feedforward_modules": []},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "MISS": {"r": 4},
    "MULTITASK_PROMPT_TUNING": {"num_tasks": 2, "num_ranks": 1},
    "OFT": {"oft_block_size": 4},
    "PSOFT": {"r": 4},
    "P_TUNING": {"encoder_hidden_size": 16},
    "ROAD": {"group_size": 4},
    "SHADOW": {"target_modules": None},
    "SHIRA": {"r": 4},
    "TRAINABLE_TOKENS": {"token_indices": [5, 10, 30], "target_modules": ["embed_tokens"]},
    "UNILORA": {"theta_d_length": 16},
    "VBLORA": {"vector_length": 4, "num_vectors": 8, "topk": 2},
    "WAVEFT": {"n_frequency": 50},
}
TYPES = [*(kind.value for kind in PEFT_TYPE_TO_TUNER_MAPPING), "aLoRA"]
NEED_A_TASK = ("MULTITASK_PROMPT_TUNING", "POLY")
# a router over the whole batch, and two passes in one forward
NOT_SCORED = ("LILY", "XLORA")


def base_model(family="llama"):
    model = make_model(family, SIZE).eval()
    model.get_output_embeddings().weight.data *= 1.5
    return model


def with_adapter(kind, folder, family="llama", targets=("q_proj", "v_proj"), **changes):
    """A model under a random adapter of this type."""
    cls = PEFT_TYPE_TO_CONFIG_MAPPING["LORA" if kind == "aLoRA" else kind]
    known = {field.name for field in dataclasses.fields(cls)}
    given = {"task_type": "CAUSAL_LM", "target_modules": list(targets), "num_virtual_tokens": 4}
    given = {name: value for name, value in given.items() if name in known}
    given |= NEEDS.get(kind, {}) | changes
    if kind == "CPT":
        del given["num_virtual_tokens"]
    base = base_model(family)
    if kind == "aLoRA":
        given["alora_invocation_tokens"] = INVOCATION
    if kind == "XLORA":
        lora = LoraConfig(task_type="CAUSAL_LM", target_modules=list(targets))
        for name in "01":  # PEFT finds no other names
            get_peft_model(base_model(family), lora).save_pretrained(folder / name)
        given |= {"adapters": {n: str(folder / n) for n in "01"}, "hidden_size": 32}
        base.config.use_cache = False
    torch.manual_seed(1)
    model = get_peft_model(base, cls(**given)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            experts = ".lora_A." in name or ".lora_B." in name or "xlora_classifier" in name
            if experts if kind == "XLORA" else parameter.requires_grad:
                parameter.add_(0.7 * torch.randn_like(parameter))
    return model


class Ids:
    """As much of a tokenizer as writing needs."""

    eos_token_id = pad_token_id = 0

    added_tokens_decoder: dict = {}

    def get_vocab(self):
        return {str(id): id for id in range(SIZE)}


def same_ids():
    words = Tokenizer(WordLevel(Ids().get_vocab(), unk_token="0"))
    return PreTrainedTokenizerFast(tokenizer_object=words)


def ours(model, prompts=PROMPTS):
    with scoring_mode(model) as bare:
        return generate(
            bare, prompts, processing_class=Ids(), max_new_tokens=8, temperature=0.0, seed=[0]
        )


def plainly(model, prompts=PROMPTS):
    """Each prompt alone, by PEFT itself."""
    found = []
    for ids in prompts:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's: positions under virtual tokens are its own
            row = model.generate(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
                max_new_tokens=8,
                do_sample=False,
                eos_token_id=0,
                pad_token_id=0,
            )
        found.append(row[0, len(ids) :].tolist())
    return found


@pytest.fixture(scope="module")
def of_the_base():
    return plainly(base_model())


@pytest.mark.filterwarnings("ignore")  # PEFT's own: settings of untrained adapters
@pytest.mark.parametrize("kind", TYPES)
def test_every_type_writes_what_peft_writes(kind, of_the_base, tmp_path):
    model = with_adapter(kind, tmp_path)
    if kind in NEED_A_TASK:
        with pytest.raises(ValueError, match="task_ids"):
            plainly(model)
        with pytest.raises(InputError, match=f"{kind}, which PEFT runs only with the number"):
            ours(model)
        return
    wanted = plainly(model)
    assert wanted != of_the_base  # else this would tell nothing
    held = [dict(vars(module)) for module in model.modules()]
    assert ours(model) == wanted
    assert [vars(module).keys() for module in model.modules()] == [h.keys() for h in held]
    with adapters_off(model):
        assert ours(model) == of_the_base


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [t for t in TYPES if t not in (*NEED_A_TASK, *NOT_SCORED)])
def test_every_type_is_read_as_its_own_forward_gives_it(kind, tmp_path):
    """Padded among longer rows, the logprobs are those of a plain forward of each row alone."""
    model = with_adapter(kind, tmp_path)
    rng = random.Random(0)
    rows = [prompt + rng.choices(range(1, SIZE), k=rng.randrange(3, 10)) for prompt in PROMPTS]
    rows[2][-2] = INVOCATION[0]  # padding must not spell the invocation
    starts = [len(prompt) for prompt in PROMPTS]
    batch = token_batch(range(3), rows, starts, padding_free=False)
    wanted, wanted_logits = [], []
    for ids, start in zip(rows, starts, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()
        logits = logits[-len(ids) :][start - 1 : -1]
        wanted.append(logits.log_softmax(-1)[range(len(logits)), ids[start:]])
        wanted_logits.append(logits)
    with scoring_mode(model) as bare:
        transform = measure_logit_transform(bare, device=bare.device)
        found = label_logprobs(bare, batch, transform, device=bare.device).logprob_N
    torch.testing.assert_close(found, torch.cat(wanted), atol=1e-4, rtol=1e-4)
    inputs = {"input_ids": batch.input_ids_BT}
    if kind != "aLoRA":  # whose own forward looks for its invocation in the padding too
        kept = kept_logits(model, inputs, batch.index_N).detach().double()
        torch.testing.assert_close(kept, torch.cat(wanted_logits), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING"])
def test_virtual_tokens_take_places_of_the_window(kind, tmp_path):
    """Learnt positions too: prompts of other lengths, and a window that is full to its last."""
    model = with_adapter(kind, tmp_path, "gpt2", ("c_attn",))
    assert ours(model) == plainly(model)
    assert window_of(model) == 640 - 4
    full = [[7] * (640 - 4 - 8)]
    assert ours(model, full) == plainly(model, full)
    with adapters_off(model):
        assert window_of(model) == 640


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "aLoRA", "LORA"])
def test_rows_are_packed_only_where_each_keeps_the_adapter(kind, tmp_path):
    with scoring_mode(with_adapter(kind, tmp_path)) as bare:
        why_not = why_not_packed(bare, longest=2048, device=bare.device)
    assert (why_not == "") == (kind == "LORA")


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (PrefixTuningConfig, {"num_virtual_tokens": 4, "task_type": "FEATURE_EXTRACTION"}),
        (LoraConfig, {"target_modules": ["q_proj"], "alora_invocation_tokens": INVOCATION}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_peft_would_leave_out_in_silence_is_refused(cls, settings):
    model = get_peft_model(base_model(), cls(**settings))
    with pytest.raises(InputError, match="would run the base model without this"):
        ours(model)


@pytest.mark.filterwarnings("ignore")
def test_alora_loaded_without_peft_is_refused():
    model = base_model()
    model.add_adapter(
        LoraConfig(
            task_type="CAUSAL_LM", target_modules=["q_proj"], alora_invocation_tokens=INVOCATION
        )
    )
    with pytest.raises(InputError, match="aLoRA adapter .* load it by PeftModel"):
        ours(model)


def mined(expert, amateur):
    miner = Miner(
        expert,
        amateur,
        processing_class=Ids(),
        amateur_processing_class=same_ids(),
        settings=MiningSettings(max_new_tokens=8, temperature=0.0),
    )
    return miner.mine(["a", "b", "c"], PROMPTS, 0)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "aLoRA"])
def test_mining_holds_the_adapters_own_text_against_the_base(kind, tmp_path):
    model = with_adapter(kind, tmp_path)
    rows = mined(model, base_model())
    wanted = plainly(model)
    for row, prompt, trajectory in zip(rows, PROMPTS, wanted, strict=True):
        assert row["input_ids"] == prompt + trajectory
        logits = []
        for own in (model, base_model()):
            with torch.no_grad():
                found = own(input_ids=torch.tensor([row["input_ids"]]), use_cache=False).logits[0]
            found = found[-len(row["input_ids"]) :].double().log_softmax(-1)
            logits.append(found[len(prompt) - 1 : -1])
        expert, amateur = logits
        kl = (expert.exp() * (expert - amateur)).sum(-1)
        torch.testing.assert_close(torch.tensor(row["kl"]).double(), kl, atol=1e-4, rtol=1e-4)
    assert max(max(row["kl"]) for row in rows) > 0.1


def test_mining_refuses_an_adapter_that_reads_later_tokens(tmp_path):
    with pytest.raises(InputError, match="LILY, whose router reads later tokens"):
        mined(with_adapter("LILY", tmp_path), base_model())


def test_an_adapter_that_runs_the_model_twice_is_refused_not_misread(tmp_path):
    model = with_adapter("XLORA", tmp_path)
    with (
        scoring_mode(model) as bare,
        pytest.raises(ValueError, match="calls its output head twice"),
    ):
        batch = token_batch([0], [PROMPTS[0]], [2], padding_free=False)
        label_logprobs(bare, batch, LogitTransform(), device=bare.device)


def test_end_ids_are_those_of_the_model_under_the_adapter(tmp_path):
    model = with_adapter("PROMPT_TUNING", tmp_path)
    model.get_base_model().generation_config.eos_token_id = [0, 17]
    assert end_ids_of(model, Ids()) == [0, 17]


@pytest.mark.filterwarnings("ignore")  # PEFT's own: settings of untrained adapters
@pytest.mark.parametrize(
    "kind", ["LORA", "aLoRA", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "IA3"]
)
def test_two_models_in_step_are_run_as_each_is_alone(kind, tmp_path):
    """Whoever decides writes what it writes alone, while the other reads along."""
    adapted, base = with_adapter(kind, tmp_path), base_model("qwen2")
    alone = [ours(model) for model in (adapted, base)]
    assert alone[0] != ours(base_model()) and alone[0] != alone[1]
    for pair in ((adapted, base), (base, adapted)):
        for place, decides in enumerate(pair):
            written = generate_in_step(
                *pair,
                PROMPTS,
                PROMPTS,
                lambda *logits, place=place: logits[place].argmax(-1),
                processing_class=Ids(),
                max_new_tokens=8,
                translate=list,
            )
            assert written == alone[decides is base]
