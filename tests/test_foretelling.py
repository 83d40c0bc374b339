"""Gains foretold by contrastive decoding: what is written, the verdicts, and what is refused."""

import dataclasses
import json
import math
from pathlib import Path

import foretelling_worker
import numpy as np
import pytest
import torch
from helpers import divergence_reference as reference
from helpers.mining import PROMPTS, with_controls
from helpers.models import make_model, sharp_pair
from helpers.processes import command
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_proxy import InputError, contrast, foretell_gain
from hf_proxy.answers.grading import same_answer
from hf_proxy.answers.pairs import compare_accuracy
from hf_proxy.intervals import points_interval
from hf_proxy.mining.decoding import contrastive_writer, greedy_writer
from hf_proxy.mining.miner import Miner
from hf_proxy.mining.settings import MiningSettings
from hf_proxy.mining.verdicts import LIMITS, NOTHING_FORETELLS, SENTENCES, Graded, foretold
from hf_proxy.models import rounds
from hf_proxy.recipes.library.foretelling import print_foretold
from hf_proxy.report.foretelling import foretold_sentence
from hf_proxy.report.page import write_report

ASSETS = Path(__file__).parent.parent / "recipes" / "assets"
TEXT = {"context": "{prompt}\n", "max_new_tokens": 8}


def miner_of(pair, tokenizer, amateur_tokenizer=None):
    return Miner(
        *pair,
        processing_class=tokenizer,
        amateur_processing_class=amateur_tokenizer or tokenizer,
        settings=MiningSettings(),
    )


@pytest.fixture(scope="module")
def exact_pair(tokenizer):
    """Float64 from end to end; the expert's head is wider than the amateur's."""
    pair = (
        make_model("llama", len(tokenizer) + 7, dtype=torch.float64),
        make_model("qwen2", len(tokenizer), num_hidden_layers=1, dtype=torch.float64),
    )
    for model in pair:
        model.get_output_embeddings().weight.data *= 3
    return pair


def written_plainly(pair, ids, width, end, *, beta, alpha, length):
    """One problem, every prefix anew, in plain float64."""
    new, seen = [], []
    for _ in range(length):
        with torch.no_grad():
            logits = [m(torch.tensor([ids + new])).logits[0, -1, :width].tolist() for m in pair]
        p_expert, p_amateur = map(reference.softmax, logits)
        seen.append(reference.kl(p_expert, p_amateur))
        token = p_expert.index(max(p_expert))
        if seen[-1] >= beta:
            least = alpha * max(p_expert) * (1 - 1e-12)
            mask = [a for a, p in enumerate(p_expert) if p >= least]
            token = max(mask, key=lambda a: math.log(p_expert[a]) - math.log(p_amateur[a]))
        new.append(token)
        if token == end:
            break
    return new, seen


def test_contrastive_decoding_against_a_plain_loop_whatever_the_batch(exact_pair, tokenizer):
    miner = miner_of(exact_pair, tokenizer)
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    plain = {"width": len(tokenizer), "end": tokenizer.eos_token_id, "length": 10}
    _, divergences = written_plainly(exact_pair, prompts[0], **plain, beta=99.0, alpha=0.2)
    median = float(np.median(divergences))
    found = {}
    for beta, alpha in ((median, 0.2), (median, 0.02), (0.0, 0.2)):
        expected = [
            written_plainly(exact_pair, ids, **plain, beta=beta, alpha=alpha)[0] for ids in prompts
        ]
        write = contrastive_writer(miner, beta, alpha)
        for size in (1, 3, 5):
            together = [
                text.ids for i in range(0, 5, size) for text in write(prompts[i : i + size], 10)
            ]
            assert together == expected
        found[beta, alpha] = expected
    greedy = greedy_writer(miner.expert, tokenizer, miner.writable)(prompts, 10)
    # none of them is another by chance
    assert len({str(ids) for ids in (*found.values(), [g.ids for g in greedy])}) == 4


