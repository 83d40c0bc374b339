"""The small world: its arithmetic is right, and the bundled files say what they say they say."""

import json
import random
import re
from itertools import islice
from pathlib import Path

import pytest
from datasets import Dataset
from helpers.processes import short
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_proxy import Curve, align_traces, fit_curve, load_traces, score_traces
from hf_proxy.recipes import build_small_world, demo
from hf_proxy.recipes.build_small_world import TOLERANCE, compare_builds
from hf_proxy.recipes.library.points import read_points
from hf_proxy.recipes.library.small_world import (
    LARGEST_RESULT,
    LEVELS,
    LONGEST_TRACE,
    problems,
    solve,
    train_tokenizer,
)
from hf_proxy.records.errors import InputError

ASSETS = Path(demo.__file__).parent / "assets"
SIGNS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def test_each_solution_leads_to_its_answer():
    rows = list(islice(problems(random.Random(1)), 2000))
    assert {int(row["level"]) for row in rows} == set(LEVELS)
    assert {row["kind"] for row in rows} == {"chain", "story"}
    for row in rows:
        total = int(re.search(r"\d+", row["prompt"])[0])
        steps = re.findall(r"(\d+)([-+*])(\d+)=(\d+)\.", row["trace"])
        assert len(steps) == int(row["level"])
        for before, sign, number, after in steps:
            assert int(before) == total
            total = SIGNS[sign](total, int(number))
            assert total == int(after)
            assert 1 <= total <= LARGEST_RESULT
        assert str(total) == row["answer"] == re.findall(r"\d+", row["trace"])[-1]


def test_problems_follow_their_seed_and_levels():
    first, again, other = (list(islice(problems(random.Random(s)), 20)) for s in (3, 3, 4))
    assert first == again != other
    assert {row["level"] for row in islice(problems(random.Random(0), [2]), 20)} == {"2"}


def test_the_tokenizer_spells_every_digit():
    rows = list(islice(problems(random.Random(2)), 500))
    tokenizer = train_tokenizer([row["trace"] for row in rows], vocab_size=330)
    for row in rows:
        ids = tokenizer(row["trace"])["input_ids"]
        assert tokenizer.decode(ids) == row["trace"]
        tokens = tokenizer.convert_ids_to_tokens(ids)
        assert all(len(token) == 1 for token in tokens if re.search(r"\d", token))


@pytest.fixture(scope="module")
def bundled():
    expert = AutoModelForCausalLM.from_pretrained(ASSETS / "expert")
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "expert")
    return expert, tokenizer, json.loads((ASSETS / "curve" / "provenance.json").read_text())


def test_bundled_files_are_small_and_no_solution_is_cut(bundled):
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 8e6
    rows = islice(problems(random.Random(5)), 2000)
    assert max(len(bundled[1](row["trace"])["input_ids"]) for row in rows) < LONGEST_TRACE


def test_bundled_models_reach_their_recorded_scores(bundled):
    expert, tokenizer, record = bundled
    amateur = AutoModelForCausalLM.from_pretrained(ASSETS / "amateur")
    traces = load_traces(ASSETS / "traces.parquet")
    aligned = align_traces(traces, tokenizer)
    for name, model in {"expert": expert, "amateur": amateur}.items():
        score = score_traces(model, aligned)
        assert score.value == pytest.approx(record["scores"][name], rel=1e-5)
    step = record["settings"]["expert_step"]
    (point,) = [point for point in record["points"] if point["step"] == step]
    assert score_traces(expert, aligned).value == pytest.approx(point["value"], rel=1e-5)
    Curve.load(ASSETS / "curve" / "target.json").check_setting(
        score_traces(expert, aligned).setting
    )


def test_the_expert_answers_as_often_as_recorded(bundled):
    expert, tokenizer, record = bundled
    step = record["settings"]["expert_step"]
    (point,) = [point for point in record["points"] if point["step"] == step]
    rows = Dataset.from_json(str(ASSETS / "problems.jsonl"))
    assert len(rows) == record["settings"]["num_problems"]
    _, right = solve(expert, tokenizer, rows)
    # another processor may round a tie of two tokens otherwise
    assert abs(sum(right) / len(rows) - point["proxy_accuracy"]) <= 0.01
    asked = set(Dataset.from_json(str(ASSETS / "questions.jsonl"))["prompt"])
    scored = set(load_traces(ASSETS / "traces.parquet")["prompt"])
    assert not asked & set(rows["prompt"]) and not scored & (asked | set(rows["prompt"]))


