"""Choosing among statistics: planted columns, what chance reaches, and what is refused."""

import dataclasses

import numpy as np
import pytest
from helpers.processes import command
from helpers.scores import make_score
from scipy import stats

from hf_proxy import InputError, select_proxy
from hf_proxy.prediction.scorers import fit_single, fit_sparse, fold_of, unit_ranks
from hf_proxy.prediction.selection_table import read_selection_table

MODELS = [f"m{i:02d}" for i in range(18)]
TASKS = [f"t{i}" for i in range(5)]


def world(signal, *, num_columns=40, seed=0, name="planted"):
    """Models of one skill, tasks that agree about it, columns of noise that each model keeps."""
    rng = np.random.default_rng(seed)
    skill = rng.normal(size=len(MODELS))
    accuracy_TM = skill + 0.4 * rng.normal(size=(len(TASKS), len(MODELS)))
    own = rng.normal(size=(len(MODELS), num_columns))
    scores = {
        model: {
            task: {f"c{f}": own[m, f] + 0.2 * rng.normal() for f in range(num_columns)}
            | {name: signal * skill[m] + rng.normal()}
            for task in TASKS
        }
        for m, model in enumerate(MODELS)
    }
    accuracies = {
        model: {task: float(accuracy_TM[t, m]) for t, task in enumerate(TASKS)}
        for m, model in enumerate(MODELS)
    }
    return scores, accuracies


@pytest.fixture(scope="module")
def noise():
    return select_proxy(*world(0.0), num_permutations=40)


def test_ranks_of_unit_length_give_spearman():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 12), rng.normal(size=12)
    expected = stats.spearmanr(a, b).statistic
    assert unit_ranks(a, 0) @ unit_ranks(b, 0) == pytest.approx(expected, rel=1e-12)
    assert not unit_ranks(np.ones(4), 0).any()


def test_a_planted_column_is_found_and_stands_above_the_floor(noise):
    found = select_proxy(*world(3.0), num_permutations=40)
    assert found.chosen == {"planted": 1.0}
    assert found.tasks_out.choices == {"planted": 10}  # of 5 tasks two are held out
    assert found.tasks_out.num_folds == 10
    assert found.tasks_out.value > 0.7 > found.tasks_out.floor_high
    assert found.tasks_out.low < found.tasks_out.value < found.tasks_out.high
    assert found.tasks_out.p_value == pytest.approx(1 / 41)
    assert found.models_out.value > 0.7 and found.models_out.num_folds == 3
    assert found.models_out.low is found.models_out.high is None
    assert "accuracy on held-in tasks" not in found.models_out.controls


def test_noise_looks_good_until_models_are_held_out(noise):
    """Tasks agree, so what fits some of them by chance fits the others: that is the floor."""
    assert noise.held_in > 0.4
    assert noise.tasks_out.floor_mean > 0.3
    assert noise.tasks_out.p_value > 0.05
    assert abs(noise.models_out.floor_mean) < 0.15
    assert noise.models_out.value < noise.tasks_out.floor_high
    # the control that such a choice has to beat
    assert noise.tasks_out.controls["accuracy on held-in tasks"] > 0.7


def test_the_outer_number_by_brute_force():
    scores, accuracies = world(1.0, num_columns=6, seed=4)
    found = select_proxy(scores, accuracies, num_permutations=1, tasks_held_out=1)
    outer = []
    for out in TASKS:
        held_in = [task for task in TASKS if task != out]

        def rho(column, task):
            x = [scores[m][task][column] for m in MODELS]
            return stats.spearmanr(x, [accuracies[m][task] for m in MODELS]).statistic

        mean = {c: np.mean([rho(c, t) for t in held_in]) for c in scores["m00"][out]}
        best = max(mean, key=lambda c: abs(mean[c]))
        outer.append(np.sign(mean[best]) * rho(best, out))
    assert found.tasks_out.value == pytest.approx(np.mean(outer), rel=1e-12)


