"""`hf-proxy fit`, `predict` and `rank` as a user types them, and what they refuse."""

import csv
import json
import re
from dataclasses import asdict

import numpy as np
import pytest
from helpers.published import ARC_X, ARC_Y, BASELINE_FRONTIER, RBRIDGE_FRONTIER, TOKENS
from helpers.scores import make_score

from hf_proxy import Curve, InputError, fit_curve, forecast
from hf_proxy.cli import main
from hf_proxy.prediction.forecast import UNDECIDED
from hf_proxy.recipes.library.joined_points import _accuracy, join_results
from hf_proxy.recipes.library.points import read_points
from hf_proxy.recipes.library.scores import read_scores

HEAD = ["run", "tokens", "score", "target", "target_accuracy"]


def arc_rows(**extra):
    """The published points as a table; `extra` columns are one value or one for each row."""
    rows = []
    for i in range(15):
        row = {
            "run": "olmo",
            "tokens": TOKENS[i] * 1e9,
            "score": ARC_X[i],
            "target": "arc-13b",
            "target_accuracy": ARC_Y[i],
        }
        rows.append(row | {k: v[i] if np.ndim(v) else v for k, v in extra.items()})
    return rows


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def last_json(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_fit_writes_curve_figures_and_record(tmp_path, capsys):
    points = write_csv(tmp_path / "points.csv", arc_rows(trace_nll=ARC_X * 2, proxy="1B"))
    out = tmp_path / "curves"
    assert main(["fit", "--points", points, "--output_dir", str(out)]) == 0
    said = capsys.readouterr().out
    assert "arc-13b: quadratic" in said and "tokens (1e9)" in said and "in 90 %" in said
    assert "target_accuracy read as percent" in said
    assert "controls not given: gold_nll, proxy_accuracy" in said
    assert "one run only" in said
    curve = Curve.load(out / "arc-13b.json")
    expected = fit_curve(ARC_X, ARC_Y / 100, groups=["olmo"] * 15)
    assert curve.fits == expected.fits and curve.runs == ("olmo",) and curve.proxy == "1B"
    assert set(curve.statistics.controls) == {"tokens (1e9)", "trace_nll", "mean"}
    for name in ("arc-13b", "arc-13b-residuals"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (out / f"{name}.svg").read_text()
    stamp = json.loads((out / "provenance.json").read_text())
    assert len(stamp["sources"][points]) == 64 and stamp["parameters"]["y_unit"] == "auto"


def test_jsonl_and_several_targets(tmp_path, capsys):
    rows = arc_rows(metric="bits_per_byte", num_parameters=1000)
    rows += [row | {"target": "other", "target_accuracy": row["tokens"] / 1e13} for row in rows]
    path = tmp_path / "points.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["fit", "--points", str(path), "--output_dir", str(tmp_path / "c"), "--json"]
    assert main(arguments) == 0
    found = last_json(capsys)
    assert [curve["target"] for curve in found["curves"]] == ["arc-13b", "other"]
    assert found["curves"][0]["held_out"]["proxy"]["test_mae_points"] > 0
    curve = Curve.load(tmp_path / "c" / "arc-13b.json")
    assert (curve.metric, curve.num_parameters) == ("bits_per_byte", 1000)


def test_order_is_restored_and_said(tmp_path, capsys):
    points = write_csv(tmp_path / "points.csv", arc_rows()[::-1])
    assert main(["fit", "--points", points, "--output_dir", str(tmp_path / "a")]) == 0
    assert "rows were not in order of tokens" in capsys.readouterr().out
    again = write_csv(tmp_path / "sorted.csv", arc_rows())
    assert main(["fit", "--points", again, "--output_dir", str(tmp_path / "b")]) == 0
    assert "not in order" not in capsys.readouterr().out
    assert Curve.load(tmp_path / "a/arc-13b.json") == Curve.load(tmp_path / "b/arc-13b.json")


def test_no_curve_goes_below_chance(tmp_path, capsys):
    points = write_csv(tmp_path / "points.csv", arc_rows())
    arguments = ["fit", "--points", points, "--output_dir", str(tmp_path / "c")]
    assert main([*arguments, "--chance", "0.25", "--forms", "sigmoid"]) == 0
    curve = Curve.load(tmp_path / "c" / "arc-13b.json")
    assert curve.chance == 0.25 and curve.predict(1e3).value >= 0.25
    assert curve.fits == fit_curve(ARC_X, ARC_Y / 100, forms=["sigmoid"], chance=0.25).fits
    capsys.readouterr()
    for wrong in ("25", "-0.1", "nan"):
        assert main([*arguments, f"--chance={wrong}"]) == 2
        assert "field chance" in capsys.readouterr().err


def changed(place, **changes):
    rows = arc_rows()
    rows[place] = rows[place] | changes
    return rows


BAD = {
    "repeated": (changed(4, tokens=TOKENS[3] * 1e9), "row 6, field tokens: run 'olmo' .* row 5"),
    "mixed": (changed(7, target_accuracy=0.64), "row 9, field target_accuracy: 0.64 stands among"),
    "no number": (changed(2, score="much"), "row 4, field score: 'much' is no number"),
    "nan": (changed(2, score="nan"), "row 4, field score: 'nan' is no number"),
    "empty": (changed(2, score=""), "row 4: score missing"),
    "unknown": (arc_rows(colour="red"), r"unknown columns \['colour'\]"),
    "metric": (arc_rows(metric="loss"), "'loss' is no metric"),
    "settings": (arc_rows(setting=["a"] * 14 + ["b"]), "row 16, field setting: 'b' where row 2"),
    "few": (arc_rows()[:4], "4 points are too few"),
    "constant": ([r | {"score": 1.0} for r in arc_rows()], "field x: it is constant"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_refused_in_one_line(tmp_path, capsys, name):
    rows, message = BAD[name]
    points = write_csv(tmp_path / "points.csv", rows)
    assert main(["fit", "--points", points, "--output_dir", str(tmp_path / "c")]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert re.search(message, said), said


def test_tables_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none.csv: cannot be read \(No such file"):
        read_points(tmp_path / "none.csv")
    with pytest.raises(InputError, match="expected a .csv or .jsonl"):
        read_points(tmp_path / "points.parquet")
    path = tmp_path / "torn.csv"
    path.write_text("run,tokens\nolmo,1,2\n")
    with pytest.raises(InputError, match="row 2: other than 2 fields"):
        read_points(path)
    path = tmp_path / "torn.jsonl"
    path.write_text('{"run": "a"\n')
    with pytest.raises(InputError, match="line 1: no JSON from character"):
        read_points(path)
    path.write_text("[1]\n")
    with pytest.raises(InputError, match=r"line 1: expected an object, found \[1\]"):
        read_points(path)
    empty = tmp_path / "empty.csv"
    empty.write_text(",".join(HEAD) + "\n")
    assert main(["fit", "--points", str(empty), "--output_dir", str(tmp_path)]) == 2
    assert main(["fit", "--output_dir", str(tmp_path)]) == 2


# joining a run with evaluation results


def prediction_line(step, tokens, value, **changes):
    line = json.loads(json.dumps(make_score([value * 10] * 3, step=step).scalars()))
    line |= {"name": "rbridge", "run_id": "r1", "tokens_seen": tokens, "predictions": {}}
    return line | changes


@pytest.fixture
def joined(tmp_path):
    """A run of fifteen scores, and the target's results in files as the harness writes them."""
    lines, table = [], ["tokens,path"]
    for i in range(15):
        lines.append(prediction_line(i, int(TOKENS[i] * 1e6), float(ARC_X[i])))
        folder = tmp_path / f"target-{i}" / "model"
        folder.mkdir(parents=True)
        numbers = {
            "alias": "arc_challenge",
            "acc,none": 0.1,
            "acc_norm,none": ARC_Y[i] / 100,
            "acc_norm_stderr,none": 0.01,
        }
        name = "results_2026-01-01T00-00-00.json"
        (folder / name).write_text(json.dumps({"results": {"arc_challenge": numbers}}))
        table.append(f"{TOKENS[i] * 1e6 * 1.004:.0f},target-{i}")
    lines.append(prediction_line(15, 9e9, 0.7))
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "results.csv").write_text("\n".join(table) + "\n")
    return tmp_path


def join(folder, **changes):
    settings = {
        "trace_set": "rbridge",
        "metric": "value",
        "task": "arc_challenge",
        "task_metric": "acc_norm,none",
        "within": 0.01,
    }
    return join_results(
        [str(folder / "predictions.jsonl")], str(folder / "results.csv"), **settings | changes
    )


def test_a_run_is_joined_with_the_harness_results(joined, capsys):
    arguments = ["fit", "--predictions", str(joined / "predictions.jsonl")]
    arguments += ["--results", str(joined / "results.csv"), "--task", "arc_challenge"]
    arguments += ["--task_metric", "acc_norm,none", "--output_dir", str(joined / "c")]
    assert main(arguments) == 0
    assert "1 lines without a result at their tokens" in capsys.readouterr().out
    curve = Curve.load(joined / "c" / "arc_challenge.json")
    expected = fit_curve(ARC_X, ARC_Y / 100)
    assert curve.fits[0].parameters == pytest.approx(expected.fits[0].parameters, rel=1e-9)
    assert curve.setting.hash == make_score([1, 2]).setting.hash
    assert curve.runs == ("r1",)

    arguments = ["predict", "--curves", str(joined / "c" / "arc_challenge.json"), "--json"]
    assert main([*arguments, "--scores", str(joined / "predictions.jsonl"), "0.8"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])["predictions"]
    assert len(found) == 17 and "beyond the fitted points" in out
    assert found[0]["value"] == pytest.approx(curve.predict(float(ARC_X[0])).value)
    assert found[0]["transfer"] is None and found[15]["extrapolated"]


def test_results_of_lighteval_are_read(joined):
    """Its metrics have no filter, its tasks a suite and a number of shots."""
    task = "leaderboard|arc:challenge|25"
    for i in range(15):
        (path,) = (joined / f"target-{i}").rglob("results_*.json")
        numbers = {"acc": 0.1, "acc_stderr": 0.01, "acc_norm": ARC_Y[i] / 100}
        numbers["acc_norm_stderr"] = 0.01
        content = {"config_general": {}, "results": {task: numbers, "all": numbers}}
        path.write_text(json.dumps(content))
    points, _ = join(joined, task=task, task_metric="acc_norm")
    assert [point.target_accuracy for point in points] == pytest.approx(list(ARC_Y / 100))
    with pytest.raises(InputError, match="set task_metric to one of acc, acc_norm"):
        join(joined, task=task, task_metric=None)
    path.write_text(json.dumps({"results": {task: {"em": 0.5, "em_stderr": 0.1}}}))
    assert _accuracy(path, task, None) == 0.5
    path.write_text(json.dumps({"results": {task: {"alias": "arc", "acc_stderr": 0.1}}}))
    with pytest.raises(InputError, match="no number for .*, only acc_stderr, alias; name results"):
        _accuracy(path, task, None)
    path.write_text(
        json.dumps({"results": {task: {"acc,none": 0.4, "sample_len": 7, "acc_stderr,none": 0.1}}})
    )
    assert _accuracy(path, task, None) == 0.4


def test_a_whole_number_may_name_a_target(tmp_path):
    rows = [
        {"run": 1, "tokens": i, "score": 0.9, "target": 13, "target_accuracy": 0.5} for i in (1, 2)
    ]
    rows.append(rows[0] | {"target": "seven"})
    path = tmp_path / "points.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    points = read_points(path)
    assert [(point.run, point.target) for point in points] == [("1", "13")] * 2 + [("1", "seven")]


def test_joins_that_fail_are_named(joined):
    with pytest.raises(InputError, match="no task 'gsm8k'; it has arc_challenge"):
        join(joined, task="gsm8k")
    with pytest.raises(InputError, match="set task_metric to one of acc,none, acc_norm,none"):
        join(joined, task_metric=None)
    with pytest.raises(InputError, match="no line of 'rbridge' is within 0.1%"):
        join(joined, within=0.001)
    with pytest.raises(InputError, match="no line of 'other'"):
        join(joined, trace_set="other")
    (joined / "predictions.jsonl").write_text(json.dumps(prediction_line(1, None, 0.8)) + "\n")
    with pytest.raises(InputError, match="row 1: tokens_seen is unknown; callback.attach"):
        join(joined)
    (joined / "results.csv").write_text("tokens,path\n1,target-0/model/missing.json\n")
    with pytest.raises(InputError, match="missing.json: cannot be read"):
        join(joined)
    (joined / "results.csv").write_text("tokens,path\n1,.\n")
    with pytest.raises(InputError, match="it holds 15 files results_"):
        join(joined)
    (joined / "results.csv").write_text("tokens,file\n1,.\n")
    with pytest.raises(InputError, match="expected tokens or step, and accuracy or path"):
        join(joined)


# reading a curve


def test_reference_curves_are_listed_and_read(capsys):
    assert main(["predict", "--list", "--json"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])["references"]
    assert len(found) == 6 and "Apache-2.0" in out and "reference:olmo-hellaswag-7b" in out
    for row in found:
        curve = Curve.load(f"reference:{row['name']}")
        assert curve.points == () and curve.statistics.predicted == ()  # no row of the source
        assert (row["num_points"], curve.num_points, curve.runs) == (20, 20, ("1B-10xC",))
        assert set(row["mae_points"]) == {"proxy", "tokens (1e9)", "proxy_accuracy", "mean"}
        assert row["mae_points"]["proxy"] < row["mae_points"]["mean"]
        fit = curve.fits[0]
        assert row["signal_to_noise"] == fit.scale.y_sd / fit.residual_sd > 2
    name, number = f"reference:{found[0]['name']}", found[0]["x_range"][0]
    assert main(["predict", "--curves", name, "--scores", str(number)]) == 0
    value = f"{100 * Curve.load(name).predict(number).value:.2f} %"
    assert value in capsys.readouterr().out
    with pytest.raises(InputError, match="no reference curve 'olmo-arc'.*name one of olmo-arc-cha"):
        Curve.load("reference:olmo-arc")


@pytest.mark.parametrize("argv", [[], ["--scores", "1"], ["--list", "--scores", "1"]])
def test_a_list_or_a_reading(argv, capsys):
    assert main(["predict", *argv]) == 2
    assert "give both curves and scores, or --list alone" in capsys.readouterr().err


def test_transfer_and_other_settings(tmp_path, capsys):
    score = make_score(np.linspace(6, 10, 20))
    curve = fit_curve(
        ARC_X,
        ARC_Y / 100,
        setting=score.setting,
        num_parameters=1000,
        proxy="1B",
        target="arc",
        groups=["D"] * 15,
    )
    curve.save(tmp_path / "arc.json")
    scores = tmp_path / "scores.jsonl"
    scores.write_text(score.to_json() + "\n")
    arguments = ["predict", "--curves", str(tmp_path / "arc.json"), "--scores", str(scores)]
    assert main([*arguments, "--json"]) == 0
    (found,) = last_json(capsys)["predictions"]
    assert found["x"] == score.value and found["transfer"] is None
    assert found["value"] == curve.predict(score.value).value

    assert main([*arguments, "--run", "D-prime", "--json"]) == 0
    out = capsys.readouterr().out
    assert "zero-shot transfer" in out
    reason = "run 'D-prime' is not among the curve's, D"
    assert json.loads(out.splitlines()[-1])["predictions"][0]["transfer"] == reason
    assert json.loads(out.splitlines()[-1])["predictions"][0]["value"] == found["value"]

    other = make_score(np.linspace(6, 10, 20), parts={"context": "five-shot"})
    scores.write_text(other.to_json() + "\n")
    assert main(arguments) == 2
    assert "another setting than the score: context: 'c' != 'five-shot'" in capsys.readouterr().err
    assert main([*arguments[:3], "--scores", str(tmp_path / "none.jsonl")]) == 2
    scores.write_text('{"a": 1}\n')
    with pytest.raises(
        InputError, match="line 1: value, low, .*run_id missing; name a scores.jsonl"
    ):
        read_scores(scores)
    scores.write_text("")
    with pytest.raises(InputError, match="holds no score"):
        read_scores(scores)


def test_another_proxy_is_warned_of_and_marked(caplog):
    score = make_score(np.linspace(6, 10, 20))
    curve = fit_curve(ARC_X, ARC_Y / 100, setting=score.setting, num_parameters=7, proxy="1B")
    found = curve.predict(score)
    assert found.transfer == "this proxy has 1000 parameters, the curve's (1B) 7"
    assert "zero-shot transfer" in caplog.text
    by_hash = fit_curve(ARC_X, ARC_Y / 100, setting=score.setting.hash)
    assert by_hash.predict(score).value == found.value
    with pytest.raises(InputError, match="another setting than the score: hash: nothing"):
        fit_curve(ARC_X, ARC_Y / 100, setting="nothing").predict(score)
    with pytest.raises(InputError, match="fitted without a setting.* as a number, measured on"):
        fit_curve(ARC_X, ARC_Y / 100).predict(score)
    bits = fit_curve(ARC_X, ARC_Y / 100, metric="bits_per_byte", setting=score.setting)
    other = make_score(np.linspace(6, 10, 20), parts={"tokenizer": "another"})
    assert bits.predict(other).value == bits.predict(other.bits_per_byte).value


# ranking


def test_rank_writes_order_decisions_and_figures(tmp_path, capsys):
    rng = np.random.default_rng(0)
    arguments = ["rank", "--scores"]
    for i, name in enumerate("abcd"):
        for seed in range(2):
            path = tmp_path / f"{name}{seed}.jsonl"
            path.write_text(make_score(rng.normal(10 + i, 0.3, 30)).to_json() + "\n")
            arguments.append(f"{name}={path}")
    target = tmp_path / "target.csv"
    target.write_text("name,accuracy\na,0.9\na,0.88\nb,0.8\nc,0.6\nd,0.7\n")
    compute = tmp_path / "compute.csv"
    rows = [("proxy", *p) for p in RBRIDGE_FRONTIER] + [("baseline", *p) for p in BASELINE_FRONTIER]
    lines = "".join(f"{method},{flops},{reached}\n" for method, flops, reached in rows)
    compute.write_text("method,flops,decision_accuracy\n" + lines)
    out = tmp_path / "out"
    arguments += ["--target", str(target), "--compute", str(compute), "--output_dir", str(out)]
    assert main([*arguments, "--json"]) == 0
    said = capsys.readouterr().out
    found = json.loads(said.splitlines()[-1])
    assert found["ranking"]["order"] == ["a", "b", "c", "d"]
    assert found["ranking"]["decisions"]["value"] == 5 / 6
    assert "733.4 times less" in said and "decision accuracy 0.8333" in said
    for name in ("ranking", "compute"):
        assert (out / f"{name}.png").exists() and (out / f"{name}.svg").exists()
    assert json.loads((out / "ranking.json").read_text())["ranking"] == found["ranking"]


def test_rank_refuses_what_it_cannot_rank(tmp_path, capsys):
    assert main(["rank"]) == 2
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps(prediction_line(1, 10, 0.8)) + "\n")
    assert main(["rank", "--scores", str(path)]) == 2
    assert "holds no rows of traces" in capsys.readouterr().err
    target = tmp_path / "target.csv"
    target.write_text("corpus,accuracy\na,0.9\n")
    scores = tmp_path / "scores.jsonl"
    scores.write_text(make_score([1, 2, 3]).to_json() + "\n")
    assert main(["rank", "--scores", str(scores), "--target", str(target)]) == 2
    assert "expected name,accuracy" in capsys.readouterr().err


def test_a_result_is_one_point_however_many_lines_are_near(joined, capsys):
    path = joined / "predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    more = [line | {"tokens_seen": line["tokens_seen"] - 3, "step": 99} for line in lines[:15]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines + more))
    table = joined / "results.csv"
    table.write_text(table.read_text() + "77,target-0\n")
    points, said = join(joined)
    assert len(points) == 15
    assert said == [
        "1 lines without a result at their tokens",
        "15 lines left out, another of their run is nearer to the same result",
        "1 results without a line at their tokens",
    ]
    path.write_text('{"step": 1}\n')
    with pytest.raises(
        InputError, match="line 1: name, value, .*run_id, tokens_seen.* missing; name a pred"
    ):
        join(joined)


def test_checkpoints_are_no_seeds(tmp_path, capsys):
    path, other = tmp_path / "lr=1" / "a.jsonl", tmp_path / "b.jsonl"
    path.parent.mkdir()
    scores = [make_score([v, v + 1, v + 2], step=step) for step, v in ((1, 9), (2, 5))]
    path.write_text("".join(score.to_json() + "\n" for score in scores))
    other.write_text(make_score([7, 8, 9], step=2, model_id="b").to_json() + "\n")
    # the whole text is taken as a path where there is such a file
    assert main(["rank", "--scores", str(other), f"A={other}"]) == 2
    capsys.readouterr()
    renamed = tmp_path / "a.jsonl"
    renamed.write_text(path.read_text())
    assert main(["rank", "--scores", f"A={renamed}", f"B={other}"]) == 2
    assert "'A' has scores of several steps, [1, 2]" in capsys.readouterr().err
    path.write_text(scores[1].to_json() + "\n")
    assert main(["rank", "--scores", str(path), str(other)]) == 0


def test_targets_and_methods_with_odd_names(tmp_path, capsys):
    points = write_csv(tmp_path / "points.csv", arc_rows(target="mmlu/stem (5-shot)"))
    assert main(["fit", "--points", points, "--output_dir", str(tmp_path / "c")]) == 0
    curve = Curve.load(tmp_path / "c" / "mmlu-stem-5-shot-.json")
    assert (curve.target, curve.y_unit) == ("mmlu/stem (5-shot)", "percent")
    points = write_csv(
        tmp_path / "two.csv", arc_rows(target="arc 13b") + arc_rows(target="arc/13b")
    )
    assert main(["fit", "--points", points, "--output_dir", str(tmp_path / "d")]) == 2
    assert "two targets would be written to arc-13b.json" in capsys.readouterr().err
    compute = tmp_path / "compute.csv"
    compute.write_text("method,flops,decision_accuracy\nproxy,1,50\nbaseline,9,50\nours,1,60\n")
    assert main(["rank", "--compute", str(compute)]) == 2
    assert "methods ['ours'] are neither proxy nor baseline" in capsys.readouterr().err


def test_lines_of_one_trace_set_can_be_read(tmp_path, capsys):
    score = make_score(np.linspace(6, 10, 20))
    fit_curve(ARC_X, ARC_Y / 100, setting=score.setting, target="arc").save(tmp_path / "arc.json")
    other = prediction_line(2, 10, 0.8, name="other", setting_parts={"traces": "else"})
    own = prediction_line(1, 10, 0.8)
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (own, other)))
    command = ["predict", "--curves", str(tmp_path / "arc.json"), "--scores", str(path)]
    assert main(command) == 2
    assert main([*command, "--trace_set", "rbridge"]) == 0


# from scores to a curve with what people have


def write_scores(path, steps=range(0, 150, 10), **parts):
    """A `scores.jsonl` of `hf-proxy score` over a run's checkpoints, lower along the training."""
    scores = [
        make_score(
            [10.0 * x, 10.0 * x, 10.0 * x],
            parts=parts,
            step=step,
            model_id=f"run/checkpoint-{step}",
        )
        for step, x in zip(steps, ARC_X, strict=False)
    ]
    path.write_text("".join(score.to_json() + "\n" for score in scores))
    return scores


def test_a_table_of_steps_and_accuracies_is_enough(tmp_path, capsys):
    scores = write_scores(tmp_path / "scores.jsonl")
    rows = [f"{score.step},{y}\n" for score, y in zip(scores, ARC_Y, strict=True)]
    table = tmp_path / "accuracy.csv"
    table.write_text("".join(["step,accuracy\n", *rows, "7,1.5\n"]))
    arguments = ["fit", "--predictions", str(tmp_path / "scores.jsonl"), "--results", str(table)]
    assert main([*arguments, "--output_dir", str(tmp_path / "c")]) == 0
    said = capsys.readouterr().out
    assert "1 results without a line at their step" in said and "\nsteps " in said
    curve = Curve.load(tmp_path / "c" / "target.json")
    expected = fit_curve(ARC_X, ARC_Y / 100)
    assert curve.fits[0].parameters == pytest.approx(expected.fits[0].parameters, rel=1e-9)
    assert curve.runs == ("run",) and curve.setting.hash == scores[0].setting.hash
    # and it is read at the same scores, by step
    read = ["predict", "--curves", str(tmp_path / "c" / "target.json"), "--json", "--scores"]
    assert main([*read, str(tmp_path / "scores.jsonl")]) == 0
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])["predictions"]
    assert [line["step"] for line in found] == list(range(0, 150, 10))
    assert {line["held_out_r2"] for line in found} == {curve.statistics.test_r2}
    head, first = (re.split(r" {2,}", line.strip()) for line in out.splitlines()[:2])
    assert head == [
        "score",
        "step",
        "target",
        "accuracy",
        "90 % interval",
        "R2 held out",
        "remarks",
    ]
    assert first[:3] == ["run/checkpoint-0", "0", "target"]
    assert first[5] == f"{curve.statistics.test_r2:.3f}"


