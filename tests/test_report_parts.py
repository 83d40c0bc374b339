"""What a report draws and says, number by number; a sentence where there is nothing to see."""

import base64
import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from helpers.report_files import forecast_lines, lines_of, selection_of, tuned_stamp
from helpers.scores import make_score

from hf_proxy import InputError, fit_curve
from hf_proxy.cli import main
from hf_proxy.report.absences import absences
from hf_proxy.report.benchmarks import (
    benchmark_section,
    columns_of,
    figure_of,
    group_of,
    pairs_of,
    rows_of,
)
from hf_proxy.report.blocks import Block, Figure, said_instead, short_name, short_names
from hf_proxy.report.changes import MOST_STEPS, change_sentence, changes_of, evenly_spaced
from hf_proxy.report.contents import RunContents
from hf_proxy.report.curves import controls_sentence, fit_residuals, held_out_residuals
from hf_proxy.report.figures.pages import Series, darkened, svg_of
from hf_proxy.report.figures.style import DARK, LIGHT
from hf_proxy.report.forecasts import forecast_parts, law
from hf_proxy.report.page import write_report
from hf_proxy.report.reading import read_run
from hf_proxy.report.result_records import RunFile
from hf_proxy.report.selected import selection_block, selection_sentence, top_columns
from hf_proxy.report.step_figures import several_lines, step_figure
from hf_proxy.report.summary import head_of
from hf_proxy.report.training import score_sections
from hf_proxy.scoring.comparison import compare
from hf_proxy.traces.reading import load_traces

RESULTS = Path(__file__).parent / "benchmarks" / "results"
TEMPLATE = (
    Path(write_report.__code__.co_filename).parent / "templates" / "trajectory_parts.html.jinja"
)


def test_changes_are_paired_by_trace():
    rng = np.random.default_rng(0)
    start = rng.uniform(1, 9, 30)  # the traces differ far more than any of them changes
    nlls = [start, start - 0.2 + rng.normal(0, 0.05, 30), start - 0.5]
    changes = changes_of(lines_of(nlls))
    assert changes.steps == [0, 10, 20] and not changes.why_not
    for metric in ("value", "trace_nll", "bits_per_byte"):
        assert changes.low[metric][0] == changes.value[metric][0] == changes.high[metric][0] == 0
        for at, nll in ((1, nlls[1]), (2, nlls[2])):
            expected = compare(make_score(nll), make_score(nlls[0]), metric=metric)
            assert changes.value[metric][at] == pytest.approx(expected.difference, rel=1e-9)
            assert (changes.low[metric][at], changes.high[metric][at]) == (
                expected.low,
                expected.high,
            )
    # every trace falls by the same: the spread of the scores hides what the pairs show
    assert changes.low["value"][2] == pytest.approx(-0.05) == changes.high["value"][2]
    assert "rBridge -0.0500 [-0.0500, -0.0500]" in change_sentence(changes)
    assert "paired over 30 traces" in change_sentence(changes)


def test_changes_without_traces_have_no_interval_and_say_why():
    bare = changes_of(lines_of([[4.0, 5, 6], [3.0, 4, 5]], keep=False))
    assert "per_trace=True" in bare.why_not and bare.low["value"] == [0.0, None]
    assert change_sentence(bare).startswith("From step 0 to step 10: rBridge -0.1000; R_phi")
    two = changes_of(lines_of([[4.0, 5], [3.0, 4]]))
    assert "at least three traces, these have 2" in two.why_not
    other = lines_of([[4.0, 5, 6], [3.0, 4, 5]])
    other[1]["setting_parts"] = other[1]["setting_parts"] | {"context": "another"}
    assert "settings differ in context" in changes_of(other).why_not
    broken = lines_of([[4.0, 5, 6], [3.0, 4, 5]])
    broken[1]["rows"]["num_labels"] = [10, 10]
    with pytest.raises(InputError, match="step 10.*differ in length"):
        changes_of(broken)
    assert evenly_spaced(3) == [0, 1, 2]
    many = evenly_spaced(1000)
    assert (many[0], many[-1], len(many)) == (0, 999, MOST_STEPS)


def scores_block(lines):
    contents = RunContents("", scores=lines)
    section, _ = score_sections([contents], [])
    return section.blocks[0]


