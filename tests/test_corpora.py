"""Which corpus a proxy chooses: its documents, tables of known answers, a miniature of the run."""

import json
import random
import re
from itertools import islice
from math import log
from pathlib import Path

import numpy as np
import pytest

from hf_proxy import decision_accuracy
from hf_proxy.recipes.library.carry_chains import SOURCES, Chain
from hf_proxy.report.benchmarks import figure_of

FOLDER = Path(__file__).parent / "benchmarks"
SEEDS = (1, 2, 3)


@pytest.fixture(autouse=True)
def _beside(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


def test_documents_have_the_shares_they_are_said_to():
    from corpora_documents import CORPORA, SPREAD, documents_of, one_too_high

    def first(name, number=4000):
        return list(islice(documents_of(CORPORA[name], random.Random(3)), number))

    chain = Chain(47, (("+", 8), ("-", 9)))
    assert one_too_high(chain) == [56, 48]  # 47 + 8 and one; from there less 9 and one
    for name, kind, share in (("sloppy 40 %", "sloppy", 0.4), ("wrong 55 %", "wrong", 0.55)):
        rows = first(name)
        for source in SOURCES:
            own = [row["kind"] for row in rows if row["source"] == source]
            wanted = share + SPREAD[source]
            assert own.count(kind) / len(own) == pytest.approx(wanted, abs=0.05)
            assert own.count("careful") == len(own) - own.count(kind)
    kinds = [row["kind"] for row in first("wrong 30 %, off-topic 70 %")]
    assert kinds.count("off-topic") / len(kinds) == pytest.approx(0.7, abs=0.02)
    rows = first("500 documents", 1200)
    assert rows[:500] == rows[500:1000]
    assert len({row["prompt"] + row["trace"] for row in rows}) > 450
    assert all(row["kind"] == "careful" for row in first("careful", 500))
    for row in first("easy 100 %", 300):  # no step leaves its ten
        assert all(a[0] == b[0] for a, b in re.findall(r"(\d\d) [-+] \d = (\d\d)", row["trace"]))
    assert all(re.fullmatch(r"\d\d\.", row["trace"]) for row in first("answers only", 50))
    words = [row["trace"] for row in first("other style", 50)]
    assert all(re.fullmatch(r"((add|take) \d get \d\d([,;.] | so )?)+\.", text) for text in words)
    assert {row["kind"] for row in first("expert's style, wrong", 200)} == {"wrong"}


def test_ngrams_by_hand():
    from corpora_ngrams import Ngrams, nll_of

    model = Ngrams([[1, 2, 1]], 2, vocab_size=4)
    # unigrams: 3 tokens of 2 kinds: (2 + 2/4) / 5 and (1 + 2/4) / 5
    assert model.prob([], 1) == pytest.approx(0.5) and model.prob([], 2) == pytest.approx(0.3)
    # after 1 once came 2: (1 + 0.3) / 2; after 2 once came 1; 3 was never seen
    assert model.prob([1], 2) == pytest.approx(0.65) and model.prob([2], 1) == pytest.approx(0.75)
    assert model.prob([3], 1) == pytest.approx(0.5)
    assert sum(model.prob([1], token) for token in range(4)) == pytest.approx(1)
    rows = [{"input_ids": [1, 2, 1], "labels": [-100, 2, 1]}]
    assert nll_of(model, rows) == pytest.approx(-(log(0.65) + log(0.75)) / 2)


def rows_of(corpora, *, noise=0.0, own=0.5, informative="inv_freq_top1", seed=0):
    """A measured table: one statistic knows the corpora's quality, the other 79 are noise."""
    from corpora_tables import PAPER

    rng = np.random.default_rng(seed)
    quality = np.linspace(0.1, 0.9, len(corpora))
    rows = []
    for model, flops, steps in (("target", 1e12, (20,)), ("small", 1e10, (5, 10))):
        for corpus, good in zip(corpora, quality, strict=True):
            for run in SEEDS:
                points = []
                for step in steps:
                    scores = {name: float(rng.normal()) for name in PAPER}
                    scores |= {"trace_nll": rng.normal(), "bits_per_byte": rng.normal()}
                    scores |= {"value": -good, "gold_nll": good, informative: good}
                    seen = good if model == "target" else own * good
                    accuracy = float(np.clip(seen + noise * rng.normal(), 0, 1))
                    point = {"step": step, "accuracy": accuracy, "tokens": step * 100}
                    points.append(point | {"flops": flops * step, "scores": scores})
                rows.append({"model": model, "corpus": corpus, "seed": run, "points": points})
    return rows


@pytest.fixture
def _few_draws(monkeypatch):
    """As many draws and forms as tell the tables right from wrong."""
    import corpora_decisions
    import corpora_tables

    monkeypatch.setattr(corpora_decisions, "NUM_DRAWS", 200)
    monkeypatch.setattr(corpora_decisions, "NUM_PERMUTATIONS", 100)
    monkeypatch.setattr(corpora_tables, "NUM_SELECTIONS", 2)
    monkeypatch.setattr(corpora_tables, "FORMS", ("linear",))


@pytest.mark.usefixtures("_few_draws")
def test_tables_of_known_answers():
    from corpora_tables import BET, OWN, found_of, tables_of

    graded = [f"corpus {i}" for i in range(9)]
    rows = rows_of([*graded, "apart"])
    found_tables = tables_of(rows, graded)
    tables = {table["caption"]: table["rows"] for table in found_tables}
    about = "9 graded corpora, 3 seeds"
    (drawn,) = [t for t in found_tables if t["caption"] == f"Decision accuracy, {about}"]
    compute, each, *gaps = [figure_of(drawn["rows"], asked).alt for asked in drawn["figures"]]
    assert f"{BET}: +1 at 0.0025, +1 at 0.005" in compute and "at 1" not in compute
    assert "rBridge 1" in each and len(gaps) == 2 and "gold-answer NLL -1" in gaps[0]
    assert f"target, {about}: {BET} 1.00" in found_of(found_tables)
    found = {
        (row["proxy"], row["step"], row["predictor"]): row
        for row in tables[f"Decision accuracy, {about}"]
    }
    for step in (5, 10):
        assert found["small", step, "rBridge"]["one seed"] == 1  # low is better
        assert found["small", step, BET]["one seed"] == found["small", step, BET]["tau"] == 1
        assert found["small", step, OWN]["mean of seeds"] == 1
        assert found["small", step, "gold-answer NLL"]["one seed"] == 0
        assert found["small", step, "gold-answer NLL"][f"minus {BET}"] == -1
        assert 0.2 < found["small", step, "R_phi"]["one seed"] < 0.8
        gap = found["small", step, "R_phi"]
        assert gap[f"minus {OWN}, low"] < gap[f"minus {OWN}"] < gap[f"minus {OWN}, high"] < 0
        # the same for every corpus: no order, and said
        assert "no order" in found["small", step, "tokens seen"]["note"]
    glance = {row["predictor"]: row for row in tables[f"Decision accuracy at a glance, {about}"]}
    assert glance[BET]["small 10"].startswith("1.00") and glance[OWN]["target 20"] == ""
    assert glance["tokens seen"]["small 5"] == "none"
    assert found["small", 10, BET]["FLOPs over the target's"] == pytest.approx(0.005)
    assert ("target", 20, OWN) not in found  # its seeds are in what it would be held against
    noise = tables[f"The target's own noise, {about}"][0]
    assert noise["decision accuracy"] == 1 and noise["pairs"] == 36
    choice = tables[f"Chosen among 80, {about}"][0]
    assert choice["nested"] == choice["best of all, one seed"] == 1
    assert set(choice["best by seed"]) == {BET}
    assert 0.6 < choice["floor, mean"] < choice["floor, 95 %"] < 1 and choice["p"] < 0.02
    statistics = {row["statistic"]: row for row in tables[f"The statistics one by one, {about}"]}
    assert len(statistics) == 80 and statistics[BET]["small 5"] == 1
    told = {row["from"]: row for row in tables[f"Accuracy foretold, {about}"]}
    assert told["rBridge"]["error, points"] < 0.5 < told["mean of the others"]["error, points"]
    assert told["rBridge"]["predictions"] == 27
    # own accuracy is as good at 5 steps: the same compute; rBridge saves nothing and costs nothing
    saved = {
        row["predictor"]: row for row in tables[f"Compute saved against own accuracy, {about}"]
    }
    assert saved["rBridge"]["times less compute"] == pytest.approx(1)
    assert "Decision accuracy, 10 all corpora, 3 seeds" in tables
    assert set(tables["Accuracy, mean over seeds"][0]) >= {"corpus", "small 5", "target 20"}


def test_differences_are_drawn_as_the_package_draws_its_interval():
    from corpora_decisions import EDGES, share_drawn

    rng = np.random.default_rng(1)
    quality = rng.normal(size=12)
    value = quality[:, None] + rng.normal(size=(12, 3))
    target = quality[:, None] + 0.3 * rng.normal(size=(12, 3))
    proxy, wanted = ({i: own for i, own in enumerate(a)} for a in (value, target))
    ours = decision_accuracy(proxy, wanted, lower_is_better=False, single_seed=True)
    drawn_RF = share_drawn(-np.stack([value, value]), target, np.random.default_rng(0))
    low, high = np.quantile(drawn_RF[:, 0], EDGES)
    assert (low, high) == pytest.approx((ours.low, ours.high), abs=0.03)
    assert np.ptp(drawn_RF[:, 0] - drawn_RF[:, 1]) == 0  # one draw for all: paired


@pytest.mark.usefixtures("_few_draws")
def test_a_choice_among_noise_is_worth_nothing():
    from corpora_decisions import choose

    rng = np.random.default_rng(2)
    value, target = rng.normal(size=(80, 13, 2)), rng.random((13, 2))
    found = choose(value, target, rng)
    assert found.best > 0.6  # the best of 80, looked for where it is judged
    assert found.best < found.floor_high + 0.1 and found.floor_mean > 0.6
    assert found.p_value > 0.05 and found.nested < found.nested_floor_high
    assert found.low < found.nested < found.high


def test_seeds_that_are_not_whole_are_left_out_and_no_order_is_refused():
    from corpora_studies import studies_of

    corpora = [f"corpus {i}" for i in range(9)]
    rows = rows_of(corpora)
    lost = {"model": "small", "corpus": "corpus 4", "seed": 2}
    few = [row for row in rows if any(row[name] != lost[name] for name in lost)]
    assert studies_of(few, corpora)[0].seeds == (1, 3)
    with pytest.raises(ValueError, match="no seed is whole"):
        studies_of(rows, [*corpora, "another"])
    for row in rows:
        for point in row["points"]:
            point["accuracy"] = 0.5
    with pytest.raises(ValueError, match="the target is as good on all corpora"):
        studies_of(rows, corpora)


ASSETS = Path(__file__).parents[1] / "recipes" / "assets"


def run(arguments, monkeypatch):
    import corpora

    monkeypatch.setattr("sys.argv", ["corpora", *map(str, arguments)])
    corpora.main()


@pytest.fixture
def _tiny(monkeypatch):
    """A world whose expert, the bundled one, can do the task; of others, any answer is right."""
    import corpora_world
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name, value in {"NUM_TRACES": 4, "NUM_PROBLEMS": 20, "BATCH_SIZE": 2}.items():
        monkeypatch.setattr(corpora_world, name, value)
    load = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(corpora_world.World, "expert", lambda world: load(ASSETS / "expert"))
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "expert")
    monkeypatch.setattr(corpora_world.World, "tokenizer", tokenizer)
    marks = random.Random(0)

    def solve(model, tokenizer, tests):
        return [], [marks.random() < 0.5 for _ in tests]

    monkeypatch.setattr(corpora_world, "solve", solve)


