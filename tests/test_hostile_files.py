"""A slice of `long/hostile_files.py`, and proof that its judge can say no."""

import json
import time
import tracemalloc
from pathlib import Path

import pytest
from hostile import GOOD, KINDS, OLD_FILES, Kind, Wrong, judge, judged, prepare

from hf_proxy import InputError, load_traces

# seconds each: a model is read, a figure drawn
SHAPES = ("shapes", "ids", "masks", "released")  # made in no time
SLOW = [name for name, kind in KINDS.items() if kind.home or "report" in name or "fit" in name]
SLOW = [name for name in SLOW if name not in SHAPES]
SLOW += ["mined set, show", "answers", "points.csv", "points.jsonl", "results", "ranking"]
SLOW += ["accuracy", "benchmark", "provenance", "contrast lines", "trainer state", "tables"]


# valid files of the others take a model: test_old_files has those, and the long run all kinds
@pytest.mark.parametrize(
    "name", [name for name, kind in KINDS.items() if kind.home is None or name in SHAPES]
)
def test_a_spoilt_file_is_right_or_refused_in_one_line(tmp_path, name):
    kind = KINDS[name]
    prepare(kind, tmp_path)
    verdicts = {}
    for case in range(2 if name in SLOW else 15):
        verdicts[case] = judge(kind, tmp_path, f"suite {name} {case}")
    assert not {case: found for case, found in verdicts.items() if found[0] not in GOOD}


def outcome(read, tmp_path):
    (tmp_path / "case").mkdir(exist_ok=True)
    return judged(Kind((), (), read), tmp_path / "case")


def test_the_judge_can_say_no(tmp_path, monkeypatch):
    def refuses(folder: Path) -> None:
        raise InputError.at("no", remedy="mend it", source=folder / "x.json", field="a")

    def breaks(folder: Path) -> None:
        raise KeyError("a")

    def says_two_lines(folder: Path) -> None:
        raise InputError("field a: wrong;\nmend it")

    def names_nothing(folder: Path) -> None:
        raise InputError("wrong; mend it")

    def allocates(folder: Path) -> None:
        bytes(2_000_000_000)

    def tells_lies(folder: Path) -> None:
        raise Wrong("else")

    monkeypatch.setattr("hostile.MOST_SECONDS", 1)
    assert outcome(refuses, tmp_path)[0] == "refused"
    assert outcome(lambda folder: None, tmp_path) == ("right", "")
    assert outcome(breaks, tmp_path)[0] == "bare"
    assert outcome(says_two_lines, tmp_path)[0] == "bare"
    assert outcome(names_nothing, tmp_path)[0] == "bare"
    assert outcome(allocates, tmp_path)[0] == "allocated"
    assert outcome(tells_lies, tmp_path)[0] == "wrong"
    assert outcome(lambda folder: time.sleep(5), tmp_path)[0] == "hung"


def test_a_reader_that_turns_a_truth_into_a_number_is_wrong(tmp_path):
    path = tmp_path / "case" / "traces.jsonl"
    path.parent.mkdir()
    row = json.loads((OLD_FILES / "traces.jsonl").read_text().splitlines()[0])
    path.write_text(json.dumps(row) + "\n")
    assert judged(KINDS["traces.jsonl"], path.parent) == ("right", "")
    path.write_text(json.dumps(row | {"frontier_logprobs": [True] * 99}) + "\n")
    verdict, said = judged(KINDS["traces.jsonl"], path.parent)
    assert verdict == "refused"
    assert "row 0, field frontier_logprobs[0]: expected a number, found True; mend the row" in said


@pytest.mark.parametrize("number", [2_000_000_000, 10**400, -1, 256])
def test_no_memory_for_a_number_in_a_file(tmp_path, number):
    row = json.loads((OLD_FILES / "completions.jsonl").read_text().splitlines()[0])
    tokens = row["response"]["choices"][0]["logprobs"]["content"]
    for value, place in ((number, "bytes"), ([number], "bytes[0]")):
        tokens[1]["bytes"] = value
        (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
        tracemalloc.start()
        with pytest.raises(InputError) as caught:
            load_traces(tmp_path / "rows.jsonl")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert f"response.choices[0].logprobs.content[1].{place}: expected " in str(caught.value)
        assert "rows.jsonl, row 0 (example_id 'plain')" in str(caught.value)
        assert peak < 10_000_000