def test_neighbouring_charts_have_bands_alike():
    kept = scores_block(lines_of([[4.0, 5, 6], [3.0, 4, 5.5], [2.0, 4, 5]]))
    assert [figure.caption for figure in kept.figures] == [
        f"{name}: change since step 0, 90 % interval paired by trace"
        for name in ("rBridge", "R_phi", "bits per byte")
    ]
    bare = scores_block(lines_of([[4.0, 5, 6], [3.0, 4, 5]], keep=False))
    assert [figure.caption for figure in bare.figures] == [
        "rBridge, nats per token",
        "R_phi, nats per token",
        "bits per byte",
    ]
    assert any("per_trace=True" in sentence for sentence in bare.sentences)


def test_no_chart_is_empty():
    alone = scores_block(lines_of([[4.0, 5, 6]]))
    assert alone.figures == [] and len(alone.tables) == 1
    flat = scores_block(lines_of([[4.0, 5, 6]] * 2, keep=False))
    assert flat.figures == []
    assert "rBridge, nats per token: 0.5000 at each of 2 steps." in flat.sentences
    assert said_instead("x", [1, 2], [None, None]) == "x: no number at any of 2 steps."
    assert said_instead("x", [1, 2], [None, 0.5]) == "x: 0.5000 at step 2, the only one."
    same = {"low": [0.0, 0.0], "high": [1.0, 1.0], "digits": 1}
    assert step_figure("y", [0, 1], [0.5, 0.5], **same).endswith("; interval 0.0 to 1.0.")
    assert isinstance(step_figure("y", [0, 1], [0.5, 0.5], low=[0, 0.1], high=[1, 1]), Figure)
    nearly = step_figure("y", [0, 1], [45.71, 45.72], digits=1)
    assert nearly == "y: 45.7 at each of 2 steps."
    assert isinstance(step_figure("y", [0, 1], [2e-6, 1e-6], digits=4), Figure)  # small, not flat
    found = several_lines("loss", [Series("loss", [1, 2], [3, 2]), Series("flat", [1, 2], [1, 1])])
    assert [type(one) for one in found] == [str, Figure]


def test_the_forecast_is_drawn_as_the_callback_wrote_it():
    lines = forecast_lines()
    steps, value = (np.array([line[key] for line in lines]) for key in ("step", "value"))
    last = lines[7]["forecasts"]["big"]
    # the law goes through the points that it rests on and ends at the forecast
    rests = steps >= last["first"]
    assert rests.sum() == last["num_points"] == 7
    assert law(last, steps[rests]) == pytest.approx(value[rests], abs=0.15)
    assert law(last, np.array([160.0]))[0] == pytest.approx(last["proxy"]["value"])
    (said, ahead, course), (table,) = forecast_parts("big", lines)
    assert "from 7 scores up to step 80" in said
    assert f"{100 * last['accuracy']['value']:.1f} %" in said
    assert f"forecast {last['proxy']['value']:.4f} at step 160" in ahead.alt
    assert "at the last, step 80" in course.alt and [row[0] for row in table.rows] == ["70", "80"]
    for line in lines:
        for one in line["forecasts"].values():
            one["metric"] = None  # a file from before it was written
    assert len(forecast_parts("big", lines)[0]) == 2
    assert forecast_parts("other", lines) == ([], [])


@pytest.fixture(scope="module")
def curve():
    x = np.linspace(1.0, 3.0, 20)
    y = 100 * (0.9 - 0.2 * x + 0.01 * np.sin(7 * x))
    noise = np.random.default_rng(0).permutation(20) + 1.0
    controls = {"tokens": np.arange(1.0, 21), "noise": noise}
    return fit_curve(x, y, y_unit="percent", target="big", controls=controls), x, y


def test_residuals_are_observed_minus_predicted(curve):
    fitted, x, y = curve
    place, residuals = fit_residuals(fitted)
    assert place == pytest.approx(x.tolist())
    assert residuals == pytest.approx((y - 100 * fitted.fits[0](x)).tolist())
    held_out, errors = held_out_residuals(fitted)
    cv = fitted.statistics
    assert held_out == [i for fold in cv.test_points for i in fold]
    predicted = np.concatenate(cv.predicted)
    assert errors == pytest.approx((y[np.array(held_out, int)] - predicted).tolist())
    by_fold = np.split(np.abs(errors), np.cumsum([len(fold) for fold in cv.test_points])[:-1])
    assert np.mean([fold.mean() for fold in by_fold]) == pytest.approx(cv.test_mae)