def test_a_known_direction_is_kept_and_an_unknown_one_learnt():
    scores, accuracies = world(-3.0, name="ce")
    assert select_proxy(scores, accuracies, num_permutations=1).chosen == {"ce": 1.0}  # low is good
    scores, accuracies = world(3.0, name="ce")  # the wrong way round: it is no candidate
    assert "ce" not in select_proxy(scores, accuracies, num_permutations=1).chosen
    scores, accuracies = world(-3.0, name="entropy")
    assert select_proxy(scores, accuracies, num_permutations=1).chosen == {"entropy": -1.0}


def test_three_columns_together_beat_each_alone():
    rng = np.random.default_rng(2)
    scores, accuracies = world(0.0, num_columns=5)
    for model in MODELS:
        parts = rng.normal(size=3)
        for task in TASKS:
            accuracies[model][task] = float(parts.sum() + 0.1 * rng.normal())
            scores[model][task] |= {f"part{i}": parts[i] for i in range(3)}
    found = select_proxy(scores, accuracies, scorer="sparse", num_permutations=2)
    assert found.chosen == {f"part{i}": 1.0 for i in range(3)}
    assert found.tasks_out.value > 0.9
    table = read_selection_table(scores, accuracies, None, None)
    everything = np.arange(5), np.arange(18)
    fold = fold_of(table, *everything, *everything)
    one, three = (fit(fold, table, table.accuracy_TM) for fit in (fit_single, fit_sparse))
    assert (np.count_nonzero(one), np.count_nonzero(three)) == (1, 3)


def test_a_linear_svm_learns_the_planted_column():
    scores, accuracies = world(3.0, num_columns=8)
    found = select_proxy(scores, accuracies, scorer="ranksvm", num_permutations=1)
    weights = found.chosen
    assert max(weights, key=lambda name: abs(weights[name])) == "planted"
    assert found.tasks_out.value > 0.8 and found.tasks_out.choices == {}


def test_controls_are_judged_on_the_same_folds():
    scores, accuracies = world(1.0, num_columns=3)
    task = TASKS[0]
    exact = {model: -accuracies[model][task] for model in MODELS}  # its sign is learnt
    found = select_proxy(scores, accuracies, num_permutations=1, controls={"tokens": exact})
    assert found.tasks_out.controls["tokens"] > 0.7
    assert found.models_out.controls["tokens"] > 0.5


def test_families_are_held_out_whole():
    scores, accuracies = world(3.0, num_columns=3)
    groups = {model: f"family{i % 6}" for i, model in enumerate(MODELS)}
    assert select_proxy(scores, accuracies, num_permutations=1, groups=groups).models_out
    two = {model: f"family{i % 2}" for i, model in enumerate(MODELS)}
    found = select_proxy(scores, accuracies, num_permutations=1, groups=two)
    assert found.models_out is None and "no models held out" in found.notes[0]
    with pytest.raises(InputError, match="field groups: 'm00' is of no group"):
        select_proxy(scores, accuracies, groups={})


def test_scores_bring_their_controls_and_settings():
    rng = np.random.default_rng(0)
    scores = {
        m: {t: make_score(rng.normal(10, 1, 6), model_id=m) for t in "ab"} for m in MODELS[:9]
    }
    accuracies = {m: {t: float(rng.normal()) for t in "ab"} for m in scores}
    found = select_proxy(scores, accuracies, num_permutations=1)
    assert found.num_columns == 3  # no statistics in these: the metrics alone
    assert "parameters" in found.tasks_out.controls
    scores["m03"]["a"] = make_score([1, 2, 3], parts={"traces": "other"}, model_id="m03")
    with pytest.raises(InputError, match="row a: m00 and m03 were scored in other settings: tra"):
        select_proxy(scores, accuracies, num_permutations=1)