def test_the_bundled_curve_is_that_of_its_points(bundled):
    points = read_points(ASSETS / "curve" / "points.jsonl")
    curve = Curve.load(ASSETS / "curve" / "target.json")
    assert len(points) >= 12
    assert len({point.tokens for point in points}) == len(points)
    again = fit_curve(
        [point.score for point in points],
        [point.target_accuracy for point in points],
        y_unit="fraction",
        target="target",
    )
    assert again.form == curve.form
    for point, row in zip(points, bundled[2]["points"], strict=True):
        assert again.predict(point.score).value == pytest.approx(
            curve.predict(point.score).value, rel=1e-9
        )
        assert row["target_low"] <= point.target_accuracy <= row["target_high"]


def test_a_build_beyond_the_tolerance_is_refused(tmp_path, capsys):
    record = {"settings": {"seed": 0}, "losses": {"proxy": 0.5}, "scores": {"expert": 0.2}}
    path = tmp_path / "provenance.json"
    path.write_text(json.dumps(record))
    near = record | {"scores": {"expert": 0.2 * (1 + 0.9 * TOLERANCE)}}
    compare_builds(near, path)
    assert "expert's score: 0.2" in capsys.readouterr().out
    far = record | {"losses": {"proxy": 0.5 * (1 - 1.1 * TOLERANCE)}}
    with pytest.raises(InputError, match=r"field losses.proxy: -\d.* off, beyond"):
        compare_builds(far, path)
    with pytest.raises(InputError, match=r"field losses.proxy: \+nan"):
        compare_builds(record | {"losses": {"proxy": float("nan")}}, path)
    with pytest.raises(InputError, match="field seed: it was built with 0, this one with 1"):
        compare_builds(record | {"settings": {"seed": 1}}, path)


def test_a_frontier_that_solves_nothing_ends_the_build(tmp_path, capsys):
    config = Path(build_small_world.__file__).with_suffix(".yaml")
    small = "--num_steps 4 --save_steps 4 --expert_step 4 --amateur_steps 4 --num_traces 4"
    small += " --num_problems 4 --batch_size 4 --target 16 1"
    out = ["--output_dir", str(tmp_path / "out")]
    assert build_small_world.cli(["--config", str(config), *small.split(), *out]) == 2
    assert "solved 0 of 8 problems; train it for more steps" in capsys.readouterr().err
    assert (tmp_path / "out" / "frontier" / "checkpoint-4").is_dir()
    assert build_small_world.cli(["--config", str(config), *small.split(), *out]) == 2
    assert "the folder is there already" in capsys.readouterr().err
    assert build_small_world.cli(["--config", str(config), "--expert_step", "7", *out]) == 2
    assert "one of the steps that are saved" in capsys.readouterr().err


def test_the_demo_ends_with_a_table_and_a_page(tmp_path, capsys):
    flags = [*short(), "--output_dir", str(tmp_path / "demo"), "--json"]
    for _ in range(2):  # a second run takes the first one's place
        assert demo.cli(flags) == 0
        *said, line = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert [row["step"] for row in found["rows"]] == [0, 2]
    for row in found["rows"]:
        target = "eval_rbridge_target_accuracy"
        assert 0 <= row[f"{target}_low"] <= row[target] <= row[f"{target}_high"] <= 1
    text = "\n".join(said)
    assert len(re.findall(r"^ +[02] +\d\.\d{4} .* \d\.\d{4} \[.*%\]$", text, re.MULTILINE)) == 2
    assert "own answers to 4 problems" in text
    for command in ("loop", "accuracy", "report"):
        assert f"hf-proxy {command} --" in text
    page = (tmp_path / "demo" / "report.html").read_text()
    for section in ("scores", "contrast", "trajectories", "curves", "accuracy", "provenance"):
        assert f'id="{section}"' in page


def test_the_demo_leaves_other_folders_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("kept")
    assert demo.cli([*short(), "--output_dir", str(tmp_path)]) == 2
    assert "holds something else than a demo" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_a_step_of_the_demo_that_fails_is_said(tmp_path, capsys, monkeypatch):
    (tmp_path / "assets").mkdir()
    for part in demo.ASSETS.iterdir():
        if part.name != "questions.jsonl":
            (tmp_path / "assets" / part.name).symlink_to(part)
    monkeypatch.setattr(demo, "ASSETS", tmp_path / "assets")
    assert demo.cli([*short(), "--output_dir", str(tmp_path / "demo")]) == 1
    assert "hf-proxy loop ended with 2" in capsys.readouterr().err
