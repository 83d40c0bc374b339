"""The report of a run: every section with the file's numbers, hostile text that stays text."""

import base64
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from datasets import Dataset
from helpers.mining import make_callback
from helpers.models import make_model, sharp_pair
from helpers.scores import curve_for
from helpers.traces import make_traces
from helpers.trainers import plain_trainer

from hf_proxy import align_traces, mine_soft_targets, score_traces
from hf_proxy.callbacks import ProxyScoreCallback
from hf_proxy.cli import main
from hf_proxy.records.errors import InputError
from hf_proxy.report.page import write_report
from hf_proxy.report.reading import read_run

HOSTILE = (
    "</script><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"
    "{{7*7}}</div></details><svg onload=\"document.title='run'\"> & \u202eback $x_1$"
)
SECTIONS = ("accuracy", "benchmarks", "scores", "best", "ranking", "curves", "contrast")
SECTIONS += ("training", "trajectories", "provenance")
BROWSERS = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")


class Page(HTMLParser):
    """Tags, headings, texts by section, alternatives of figures, links to download."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sections, self.alts, self.files, self.open = [], {}, [], {}, []
        self.figures = {}  # alternative: the SVG for light pages and the one for dark ones
        self.attributes = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.attributes |= set(attrs)
        if tag == "section":
            self.open = [attrs["id"]]
            self.sections[attrs["id"]] = ""
        if tag == "img":
            self.alts.append(attrs["alt"])
            self.figures[attrs["alt"]] = [decoded(attrs["src"]), decoded(self.dark)]
        if tag == "source":
            self.dark = attrs["srcset"]
        if "download" in attrs:
            self.files[attrs["download"]] = decoded(attrs["href"])

    def handle_data(self, data):
        if self.open:
            self.sections[self.open[0]] += data


def decoded(link):
    return base64.b64decode(link.partition("base64,")[2]).decode()


def page_of(folder, **options):
    path = folder.parent / "page.html"
    found = write_report(folder, path, **options)
    return Page(path.read_text(encoding="utf-8")), found


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tokenizer):
    """A run of both callbacks with a curve, its output folder."""
    folder = tmp_path_factory.mktemp("trained")
    traces = make_traces(3)
    trainer = plain_trainer(
        folder,
        tokenizer,
        load_best_model_at_end=True,
        metric_for_best_model="eval_rbridge_nll",
        greater_is_better=False,
    )
    curve = curve_for(traces, tokenizer, target="13b <gsm8k>")
    ProxyScoreCallback(traces, curves=[curve]).attach(trainer)
    make_callback(tokenizer).attach(trainer)
    trainer.train()
    return folder / "run"


@pytest.fixture(scope="module")
def everything(tmp_path_factory, trained, tokenizer):
    """All that any command writes, in one folder, hostile wherever text may stand."""
    folder = tmp_path_factory.mktemp("everything") / "run"
    shutil.copytree(trained, folder)
    tokenizer.save_pretrained(folder)
    amateur = sharp_pair(len(tokenizer))
    rows = Dataset.from_dict({"example_id": [HOSTILE], "prompt": [HOSTILE]})
    mine_soft_targets(
        *amateur,
        rows,
        processing_class=tokenizer,
        amateur_processing_class=tokenizer,
        output_dir=folder / "mined",
        context="{prompt}\n",
        max_new_tokens=6,
        divergence_beta=0.05,
        facts={"note": HOSTILE},
    )
    for path in (folder / "mined").iterdir():
        shutil.move(path, folder / path.name)
    aligned = align_traces(make_traces(3), tokenizer)
    scores = []
    for name, scale in (("first", 1.0), (HOSTILE, 1.5)):
        model = make_model("llama", len(tokenizer))
        model.lm_head.weight.data *= scale
        scores.append(score_traces(model, aligned, model_id=name))
    (folder / "scores.jsonl").write_text("".join(s.to_json() + "\n" for s in scores))
    curve_for(make_traces(3), tokenizer, target=HOSTILE).save(folder / "curve.json")
    ranking = {
        "order": [HOSTILE, "b"],
        "value": [1.25, 2.5],
        "low": [1.125, 2.25],
        "high": [1.5, 2.75],
        "best_rank": [1, 1],
        "worst_rank": [1, 2],
        "metric": "value",
        "num_traces": 7,
        "smallest_difference": 0.0625,
        "decisions": None,
        "kendall_tau": None,
        "notes": [HOSTILE],
    }
    (folder / "ranking.json").write_text(json.dumps({"ranking": ranking, "date": "today"}))
    counts = {"num_problems": 8, "num_cut": 1, "num_without_answer": 0, "tokens_mean": 31.0}
    models = [
        {"model": name, "accuracy": right / 8, "low": 0.1, "high": 0.9, "num_correct": right}
        | counts
        for name, right in ((HOSTILE, 3), ("tuned", 5))
    ]
    pair = {"a": HOSTILE, "b": "tuned", "difference": 0.25, "low": -0.125, "high": 0.5}
    pair |= {"only_a": 1, "only_b": 3, "p_value": 0.625, "detectable": None, "num_problems": 8}
    content = {"models": models, "comparisons": [pair], "provenance": {"date": HOSTILE}}
    (folder / "results.json").write_text(json.dumps(content))
    item = {"model": HOSTILE, "example_id": HOSTILE, "correct": False, "answer": None}
    item |= {"gold": "4", "text": HOSTILE + "\ud800", "num_tokens": 3, "ended": True}
    (folder / "items.jsonl").write_text(json.dumps(item) + "\n")
    bench = {"benchmark": HOSTILE, "date": "today", "processor": HOSTILE, "threads": 2}
    bench |= {"device": "cpu", "dtype": "float32", "models": [HOSTILE]}
    rows = [{"way": HOSTILE, "rounds, s": [1.25, 1.5], HOSTILE: None}, {"way": "b", "median": 3.5}]
    bench["tables"] = [{"caption": HOSTILE, "rows": rows}]
    bar = {"what": HOSTILE, "measured": 1.4375, "rule": "at most", "bar": 2, "unit": "times"}
    bench["bars"] = [bar | {"met": True, "model": "tiny"}]
    (folder / "callback.json").write_text(json.dumps(bench))
    return folder


def load(tokenizer):
    return lambda where: tokenizer


@pytest.fixture(scope="module")
def whole(everything, tokenizer):
    """The page of everything, what was found, and its text; written once, three seconds each."""
    page, found = page_of(everything, find_tokenizer=load(tokenizer))
    return page, found, (everything.parent / "page.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def without_tokenizer(everything):
    """The same where no tokenizer is looked for: the page, and its text."""
    page, _ = page_of(everything)
    return page, (everything.parent / "page.html").read_text(encoding="utf-8")


def test_every_section_holds_the_numbers_of_the_files(everything, whole):
    page, found, _ = whole
    assert tuple(found["sections"]) == SECTIONS and found["absent"] == ["foretold", "decisions"]
    assert tuple(page.sections) == (*SECTIONS, "absent", "downloads")
    text = (everything / "hf_proxy" / "predictions.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        for key in ("value", "trace_nll", "bits_per_byte"):
            assert f"{line[key]:.4f}" in page.sections["scores"]
        assert f"{line['low']:.4f} .. {line['high']:.4f}" in page.sections["scores"]
        one = line["predictions"]["13b <gsm8k>"]
        assert f"{100 * one['value']:.1f} %" in page.sections["scores"]
        assert f"{100 * one['low']:.1f} .. {100 * one['high']:.1f} %" in page.sections["scores"]
    assert "90 % interval" in page.sections["scores"]
    lowest = min(lines, key=lambda line: line["value"])
    assert f"{lowest['value']:.4f}" in page.sections["best"]
    state = json.loads((everything / "checkpoint-6" / "trainer_state.json").read_text())
    chosen = state["best_model_checkpoint"].rpartition("/")[2]
    assert f"is {chosen}, at {state['best_metric']:.4f}" in page.sections["best"]
    for row in state["log_history"]:
        if "eval_loss" in row:
            assert f"{row['eval_loss']:.4f}" in page.sections["training"]
    for line in (everything / "hf_proxy" / "contrast.jsonl").read_text().splitlines():
        assert f"{100 * json.loads(line)['kept_share']:.1f} %" in page.sections["contrast"]
    statistics = json.loads((everything / "statistics.json").read_text())
    assert f"{statistics['kl_mean']:.4f}" in page.sections["contrast"]
    for words in ("1.1250 .. 1.5000", "2.5000", "1 to 2", "0.0625", "7 traces"):
        assert words in page.sections["ranking"]
    for words in ("37.5 %", "62.5 %", "+25.0", "0.625", "3 and 1", "none would"):
        assert words in page.sections["accuracy"]
    for words in ("1.4375 times", "at most 2 times", "met", "1.25, 1.5", "3.5", "tiny"):
        assert words in page.sections["benchmarks"]
    assert "transformers" in page.sections["provenance"]
    assert all(page.alts) and len(page.alts) >= 14
    (line,) = [alt for alt in page.alts if alt.startswith("rBridge, nats per token over steps")]
    assert f"lowest {lowest['value']:.4f} at step {lowest['step']}" in line


def test_a_curve_is_drawn_with_its_points_and_a_set_in_four_panels(
    everything, without_tokenizer, tmp_path
):
    curve, statistics = (
        json.loads((everything / name).read_text()) for name in ("curve.json", "statistics.json")
    )
    page, text = without_tokenizer
    (alt,) = [alt for alt in page.alts if "curve of accuracy" in alt]
    assert alt.startswith(f"{curve['form']} curve of accuracy with {len(curve['points'])} points: ")
    light, dark = page.figures[alt]
    # the points are copies of one mark, the line and its band are paths of their own
    assert light.count("<use ") == dark.count("<use ")
    assert "rBridge, nats per token" in light
    alts = [alt for alt in page.alts if alt.startswith(("KL of", "kept by", "kept steps by"))]
    assert len(alts) == 3
    # all six steps are kept: a sentence stands where a chart would say no more
    assert statistics["num_kept"] == statistics["num_steps"] == 6
    assert "<p>kept by generated step: 100.0 % of the first 8" in text
    assert f"{statistics['num_kept']:,} kept, from 0.05 on" in alts[0]
    for svgs in page.figures.values():
        assert svgs[0] != svgs[1] and not any("mathdefault" in svg for svg in svgs)
    # a record from before the points were kept
    bare = tmp_path / "run"
    bare.mkdir()
    (bare / "curve.json").write_text(json.dumps(curve | {"points": []}))
    page, _ = page_of(bare)
    (alone,) = [alt for alt in page.alts if "curve of accuracy" in alt]
    assert not any("residuals" in alt for alt in page.alts)  # they take the points
    assert "with 0 points" in alone
    assert light.count("<use ") - page.figures[alone][0].count("<use ") >= len(curve["points"])
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "pale beyond the points, which its record does not hold" in text


def test_the_numbers_can_be_taken_away(everything, without_tokenizer):
    page, _ = without_tokenizer
    header, *rows = page.files["scores.csv"].splitlines()
    text = (everything / "hf_proxy" / "predictions.jsonl").read_text()
    values = [str(json.loads(line)["value"]) for line in text.splitlines()]
    place = header.split(",").index("value")
    assert [row.split(",")[place] for row in rows] == values  # to the last digit
    assert {"training.csv", "contrast.csv", "statistics.csv", "models.csv"} <= set(page.files)
    assert json.loads(page.files["ranking.json"])["ranking"]["value"] == [1.25, 2.5]


def test_hostile_text_stays_text(whole):
    page, _, text = whole
    assert not {"script", "svg", "iframe", "object", "form"} & set(page.tags)
    assert not {name for name in page.attributes if name.startswith("on")}
    assert "{{7*7}}" in text and "49" not in re.findall(r"img&gt;(\d+)", text)
    assert "\u202e" not in text and "&lt;U+202E&gt;" in text
    assert not re.search(r"(src|href|srcset)=\"(?!data:|#)", text)
    assert text.count("<section ") == text.count("</section>")


def test_it_reads_well_without_eyes(whole):
    page, _, _ = whole
    assert page.tags.count("h1") == 1 and page.tags.count("h2") == len(page.sections)
    assert page.tags.count("caption") == page.tags.count("thead") > 8
    assert page.tags.count("main") == page.tags.count("nav") == 1


def test_a_live_run(trained, tmp_path):
    """Half a line, a checkpoint cut short, a set without its statistics: said, not fatal."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    log = run / "hf_proxy" / "predictions.jsonl"
    log.write_bytes(log.read_bytes() + b'{"name": "rbridge", "step": 8, "value": 0.\xc3')
    state = run / "checkpoint-6" / "trainer_state.json"
    state.write_text(state.read_text()[:200])
    sets = run / "hf_proxy" / "soft_targets"
    (sets / "step-00000006" / "statistics.json").unlink()
    (sets / "step-00000006" / "shards" / "000001.arrow").unlink()
    page, found = page_of(run)
    assert "the last line of hf_proxy/predictions.jsonl is half written" in found["notes"][0]
    assert "checkpoint-6 was not written to its end" in found["notes"][1]
    assert "From checkpoint-4" in page.sections["training"]
    assert "1 of 2 batches are there" in page.sections["contrast"]
    assert "no tokenizer was looked for" in page.sections["trajectories"]
    assert found["absent"] == []  # nothing that is here leads to what is not
    assert "before the run was finished" in (tmp_path / "page.html").read_text()
    own = tmp_path / "accuracy" / "generations" / "0123"
    (own / "round-000").mkdir(parents=True)
    for path in (own / "settings.json", own / "round-000" / "000000.json"):
        path.write_text("{}")
    page, found = page_of(tmp_path / "accuracy")
    assert found["sections"] == ["accuracy"]
    assert "1 sets of answers are begun, 1 batches written" in page.sections["accuracy"]
    assert found["head"]["found"] == ["Under way: 1 batch of answers."]
    log.write_bytes(b'{"name"')  # the first line is not whole yet
    assert "scores" in page_of(run)[1]["absent"]


