"""Accuracy: what counts as right, what two models' answers tell, and the recipe from end to end."""

import copy
import json
import random
import re
import shutil

import numpy as np
import pytest
import torch
from helpers.models import make_model
from helpers.processes import ROOT, command, forked
from scipy import stats
from transformers import AutoModelForCausalLM

from hf_proxy import InputError
from hf_proxy.answers.grading import gold_answer, grade, text_to_grade
from hf_proxy.answers.pairs import compare_accuracy, detectable_difference
from hf_proxy.intervals import wilson_interval
from hf_proxy.models.generation import generate
from hf_proxy.recipes.library import answering

GSM8K = r"#### (.+)"


@pytest.mark.parametrize(
    ("gold", "text", "correct", "answer"),
    [
        ("so 3 * 6 = <<3*6=18>>18\n#### 18", r"It is \boxed{18}.", True, "18"),
        ("#### 1,000", r"\boxed{1000}", True, "1000"),
        ("#### 18", r"\boxed{\$18}", True, "18"),
        ("#### 18", "She makes 18 dollars.", True, "18"),
        ("#### 2.5", r"\boxed{\frac{5}{2}}", True, r"\frac{5}{2}"),
        ("#### 18", r"First 18, then \boxed{19}", False, "19"),
        ("#### 18", "I do not know.", False, None),
        ("#### 18", "", False, None),
    ],
)
def test_right_is_what_equals_the_gold_answer(gold, text, correct, answer):
    found = grade(text, gold_answer(gold, GSM8K, row="0"))
    assert (found.correct, found.answer) == (correct, answer)


def is_right(text, gold):
    return grade(text, gold_answer(gold, None, row="0")).correct


THOUSANDS = (
    r"1\,234 1,234 1{,}234 1,\!234 1\!234 1\:234 1\;234 1~234 1\thinspace{}234 1\hspace{1mm}234"
).split() + ["1\\ 234", "1 234", "1\u2009234", "1\u00a0234", "1\u202f234"]


@pytest.mark.parametrize("number", THOUSANDS)
def test_thousands_may_be_parted(number):
    assert is_right(rf"\boxed{{{number}}}", "1234")
    assert is_right(r"\boxed{1234}", number)
    assert is_right(rf"\boxed{{{number}.5}}", "1234.5")
    assert not is_right(rf"\boxed{{{number}}}", "235")
    if not number.startswith(("1 2", "1,2", "1{")):
        assert is_right(f"It is {number}.", "1234")


def test_what_is_no_number_of_thousands_stays_apart():
    assert is_right(r"\boxed{(1,\,2)}", "(1,2)") and not is_right(r"\boxed{(1,\,2)}", "12")
    assert is_right(r"\boxed{3.141\,592\,6}", "3.1415926")
    assert not is_right(r"\boxed{1\,23}", "123")


@pytest.mark.parametrize(
    ("gold", "value"),
    [("1.5e3", "1500"), ("1.5E+3", "1500"), ("1e-3", "0.001"), ("-2e2", "-200")],
)
def test_scientific_notation_is_a_number(gold, value):
    assert is_right(rf"\boxed{{{value}}}", gold) and is_right(rf"\boxed{{{gold}}}", value)
    assert is_right(f"It is {gold}.", value)
    assert not is_right(r"\boxed{1}", gold)
    assert is_right(r"\boxed{2e}", "2e") and not is_right(r"\boxed{2}", "2e")  # Euler's


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"First \boxed{1}, no wait: \boxed{2}", "2"),
        (r"$\boxed{1}$. The final answer is $\boxed{2}$. I hope it is correct.", "2"),
        (r"\[\boxed{1}\] no \[\fbox{2}\]", "2"),
        (r"\boxed{1} and \boxed{2}", "2"),
        (r"\boxed{}, then \boxed{2}", "2"),
        (r"\boxed{\boxed{2}}", "2"),
        (r"\boxed{2}, then \boxed{1", "2"),
        (r"\boxed 2 or so", "2"),
        (r"\framebox{2}", "2"),
        (r"\boxed {\frac{4}{2}}", "2"),
    ],
)
def test_the_last_box_counts(text, answer):
    assert is_right(text, answer) and not is_right(text, "1")


def test_boxes_that_are_joined_are_parts_where_the_answer_has_parts():
    assert is_right(r"\boxed{1} and \boxed{2}", r"\{1, 2\}")
    assert not is_right(r"\boxed{1} then \boxed{2}", r"\{1, 2\}")