def test_it_is_said_whether_the_proxy_beats_its_controls(curve):
    fitted, *_ = curve
    said = controls_sentence(fitted)
    against = fitted.statistics.against
    for name, one in against.items():
        if one.high is not None and one.high < 0:
            words = f"{name} ({one.test_mae:+.2f} [{one.low:+.2f}, {one.high:+.2f}])"
            assert words in said.partition("it cannot")[0]
    assert "it beats" in said and f"errs by {fitted.statistics.test_mae:.2f} points" in said
    few = fit_curve(range(1, 6), [0.5, 0.4, 0.35, 0.3, 0.2], target="few", forms=["linear"])
    assert "not known" in controls_sentence(few)
    contents = RunContents("", curves={"few": few, "big": fitted})
    assert list(absences([contents])) == ["held_out"]


def test_a_selection_stands_beside_chance_and_controls(tmp_path):
    chosen, tasks = selection_of(), ["a", "b", "c"]
    assert chosen.correlations["ce"] == pytest.approx(dict.fromkeys(tasks, 1.0))
    assert 0.3 < chosen.column_floor < 1
    found = asdict(chosen)
    assert top_columns(found)[0] == ("ce", pytest.approx(1), pytest.approx(1), pytest.approx(1))
    said = selection_sentence(found)
    assert "by the best column: ce" in said and "9 models with Spearman 1.000" in said
    assert f"above the {chosen.tasks_out.floor_high:.3f}" in said
    block = selection_block(RunContents("", ranking={"selection": found}), [])
    first, *_, last = block.figures
    assert f"by chance {chosen.tasks_out.floor_mean:.3f} on average" in first.alt
    assert "size" in first.alt and f"reaches {chosen.column_floor:.3f} by chance" in last.alt
    (tmp_path / "ranking.json").write_text(json.dumps({"selection": found}))
    page = write_report(tmp_path, tmp_path / "page.html")
    assert page["sections"] == ["ranking", "provenance"]
    assert page["head"]["run"] == "hf-proxy rank --select"
    old = {key: found[key] for key in found if key not in ("correlations", "column_floor")}
    (tmp_path / "ranking.json").write_text(json.dumps({"selection": old}))
    assert write_report(tmp_path, tmp_path / "page.html")["sections"] == ["ranking", "provenance"]
    (tmp_path / "ranking.json").write_text(json.dumps({"selection": old | {"held_in": "much"}}))
    with pytest.raises(InputError, match="held_in: expected a number, found 'much'"):
        write_report(tmp_path, tmp_path / "page.html")


def test_the_committed_evidence_is_drawn():
    """Gains by share and arm with intervals over seeds, foretold against come: from the file."""
    content = json.loads((RESULTS / "carry_chains.json").read_text())
    tables = {table["caption"]: table for table in content["tables"]}
    gains = tables["Gain after training"]
    by_share, by_arm, by_amateur = gains["figures"]
    ours = [r for r in rows_of(gains["rows"], by_share) if r["arm"] == "LightReasoner 0.1"]
    group = group_of(ours, by_share)
    assert group.x == [0, 30, 55, 70, 90]
    expected = {row["source"]: row for row in ours}
    for at, source in enumerate(("Ada", "Ben", "Chloé", "Dan", "Eve")):
        row = expected[source]
        assert (group.y[at], group.low[at], group.high[at]) == (
            row["mean"],
            row["low"],
            row["high"],
        )
    assert len(rows_of(gains["rows"], by_arm)) == 15
    assert [r["amateur"] for r in rows_of(gains["rows"], by_amateur)] == [
        "normal",
        "half-trained",
        "other mixture",
        "stronger",
    ]
    told = tables["Foretold and come"]
    (agreement,) = told["figures"]
    pairs = pairs_of(told["rows"], agreement)
    assert len(pairs.x) == len(pairs.y) == 80
    both = tables["Foretelling judged"]["rows"][-1]
    # rounded to a tenth of a point in the file
    assert np.corrcoef(pairs.x, pairs.y)[0, 1] == pytest.approx(both["Pearson"], abs=1e-4)
    # all of them are drawn in the page of tests/test_benchmarks.py
    assert "+35.3 at 55" in figure_of(gains["rows"], by_share).alt
    assert "beta 0.1: 40 pairs" in figure_of(told["rows"], agreement).alt


