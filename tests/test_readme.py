"""What README claims to run, runs; with a tiny demo in place of the two-minute one."""

import re
from pathlib import Path

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


def test_commands_and_files_are_all_named():
    for command in COMMANDS:
        assert f"hf-proxy {command}" in README
    for path in (Path(__file__).parent.parent / "hf_proxy").glob("[!_]*.py"):
        assert path.name in README, path.name


def test_the_first_screen_holds_the_essentials():
    screen = "\n".join(README.splitlines()[:50])
    for word in ("rBridge", "make demo", "pip install", "score_traces"):
        assert word in screen
