"""What README claims to run, runs; with a tiny demo in place of the two-minute one."""

import json
import re
from pathlib import Path

import pytest

from hf_proxy.cli import COMMANDS, main

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_snippets_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    short = ["--frontier_steps", "6", "--proxy_steps", "4", "--score_every", "2"]
    assert main(["demo", *short, "--num_traces", "5"]) == 0
    capsys.readouterr()
    snippets = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(snippet.replace("checkpoint-120", "checkpoint-4"), {})
        expected = "\n".join(re.findall(r"^# (.*)$", snippet, flags=re.MULTILINE))
        said = capsys.readouterr().out.strip()
        # the demo is a shorter one here, so its numbers differ; all others must be as printed
        digits = re.compile(r"\d+\.\d+" if "outputs/demo" in snippet else "(?!)")
        assert digits.sub("x", said) == digits.sub("x", expected)


def test_the_table_of_benchmarks_is_what_they_measured(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "benchmarks")
    from table import RESULTS, table_of, with_table

    table = table_of(RESULTS)
    assert with_table(README, table) == README, "run: python tests/benchmarks/table.py"
    assert len(table.splitlines()) > 2
    # a number altered in README shows
    number = re.search(r"\d\.\d+", table)[0]
    altered = README.replace(table, table.replace(number, "7.7", 1))
    assert altered != README == with_table(altered, table)


def test_the_table_follows_each_number(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "benchmarks")
    from table import MARKERS, table_of, with_table

    def written(**changes):
        bar = {"what": "speed", "measured": 0.97, "rule": "at least", "bar": 0.9, "unit": "times"}
        bar |= {"met": True, "model": "m"} | changes
        content = {"date": "2026-01-02T03:04:05", "bars": [bar]}
        (tmp_path / "speed.json").write_text(json.dumps(content))
        return table_of(tmp_path)

    row = "| speed | 0.97 times | at least 0.9 times | met | m | 2026-01-02 |"
    assert written().splitlines()[2:] == [row]
    missed = {"measured": 0.8, "met": False}
    for change in ({"measured": 0.971}, {"bar": 0.91}, {"model": "n"}, missed):
        assert written(**change) != written()
    for change in ({"met": False}, {"measured": 0.8}, {"bar": 1}):
        with pytest.raises(ValueError, match="is not what it measured"):
            written(**change)
    text = "before\n" + "".join(MARKERS) + "after\n"
    once = with_table(text, written())
    assert row in once and with_table(once, written()) == once
    with pytest.raises(ValueError, match="once each"):
        with_table("before\nafter\n", "")


def test_commands_and_files_are_all_named():
    for command in COMMANDS:
        assert f"hf-proxy {command}" in README
    for path in (Path(__file__).parent.parent / "hf_proxy").glob("[!_]*.py"):
        assert path.name in README, path.name


def test_the_first_screen_holds_the_essentials():
    screen = "\n".join(README.splitlines()[:50])
    for word in ("rBridge", "make demo", "pip install", "score_traces"):
        assert word in screen