def test_the_committed_figures_are_those_that_the_benchmark_asks_for(monkeypatch):
    monkeypatch.syspath_prepend(RESULTS.parent)
    from carry_chains_tables import AGAINST, AGREEMENT, GAINS, SLOPPY, found_of

    from hf_proxy.recipes.library.carry_chains import SOURCES

    content = json.loads((RESULTS / "carry_chains.json").read_text())
    figures = {table["caption"]: table.get("figures") for table in content["tables"]}
    assert figures["Gain after training"] == list(GAINS)
    assert figures["LightReasoner 0.4 against the other arms"] == [AGAINST]
    assert figures["Foretold and come"] == [AGREEMENT]
    assert content["found"] == found_of(content["tables"])
    assert "came true 30 times of 31" in content["found"]
    (gains,) = [t for t in content["tables"] if t["caption"] == "Gain after training"]
    assert all(row[SLOPPY] == round(100 * SOURCES[row["source"]]) for row in gains["rows"])


def test_a_figure_over_compute_has_a_panel_for_each_y():
    asked = {"kind": "compute", "caption": "told", "x": "flops", "y": "y", "y_label": "told"}
    asked |= {"by": "how", "low": "low", "high": "high", "x_label": "FLOPs", "panel": "what"}
    rows = [
        {"flops": x, "y": y, "how": how, "what": what, "low": y - 1}  # without an upper end
        for x, y, how, what in (
            (1e-2, 3.0, "a", "error"),
            (1e-4, 2.0, "a", "error"),
            (1e-4, 0.5, "b", "share"),
        )
    ]
    found = figure_of(rows, asked)
    assert found.alt == "told: error a: +2 at 0.0001, +3 at 0.01; share b: +0.5 at 0.0001"
    svg = base64.b64decode(found.drawing.light.split(",", 1)[1]).decode()
    for label in ("error", "share", "FLOPs", ">a<", ">b<", ">0.0001<", ">0.01<"):
        assert label in svg
    assert "math" not in svg
    one = figure_of(rows, {name: own for name, own in asked.items() if name != "panel"})
    assert one.drawing.height < found.drawing.height
    assert one.alt.startswith("told: a: +2 at 0.0001")


def test_a_figure_that_its_table_cannot_give_is_named():
    asked = {"kind": "groups", "caption": "gains", "x": "a", "y": "b", "y_label": "y"}
    assert figure_of([{"a": None, "b": 1}], asked) == "gains: no row of the table."
    assert columns_of([{"a": 1, "b": 2}], asked) == ([2.0], [None], [None])
    bench = {"benchmark": "mine", "models": [], "device": "cpu", "processor": "x", "threads": 1}
    bench |= {"dtype": "float32", "date": "today", "bars": []}
    table = {"caption": "t", "rows": [{"a": "no number", "b": 1}], "figures": [asked]}
    contents = RunContents("", benchmarks={"mine.json": bench | {"tables": [table]}})
    with pytest.raises(InputError, match="mine, field gains: a figure cannot be drawn"):
        benchmark_section([contents])