def test_what_cannot_be_judged_is_refused():
    scores, accuracies = world(1.0, num_columns=2)

    def without(model):
        return {name: own for name, own in scores.items() if name != model}

    flat = {m: own | {"t0": 0.5} for m, own in accuracies.items()}
    one = {m: {"t0": own["t0"]} for m, own in scores.items()}
    few = {m: scores[m] for m in MODELS[:4]}, {m: accuracies[m] for m in MODELS[:4]}
    cases = [
        ((without("m03"), accuracies), {}, "field accuracies: models differ: m03"),
        ((scores | {"m05": one["m05"]}, accuracies), {}, "field scores: tasks of m05 differ: t1"),
        (few, {}, "4 models order themselves by chance"),
        ((one, accuracies), {}, "with one task none can be held out"),
        ((scores, flat), {}, "row t0: all accuracies are equal"),
        ((scores, accuracies), {"scorer": "forest"}, "no scorer 'forest'"),
        ((scores, accuracies), {"columns": ["plantet"]}, r"did you mean planted\?"),
        ((scores, accuracies), {"tasks_held_out": 5}, "5 of 5 tasks cannot be held out"),
        ((scores, accuracies), {"num_permutations": 0}, "without a draw there is no floor"),
        ((scores, accuracies), {"controls": {"size": {"m00": 1.0}}}, "models of control size"),
    ]
    for arguments, settings, message in cases:
        with pytest.raises(InputError, match=message):
            select_proxy(*arguments, **settings)


def write_task(path, task, models):
    """A scores.jsonl of all models on one task: a planted statistic beside one of noise."""
    lines = []
    for model, (skill, rng) in models.items():
        score = make_score(rng.normal(10, 1, 4), model_id=model, parts={"traces": task})
        statistics = {"rrank": skill + 0.1 * rng.normal(), "ce": rng.normal()}
        lines.append(dataclasses.replace(score, statistics=statistics).to_json())
    path.write_text("\n".join(lines) + "\n")


def test_the_command_reads_scores_and_says_what_was_chosen(tmp_path, capsys):
    rng = np.random.default_rng(0)
    models = {f"m{i}": (rng.normal(), np.random.default_rng(i)) for i in range(9)}
    table = ["name,task,accuracy"]
    for task in ("arc", "sums", "logic"):
        write_task(tmp_path / f"{task}.jsonl", task, models)
        table += [f"{m},{task},{skill + 0.1 * rng.normal()}" for m, (skill, _) in models.items()]
    (tmp_path / "accuracy.csv").write_text("\n".join(table))
    tokens = [f"{m},{1000 + i}" for i, m in enumerate(models)]
    (tmp_path / "controls.csv").write_text("\n".join(["name,tokens", *tokens]))
    scores = [f"{task}={tmp_path / task}.jsonl" for task in ("arc", "sums", "logic")]
    arguments = ["rank", "--scores", *scores, "--target", tmp_path / "accuracy.csv"]
    arguments += ["--select", "single", "--num_permutations", 20, "--json"]
    code, said, found = command(capsys, *arguments, "--controls", tmp_path / "controls.csv")
    assert code == 0, said.err
    assert found["selection"]["chosen"] == {"rrank": 1.0}
    assert found["selection"]["tasks_out"]["value"] > 0.8
    assert {"tokens", "ce", "parameters"} < set(found["selection"]["tasks_out"]["controls"])
    assert "accuracies shuffled" in said.out and "3 of 3 folds chose rrank" in said.out
    (tmp_path / "twice.csv").write_text("\n".join([*table, table[1]]))
    (tmp_path / "bare.csv").write_text("name\nm0\n")
    wrong = [
        (["--controls", tmp_path / "bare.csv"], "bare.csv, row 2: columns name; expected name and"),
        (["--target", tmp_path / "twice.csv"], "'m0' has two accuracies of 'arc'"),
        (["--target", tmp_path / "controls.csv"], "columns name, tokens; expected name,task,acc"),
        (["--scores", tmp_path / "arc.jsonl"], "names no task; write task=scores.jsonl"),
        (["--metric", "trace_nll"], "field select: it needs --scores"),
    ]
    for change, message in wrong:
        code, said, _ = command(capsys, *arguments, *change)
        assert code == 2 and message in said.err, said.err
    code, said, _ = command(capsys, "rank", "--scores", "a", "--controls", "b")
    assert code == 2 and "field controls: it goes with --select" in said.err