def test_an_amateur_that_is_the_expert_changes_nothing(tokenizer):
    model = sharp_pair(len(tokenizer))[0]
    miner = miner_of((model, model), tokenizer)
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    greedy = greedy_writer(model, tokenizer, miner.writable)(prompts, 20)
    assert contrastive_writer(miner, 0.4, 0.2)(prompts, 20) == greedy
    rows = [{"prompt": text, "answer": "5"} for text in PROMPTS]
    own = {"processing_class": tokenizer, "amateur_processing_class": tokenizer}
    found = foretell_gain(model, model, rows, **own, **TEXT)
    assert (found.gain, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert found.agreement == 1.0 and found.verdict == "no evidence"
    assert found.amateur_accuracy == found.expert_accuracy == found.accuracy


def test_the_targets_first_token_by_hand():
    """p_E = .5 .3 .2 over p_A = .5 .1 .1 are 1, 3, 2; in the second step two are equal."""
    expert = torch.tensor([[0.5, 0.3, 0.2, 1e-9], [0.4, 0.3, 0.3, 1e-9]], dtype=torch.float64)
    amateur = torch.tensor([[0.5, 0.1, 0.1, 0.3], [0.4, 0.1, 0.1, 0.4]], dtype=torch.float64)
    found = contrast(expert.log(), amateur.log(), divergence_beta=0.0)
    every = torch.ones(4, dtype=torch.bool)
    assert found.first_token(every).tolist() == [1, 1]
    assert found.first_token(torch.tensor([True, False, True, True])).tolist() == [2, 2]
    assert found.first_token(every[:1]).tolist() == [0, 0]  # ids beyond may not be written
    assert found.first_token(~every).tolist() == [-1, -1]
    warm = contrast(expert.log(), amateur.log(), divergence_beta=0.0, contrast_temperature=5.0)
    assert warm.first_token(every).tolist() == [1, 1]
    part = contrast(expert.log(), amateur.log(), divergence_beta=float(found.kl_N.max()))
    assert part.first_token(every).tolist() == [1]
    assert contrast(*[expert.log()] * 2, divergence_beta=9.0).first_token(every).tolist() == []


def test_control_tokens_may_lie_elsewhere_in_the_amateur(tokenizer):
    ours = with_controls(tokenizer, ["<|user|>", "<|assistant|>"])
    theirs = with_controls(tokenizer, ["<|assistant|>", "<|user|>"])
    expert, amateur = sharp_pair(len(ours))
    prompts = [ours(f"<|user|>{text}<|assistant|>")["input_ids"] for text in PROMPTS]
    expected = contrastive_writer(miner_of((expert, amateur), ours), 0.1, 0.2)(prompts, 12)
    a, b = ours.convert_tokens_to_ids(["<|user|>", "<|assistant|>"])
    with torch.no_grad():
        for weight in (amateur.lm_head.weight, amateur.get_input_embeddings().weight):
            weight[[a, b]] = weight[[b, a]]
    moved = miner_of((expert, amateur), ours, theirs)
    assert moved.id_map.moved.tolist() == [[a, b], [b, a]]
    assert contrastive_writer(moved, 0.1, 0.2)(prompts, 12) == expected
    unmapped = miner_of((expert, amateur), ours)
    assert contrastive_writer(unmapped, 0.1, 0.2)(prompts, 12) != expected


# verdicts


def graded(counts, correct=(True, False)):
    """Runs of so many problems that came out right, or not."""
    num = sum(counts)
    return Graded(np.repeat(correct, counts), np.ones(num, bool), np.ones(num, bool))


def judged(only_greedy, only_contrast, both, neither, *, amateur=0):
    """The verdict on problems that came out like this."""
    counts = (only_greedy, only_contrast, both, neither)
    return foretold(
        graded(counts, (True, False, True, False)),
        graded((amateur, sum(counts) - amateur)),
        {(0.4, 0.2): graded(counts, (False, True, True, False))},
        max_new_tokens=64,
        seed=0,
    )


@pytest.mark.parametrize(
    ("counts", "gain", "p", "verdict"),
    [
        # two-sided exact: 2 * sum of binomials / 2^n
        ((0, 10, 100, 190), 10 / 300, 2 / 2**10, "go"),
        ((0, 9, 100, 191), 9 / 300, 2 / 2**9, "go"),  # 3 points, neither more nor less
        ((0, 8, 100, 192), 8 / 300, 2 / 2**8, "no evidence"),  # surely above 0, not 3 points
        ((3, 13, 100, 184), 10 / 300, 2 * (1 + 16 + 120 + 560) / 2**16, "go"),
        ((40, 50, 100, 110), 10 / 300, None, "no evidence"),  # 3 points, not surely above 0
        ((10, 0, 100, 190), -10 / 300, 2 / 2**10, "away"),
        ((50, 40, 100, 110), -10 / 300, None, "no evidence"),
        ((0, 0, 100, 200), 0.0, 1.0, "no evidence"),
    ],
)
def test_the_verdict_by_hand(counts, gain, p, verdict):
    found = judged(*counts)
    assert found.gain == pytest.approx(gain, abs=1e-15)
    assert p is None or found.p == pytest.approx(p, rel=1e-12)
    assert (found.only_greedy, found.only_contrast) == counts[:2]
    assert found.verdict == verdict and found.sentence == SENTENCES[verdict]
    assert found.expert_accuracy == (counts[0] + counts[2]) / 300
    assert found.accuracy == (counts[1] + counts[2]) / 300
    assert found.notes == (LIMITS,)


def test_the_interval_is_one_of_95_percent():
    """Of paired differences: the normal one is near with so many."""
    found = judged(40, 100, 400, 460)
    spread = math.sqrt((0.14 - 0.06**2) / 1000)
    assert found.low == pytest.approx(0.06 - 1.96 * spread, abs=2e-3)
    assert found.high == pytest.approx(0.06 + 1.96 * spread, abs=2e-3)


def test_what_stands_beside_a_verdict():
    found = judged(0, 20, 60, 120, amateur=60)
    assert found.verdict == "go"  # whatever the amateur
    warned, shown, limits = found.notes
    assert warned.startswith("the amateur is at least as accurate as the expert (0.300 and 0.300)")
    assert shown.startswith("200 problems of which so many change would show a gain of")
    assert f"{100 * found.detectable:.1f} points" in shown and limits == LIMITS
    assert not any("amateur is" in note for note in judged(0, 20, 60, 120, amateur=59).notes)
    few = judged(1, 0, 40, 58)
    assert few.notes[0].startswith("no gain would show reliably with 99 problems")
    assert few.notes[1].startswith("99 problems are fewer than 100")
    assert len(judged(10, 0, 40, 50).notes) == 2  # 100 are not fewer, nor 300


def test_the_best_of_several_is_judged_on_problems_that_did_not_choose_it():
    num = 400
    one, other = np.array_split(np.random.default_rng(5).permutation(num), 2)
    expert = graded((200, 200))
    ways = {}
    for key, gained, lost in (((0.4, 0.2), one, other), ((0.1, 0.2), other, one)):
        correct = expert.correct.copy()
        correct[[i for i in gained if i >= 200][:30]] = True
        correct[[i for i in lost if i < 200][:30]] = False
        ways[key] = Graded(correct, expert.ended, expert.agrees)
    found = foretold(expert, graded((0, num)), ways, max_new_tokens=64, seed=5)
    # what looked best where it was chosen is the worse where it was not
    assert (found.divergence_beta, found.num_problems, found.gain) == (0.4, 200, -0.15)
    assert found.verdict == "away"
    assert [row.gain for row in found.settings] == [0.0, 0.0]
    assert found.notes[0].endswith(
        "the best of 2 settings on 200 problems, judged on the other 200"
    )
    # of equals the one that was named first
    same = foretold(expert, graded((0, num)), dict.fromkeys(ways, expert), max_new_tokens=9, seed=5)
    assert same.divergence_beta == 0.4


def test_where_no_answer_is_right_nothing_is_known(capsys):
    none = graded((0, 6))
    found = foretold(none, none, {(0.4, 0.2): none}, max_new_tokens=64, seed=0)
    assert found.notes[0].startswith("neither expert nor amateur has a right answer")
    assert not any("choose a weaker" in note for note in found.notes)
    print_foretold(found)
    said = capsys.readouterr().out
    # a bootstrap of equal differences has no width, which is no certainty
    assert "+0.0 points, no interval as no answer turned right or wrong" in said
    assert "+0.0 .. +0.0" not in said
    page = foretold_sentence(dataclasses.asdict(found) | {"sentence": found.sentence})
    assert page.startswith("No evidence that these targets help; +0.0 points (no interval as no")
    assert points_interval(-0.01, 0.0) == "-1.0 .. +0.0"


def test_cut_answers_are_counted():
    expert = graded((200, 100))
    ended = np.arange(300) > 6
    cut = Graded(expert.correct, ended, expert.agrees)
    found = foretold(expert, cut, {(0.4, 0.2): cut}, max_new_tokens=64, seed=0)
    assert (found.num_cut_expert, found.num_cut_amateur, found.num_cut) == (0, 7, 7)
    (note,) = [note for note in found.notes if "cut at 64 tokens" in note]
    assert "0 of the expert's, 7 of the amateur's, 7 of contrastive decoding, of 300" in note


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (r"\boxed{0.5}", r"so it is \boxed{\frac{1}{2}}", True),
        (r"\boxed{1}", r"\boxed{2}", False),
        ("It is 18.", r"\boxed{18}", True),
        ("The answer is (B).", "B", True),
        ("The answer is (B).", "The answer is (C).", False),
        ("I do not know.", "I do not know.", True),
        ("I do not know.", "Who knows?", False),
    ],
)
def test_answers_agree_as_mathematics(a, b, same):
    assert same_answer(a, b) is same is same_answer(b, a)