def test_a_trace_set_with_its_histogram(tmp_path):
    assets = Path(__file__).parent.parent / "recipes" / "assets" / "traces.parquet"
    arguments = ["traces", "import", "--source", str(assets), "--num_traces", "20"]
    assert main([*arguments, "--output_dir", str(tmp_path / "set")]) == 0
    found = write_report(tmp_path / "set", tmp_path / "page.html")
    assert found["sections"] == ["traces", "provenance"]
    (contents,) = read_run(tmp_path / "set", num_rows=1)
    health = contents.traces.health
    rows = load_traces(tmp_path / "set")
    p = np.exp(np.concatenate([np.asarray(one) for one in rows["frontier_logprobs"]]))
    assert health.rows == 20 and health.tokens == len(p)
    assert health.histogram == np.histogram(p, np.linspace(0, 1, 11))[0].tolist()
    page = (tmp_path / "page.html").read_text()
    share = 100 * health.histogram[-1] / len(p)
    assert f"{share:.1f} % at 0.9 and above" in page and contents.traces.fingerprint in page
    assert found["head"]["run"].startswith("hf-proxy traces import")
    stamp = json.loads((tmp_path / "set" / "provenance.json").read_text())
    stamp["health"] |= {"dropped": {"cut": 3}, "dropped_rows": {"cut": ["4", "7", "9"]}}
    (tmp_path / "set" / "provenance.json").write_text(json.dumps(stamp))
    write_report(tmp_path / "set", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "3 rows dropped" in page and "3 x cut (row 4, 7, 9)" in page
    stamp["health"]["dropped"] = "none"
    (tmp_path / "set" / "provenance.json").write_text(json.dumps(stamp))
    with pytest.raises(InputError, match="field health"):
        write_report(tmp_path / "set", tmp_path / "page.html")


def test_a_tuned_folder_with_kept_accuracy_and_source(tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "provenance.json").write_text(json.dumps(tuned_stamp()))
    found = write_report(folder, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert found["sections"] == ["training", "provenance"] and found["absent"] == ["accuracy"]
    for words in ("50.0 %, 87.5 %", "data/questions.jsonl", "models/small", "org/base", "321"):
        assert words in page
    assert "KL of at least 0.1 nats" in page and "0.5000, 0.2500" in page
    assert found["head"]["found"] == [
        "321 kept steps learnt; kept accuracy first and last 50.0 %, 87.5 %."
    ]
    assert "hf-proxy train, 8 optimizer steps" in found["head"]["run"]
    # without its log, from an older version
    stamp = tuned_stamp()
    del stamp["log_history"]
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "provenance.json").write_text(json.dumps(stamp))
    contents = read_run(tmp_path / "two", num_rows=1)[0]
    assert contents.state == {} and contents.tuned.training.optimizer_steps == 8
    write_report(tmp_path, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "How the models were tuned" in page  # side by side
    stamp["training"]["optimizer_steps"] = -1
    (folder / "provenance.json").write_text(json.dumps(stamp))
    with pytest.raises(InputError, match=r"optimizer_steps: expected .* found -1"):
        read_run(folder, num_rows=1)


def test_the_head_says_what_was_run_on_what_and_what_came_out():
    run = {"command": "finetune", "asked": {"model_name_or_path": "/a/b/base", "max_steps": 40}}
    lines = lines_of([[4.0, 5, 6], [3.0, 4, 5]], num_traces=3)
    done = RunContents("", scores=lines, run=RunFile(**run, result={}))
    head = head_of([done])
    assert head.run == "hf-proxy finetune, 10 optimizer steps" and not done.is_unfinished
    assert head.on == "b/base, 3 traces (rbridge)"
    (told,) = head.found
    assert told.startswith("rbridge: rBridge 0.5000 at step 0, 0.4000 at step 10 (-0.1000 [")
    live = RunContents("", scores=lines, run=RunFile(**run, result=None))
    assert live.is_unfinished
    assert head_of([live]).run == "hf-proxy finetune, not finished: step 10 of 40"
    by_hand = RunContents("", scores=lines, state={"global_step": 10, "max_steps": 10})
    assert not by_hand.is_unfinished and head_of([by_hand]).run.startswith("a training, 10")
    assert RunContents("", state={"global_step": 4, "max_steps": 10}).is_unfinished
    two = head_of([RunContents("a", scores=lines), RunContents("b", scores=lines)])
    assert two.run == "2 folders: a training, 10 optimizer steps (2 times)"
    assert [one[:11] for one in two.found] == ["a: rbridge:", "b: rbridge:"]
    assert head_of([RunContents("")]) == ("-", "-", [])


def test_absences_are_those_that_matter():
    lines = lines_of([[4.0, 5, 6], [3.0, 4, 5]])
    state = {"global_step": 3, "max_steps": 3, "log_history": [{"step": 1, "loss": 2.0}]}
    assert list(absences([RunContents("", scores=lines, state=state)])) == ["curves"]
    assert list(absences([RunContents("", scores=lines)])) == ["curves", "training"]
    assert list(absences([RunContents("", state=state)])) == ["scores"]
    assert absences([RunContents("", accuracy={"models": []})]) == {}


def test_names_are_as_short_as_they_can_be_told_apart():
    assert short_name("/home/someone/models/expert") == "models/expert"
    assert short_name("org/model") == "org/model" and short_name("gpt2") == "gpt2"
    assert short_names(["/x/a/m", "/y/a/m"]) == ["/x/a/m", "/y/a/m"]
    block = Block()
    block.show("a sentence")
    assert block.sentences == ["a sentence"] and block.figures == []


def colours(scheme):
    """The page's own colours, from its style sheet."""
    light, dark = re.findall(r":root \{(.*?)\}", TEMPLATE.read_text(), re.S)
    return dict(re.findall(r"--([\w]+): (#[0-9a-f]{6,8})", {"light": light, "dark": dark}[scheme]))


def luminance(colour):
    """WCAG 2.2, relative luminance of `#rrggbb`."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast_of(one, other):
    """WCAG 2.2, contrast ratio."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def over(colour, page):
    """A colour with alpha, as it is seen on a page."""
    alpha = int(colour[7:9], 16) / 255 if len(colour) == 9 else 1
    parts = [
        round(alpha * int(colour[i : i + 2], 16) + (1 - alpha) * int(page[i : i + 2], 16))
        for i in (1, 3, 5)
    ]
    return "#" + "".join(f"{part:02x}" for part in parts)


def too_pale(scheme, palette, own):
    """Pairs below 4.5:1 for text, 3:1 for what a figure says with lines; grids only divide."""
    page, box = own["page"], own["box"]
    text = {name: (own[name], ground) for name in ("ink", "soft") for ground in (page, box)}
    text |= {
        f"{name} on {at}": (own[name], ground)
        for name in ("ink", "soft", "kept", "flip")
        for at, ground in (("page", page), ("box", box))
    }
    text |= {f"shade {i}": (own[f"i{i}"], own[f"k{i}"]) for i in range(1, 6)}
    text |= {f"letters {c}": (c, page) for c in (palette.ink, *palette.series[:2])}
    lines = {f"series {c}": (c, page) for c in (*palette.series, palette.soft)}
    lines |= {"bar": (own["bar"], page), "kept": (own["kept"], page)}
    lines["shadow that says a table scrolls"] = (over(own["shadow"], page), page)
    least = {"shadow that says a table scrolls": 2.0}  # a gradient from here to nothing
    found = [f"{scheme} {name}" for name, pair in text.items() if contrast_of(*pair) < 4.5]
    return found + [
        f"{scheme} {name}"
        for name, pair in lines.items()
        if contrast_of(*pair) < least.get(name, 3.0)
    ]


def test_dark_figures_are_those_that_would_be_drawn():
    """All colours of a figure are the palette's, so that none stays light on a dark page."""

    def draw(axes, palette):
        for colour in palette.series:
            axes.plot([1, 2], [1, 3], "o-", color=colour, label="#1a202c of 5")
        axes.fill_between([1, 2], [1, 1], [2, 2], color=palette.soft, alpha=0.2)
        axes.grid(axis="y")
        axes.legend()

    def plain(svg):  # ids are hashes of what they name
        return re.sub(r'(id="|#|url\(#)[mp][0-9a-f]{10}', r"\1", svg)

    light, dark = (svg_of(draw, palette, 2.0) for palette in (LIGHT, DARK))
    assert plain(darkened(light)) == plain(dark) and "#1a202c of 5" in dark
    found = set(re.findall(r"#[0-9a-f]{6}\b", re.sub(r">[^<]*<", "><", dark)))
    assert found <= set(DARK.colours) and len(set(LIGHT.colours) | set(DARK.colours)) == 14


def test_text_and_lines_stand_out_in_light_and_dark():
    assert contrast_of("#000000", "#ffffff") == pytest.approx(21)
    assert contrast_of("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # WCAG's own example
    for scheme, palette in (("light", LIGHT), ("dark", DARK)):
        assert too_pale(scheme, palette, colours(scheme)) == []
    # the palettes would not do on each other's page
    assert too_pale("dark", LIGHT, colours("dark"))
    pale = colours("light") | {"soft": "#9aa5b4"}
    assert any("soft" in name for name in too_pale("light", LIGHT, pale))