def test_tokens_need_no_harness_either(joined):
    table = joined / "accuracy.csv"
    rows = [f"{TOKENS[i] * 1e6 * 1.004:.0f},{ARC_Y[i]}" for i in range(15)]
    table.write_text("tokens,accuracy\n" + "\n".join(rows) + "\n")
    settings = {"trace_set": "rbridge", "metric": "value", "within": 0.01}
    points, _ = join_results(
        [str(joined / "predictions.jsonl")], str(table), task=None, task_metric=None, **settings
    )
    by_harness, _ = join(joined)
    assert [p.tokens for p in points] == [p.tokens for p in by_harness]
    assert [p.target_accuracy for p in points] == list(ARC_Y) and points[0].target == "target"


def test_what_does_not_fit_together_is_named(joined):
    scores = joined / "scores.jsonl"
    settings = {"trace_set": "rbridge", "metric": "value", "task_metric": None, "within": 0.01}

    def fails(message, path, table, task=None):
        (joined / "table.csv").write_text(table)
        with pytest.raises(InputError, match=message):
            join_results([str(joined / path)], str(joined / "table.csv"), task=task, **settings)

    write_scores(scores)
    fails("row 1: tokens_seen is unknown; .*step and accuracy", scores, "tokens,accuracy\n1,0.5\n")
    fails("no line of 'rbridge' is of a step", scores, "step,accuracy\n1,0.5\n")
    fails("field task: the results of a harness hold several", scores, "step,path\n1,a.json\n")
    for head in (
        "step,tokens,accuracy",
        "step",
        "accuracy",
        "step,accuracy,path",
        "step,accuracy,a",
    ):
        row = ",".join(["1"] * len(head.split(",")))
        fails("row 2: columns .*; expected tokens or step, and", scores, f"{head}\n{row}\n")
    write_scores(scores, steps=[None])
    fails("its step is unknown; score the run's checkpoints", scores, "step,accuracy\n1,0.5\n")
    scores.write_text('{"rows": 3}\n')
    fails("line 1.*name a predictions.jsonl of ProxyScore", scores, "step,accuracy\n1,0.5\n")