@pytest.mark.parametrize(
    "text",
    [
        "The answer is (C).",
        "The answer is C",
        "Answer: **(C)**",
        "A is wrong, so the answer is (C), since option A fails.",
        "Option A is wrong. Hence option C is the correct one.",
        "The correct choice is C.",
        "I would select option C",
        "C. 5 apples",
        "**C)** 5 apples",
        "(C)",
        "C",
        r"the answer: $\text{(C)}$",
        r"\boxed{C}",
        r"\boxed{\text{(C)}}",
        r"\boxed{\textbf{(C)}\ 12}",
        r"\boxed{C. 5}",
        r"\boxed{\text{Option C}}",
    ],
)
@pytest.mark.parametrize("gold", ["C", "(C)", r"\text{(C)}", "C."])
def test_a_letter_of_choice_is_read_with_or_without_a_box(gold, text):
    assert is_right(text, gold)
    assert not is_right(text, gold.replace("C", "B"))


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("A triangle has 3 sides. The answer is B.", "A"),
        ("The answer is a triangle.", "A"),
        ("(A) 1 (B) 2 (C) 3", "C"),
        ("Options A, B and C all look right.", "A"),
        ("The answer is (B). C is wrong.", "C"),
    ],
)
def test_a_letter_that_is_no_answer_is_not_right(text, gold):
    assert not is_right(text, gold)


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        (r"<think>maybe \boxed{7}, let me check", None, "7"),
        (r"<think>maybe \boxed{7}</think>", None, "7"),
        (r"<think>maybe \boxed{7}</think> It is \boxed{8}", "8", "7"),
        (r"maybe \boxed{7}</think> It is \boxed{8}", "8", "7"),
        (r"<think>a</think>\boxed{8} <think>or \boxed{9}", "8", "9"),
        (r"<think>a</think>\boxed{8} <think>or \boxed{9}</think>", "8", "9"),
        (r"[THINK]maybe \boxed{7}", None, "7"),
        ("\u25c1think\u25b7maybe \\boxed{7}\u25c1/think\u25b7 \\boxed{8}", "8", "7"),
    ],
)
def test_thinking_is_no_answer(text, right, wrong):
    assert not is_right(text, wrong)
    assert right is None or is_right(text, right)


def test_marks_of_thinking_count_where_a_text_is_shown_without_them(tokenizer):
    """As special tokens they are left out of the text; some prompts end with the one that opens."""
    with_marks = copy.deepcopy(tokenizer)
    with_marks.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    inside = with_marks("[THINK]so \\boxed{7}", add_special_tokens=False)["input_ids"]
    assert "THINK" not in with_marks.decode(inside, skip_special_tokens=True)
    gold = gold_answer("7", None, row="0")
    prompt = with_marks("What?", add_special_tokens=False)["input_ids"]
    assert not grade(text_to_grade(with_marks, prompt, inside), gold).correct
    behind = with_marks("[THINK]so[/THINK]\\boxed{7}", add_special_tokens=False)["input_ids"]
    assert grade(text_to_grade(with_marks, prompt, behind), gold).correct
    plain = tokenizer("so \\boxed{7}", add_special_tokens=False)["input_ids"]
    opened = tokenizer("What?<think>\n", add_special_tokens=False)["input_ids"]
    assert grade(text_to_grade(tokenizer, prompt, plain), gold).correct
    assert not grade(text_to_grade(tokenizer, opened, plain), gold).correct


def test_a_gold_answer_that_cannot_be_read_is_named():
    assert gold_answer("7/2", None, row="x") == gold_answer("#### 1\n#### 7/2", GSM8K, row="x")
    with pytest.raises(InputError, match="problems.jsonl, row 3: no '#### .*set answer_pattern"):
        gold_answer("The answer is 4", GSM8K, row="3", source="problems.jsonl")
    with pytest.raises(InputError, match="row 3: '' cannot be read as mathematics"):
        gold_answer("", None, row="3")


