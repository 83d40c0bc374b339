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


def printed(monkeypatch, stream, rows=ROWS, **environment):
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", stream)
    print_table(HEAD, rows, words=("model",), names=("model",))
    return stream.getvalue()


def plain(text):
    return re.sub(r"\x1b\[[\d;]*m", "", text)


@pytest.mark.parametrize(
    ("stream", "environment"),
    [
        (io.StringIO, {}),
        (io.StringIO, {"COLUMNS": "20"}),
        (Terminal, {"COLUMNS": "300", "TERM": "xterm"}),
        (Terminal, {"COLUMNS": "300", "TERM": "dumb"}),
    ],
)
def test_no_cell_is_cut_or_read_as_markup(monkeypatch, stream, environment):
    text = printed(monkeypatch, stream(), **environment)
    head, *lines = plain(text).splitlines()
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


def test_names_are_cut_from_the_left_on_a_narrow_terminal(monkeypatch):
    text = plain(printed(monkeypatch, Terminal(), COLUMNS="70", TERM="xterm"))
    *_, first, second = text.splitlines()
    cells = re.split(r" {2,}", first)
    assert len(first) <= 70 and len(first) > 60  # no more than the screen asks for
    assert cells[0].startswith("...xxx") and cells[0].endswith("x/checkpoint-[bold]10")
    assert tuple(cells[1:]) == ROWS[0][1:]  # numbers are never cut
    assert tuple(re.split(r" {2,}", second)) == ROWS[1]  # nor names that have room
    # however narrow, enough of a name stays
    text = plain(printed(monkeypatch, Terminal(), COLUMNS="10", TERM="xterm"))
    assert text.splitlines()[-2].startswith("...oint-[bold]10  ")


@pytest.mark.parametrize("columns", ["35", "38", "45"])
def test_heads_go_on_several_lines_before_a_name_is_cut(monkeypatch, columns):
    head = ("model", "bits per byte", "90 % interval", "seconds")
    rows = [("outputs/run/checkpoint-10", "0.75", "[1, 2]", "8.3")]
    monkeypatch.setattr("sys.stdout", stream := Terminal())
    for name, value in {"COLUMNS": columns, "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    print_table(head, rows, words=("model",), names=("model",))
    *heads, row = plain(stream.getvalue()).splitlines()
    if columns == "45":
        assert [line.split() for line in heads] == [["bits"], ["per", "90", "%"]] + [
            ["model", "byte", "interval", "seconds"]
        ]
    assert row.endswith("0.75    [1, 2]      8.3")
    assert max(map(len, (*heads, row))) <= int(columns) or row.startswith("...")


def test_heads_stay_on_one_line_where_there_is_room(monkeypatch):
    text = plain(printed(monkeypatch, Terminal(), COLUMNS="300", TERM="xterm"))
    assert len(text.splitlines()) == 1 + len(ROWS)


def test_names_that_would_be_alike_stay_whole(monkeypatch):
    rows = [(f"outputs/{run}/{'x' * 40}/checkpoint-10", *ROWS[0][1:]) for run in "ab"]
    text = printed(monkeypatch, Terminal(), rows=rows, COLUMNS="70", TERM="xterm")
    assert all(row[0] in text for row in rows)