@pytest.mark.usefixtures("_few_draws", "_tiny")
def test_a_miniature_of_the_run_goes_on_where_it_was_killed(tmp_path, monkeypatch, capsys):
    import corpora
    import corpora_cost
    import corpora_documents
    import corpora_ngrams
    import corpora_world

    names = [*corpora_documents.GRADED][:5]
    few = {name: corpora_documents.CORPORA[name] for name in names}
    for module in (corpora, corpora_documents, corpora_world, corpora_ngrams):
        monkeypatch.setattr(module, "CORPORA", few)
    sizes = {
        "target": corpora_world.Size(8, 1, 5e-3, (2,)),
        "small": corpora_world.Size(8, 1, 5e-3, (1,)),
    }
    for module in (corpora, corpora_world):
        monkeypatch.setattr(module, "SIZES", sizes)
    monkeypatch.setattr(corpora_cost, "BATCH_SIZE", 2)
    monkeypatch.setattr(corpora_ngrams, "NUM_STEPS", 2)
    marks = random.Random(0)
    own, done = corpora.measure, []

    def killed(*arguments):
        if done:
            raise KeyboardInterrupt
        done.append(own(*arguments))
        return done[-1]

    base = ["--output_dir", tmp_path, "--num_processes", 1, "--corpora", *names[:2], "--seeds"]
    with pytest.raises(SystemExit):  # the seed that is looked at is looked at alone
        run([*base, 0, 1], monkeypatch)
    with pytest.raises(SystemExit, match="more than --budget 0"):
        run([*base, 1, "--budget", 0], monkeypatch)
    monkeypatch.setattr(corpora, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        run([*base, 1], monkeypatch)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("rows/*/*.json")}
    assert len(before) == 2  # both models of the first corpus
    capsys.readouterr()
    monkeypatch.setattr(corpora, "measure", own)
    run([*base, 1], monkeypatch)
    said = capsys.readouterr().out
    assert said.startswith("1 corpora and seeds to go: ") and "What Trainer, scores" in said
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    row = json.loads(next(iter(before)).read_text())
    (point,) = row["points"]
    assert len(point["scores"]) == 3 + 88 + 1 and point["flops"] > 0
    # seed 0 is never scored
    run([*base[:-2], "--seeds", 0], monkeypatch)
    assert "Accuracies of seed 0" in capsys.readouterr().out
    (path,) = (tmp_path / "rows" / "0").glob("*target*")
    assert "scores" not in json.loads(path.read_text())["points"][-1]
    # the rest as if it had been trained
    for corpus in names:
        for seed in SEEDS[:2]:
            for model in sizes:
                good = names.index(corpus) / 5 + marks.random() / 10
                scores = {name: value + marks.random() for name, value in point["scores"].items()}
                own_point = point | {"accuracy": good, "scores": scores}
                own_row = {"corpus": corpus, "seed": seed, "model": model, "points": [own_point]}
                place = corpora_world.row_path(tmp_path, corpus, seed, model)
                place.parent.mkdir(exist_ok=True)
                place.write_text(json.dumps(own_row))
    run(["--output_dir", tmp_path, "--seeds", 1, 2, "--analyse"], monkeypatch)
    content = json.loads((tmp_path / "corpora.json").read_text())
    captions = [table["caption"] for table in content["tables"]]
    assert captions[1] == "Decision accuracy, 5 graded corpora, 2 seeds"
    predictors = {row["predictor"] for row in content["tables"][1]["rows"]}
    assert {"2-gram NLL", "5-gram NLL", "gold-answer NLL"} <= predictors
    assert str(tmp_path) not in json.dumps(content)


