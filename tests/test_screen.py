"""Tables on the screen: whole cells at any width, plain where no terminal is."""

import io
import re

import pytest

from hf_proxy.recipes.library.screen import print_table

LONG = "outputs/" + "x" * 150 + "/checkpoint-[bold]10"
HEAD = ("model", "step", "rBridge", "90 % interval")
ROWS = [(LONG, "10", "0.123456", "[0.1, 0.2]"), ("b :smile:", "-", "12345.123456", "-")]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def printed(monkeypatch, stream, **environment):
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", stream)
    print_table(HEAD, ROWS, words=("model",))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("stream", "environment"),
    [
        (io.StringIO, {}),
        (io.StringIO, {"COLUMNS": "20"}),
        (Terminal, {"COLUMNS": "20", "TERM": "xterm"}),
        (Terminal, {"COLUMNS": "20", "TERM": "dumb"}),
    ],
)
def test_no_cell_is_cut_or_read_as_markup(monkeypatch, stream, environment):
    text = printed(monkeypatch, stream(), **environment)
    head, *lines = re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()
    assert re.split(r" {2,}", head.strip()) == list(HEAD)
    assert [tuple(re.split(r" {2,}", line)) for line in lines] == ROWS
    # words at the left, numbers at the right
    assert lines[1].startswith("b :smile: ") and lines[0].endswith("  [0.1, 0.2]")
    assert len(lines[0]) == len(lines[1])


def test_heads_are_bold_on_a_terminal_only(monkeypatch):
    assert "\x1b[1m" in printed(monkeypatch, Terminal(), TERM="xterm")
    for stream, environment in ((io.StringIO(), {}), (Terminal(), {"TERM": "dumb"})):
        text = printed(monkeypatch, stream, **environment)
        assert "\x1b" not in text
        assert text == "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