def test_the_paired_test_by_hand():
    """Three right with a alone, ten with b alone, of 40: p = 2 (1 + 13 + 78 + 286) / 2^13."""
    a = [True] * 3 + [False] * 10 + [True] * 20 + [False] * 7
    b = [False] * 3 + [True] * 10 + [True] * 20 + [False] * 7
    found = compare_accuracy(a, b)
    assert (found.only_a, found.only_b, found.num_problems) == (3, 10, 40)
    assert found.difference == pytest.approx(7 / 40, abs=1e-15)
    assert found.p_value == pytest.approx(2 * 378 / 2**13, abs=1e-15)
    assert found.low < found.difference < found.high
    swapped = compare_accuracy(b, a)
    assert swapped.difference == -found.difference and swapped.p_value == found.p_value
    same = compare_accuracy(a, a)
    assert (same.difference, same.p_value, same.detectable) == (0.0, 1.0, None)
    for wrong in (b[1:], a[:1]):
        with pytest.raises(ValueError, match="the same two or more problems"):
            compare_accuracy(a[: len(wrong)] if len(wrong) == 1 else a, wrong)


@pytest.mark.parametrize(("num_problems", "differing"), [(200, 0.2), (1319, 0.1), (100, 0.5)])
def test_the_detectable_difference_is_found_four_times_in_five(num_problems, differing):
    difference = detectable_difference(num_problems, differing)
    rng = np.random.default_rng(0)
    shares = [(differing - difference) / 2, (differing + difference) / 2]
    counts = rng.multinomial(num_problems, [*shares, 1 - differing], size=20_000)
    a, b = counts[:, 0], counts[:, 1]
    p_values = np.minimum(1, 2 * stats.binom.cdf(np.minimum(a, b), a + b, 0.5))
    assert p_values[0] == pytest.approx(stats.binomtest(int(a[0]), int(a[0] + b[0])).pvalue)
    assert (p_values <= 0.05).mean() == pytest.approx(0.8, abs=0.01)


def test_too_few_problems_detect_nothing():
    assert detectable_difference(10, 0.1) is None
    assert detectable_difference(100, 0.0) is None
    assert detectable_difference(1000, 0.2) < detectable_difference(100, 0.2)


def test_an_accuracy_has_an_interval():
    low, high = wilson_interval(50, 100)
    assert low == pytest.approx(0.4188, abs=1e-4) and high == pytest.approx(0.5812, abs=1e-4)
    assert wilson_interval(0, 20)[0] == 0.0 and wilson_interval(0, 20)[1] > 0.1


# the recipe


@pytest.fixture
def run_folder(tmp_path, tokenizer):
    for number, name in enumerate(("a", "b")):
        torch.manual_seed(number)
        model = make_model("llama", len(tokenizer))
        model.lm_head.weight.data *= 6 + 2 * number
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    rng = random.Random(0)
    rows = [
        {"question": f"What is {x} + {y}?", "answer": f"#### {x + y}"}
        for x, y in ((rng.randint(1, 9), rng.randint(1, 99)) for _ in range(7))
    ]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def arguments_of(folder, *models, out="out", **changes):
    flags = {
        "problems": folder / "problems.jsonl",
        "answer_pattern": GSM8K,
        "output_dir": folder / out,
        "context": "{prompt}\\n",
        "max_new_tokens": 40,
        "batch_size": 3,
        "dtype": "float32",
    } | changes
    pairs = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    return ["--models", *(str(folder / m) for m in models), *pairs]


def items_of(folder, out="out"):
    return [json.loads(line) for line in (folder / out / "items.jsonl").read_text().splitlines()]


def test_every_answer_is_the_models_own_whatever_the_rounds(
    run_folder, capsys, tokenizer, monkeypatch
):
    """Rounds of 16 tokens, pooled anew: what one call of `generate` writes, graded."""
    monkeypatch.setattr(answering, "TOKENS_PER_ROUND", 16)
    code, said, found = command(capsys, "accuracy", *arguments_of(run_folder, "a", "b"), "--json")
    assert code == 0, said.err
    items = items_of(run_folder)
    assert len(items) == 14
    for name in ("a", "b"):
        model = AutoModelForCausalLM.from_pretrained(run_folder / name)
        for item in (item for item in items if item["model"].endswith(f"/{name}")):
            x, y = item["text"], item["example_id"]
            row = json.loads((run_folder / "problems.jsonl").read_text().splitlines()[int(y)])
            (ids,) = generate(
                model,
                [tokenizer(row["question"] + "\n", add_special_tokens=False)["input_ids"]],
                processing_class=tokenizer,
                max_new_tokens=40,
                temperature=0.0,
                seed=[0],
            )
            assert tokenizer.decode(ids, skip_special_tokens=True) == x
            assert item["num_tokens"] == len(ids)
            assert item["ended"] == (ids[-1] == tokenizer.eos_token_id)
            gold = gold_answer(row["answer"], GSM8K, row=y)
            assert item["correct"] == grade(x, gold).correct
    by_model = [[i["correct"] for i in items if i["model"].endswith(f"/{n}")] for n in "ab"]
    for row, own in zip(found["models"], by_model, strict=True):
        assert row["num_correct"] == sum(own) and row["num_problems"] == 7
    (comparison,) = found["comparisons"]
    expected = compare_accuracy(*by_model)
    assert comparison["p_value"] == expected.p_value
    assert "McNemar p" in said.out and "7 problems, 2 models" in said.out