# the whole of it


@pytest.fixture(scope="module")
def small_world():
    """The bundled pair, with problems that it can solve now and then."""
    models = [AutoModelForCausalLM.from_pretrained(ASSETS / name) for name in ("expert", "amateur")]
    tokenizers = [AutoTokenizer.from_pretrained(ASSETS / name) for name in ("expert", "amateur")]
    lines = (ASSETS / "problems.jsonl").read_text().splitlines()[:12]
    return models, tokenizers, [json.loads(line) for line in lines]


def told(small_world, **changes):
    models, tokenizers, rows = small_world
    settings = {
        "processing_class": tokenizers[0],
        "amateur_processing_class": tokenizers[1],
        "max_new_tokens": 64,
        "batch_size": 12,
    }
    return foretell_gain(*models, changes.pop("problems", rows), **settings | changes)


def test_figures_are_those_of_the_answers(small_world, tmp_path):
    found = told(small_world, divergence_beta=[0.4, 0.1], output_dir=tmp_path)
    items = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    by_way = {}
    for item in items:
        by_way.setdefault(item["model"], {})[item["example_id"]] = item
    assert list(by_way) == ["expert", "amateur", "contrast 0.4, 0.2", "contrast 0.1, 0.2"]
    names = list(by_way["expert"])
    for row, way in zip(found.settings, ("contrast 0.4, 0.2", "contrast 0.1, 0.2"), strict=True):
        correct = [[by_way[w][name]["correct"] for name in names] for w in ("expert", way)]
        pair = compare_accuracy(*correct, level=0.95)
        assert (row.gain, row.low, row.high, row.p) == (
            pair.difference,
            pair.low,
            pair.high,
            pair.p_value,
        )
        assert (row.expert_accuracy, row.accuracy) == tuple(map(np.mean, correct))
        assert row.amateur_accuracy == np.mean([by_way["amateur"][n]["correct"] for n in names])
        assert row.num_cut == sum(not by_way[way][name]["ended"] for name in names)
        texts = [[by_way[w][name]["text"] for name in names] for w in ("expert", way)]
        assert row.agreement == np.mean([same_answer(*pair) for pair in zip(*texts, strict=True)])
    assert any(by_way["expert"][n]["text"] != by_way["contrast 0.1, 0.2"][n]["text"] for n in names)
    content = json.loads((tmp_path / "foretold.json").read_text())
    assert content["gain"] == found.gain and content["sentence"] == found.sentence
    assert len(content["settings"]) == 2 and content["provenance"]["amateur_ids"] == "checked"


