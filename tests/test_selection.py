"""Which steps are kept and what is aimed at: by hand, and the same wherever they are made."""

import json
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers import divergence_reference as reference
from helpers.mining import PROMPTS, contrast_lines, make_callback, mine
from helpers.models import make_model, sharp_pair
from helpers.selective import make_rows, plain_loss, selective_trainer, weights_of
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig

from hf_proxy import InputError, contrast, load_soft_targets
from hf_proxy.cli import main
from hf_proxy.mining import miner as mining
from hf_proxy.mining.miner import Miner
from hf_proxy.mining.selection import choose_steps
from hf_proxy.mining.settings import MiningSettings
from hf_proxy.mining.trajectory_steps import choose_among
from hf_proxy.recipes.library.rows import load_prompts
from hf_proxy.records.lines import write_lines
from hf_proxy.records.rows import SOFT_TARGET_FEATURES

RULES = ("kl", "all", "random", "entropy", "low_entropy_high_kl")
EXPERT, AMATEUR = [0.50, 0.25, 0.12, 0.09, 0.04], [0.20, 0.40, 0.05, 0.05, 0.30]
CONTRAST = {0: 0.452489, 1: 0.113122, 2: 0.434389}
OWN = {0: 0.574713, 1: 0.287356, 2: 0.137931}


def logits(*rows):
    return torch.tensor(rows, dtype=torch.float64).log() + 2.0


def one_target(**changes):
    found = contrast(logits(EXPERT), logits(AMATEUR), **changes)
    assert found.support_size_N.tolist() == [3]
    return dict(zip(found.token_id.tolist(), found.prob.tolist(), strict=True)), found


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, CONTRAST),
        ({"target": "expert"}, OWN),
        ({"target": "mixture", "mixture_weight": 1.0}, CONTRAST),
        ({"target": "mixture", "mixture_weight": 0.0}, OWN),
        # 0.25 * contrast + 0.75 * expert
        (
            {"target": "mixture", "mixture_weight": 0.25},
            {0: 0.544157, 1: 0.243797, 2: 0.212046},
        ),
        ({"target": "token", "token_id_N": torch.tensor([1])}, {1: 1.0}),
        # not plausible, and written all the same
        ({"target": "token", "token_id_N": torch.tensor([4])}, {4: 1.0}),
    ],
)
def test_targets_by_hand(changes, expected):
    target, found = one_target(**changes)
    assert target == pytest.approx(expected, abs=1e-6)
    for token, own, other in zip(
        target, found.expert_logprob.tolist(), found.amateur_logprob.tolist(), strict=True
    ):
        assert own == pytest.approx(math.log(EXPERT[token]), abs=1e-12)
        assert other == pytest.approx(math.log(AMATEUR[token]), abs=1e-12)


# six steps, of which three reach 0.4; the median of the entropies is 0.45
KL = np.array([0.5, 0.1, 0.9, 0.05, 0.4, 0.2])
ENTROPY = np.array([1.0, 0.2, 0.3, 0.9, 0.1, 0.6])


def kept(select, beta=0.4, seed=(7, 3), kl=KL, entropy=ENTROPY):
    rule = MiningSettings(select=select, divergence_beta=beta)
    return np.flatnonzero(choose_steps(kl, entropy, rule, seed)).tolist()