def test_what_is_there_is_not_written_again(run_folder, capsys, monkeypatch):
    monkeypatch.setattr(answering, "TOKENS_PER_ROUND", 16)
    arguments = arguments_of(run_folder, "a")
    assert command(capsys, "accuracy", *arguments)[0] == 0
    whole = items_of(run_folder)
    files = sorted((run_folder / "out" / "generations").glob("*/round-*/*.json"))
    stamps = {file: file.stat().st_mtime_ns for file in files}
    shutil.rmtree(files[-1].parent)  # as if killed before the last round
    (run_folder / "out" / "items.jsonl").unlink()
    assert command(capsys, "accuracy", *arguments)[0] == 0
    assert items_of(run_folder) == whole
    for file in files:
        assert (file.stat().st_mtime_ns == stamps[file]) == (file.parent != files[-1].parent)
    # a second model finds the first one's answers
    assert command(capsys, "accuracy", *arguments_of(run_folder, "a", "b"))[0] == 0
    assert items_of(run_folder)[:7] == whole
    assert all(
        file.stat().st_mtime_ns == stamps[file] for file in files if file.parent != files[-1].parent
    )


def test_other_ends_are_other_answers(run_folder, capsys):
    """What a model was told to end with decides its answers, so they are not taken from before."""
    assert command(capsys, "accuracy", *arguments_of(run_folder, "a"))[0] == 0
    before = items_of(run_folder)
    often = json.loads((run_folder / "a" / "config.json").read_text())["vocab_size"] // 2
    file = run_folder / "a" / "generation_config.json"
    ends = json.loads(file.read_text())
    file.write_text(json.dumps(ends | {"eos_token_id": list(range(often))}))
    assert command(capsys, "accuracy", *arguments_of(run_folder, "a"))[0] == 0
    assert items_of(run_folder) != before
    assert sum(i["num_tokens"] for i in items_of(run_folder)) < sum(i["num_tokens"] for i in before)


@pytest.mark.distributed
def test_two_processes_answer_as_one(shared, run_folder, capsys):
    assert command(capsys, "accuracy", *arguments_of(run_folder, "a"))[0] == 0
    recipe = ROOT / "recipes" / "evaluate_accuracy.py"
    done = forked(shared, recipe, *arguments_of(run_folder, "a", out="two"), world_size=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert items_of(run_folder, "two") == items_of(run_folder)


def test_bad_input_is_named(run_folder, capsys, other_tokenizer):
    model = make_model("llama", len(other_tokenizer))
    model.save_pretrained(run_folder / "c")
    other_tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    other_tokenizer.save_pretrained(run_folder / "c")
    cases = {
        "no '#### \\(\\.\\+\\)!'": {"answer_pattern": "#### (.+)!"},
        "field solution: there is no such column": {"answer_column": "solution"},
        "window of": {"max_new_tokens": 4000},
        "field batch_size: 0 is too small": {"batch_size": 0},
        "has no chat template": {"context": "chat"},
    }
    for message, changes in cases.items():
        code, said, _ = command(capsys, "accuracy", *arguments_of(run_folder, "a", **changes))
        assert code == 2 and re.search(message, said.err), said.err
    code, said, _ = command(capsys, "accuracy", *arguments_of(run_folder, "a", "c", context="chat"))
    assert code == 2 and re.search("has no chat template|has another tokenizer", said.err)
    code, said, _ = command(capsys, "accuracy", *arguments_of(run_folder, "a", "a"))
    assert code == 2 and "field models: one is named twice" in said.err