def test_the_tokenizer_of_another_model_is_not_taken(trained, whole, other_tokenizer):
    page, _ = page_of(trained, find_tokenizer=load(other_tokenizer))
    assert "is not the one that the set was mined with" in page.sections["trajectories"]
    page = whole[0]
    assert "KL " in page.sections["trajectories"] and "top-1" in page.sections["trajectories"]


def test_scores_of_two_settings_share_no_line(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    log = run / "hf_proxy" / "predictions.jsonl"
    line = json.loads(log.read_text().splitlines()[0])
    other = line | {"step": 9, "setting": "other", "value": 0.0}
    log.write_text(log.read_text() + json.dumps(other) + "\n")
    page, _ = page_of(run)
    assert "rbridge, setting other" in page.sections["best"]
    assert page.sections["best"].count("checkpoint-") >= 1


def test_what_is_nothing_of_ours_or_broken_is_named(trained, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.json").write_text("{}")
    with pytest.raises(InputError, match=r"empty: nothing of ours is here"):
        read_run(tmp_path / "empty", num_rows=1)
    with pytest.raises(InputError, match="this is no folder"):
        read_run(tmp_path / "absent", num_rows=1)
    assert main(["report", str(tmp_path / "empty")]) == 2
    assert "nothing of ours" in capsys.readouterr().err
    run = tmp_path / "run" / "hf_proxy"
    run.mkdir(parents=True)
    good = (trained / "hf_proxy" / "predictions.jsonl").read_text().splitlines(keepends=True)[0]
    cases = {
        '{"name": }\n': "line 2: no JSON from character 10 on",
        "[1]\n": "line 2: expected an object, found [1]",
        "\n": "line 2: no JSON from character 1 on",
        good.replace(
            '"step": 0', '"step": "0"'
        ): "line 2, field step: expected a whole number, found '0'",
        good.replace('"low"', '"lower"', 1): "line 2, field low: it is missing",
    }
    for line, message in cases.items():
        (run / "predictions.jsonl").write_text(good + line + good)
        with pytest.raises(InputError, match=re.escape(f"predictions.jsonl, {message}")):
            read_run(tmp_path / "run", num_rows=1)
    (run / "predictions.jsonl").unlink()
    (tmp_path / "run" / "ranking.json").write_text('{"ranking":\n\n oh}')
    with pytest.raises(InputError, match="ranking.json: no JSON from line 3, character 2 on"):
        read_run(tmp_path / "run", num_rows=1)
    (tmp_path / "run" / "ranking.json").unlink()
    bench = dict.fromkeys(("benchmark", "date", "device", "processor", "dtype"), "x")
    bench |= {"threads": 2, "models": [], "tables": [], "bars": [{"what": "speed"}]}
    (tmp_path / "run" / "scoring.json").write_text(json.dumps(bench))
    with pytest.raises(InputError, match=r"scoring.json, field bars\[0\]: measured, rule.*missing"):
        read_run(tmp_path / "run", num_rows=1)


def test_the_command(trained, tmp_path, capsys):
    """The folder stands first or behind its flag; folders inside are read where it holds none."""
    run = tmp_path / "outer" / "run"
    shutil.copytree(trained, run)
    assert main(["report", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["output"] == str(run / "report.html")
    assert "trajectories" in found["sections"]
    # the tokenizer is found in the run's own checkpoints
    assert "top-1" in Page((run / "report.html").read_text()).sections["trajectories"]
    output = tmp_path / "page.html"
    assert main(["report", "--run_dir", str(run.parent), "--output", str(output)]) == 0
    assert "run: rbridge" in Page(output.read_text()).sections["scores"]


def test_what_the_commands_write(everything, tmp_path):
    """Folders as rank and score leave them, not as this test would write them."""
    lines = (everything / "scores.jsonl").read_text().splitlines()
    scores = [json.loads(line) | {"model_id": f"model-{i}"} for i, line in enumerate(lines)]
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(s) + "\n" for s in scores))
    out = tmp_path / "ranked"
    command = ["rank", "--scores", str(tmp_path / "scores.jsonl"), "--output_dir", str(out)]
    assert main(command) == 0
    page, found = page_of(out)
    assert found["sections"] == ["ranking", "provenance"]
    ranking = json.loads((out / "ranking.json").read_text())["ranking"]
    for name, value in zip(ranking["order"], ranking["value"], strict=True):
        assert name in page.sections["ranking"] and f"{value:.4f}" in page.sections["ranking"]
    page, found = page_of(tmp_path)
    assert found["sections"] == ["ranking"]
    assert "model-0 minus model-1" in page.sections["ranking"]


def test_in_a_real_browser(whole, tmp_path):
    """No complaint in its console, every section in its document, nothing of the hostile text run.

    The same document without our policy against scripts runs nothing either: the text is escaped,
    and a script that is let in on purpose shows that the test would see one.
    """
    found = [os.environ.get("HF_PROXY_CHROMIUM"), *map(shutil.which, BROWSERS)]
    browser = next((path for path in found if path), None)
    if browser is None:
        pytest.skip(
            "no headless browser: put chromium on PATH (Debian: apt-get install chromium) or name "
            "it in HF_PROXY_CHROMIUM"
        )
    page = whole[2]
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    assert bare != page
    (tmp_path / "bare.html").write_text(bare, encoding="utf-8")
    script = "<script>document.title='run'; console.log('hf')</script>"
    (tmp_path / "caught.html").write_text(bare + script, encoding="utf-8")
    # at the width of a phone: how wide it is, and what sticks out beside that which scrolls itself
    measure = (
        "<script>parent.postMessage([innerWidth, document.documentElement.scrollWidth, "
        "[...document.querySelectorAll('body *')].filter(one => !one.closest('.scroll') && "
        "one.getBoundingClientRect().right > innerWidth + 1).length].join(' '), '*')</script>"
    )
    (tmp_path / "inner.html").write_text(bare + measure, encoding="utf-8")
    wide = "<div style='width: 900px'>wide</div>"
    (tmp_path / "outer.html").write_text(bare + wide + measure, encoding="utf-8")
    # a window is never so narrow, a frame is; both in one start of the browser
    frame = "<iframe src='{}.html' style='width: 420px; height: 900px; border: 0'></iframe>"
    listen = (
        "<script>addEventListener('message', told => { const line = document.createElement('p');"
        "line.textContent = 'told ' + told.data; document.body.append(line) })</script>"
    )
    frames = f"<title>frames</title>{listen}{frame.format('inner')}{frame.format('outer')}"
    (tmp_path / "narrow.html").write_text(frames, encoding="utf-8")
    titles, said = {}, {}
    for name in ("page", "bare", "caught", "narrow"):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
        flags += [f"--user-data-dir={tmp_path / 'home'}", "--virtual-time-budget=2000"]
        flags += ["--hide-scrollbars"]
        done = subprocess.run(
            [browser, *flags, "--dump-dom", (tmp_path / f"{name}.html").as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        titles[name] = re.search(r"<title>(.*?)</title>", done.stdout)[1]
        said[name] = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        if name == "narrow":
            told = re.findall(r"told (\d+) (\d+) (\d+)", done.stdout)
            continue
        for section in (*SECTIONS, "downloads"):
            assert f'<section id="{section}"' in done.stdout, section
        assert ("<script" in done.stdout) == (name == "caught")
    assert ("420", "420", "0") in told and len(told) == 2
    assert max(int(width) for _, width, _ in told) >= 900  # the test would see it
    titles.pop("narrow")
    assert titles == {"page": "Report of run", "bare": "Report of run", "caught": "run"}
    assert said["page"] == said["bare"] == [] and len(said["caught"]) == 1
