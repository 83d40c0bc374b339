"""What people see of soft targets: the exact text, nothing taken as markup, every flip."""

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers import tokenizers as tiny_tokenizers
from rich.console import Console

from hf_proxy.mining.soft_targets import target_outcome
from hf_proxy.records.errors import InputError
from hf_proxy.report.figures.sets import plot_contrast
from hf_proxy.report.trajectories import render_terminal, token_pieces, write_page

# letters of two, three and four bytes, a joined emoji, a tab, a right-to-left word, line breaks
MIXED = "Café 3 €\n\talso 先生 😀 👩‍👩‍👧 שלום <|end|> done\n"
HOSTILE = "<script>alert('x')</script> & [bold]loud[/bold] [/] \\[red] :smile: {{ 7 * 7 }}"
VOID = ("meta", "br")


class Page(HTMLParser):
    """Balanced tags, the text of each generated token, the hints and the links."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.tokens, self.links, self.ids = [], set(), [], [], []
        self.depth = 0
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append((tag, attrs))
        if "token" in attrs.get("class", "").split() and "title" in attrs:
            self.tokens.append("")
        if "href" in attrs:
            self.links.append(attrs["href"])
        if "id" in attrs:
            self.ids.append(attrs["id"])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and "title" in self.open[-1][1]:
            self.tokens[-1] += data


def make_row(tokenizer, text, *, prompt="Q: 1 + 1?", kept=(1, 3), example_id="x"):
    """Two targets in each kept step; the first kept step is a flip, the others are none."""
    start, new = (tokenizer(part)["input_ids"] for part in (prompt, text))
    num = len(new)
    entries = len(kept)
    return {
        "example_id": example_id,
        "input_ids": start + new,
        "prompt_length": len(start),
        "kl": [0.3 * (step % 8) for step in range(num)],
        "top1_agree": [step % 2 == 0 for step in range(num)],
        "expert_entropy": [0.5] * num,
        "amateur_entropy": [1.5] * num,
        "support_size": [1] * num,
        "position": [len(start) + step for step in kept],
        "offset": [2 * number for number in range(entries + 1)],
        "token_id": [id for step in kept for id in (new[step], 5)],
        "prob": [
            value for number in range(entries) for value in ((0.3, 0.7), (0.9, 0.1))[number > 0]
        ],
        "expert_logprob": [-0.5, -1.5] * entries,
        "amateur_logprob": [-1.0, -0.25] * entries,
    }


def printed(rows, tokenizer, **options):
    file = io.StringIO()
    console = Console(file=file, width=2000, **options)
    render_terminal(rows, tokenizer, console=console)
    return file.getvalue()


def page_of(rows, tokenizer, tmp_path, **facts):
    path = tmp_path / "page.html"
    write_page(rows, tokenizer, path, title="Soft <targets>", facts=facts)
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "make",
    [
        tiny_tokenizers.byte_level,
        tiny_tokenizers.byte_level_nfc,
        tiny_tokenizers.llama,
        tiny_tokenizers.byt5,
        tiny_tokenizers.wordpiece,
    ],
)
def test_pieces_join_to_the_decoded_text_for_any_tokenizer(make):
    tokenizer = make()
    ids = tokenizer(MIXED + HOSTILE, add_special_tokens=False)["input_ids"]
    pieces = token_pieces(ids, tokenizer)
    whole = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert "".join(pieces) == whole and len(pieces) == len(ids)


def test_pieces_of_letters_in_several_tokens(tokenizer):
    assert token_pieces(tokenizer("ñ€😀")["input_ids"], tokenizer) == [
        *("", "ñ"),
        *("", "", "€"),
        *("", "", "", "😀"),
    ]
    # a letter that never ends is a replacement character in the decoded text too
    broken = tokenizer("a€b")["input_ids"]
    del broken[3]
    whole = tokenizer.decode(broken, clean_up_tokenization_spaces=False)
    assert "\ufffd" in whole and "".join(token_pieces(broken, tokenizer)) == whole
    assert token_pieces([], tokenizer) == []


def test_outcomes_by_hand():
    assert target_outcome([1.0], [-2.0]) == "one token"
    assert target_outcome([0.6, 0.4], [-1.0, -2.0]) == "same"
    assert target_outcome([0.4, 0.6], [-1.0, -2.0]) == "flip"


def test_the_page_holds_the_exact_text(tokenizer, tmp_path):
    text = page_of([make_row(tokenizer, MIXED), make_row(tokenizer, HOSTILE)], tokenizer, tmp_path)
    shown = "".join(Page(text).tokens)
    visible = MIXED.replace("\n", "\u21b5\n").replace("\t", "\u21e5")
    assert shown == visible + HOSTILE
    assert not re.search("https?://", text) and "src=" not in text and "@import" not in text


def test_the_page_takes_nothing_as_markup(tokenizer, tmp_path):
    row = make_row(tokenizer, HOSTILE, prompt=HOSTILE, example_id='"><script>alert(1)</script>')
    text = page_of([row], tokenizer, tmp_path, **{"<b>fact</b>": "<i>value</i>"})
    page = Page(text)
    assert not page.tags & {"script", "i"} and "<script" not in text
    assert "{{ 7 * 7 }}" in text and "&lt;i&gt;value&lt;/i&gt;" in text


def test_kept_steps_are_linked_and_flips_marked(tokenizer, tmp_path):
    rows = [make_row(tokenizer, MIXED, kept=(1, 3, 8)), make_row(tokenizer, MIXED, kept=())]
    text = page_of(rows, tokenizer, tmp_path)
    page = Page(text)
    assert page.links == ["#r0-s1", "#r0-s3", "#r0-s8"]
    assert page.ids == ["r0-s1", "r0-s3", "r0-s8"]
    assert text.count('<span class="flip">flip</span>') == 1 + 1  # one step, and what flip means
    assert "3 kept" in text and "0 kept" in text


def test_the_terminal_prints_the_exact_text(tokenizer):
    row = make_row(tokenizer, HOSTILE, prompt=HOSTILE, example_id="[red]x[/red]")
    output = printed([row], tokenizer)
    assert output.splitlines().count(HOSTILE) == 2 and "\n[red]x[/red]  " in output
    rows = [line.split() for line in output.splitlines()]
    steps = [row for row in rows if row[:1] in (["1"], ["3"])]
    assert [row[0] for row in steps] == ["1", "3"]
    assert [row[2:4] for row in steps] == [["0.30", "differs"], ["0.90", "differs"]]
    assert ["flip" in row for row in steps] == [True, False]
    # exp(-0.5) and exp(-1)
    assert "0.90" in steps[1] and "(0.61/0.37)" in steps[1]


def test_a_single_token_that_looks_like_markup(tmp_path):
    tokenizer = tiny_tokenizers.byte_level()
    tokenizer.add_tokens(["[red]", "<i>"])
    row = make_row(tokenizer, "a[red]<i>", kept=(1, 2))
    output = printed([row], tokenizer)
    assert "a[red]<i>" in output.splitlines()
    assert re.search(r"^ 1 +\[red\] .*\[red\] 0\.30", output, re.MULTILINE)
    assert "i" not in Page(page_of([row], tokenizer, tmp_path)).tags


def test_the_terminal_shows_control_characters_and_parts_of_letters(tokenizer):
    output = printed([make_row(tokenizer, "a\x1b[2J\u202e\n\t€", kept=(0, 11))], tokenizer)
    assert "\x1b" not in output and "\u202e" not in output and "\ufffd" not in output
    assert "a<U+001B>[2J··<U+202E>\u21b5" in output.splitlines()
    assert "\u21e5··€" in output.splitlines()
    assert "<0x82>" in output  # the second byte of the euro sign, kept alone


def test_shades_and_kept_tokens_in_a_colour_terminal(tokenizer):
    options = {"force_terminal": True, "color_system": "truecolor", "no_color": False}
    row = make_row(tokenizer, "abcdefgh", kept=(1,))
    output = printed([row], tokenizer, **options)
    assert "\x1b[4;30;48;2;255;243;196m" in output  # kept, KL 0.3
    assert "48;2;165;15;21m" in output  # KL 2.1
    assert max(row["kl"]) > 2 and min(row["kl"]) == 0


def test_targets_left_out_are_counted(tokenizer):
    file = io.StringIO()
    console = Console(file=file, width=2000)
    render_terminal([make_row(tokenizer, "abcdefgh")], tokenizer, console=console, max_targets=1)
    assert file.getvalue().count("+1 more") == 2


def test_no_rows_and_a_row_without_steps(tokenizer, tmp_path):
    for show in (printed, lambda rows, tokenizer: page_of(rows, tokenizer, tmp_path)):
        with pytest.raises(ValueError, match="no soft targets to show; give at least one row"):
            show([], tokenizer)
        shown = show([make_row(tokenizer, "", kept=())], tokenizer)
        assert "0 steps, 0 kept" in shown and "mean KL" not in shown


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kl", [0.1]),
        ("prompt_length", 0),
        ("prompt_length", 999),
        ("position", [9, 7]),
        ("position", [0, 9]),
        ("offset", [0, 2, 3]),
        ("offset", [1, 2, 4]),
        ("offset", [0, 0, 4]),
        ("offset", [0, 4]),
        ("prob", [1.0]),
    ],
)
def test_fields_that_do_not_fit_are_named(tokenizer, field, value):
    row = make_row(tokenizer, "abcdefgh") | {field: value}
    with pytest.raises(InputError, match=rf"^row x, field {field}: .*; mine it anew$"):
        printed([row], tokenizer)


def test_rows_as_arrays(tokenizer):
    row = make_row(tokenizer, MIXED)
    arrays = {n: np.asarray(v) if isinstance(v, list) else v for n, v in row.items()}
    assert printed([arrays], tokenizer) == printed([row], tokenizer)


def test_the_figure_reads_its_rows_once(tokenizer, tmp_path):
    rows = [make_row(tokenizer, MIXED), make_row(tokenizer, "", kept=())]
    files = plot_contrast(iter(rows), tmp_path / "contrast", divergence_beta=0.4)
    assert [file.name for file in files] == ["contrast.png", "contrast.svg"]
    num = len(rows[0]["kl"])
    svg = files[1].read_text()
    assert f"kept: 2 of {num} steps of 2 rows" in svg and "flip 50%" in svg and "same 50%" in svg
    with pytest.raises(InputError, match="none of 1 rows holds a generated step"):
        plot_contrast(rows[1:], tmp_path / "none", divergence_beta=0.4)
    with pytest.raises(InputError, match="row x, field kl: not a number"):
        plot_contrast([rows[0] | {"kl": [float("nan")]}], tmp_path / "nan", divergence_beta=0.4)