def test_an_interrupted_call_goes_on_and_greedy_answers_are_written_once(
    small_world, tmp_path, monkeypatch
):
    monkeypatch.setattr(rounds, "TOKENS_PER_ROUND", 16)
    short = {"problems": small_world[2][:6], "max_new_tokens": 32, "batch_size": 3}
    whole = told(small_world, output_dir=tmp_path, **short)
    files = sorted(tmp_path.glob("generations/*/round-*/*.json"))
    stamps = {file: file.stat().st_mtime_ns for file in files}
    assert len({file.parent.parent for file in files}) == 3
    gone = files[::4]
    for file in gone:
        file.unlink()
    assert told(small_world, output_dir=tmp_path, **short) == whole
    assert [f for f in files if f.stat().st_mtime_ns != stamps[f]] == gone
    stamps = {file: file.stat().st_mtime_ns for file in files}
    told(small_world, output_dir=tmp_path, plausibility_alpha=0.5, **short)
    assert all(file.stat().st_mtime_ns == stamps[file] for file in files)
    assert len(list(tmp_path.glob("generations/*"))) == 4  # one new setting alone
    assert told(small_world, **short) == whole  # without a folder


def test_without_right_answers_nothing_is_foretold(small_world):
    rows = [{"prompt": row["prompt"]} for row in small_world[2][:4]]
    found = told(
        small_world, problems=rows, verdict=False, divergence_beta=[0.1, 0.4], max_new_tokens=16
    )
    assert {found.gain, found.low, found.p, found.verdict, found.amateur_accuracy} == {None}
    assert found.notes[0] == found.sentence == NOTHING_FORETELLS and LIMITS not in found.notes
    assert [row.divergence_beta for row in found.settings] == [0.1, 0.4]
    assert all(0 <= row.agreement <= 1 for row in found.settings)


