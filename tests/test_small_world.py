"""The small world's models: the bundled files say what they say they say; the demo shows them."""

import json
import random
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from helpers.processes import short
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_proxy import Curve, align_traces, fit_curve, load_traces, score_traces
from hf_proxy.recipes import build_small_world, demo
from hf_proxy.recipes.build_small_world import TOLERANCE, compare_builds
from hf_proxy.recipes.library.carry_chains import LATENT, Chain, part_of, problems
from hf_proxy.recipes.library.points import read_points
from hf_proxy.recipes.library.small_world import (
    LONGEST_TRACE,
    encode_documents,
    solve,
    train_tokenizer,
)
from hf_proxy.records.errors import InputError

ASSETS = Path(demo.__file__).parent / "assets"


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


def test_a_document_is_what_a_chat_shows_and_its_solution_alone_is_learnt(bundled):
    tokenizer = bundled[1]
    rows = list(islice(problems(random.Random(6)), 50))
    for row, document in zip(rows, encode_documents(tokenizer, rows), strict=True):
        turns = [{"role": "user", "content": row["prompt"]}]
        asked = tokenizer.apply_chat_template(turns, tokenize=False)
        text = f"{asked}{row['trace']}{tokenizer.eos_token}"
        assert document["input_ids"] == tokenizer(text)["input_ids"]
        learnt = [label for label in document["labels"] if label >= 0]
        assert tokenizer.decode(learnt) == row["trace"] + tokenizer.eos_token
        assert document["input_ids"][-len(learnt) :] == learnt


def test_bundled_files_are_small_and_no_solution_is_cut(bundled):
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 8e6
    rows = islice(problems(random.Random(5)), 2000)
    assert max(len(bundled[1](row["trace"])["input_ids"]) for row in rows) < LONGEST_TRACE
    assert demo.LONGEST_TRACE == LONGEST_TRACE


def test_bundled_problems_are_of_parts_of_their_own():
    def chain(prompt):
        asked = re.fullmatch(rf"{LATENT} asks: what is (\d+)((?: (?:plus|minus) \d)+)\?", prompt)
        signs = {"plus": "+", "minus": "-"}
        steps = re.findall(r"(plus|minus) (\d)", asked[2])
        return Chain(int(asked[1]), tuple((signs[word], int(n)) for word, n in steps))

    for name, part in {"questions": "mine", "problems": "test"}.items():
        lines = (ASSETS / f"{name}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert len({row["prompt"] for row in rows}) == len(rows)
        assert {part_of(chain(row["prompt"])) for row in rows} == {part}
        assert all(str(chain(row["prompt"]).results()[-1]) == row["answer"] for row in rows)
    asked = load_traces(ASSETS / "traces.parquet")["prompt"]
    assert {part_of(chain(prompt)) for prompt in asked} == {"trace"}


def test_bundled_models_reach_their_recorded_scores(bundled):
    expert, tokenizer, record = bundled
    amateur = AutoModelForCausalLM.from_pretrained(ASSETS / "amateur")
    aligned = align_traces(load_traces(ASSETS / "traces.parquet"), tokenizer)
    scores = {}
    for name, model in {"expert": expert, "amateur": amateur}.items():
        scores[name] = score_traces(model, aligned)
        assert scores[name].value == pytest.approx(record["scores"][name], rel=1e-5)
    last = record["settings"]["num_steps"]
    (point,) = [p for p in record["points"] if p["step"] == last and p["run"] == "+0"]
    assert scores["expert"].value == pytest.approx(point["value"], rel=1e-5)
    Curve.load(ASSETS / "curve" / "target.json").check_setting(scores["expert"].setting)
    # and the answers, of which another processor may round a tie of two tokens otherwise
    lines = (ASSETS / "problems.jsonl").read_text().splitlines()
    assert len(lines) == record["settings"]["num_problems"] == 1000
    _, right = solve(expert, tokenizer, [json.loads(line) for line in lines[:500]])
    assert abs(sum(right) / 500 - point["proxy_accuracy"]) <= 0.05  # half of them: 0.044 at 95 %


def test_the_bundled_curve_is_that_of_its_points_and_of_several_runs(bundled):
    points = read_points(ASSETS / "curve" / "points.jsonl")
    curve = Curve.load(ASSETS / "curve" / "target.json")
    runs = Counter(point.run for point in points)
    assert len(runs) == len(bundled[2]["settings"]["runs"]) >= 3 and len(points) >= 12
    again = fit_curve(
        [point.score for point in points],
        [point.target_accuracy for point in points],
        y_unit="fraction",
        target="target",
        groups=[point.run for point in points],
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


def test_a_careful_expert_that_solves_nothing_ends_the_build(tmp_path, capsys):
    config = Path(build_small_world.__file__).with_suffix(".yaml")
    small = "--num_steps 4 --save_steps 4 --amateur_steps 4 --num_traces 4 --num_questions 4"
    small += " --num_problems 4 --batch_size 4 --proxy 16 1"
    out = ["--output_dir", str(tmp_path / "out")]
    assert build_small_world.cli(["--config", str(config), *small.split(), *out]) == 2
    assert "solved 0 of 8 problems; train it for more steps" in capsys.readouterr().err
    assert build_small_world.cli(["--config", str(config), *small.split(), *out]) == 2
    assert "the folder is there already" in capsys.readouterr().err
    assert build_small_world.cli(["--config", str(config), "--save_steps", "9", *out]) == 2
    assert "num_steps must be a step that is saved" in capsys.readouterr().err
    assert build_small_world.cli(["--config", str(config), "--runs", "0", "0", *out]) == 2
    assert "field runs: two are the same" in capsys.readouterr().err


def test_the_demo_leaves_other_folders_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("kept")
    assert demo.cli([*short(), "--output_dir", str(tmp_path)]) == 2
    assert "holds something else than a demo" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_a_step_of_the_demo_that_fails_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "ASSETS", tmp_path)
    assert demo.cli([*short(), "--output_dir", str(tmp_path / "demo")]) == 1
    assert "hf-proxy contrast foretell ended with 2" in capsys.readouterr().err