def test_a_table_of_pandas_is_points(caplog):
    pandas = pytest.importorskip("pandas")
    order = np.random.default_rng(0).permutation(15)
    columns = {"tokens": TOKENS, "value": ARC_X, "accuracy": ARC_Y / 100, "note": "a"}
    frame = pandas.DataFrame(columns).iloc[order]
    expected = fit_curve(ARC_X, ARC_Y / 100, controls={"tokens": TOKENS})
    assert fit_curve(frame) == expected
    runs = frame.rename(columns={"value": "score"}).assign(run=[i % 2 for i in range(15)])
    assert fit_curve(runs).runs == ("0", "1")
    with pytest.raises(InputError, match="the table: no column accuracy, only note, tokens, value"):
        fit_curve(frame.drop(columns="accuracy"))
    with pytest.raises(InputError, match="no column score or bits_per_byte, only"):
        fit_curve(frame, metric="bits_per_byte")
    hollow = frame.reset_index(drop=True)
    hollow.loc[3, "accuracy"] = None
    with pytest.raises(InputError, match="the table, row 3, field accuracy: it is empty; drop"):
        fit_curve(hollow)
    with pytest.raises(ValueError, match="a table holds y, groups and controls itself"):
        fit_curve(frame, ARC_Y)
    with pytest.raises(ValueError, match="y is missing"):
        fit_curve(ARC_X)