def test_bad_input_is_named(small_world, other_tokenizer):
    rows = small_world[2][:4]
    without = [{"prompt": row["prompt"]} for row in rows]
    empty = [*rows[:2], rows[2] | {"answer": ""}, rows[3]]
    cases = {
        "field temperature: 0.7: a gain is foretold from greedy": {"temperature": 0.7},
        "field answer: no verdict without right answers.*verdict=False": {"problems": without},
        "row 2, field answer: no verdict without right answers": {"problems": empty},
        "row 0: no '#### .*set answer_pattern": {"problems": rows, "answer_pattern": "#### (.+)"},
        "tokens of the expert are others": {"amateur_processing_class": other_tokenizer},
        "1 problems give no verdict on 1 settings; give at least 3": {"problems": rows[:1]},
        "3 problems give no verdict on 2": {"problems": rows[:3], "divergence_beta": [0.1, 0.4]},
        "field divergence_beta: there is no setting": {"divergence_beta": []},
        "divergence_beta must be >= 0": {"divergence_beta": [0.4, -1]},
        "window of": {"max_new_tokens": 100_000},
        "there are no prompts|no column 'prompt'": {"problems": []},
    }
    for message, changes in cases.items():
        with pytest.raises(InputError, match=message):
            told(small_world, **changes)


def test_a_broken_amateur_is_named(tokenizer):
    expert, amateur = sharp_pair(len(tokenizer))
    amateur.lm_head.weight.data[5] = float("nan")
    rows = [{"prompt": text, "answer": "5"} for text in PROMPTS]
    own = {"processing_class": tokenizer, "amateur_processing_class": tokenizer}
    with pytest.raises(InputError, match=r"in contrastive decoding, .*the amateur has a logit"):
        foretell_gain(expert, amateur, rows, **own, **TEXT)


@pytest.mark.distributed
def test_two_processes_foretell_as_one(tmp_path, shared, of_ranks):
    one, two = foretelling_worker.work(shared / "inputs", tmp_path), of_ranks("foretelling", 2)
    assert one["told"][0] == one["told"][1]  # with a folder and without
    assert set(two["told"]) == set(one["told"]) and len(two["told"]) == 4
    mine, theirs = (
        (place / "items.jsonl").read_text()
        for place in (tmp_path, shared / "inputs" / "foretelling-2")
    )
    assert mine == theirs


# the command


def arguments_of(tmp_path, **changes):
    flags = {
        "expert": ASSETS / "expert",
        "amateur": ASSETS / "amateur",
        "problems": ASSETS / "problems.jsonl",
        "question_column": "prompt",
        "num_problems": 6,
        "max_new_tokens": 16,
        "output_dir": tmp_path / "out",
    } | changes
    return [part for name, value in flags.items() for part in (f"--{name}", *str(value).split())]


