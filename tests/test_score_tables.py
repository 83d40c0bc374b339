"""What `hf-proxy score` and `accuracy` print beside their numbers."""

import json

import numpy as np
import pytest
from helpers.scores import make_score

from hf_proxy import compare
from hf_proxy.answers.pairs import compare_accuracy
from hf_proxy.intervals import bootstrap_interval
from hf_proxy.recipes.evaluate_accuracy import _print_result
from hf_proxy.recipes.library.score_tables import print_frontiers, print_scores
from hf_proxy.report.accuracy import accuracy_sentence

FACT = {"cached": True, "seconds": 0.0}
SENTENCE = "of different tokenizers: models compare across them by bits per byte only"


def printed(capsys, scores):
    print_scores(scores, [FACT] * len(scores))
    return capsys.readouterr().out


def test_models_of_different_tokenizers_stand_in_blocks_of_their_own(capsys):
    a, b, other = (
        make_score([1, 2, 3], model_id=name, parts=parts)
        for name, parts in (("a", {}), ("b", {}), ("other", {"tokenizer": "z"}))
    )
    said = printed(capsys, [a, other, b])
    blocks = said.strip().split("\n\n")
    assert [len(block.splitlines()) for block in blocks] == [3, 2, 1]
    assert [line.split()[0] for line in blocks[0].splitlines()[1:]] == ["a", "b"]
    assert blocks[1].splitlines()[1].startswith("other ")
    assert blocks[2] == f"the blocks are {SENTENCE}"
    alone = printed(capsys, [a, b])
    assert SENTENCE not in alone and len(alone.strip().splitlines()) == 3


def test_a_step_column_stands_where_a_model_has_one(capsys):
    a, b = make_score([1, 2, 3], model_id="a"), make_score([1, 2, 3], model_id="b", step=10)
    assert " step " not in printed(capsys, [a])
    head, first, second = printed(capsys, [a, b]).splitlines()
    assert head.split()[1] == "step"
    assert [first.split()[1], second.split()[1]] == ["-", "10"]


def test_the_frontier_of_the_traces_is_named_among_the_models(capsys, tmp_path):
    scores = [make_score([1, 2, 3], model_id=name) for name in ("small", "frontier")]
    facts = [{"weights": "0a"}, {"weights": "1b"}]
    for provenance in (None, {}, {"frontier": {"name": "a server's"}}, {"frontier": None}):
        if provenance is not None:
            (tmp_path / "provenance.json").write_text(json.dumps(provenance))
        print_frontiers(scores, facts, str(tmp_path))
    assert capsys.readouterr().out == ""
    (tmp_path / "provenance.json").write_text(json.dumps({"frontier": {"weights": "1b"}}))
    print_frontiers(scores, facts, str(tmp_path))
    said = capsys.readouterr().out
    assert said.startswith("note: frontier is the frontier of these traces") and "small" not in said


def test_two_traces_have_no_interval(capsys):
    assert bootstrap_interval(np.array([1.0, 2.0])) == (None, None)
    assert None not in bootstrap_interval(np.array([1.0, 2.0, 4.0]))
    two = make_score([1, 2])
    with pytest.raises(ValueError, match="a comparison needs at least three traces"):
        compare(two, two)
    with pytest.raises(ValueError, match="the same three or more problems, not 2 and 2"):
        compare_accuracy([True, False], [True, True])


def test_answers_that_were_cut_are_said_beside_the_accuracy(capsys):
    row = {"accuracy": 0.25, "low": 0.1, "high": 0.5, "num_problems": 16, "num_correct": 4}
    row |= {"num_without_answer": 9, "tokens_mean": 120.0}
    models = [row | {"model": "a", "num_cut": 13}, row | {"model": "b", "num_cut": 0}]
    _print_result({"models": models, "comparisons": []}, 128)
    head, a, b, *notes = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["model", "pass@1"] and head.index("cut") < head.index("right")
    assert "0.250  0.100 .. 0.500  13 of 16" in a and "13 of 16" not in b
    assert len(notes) == 1 and notes[0].startswith("note: 13 of 16 answers of a were cut at 128")


@pytest.mark.parametrize("differing", [0, 1])
def test_models_that_never_differ_have_no_interval(capsys, differing):
    found = compare_accuracy([True] * 6, [True] * (6 - differing) + [False] * differing)
    pairs = [{"a": "x", "b": "y"} | vars(found)]
    _print_result({"models": [], "comparisons": pairs}, 128)
    assert ("(no interval: none differs)" in capsys.readouterr().out) is (differing == 0)
    models = [{"model": m, "accuracy": 1.0, "num_problems": 6, "num_cut": 0} for m in "xy"]
    page = accuracy_sentence({"models": models, "comparisons": pairs})
    assert ("(no interval as none differs; " in page) is (differing == 0)