def test_a_curves_warnings_go_with_it(tmp_path, capsys, caplog):
    """Accuracy that falls with a better score, few points: said at the fit and at each reading."""
    upside = fit_curve(ARC_X, ARC_Y[::-1] / 100, target="up")
    assert upside.warnings[-1].startswith("accuracy grows as the score gets worse (")
    assert upside.warnings[-1] in caplog.text
    (one_run,) = fit_curve(ARC_X, ARC_Y / 100).warnings
    assert one_run.startswith("points of one run say nothing of how runs differ")
    two = fit_curve(ARC_X, ARC_Y / 100, groups=["a", "b"] * (len(ARC_X) // 2) + ["a"])
    assert two.warnings == ()
    few = fit_curve(ARC_X[::2], ARC_Y[::2] / 100, target="few")
    assert few.warnings[0].startswith("with 8 points the interval rests on the form")
    paths = []
    for curve in (upside, few):
        curve.save(tmp_path / f"{curve.target}.json")
        paths.append(str(tmp_path / f"{curve.target}.json"))
    assert main(["predict", "--curves", *paths, "--scores", "0.8", "0.79", "--json"]) == 0
    out = capsys.readouterr().out
    for curve in (upside, few):
        assert out.count(f"note: {curve.target}: {curve.warnings[0]}") == 1  # not for each score
    lines = json.loads(out.splitlines()[-1])["predictions"]
    assert [line["warnings"] for line in lines] == [[*c.warnings] for c in (upside, few)] * 2


def test_a_transfer_is_said_once(caplog):
    score = make_score(np.linspace(6, 10, 20))
    curve = fit_curve(ARC_X, ARC_Y / 100, setting=score.setting, num_parameters=8, target="once")
    found = [curve.predict(score) for _ in range(3)]
    assert caplog.text.count("once: zero-shot transfer, this proxy has 1000 parameters") == 1
    assert all(one.transfer for one in found)


# the end of a run


def write_run(folder, run, slope, *, steps=12):
    """A `predictions.jsonl` of a run whose score falls by a law of its own."""
    path = folder / f"{run}.jsonl"
    lines = []
    for step in range(steps + 1):
        x = 0.9 + slope * max(step, 0.5) ** -0.5 + 0.002 * np.sin(7 * step)
        lines.append(prediction_line(10 * step, 1000 * step, float(x), run_id=run))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path), [10.0 * step for step in range(1, steps + 1)], lines[1:]


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Folder of a curve and files of three runs, the runs, the call that reads them."""
    folder = tmp_path_factory.mktemp("ends")
    setting = make_score([1.0] * 3).setting
    fit_curve(ARC_X, ARC_Y / 100, setting=setting, target="arc").save(folder / "arc.json")
    runs = {name: write_run(folder, name, slope) for name, slope in RUN_SLOPES.items()}
    return folder, runs, ["predict", "--curves", str(folder / "arc.json"), "--scores"]


RUN_SLOPES = {"one": 0.3, "again": 0.301, "worse": 0.9}


def test_runs_are_read_at_a_horizon_and_held_against_each_other(ends, capsys):
    folder, runs, call = ends
    files = [path for path, *_ in runs.values()]
    assert main([*call, *files, "--horizon", "240", "--json"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])
    assert found["horizon_in"] == "step" and "at step 240, 90 % intervals" in out
    curve = Curve.load(folder / "arc.json")
    expected = {}
    for line, (name, (_, at, lines)) in zip(found["forecasts"], runs.items(), strict=True):
        x = [one["value"] for one in lines]  # step 0 has no part in a law of its logarithm
        expected[name] = forecast(at, x, 240, curve=curve, run=name)
        own = json.loads(json.dumps(asdict(expected[name])))
        assert line == {"run": name, "target": "arc", "warnings": list(curve.warnings)} | own
    verdicts = [one["verdict"] for one in found["comparisons"]]
    assert verdicts == [UNDECIDED, *["the first run ends lower on the proxy"] * 2]
    told = expected["one"].compare(expected["worse"])
    line = next(line for line in out.splitlines() if line.startswith("one - worse"))
    assert f"{told.difference:+.4g} [{told.low:+.4g}, {told.high:+.4g}]: {told.verdict}" in line


def test_accuracy_alone_and_compute_alone_stand_beside_it(ends, capsys):
    folder, runs, call = ends
    path, at, _ = runs["one"]
    accuracy = [60 - 90 / (i + 2) for i in range(13)]  # percent; the last one after the last score
    table = folder / "accuracy.csv"
    rows = [f"{1000 * (i + 1)},{y}\n" for i, y in enumerate(accuracy)]
    table.write_text("".join(["tokens,accuracy\n", *rows]))
    own = [*call, path, "--horizon", "3e4", "--results", str(table)]
    assert main([*own, "--horizon_in", "tokens", "--json"]) == 0
    out = capsys.readouterr().out
    (found,) = json.loads(out.splitlines()[-1])["forecasts"]
    y = [one / 100 for one in accuracy[:12]]
    expected = forecast([100 * one for one in at], y, 3e4, accuracies=y).controls
    assert found["controls"] == {name: asdict(one) for name, one in expected.items()}
    assert "accuracy alone" in out and "compute alone" in out
    assert main(own) == 2
    assert "it counts in tokens, the horizon in step" in capsys.readouterr().err


BAD_HORIZONS = {
    "before": ("one --horizon 50", "run one: field horizon: 50 lies before the last point, 120"),
    "twice": ("one one --horizon 240", "row 2: step 10 of run one stands twice"),
    "none": ("none --horizon 240", "none.jsonl: cannot be read"),
    "alone": ("one --horizon_in step", "field horizon_in: it says nothing alone; give horizon too"),
    "unit": ("one --horizon 240 --horizon_in epochs", "'epochs' is none of step, tokens"),
    "runs": ("one worse --horizon 240 --results one", "scores are of 2 runs, the accuracies of"),
    "few": ("few --horizon 240", "run few: 5 points are too few to go on from; give at least 6"),
    "steps": ("still --horizon 9 --horizon_in tokens", "row 1: its tokens is unknown; name the"),
    "sets": ("sets --horizon 240", "field scores: lines are of several trace sets, b, rbridge"),
}


@pytest.mark.parametrize("name", BAD_HORIZONS)
def test_horizons_that_cannot_be_read_are_refused(name, ends, capsys):
    folder, _, call = ends
    write_run(folder, "few", 0.3, steps=5)
    (folder / "still.jsonl").write_text(json.dumps(prediction_line(1, None, 0.8)) + "\n")
    lines = [prediction_line(1, 5, 0.8), prediction_line(2, 5, 0.8, name="b")]
    (folder / "sets.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments, message = BAD_HORIZONS[name]
    files, *flags = re.split(r" (?=--)", arguments)
    paths = [str(folder / f"{word}.jsonl") for word in files.split()]
    assert main([*call, *paths, *" ".join(flags).split()]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and message in said, said


def test_a_run_of_another_setting_is_not_foretold(ends, capsys):
    folder, runs, call = ends
    other = [line | {"setting_parts": {"traces": "else"}} for line in runs["one"][2]]
    path = folder / "other.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in other))
    assert main([*call, str(path), "--horizon", "240"]) == 2
    assert "another setting" in capsys.readouterr().err