def test_the_command_says_what_is_foretold(tmp_path, capsys):
    arguments = arguments_of(tmp_path, divergence_beta="0.4 0.1")
    code, said, found = command(capsys, "contrast", "foretell", *arguments, "--json")
    assert code == 0, said.err
    written = json.loads((tmp_path / "out" / "foretold.json").read_text())
    assert written["provenance"]["facts"]["problems"] == str(ASSETS / "problems.jsonl")
    assert {k: found[k] for k in written if k != "provenance"} == {
        k: v for k, v in written.items() if k != "provenance"
    }
    lines = said.out.splitlines()
    head = (
        "divergence_beta plausibility_alpha pass@1 gain, points 95 % interval McNemar p agreement"
    )
    assert lines[0].split() == [*head.split(), "cut"]
    assert [line.split()[0] for line in lines[1:5]] == ["expert", "amateur", "0.4", "0.1"]
    assert SENTENCES[found["verdict"]] in lines[5] and f"{100 * found['gain']:+.1f} po" in lines[5]
    assert lines[6 : 6 + len(found["notes"])] == [f"- {note}" for note in found["notes"]]
    assert "3 problems are fewer than 100" in said.out and "cut at 16 tokens" in said.out
    write_report(tmp_path / "out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    told = f"{found['sentence'][1:]}; {100 * found['gain']:+.1f}"
    assert told in page
    assert "3 problems are fewer than 100" in page and "against greedy decoding" in page
    # the same line again writes no answer again
    files = {f: f.stat().st_mtime_ns for f in (tmp_path / "out").glob("generations/*/*/*.json")}
    assert command(capsys, "contrast", "foretell", *arguments)[0] == 0
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in files.items())
    for key, value in (("verdict", "maybe"), ("p", 2.0), ("low", None), ("settings", [{}])):
        (tmp_path / "out" / "foretold.json").write_text(json.dumps(written | {key: value}))
        with pytest.raises(InputError, match=f"foretold.json.*({key}|some of its figures)"):
            write_report(tmp_path / "out", tmp_path / "page.html")


def test_the_command_without_right_answers(tmp_path, capsys):
    (tmp_path / "questions.jsonl").write_text('{"prompt": "Start with 2. Add 3."}\n' * 2)
    arguments = arguments_of(tmp_path, problems=tmp_path / "questions.jsonl")
    code, said, _ = command(capsys, "contrast", "foretell", *arguments)
    assert code == 2 and "field answer: there is no such column" in said.err
    assert "set answer_column, or --verdict false where there is none" in said.err
    code, said, found = command(
        capsys, "contrast", "foretell", *arguments, "--verdict", "false", "--json"
    )
    assert code == 0 and found["gain"] is None and found["verdict"] is None
    assert NOTHING_FORETELLS in said.out and "McNemar" not in said.out
    assert not (tmp_path / "out" / "items.jsonl").exists()
    write_report(tmp_path / "out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "No verdict." in page and NOTHING_FORETELLS[8:] in page
    warm = arguments_of(tmp_path, temperature=0.7)
    code, said, _ = command(capsys, "contrast", "foretell", *warm)
    assert code == 2 and "field temperature: 0.7: a gain is foretold" in said.err


def test_an_expert_under_an_adapter(small_world, tmp_path, capsys):
    """A LoRA folder of zeros foretells what its base does; one that has learnt, something else."""
    expert = AutoModelForCausalLM.from_pretrained(ASSETS / "expert")
    model = get_peft_model(expert, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    items = {}
    for name, size in (("zero", 0.0), ("learnt", 0.3)):
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.fill_(size)
        model.save_pretrained(tmp_path / name)
        config = json.loads((tmp_path / name / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = str(ASSETS / "expert")
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(config))
    for name in ("zero", "learnt", "base"):
        place = ASSETS / "expert" if name == "base" else tmp_path / name
        flags = arguments_of(tmp_path, expert=place, output_dir=tmp_path / "of" / name)
        assert command(capsys, "contrast", "foretell", *flags)[0] == 0
        items[name] = (tmp_path / "of" / name / "items.jsonl").read_text()
    assert items["zero"] == items["base"] != items["learnt"]