def test_rules_by_hand():
    assert kept("kl") == [0, 2, 4]
    assert kept("all") == [0, 1, 2, 3, 4, 5]
    assert kept("entropy") == [0, 3, 5]
    # below the median lie 1, 2, 4; two of them reach beta, the third fills up
    assert kept("low_entropy_high_kl") == [1, 2, 4]
    assert kept("low_entropy_high_kl", beta=0.45) == [2, 4]  # 0.9 first, then 0.4 before 0.1
    # five reach 0.1, three lie below the median: of the others those of highest KL
    assert kept("low_entropy_high_kl", beta=0.1) == [0, 1, 2, 4, 5]
    assert kept("random") == sorted(np.random.default_rng([7, 3]).permutation(6)[:3].tolist())
    drawn = {tuple(kept("random", seed=(7, batch))) for batch in range(20)}
    assert len(drawn) > 5 and {len(one) for one in drawn} == {3}
    # of equal ones the first
    assert kept("entropy", entropy=np.ones(6)) == [0, 1, 2]
    assert kept("low_entropy_high_kl", kl=np.full(6, 0.4), beta=0.4) == [0, 1, 2, 3, 4, 5]
    for select in RULES:
        assert kept(select, beta=9.0) == ([0, 1, 2, 3, 4, 5] if select == "all" else [])
        assert kept(select, kl=np.zeros(0), entropy=np.zeros(0)) == []


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_every_rule_keeps_as_many_and_leaves_targets_as_they_are(data):
    """float32 too: the threshold is compared as the tensors compare it."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    size, num = data.draw(st.integers(2, 9)), data.draw(st.integers(1, 30))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    pair = [torch.tensor(rng.normal(0, 2, (num, size)), dtype=dtype) for _ in range(2)]
    plain = contrast(*pair)
    beta = plain.kl_N[data.draw(st.integers(0, num - 1))].item()  # one step lies on it
    aimed = {"target": "mixture", "mixture_weight": 0.3}
    whole = contrast(*pair, divergence_beta=0.0, **aimed)
    targets = [t.tolist() for t in whole.prob.tensor_split(whole.offset[1:-1])]
    wanted = int((plain.kl_N >= beta).sum())
    for select in RULES:
        found = contrast(*pair, divergence_beta=beta, select=select, seed=5, **aimed)
        assert found.keep_N.sum() == (num if select == "all" else wanted) == len(found.offset) - 1
        places = found.keep_N.nonzero()[:, 0].tolist()
        mine_ = [t.tolist() for t in found.prob.tensor_split(found.offset[1:-1])][: len(places)]
        assert mine_ == [targets[n] for n in places]
    p, q = (reference.softmax(one[0].tolist()) for one in pair)
    sharp, mask = reference.target(p, q), sum(p[a] for a in reference.target(p, q))
    expected = [0.3 * sharp[a] + 0.7 * p[a] / mask for a in sharp]
    assert targets[0] == pytest.approx(expected, abs=1e-12 if dtype.itemsize == 8 else 1e-5)


def test_a_batch_is_one_however_it_is_parted_into_trajectories():
    rule = MiningSettings(select="entropy")
    for cuts in ([3], [1, 1, 4], []):
        rankings = list(zip(np.split(KL, cuts), np.split(ENTROPY, cuts), strict=True))
        found = np.concatenate(choose_among(rankings, rule, [0]))
        assert np.flatnonzero(found).tolist() == [0, 3, 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"select": "best"}, "select must be one of .'kl', 'all', 'random', 'entropy', 'low_en"),
        ({"target": "gold"}, "target must be one of .'contrast', 'expert', 'token', 'mixture'"),
        ({"target": "mixture"}, "needs a mixture_weight in .0, 1., of the contrast, not None"),
        ({"target": "mixture", "mixture_weight": 1.5}, "in .0, 1., of the contrast, not 1.5"),
        ({"mixture_weight": 0.5}, "field mixture_weight: it is read with target='mixture' only"),
        ({"target": "expert", "contrast_temperature": 2.0}, "field contrast_temperature: 2.0 wou"),
        ({"parity": "official", "select": "random"}, "field select: 'random' is no form of the"),
        ({"parity": "official", "target": "expert"}, "field target: 'expert' is no form of the"),
        ({"target": "token"}, "needs token_id_N of 1 steps, none given"),
        ({"target": "token", "token_id_N": torch.tensor([1, 2])}, "of 1 steps, 2 given"),
        ({"target": "token", "token_id_N": torch.tensor([5])}, "step 0: its token 5 is beyond the"),
    ],
)
def test_what_means_nothing_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        contrast(logits(EXPERT), logits(AMATEUR), **changes)


# mined


@pytest.fixture(scope="module")
def pair(tokenizer):
    return sharp_pair(len(tokenizer))


SAMPLED = {"temperature": 1.0, "seed": 4}


@pytest.fixture(scope="module")
def middle(pair, tokenizer, tmp_path_factory):
    """A KL that half of the steps reach."""
    rows = mine(pair, tokenizer, tmp_path_factory.mktemp("all"), select="all", **SAMPLED)
    return float(np.median(np.concatenate(rows["kl"])))


def positions(rows):
    return [list(row["position"]) for row in rows]


def per_batch(rows, size=2):
    sizes = list(map(len, positions(rows)))
    return [sum(sizes[i : i + size]) for i in range(0, len(sizes), size)]


@pytest.mark.parametrize("select", ("random", "low_entropy_high_kl"))
def test_a_set_is_the_same_in_any_order_and_gone_on_with(
    pair, tokenizer, tmp_path, select, monkeypatch, middle
):
    rule = SAMPLED | {"select": select, "divergence_beta": middle}
    plain = mine(pair, tokenizer, tmp_path / "kl", **rule | {"select": "kl"})
    rows = mine(pair, tokenizer, tmp_path / "set", **rule)
    assert rows["input_ids"] == plain["input_ids"]
    assert per_batch(rows) == per_batch(plain) and positions(rows) != positions(plain)
    assert 0 < sum(per_batch(rows)) < sum(map(len, plain["kl"]))
    # killed, and gone on with from the other end
    (tmp_path / "set" / "shards" / "000001.arrow").unlink()
    assert mine(pair, tokenizer, tmp_path / "set", **rule).to_list() == rows.to_list()
    # however few rows a pass takes
    monkeypatch.setattr(mining, "TOKENS_PER_BATCH", 1)
    assert positions(mine(pair, tokenizer, tmp_path / "single", **rule)) == positions(rows)
    stamp = json.loads((tmp_path / "set" / "provenance.json").read_text())
    assert stamp["settings"]["select"] == select and stamp["settings"]["target"] == "contrast"
    with pytest.raises(InputError, match=f"mined with other select .'{select}', now 'all'"):
        mine(pair, tokenizer, tmp_path / "set", **rule | {"select": "all"})


def test_a_set_of_an_older_version_is_gone_on_with(pair, tokenizer, tmp_path):
    rows = mine(pair, tokenizer, tmp_path / "set").to_list()
    path = tmp_path / "set" / "mining.json"
    content = json.loads(path.read_text())
    for name in ("select", "target", "mixture_weight", "only_correct"):
        del content["settings"][name]
    path.write_text(json.dumps(content))
    (tmp_path / "set" / "shards" / "000000.arrow").unlink()
    assert mine(pair, tokenizer, tmp_path / "set").to_list() == rows
    with pytest.raises(InputError, match="mined with other target .'contrast', now 'token'"):
        mine(pair, tokenizer, tmp_path / "set", target="token")


def test_its_own_token_is_learnt_by_plain_cross_entropy(pair, tokenizer, tmp_path):
    rule = {"select": "all", "target": "token", "temperature": 1.0}
    rows = mine(pair, tokenizer, tmp_path / "set", **rule)
    for row in rows:
        assert row["token_id"] == [row["input_ids"][p] for p in row["position"]]
        assert row["position"] == list(range(row["prompt_length"], len(row["input_ids"])))
        assert set(row["prob"]) == {1.0}
    model = make_model("llama", len(tokenizer))
    found = selective_trainer(tmp_path / "run", tokenizer, rows, model=model).evaluate(rows)
    plain = plain_loss(model, rows, sft_weight=1.0) - plain_loss(model, rows)
    assert found["eval_loss"] == pytest.approx(plain.item(), rel=1e-5)


# online


@pytest.fixture(scope="module")
def half(pair, tokenizer):
    """A KL that half of the steps of `make_rows` reach."""
    found = made(pair, tokenizer, MiningSettings(select="all"))
    return float(np.median(np.concatenate([row["kl"] for row in found])))


def made(pair, tokenizer, rule, seed=(0,)):
    """Targets of all of `make_rows` as one mining batch."""
    rows, tokenizers = make_rows(tokenizer), dict.fromkeys(TOKENIZERS, tokenizer)
    prompts = [row["input_ids"][: row["prompt_length"]] for row in rows]
    texts = [row["input_ids"][row["prompt_length"] :] for row in rows]
    return Miner(*pair, **tokenizers, settings=rule).rows(
        rows["example_id"], prompts, texts, seed=seed
    )


TOKENIZERS = ("processing_class", "amateur_processing_class")


@pytest.mark.parametrize(
    "rule",
    [
        {"select": "random", "target": "token"},
        {"select": "low_entropy_high_kl", "target": "mixture", "mixture_weight": 0.5},
    ],
    ids=lambda rule: rule["select"],
)
def test_a_step_keeps_what_its_rows_would_as_a_mining_batch(pair, tokenizer, tmp_path, rule, half):
    """In two micro-batches as in one, and as many as by KL; an evaluation does so row by row."""
    rows, rule = make_rows(tokenizer), rule | {"divergence_beta": half}
    sampled = {"train_sampling_strategy": "sequential", "learning_rate": 0.01}
    # the first optimizer step is number 0
    offline = made(pair, tokenizer, MiningSettings(seed=42, **rule), seed=[42, 0])
    assert sum(map(len, positions(offline))) == sum(len(row["kl"]) for row in rows) // 2
    mined = Dataset.from_list(
        [
            {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in r.items()}
            for r in offline
        ],
        features=SOFT_TARGET_FEATURES,
    )
    ways = {}
    for name in ("mined", "2 x 4"):
        expert, amateur = sharp_pair(len(tokenizer))
        changes = {} if name == "mined" else {"amateur": amateur} | rule
        if name == "2 x 4":
            changes |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
        given_rows = mined if name == "mined" else rows
        trainer = selective_trainer(
            tmp_path / name, tokenizer, given_rows, model=expert, **changes | sampled
        )
        trainer.train()
        ways[name] = weights_of(trainer.model)
    torch.testing.assert_close(ways["2 x 4"], ways["mined"], atol=1e-6, rtol=0)
    small, large = (
        selective_trainer(
            tmp_path / "eval",
            tokenizer,
            rows,
            model=sharp_pair(len(tokenizer))[0],
            amateur=pair[1],
            per_device_eval_batch_size=size,
            **rule,
        ).evaluate(rows)
        for size in (3, 8)
    )
    assert small["eval_num_kept"] == large["eval_num_kept"]
    assert small["eval_loss"] == pytest.approx(large["eval_loss"], rel=1e-5)


def test_arms_learn_as_many_steps_as_the_paper_does(pair, tokenizer, tmp_path, half):
    """Adapters off, the expert stands still, however much is learnt."""
    kept = {}
    for select in ("kl", "entropy"):
        trainer = selective_trainer(
            tmp_path / select,
            tokenizer,
            make_rows(tokenizer),
            model=sharp_pair(len(tokenizer))[0],
            peft_config=LoraConfig(r=2, target_modules=["q_proj"]),
            amateur=pair[1],
            max_steps=2,
            per_device_train_batch_size=4,
            divergence_beta=half,
            select=select,
        )
        trainer.train()
        kept[select] = [r["num_kept"] for r in trainer.state.log_history if "num_kept" in r]
    assert kept["kl"] == kept["entropy"] and sum(kept["kl"]) == 39


# only right answers


@pytest.fixture
def four(tokenizer):
    """An expert that writes "4" whatever is asked, and an amateur that is less sure of it."""
    size = len(tokenizer)
    (digit,) = tokenizer("4", add_special_tokens=False)["input_ids"]
    models = []
    for sure in (0.9, 0.4):
        model = make_model("llama", size, tie_word_embeddings=False)
        head = torch.nn.Linear(model.config.hidden_size, size)
        head.weight.data.zero_()
        head.bias.data.fill_(math.log((1 - sure) / (size - 1)))[digit] = math.log(sure)
        model.set_output_embeddings(head)
        models.append(model)
    return models


ANSWERED = Dataset.from_dict(
    {
        "example_id": ["a", "b", "c", "d", "e"],
        "prompt": PROMPTS,
        "answer": ["4", "5", "$4.0$", "7", "8"],
    }
)


ONE_TOKEN = {"max_new_tokens": 1}


def test_only_right_answers_are_mined_and_the_others_counted(four, tokenizer, tmp_path):
    right = ONE_TOKEN | {"only_correct": True}
    rows = mine(four, tokenizer, tmp_path / "set", ANSWERED, **right)
    assert rows["example_id"] == ["a", "c"]  # of three batches the last has none
    whole = mine(four, tokenizer, tmp_path / "whole", ANSWERED, **ONE_TOKEN)
    assert rows.to_list() == [whole[0], whole[2]]
    stamp = json.loads((tmp_path / "set" / "provenance.json").read_text())
    assert stamp["counts"] == {"prompts": 5, "rows": 2, "dropped": {"wrong answer": 3}}
    assert len(load_soft_targets(tmp_path / "set")) == 2
    # gone on with; other answers are another set
    (tmp_path / "set" / "shards" / "000002.arrow").unlink()
    with pytest.raises(InputError, match="1 of 3 batches are missing"):
        load_soft_targets(tmp_path / "set")
    again = mine(four, tokenizer, tmp_path / "set", ANSWERED, **right)
    assert again.to_list() == rows.to_list()
    other = ANSWERED.map(lambda row: {"answer": "4"})
    with pytest.raises(InputError, match="mined with other answers"):
        mine(four, tokenizer, tmp_path / "set", other, **right)
    for prompts in (PROMPTS, ANSWERED.remove_columns("answer")):
        with pytest.raises(InputError, match="field only_correct: it keeps .* column 'answer'"):
            mine(four, tokenizer, tmp_path / "none", prompts, **right)
    empty = ANSWERED.map(lambda row: {"answer": None if row["example_id"] == "b" else "4"})
    with pytest.raises(InputError, match="row b: '' cannot be read as mathematics"):
        mine(four, tokenizer, tmp_path / "empty", empty, **right)


def test_only_right_completions_are_learnt_online(four, tokenizer, tmp_path, caplog):
    whole = mine(four, tokenizer, tmp_path / "whole", ANSWERED, **ONE_TOKEN)
    rows = whole.select_columns(["example_id", "input_ids", "prompt_length"])
    given_rows = rows.add_column("answer", ANSWERED["answer"])
    online = {"model": four[0], "amateur": four[1], "only_correct": True}
    with caplog.at_level("INFO", logger="hf_proxy.training.rows"):
        trainer = selective_trainer(tmp_path / "run", tokenizer, given_rows, **online)
    assert trainer.train_dataset["example_id"] == ["a", "c"]
    assert "train_dataset: 3 of 5 rows dropped: wrong answer" in caplog.text
    with pytest.raises(InputError, match="^train_dataset, field only_correct: it keeps"):
        selective_trainer(tmp_path / "run", tokenizer, rows, **online)
    with pytest.raises(InputError, match="none of 1 trajectories has the right answer"):
        selective_trainer(tmp_path / "run", tokenizer, given_rows.select([1]), **online)


def test_a_callback_mines_by_its_rules_and_feeds_by_them(four, tokenizer, tmp_path):
    rule = {"select": "entropy", "target": "mixture", "mixture_weight": 0.5, "only_correct": True}
    callback = make_callback(
        tokenizer,
        amateur=four[1],
        prompts=ANSWERED,
        feed=True,
        strategy="steps",
        steps=1,
        **rule | ONE_TOKEN | {"temperature": 0.0},
    )
    trainer = selective_trainer(
        tmp_path / "run", tokenizer, None, model=four[0], callbacks=[callback], max_steps=2, **rule
    )
    trainer.train()
    first, *_ = contrast_lines(tmp_path)
    assert {name: first["mining"]["settings"][name] for name in rule} == rule
    assert first["num_rows"] < 3 and first["num_wrong"] == 3 - first["num_rows"]
    assert first["num_kept"] > 0
    for name, value in {"select": "all", "target": "token", "mixture_weight": 0.1}.items():
        wrong = {k: v for k, v in (rule | {name: value}).items() if k != "only_correct"}
        trainer.pop_callback(callback)
        with pytest.raises(InputError, match=f"field {name}: .* would change nothing"):
            trainer = selective_trainer(
                tmp_path / name, tokenizer, None, model=four[0], callbacks=[callback], **wrong
            )
            trainer.train()


# commands


def test_the_commands_take_and_refuse_the_rules(pair, tokenizer, tmp_path, capsys):
    for name, model in zip(("expert", "amateur"), pair, strict=True):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    rows = [{"question": text, "solution": f"so #### {n}"} for n, text in enumerate(PROMPTS)]
    write_lines(tmp_path / "questions.jsonl", rows)
    read = load_prompts(
        str(tmp_path / "questions.jsonl"),
        "question",
        answers=("solution", "#### (.+)"),
    )
    assert read["answer"] == list("01234") and read["prompt"] == PROMPTS
    where = [f"--expert={tmp_path}/expert", f"--amateur={tmp_path}/amateur"]
    mining_ = ["contrast", "mine", *where, f"--prompts={tmp_path}/questions.jsonl"]
    mining_ += ["--prompt_column=question", "--context={prompt}\\n", "--max_new_tokens=6"]
    right = ["--only_correct=true", "--answer_column=solution", "--answer_pattern=#### (.+)"]
    assert main([*mining_, *right, f"--output_dir={tmp_path}/right"]) == 0
    assert "0 rows, 5 dropped: wrong answer in" in capsys.readouterr().out
    rule = ["--select=random", "--target=mixture", "--mixture_weight=0.5"]
    assert main([*mining_, *rule, f"--output_dir={tmp_path}/set"]) == 0
    training = ["train", f"--model_name_or_path={tmp_path}/expert", "--max_steps=1", "--use_peft"]
    training += [f"--soft_targets={tmp_path}/set", "--use_cpu"]
    training += [
        "--lora_target_modules",
        "q_proj",
        "v_proj",
        "--report_to=none",
        "--bf16=false",
        f"--output_dir={tmp_path}/run",
    ]
    anew = [where[1], "--select=entropy", "--target=expert"]
    assert main([*training, "--merge=false", *anew]) == 0
    assert (
        "| steps kept by, targets | entropy, expert |" in (tmp_path / "run/README.md").read_text()
    )
    stamp = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert stamp["soft_targets"]["settings"]["select"] == "random"
    assert stamp["training"]["targets"]["select"] == "entropy"
    capsys.readouterr()
    for line, message in (
        ([*mining_, *right[1:], "--output_dir=x"], "field answer_column: it is read with only_c"),
        ([*mining_, "--target=mixture", "--output_dir=x"], "needs a mixture_weight in [0, 1]"),
        ([*training, "--only_correct=true"], "field only_correct: a set of soft targets holds no"),
        ([*training, "--select=entropy"], "field select: 'entropy' would change nothing"),
    ):
        assert main([part.replace(f"{tmp_path}/run", f"{tmp_path}/other") for part in line]) == 2
        assert message in capsys.readouterr().err