@pytest.mark.usefixtures("_few_draws", "_tiny")
def test_a_miniature_of_fine_tuning_mixtures(tmp_path, monkeypatch, capsys):
    import corpora_world
    import finetuning_data as bench

    tiny = bench.Tuned(corpora_world.Size(8, 1, 5e-3, (1,)), 2, 1e-3)
    monkeypatch.setattr(bench, "MODELS", {"target": tiny, "small": tiny})
    few = {name: bench.MIXTURES[name] for name in ("careful", "answers only")}
    monkeypatch.setattr(bench, "MIXTURES", few)
    monkeypatch.setattr(bench, "NUM_ROWS", 8)
    monkeypatch.setattr(bench, "BATCH_SIZE", 2)
    monkeypatch.setattr(bench, "solve", corpora_world.solve)
    for more in ([], ["--analyse"]):
        argv = ["finetuning_data", "--output_dir", str(tmp_path), "--seeds", "1", *more]
        monkeypatch.setattr("sys.argv", argv)
        bench.main()
        said = capsys.readouterr().out
        assert ("4/4" in said) == (not more)
    content = json.loads((tmp_path / "finetuning_data.json").read_text())
    tables = {table["caption"]: table["rows"] for table in content["tables"]}
    chosen = {row["predictor"]: row for row in tables["The mixture that is chosen"]}
    first, second = (
        row["target 2"] for row in tables["Accuracy after fine-tuning, mean over seeds"]
    )
    by_lot = chosen["by lot"]["accuracy lost, points"]
    assert by_lot == pytest.approx(50 * abs(first - second)) and by_lot > 0
    for name in ("rBridge", "inv_freq_top1"):
        lost = chosen[name]["accuracy lost, points"]
        assert lost in (pytest.approx(0), pytest.approx(by_lot), pytest.approx(2 * by_lot))
    row = json.loads(next(iter((tmp_path / "rows" / "1").glob("careful small*"))).read_text())
    assert row["points"][0]["tokens"] > 0 and row["points"][0]["step"] == 2
