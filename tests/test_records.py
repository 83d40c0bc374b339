"""Records: JSON read as Python reads it, fields named by their path, nothing converted."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_proxy import InputError, load_traces
from hf_proxy.records.errors import shown
from hf_proxy.records.lines import LogLine, RunLine, append_line, read_lines, read_log, write_lines
from hf_proxy.records.record import Count, Number, Record, Text, checked, parse_json

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
SCALARS |= st.floats(allow_nan=False)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=9)


class Inner(Record):
    """A field of a field."""

    number: Number
    name: Text | Count | None = None


class Outer(Record):
    """With lists in it."""

    many: list[Inner]


@settings(deadline=None)
@given(VALUES)
def test_json_is_read_as_python_reads_it(value):
    text = json.dumps(value)
    found = parse_json(text.encode(), source="x")
    assert found == json.loads(text)
    assert json.dumps(found) == text  # types and the order of keys too


@pytest.mark.parametrize("text", ["1e400", "NaN", "-Infinity", '{"a": 1, "a": 2}', '"\\ud800"'])
def test_what_only_python_calls_json_is_read_too(text):
    assert json.dumps(parse_json(text.encode(), source="x")) == json.dumps(json.loads(text))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": \n}', r"^x: no JSON from line 2, character 1 on \(Expecting value\); mend it"),
        (b'"\xff"', "^x: no UTF-8 text at byte 1; save the file as UTF-8"),
        (b"\xef\xbb\xbf1", "^x: no JSON from line 1, character 1 on"),
        (b"[" * 300 + b"]" * 300, r"^x: no JSON of ours \(nested too deep\)"),
        (b"[" * 100_000, r"^x: no JSON of ours \(nested too deep\)"),
        (b'["\\ud800"' + b", [1" * 300 + b"]" * 301, r"nested too deep"),
        (b"9" * 5000, r"^x: no JSON of ours \(Exceeds the limit"),
        (b"", "^x: no JSON from line 1, character 1 on"),
    ],
)
def test_what_is_no_json_is_named(data, message):
    with pytest.raises(InputError, match=message):
        parse_json(data, source="x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"many": 3}, "field many: expected a list, found 3;"),
        ({}, "field many: it is missing;"),
        ([], r"f.json: expected an object, found \[\];"),
        ({"many": [{"number": 1}, {"number": True}]}, r"field many\[1\].number: expected a number"),
        ({"many": [{"number": "1"}]}, r"many\[0\].number: expected a number, found '1';"),
        ({"many": [{"number": math.nan}]}, "expected a finite number, found nan;"),
        ({"many": [{"number": 1e31}]}, r"expected at most 1e\+30, found 1e\+31;"),
        ({"many": [{"number": 10**400}]}, r"expected a number, found 10{36}\.\.\.;"),
        ({"many": [{"number": 10**5000}]}, "found a number with too many digits;"),
        ({"many": [{"number": 1, "name": 0.5}]}, r"field many\[0\].name: expected text, found 0.5"),
        ({"many": [{"number": 1, "name": "\ud800"}]}, "name: lone surrogate at character 0;"),
        ({"many": [{"number": 1, "name": "a\n" * 99}]}, None),
        ({"many": [{"number": [[1] * 999]}]}, "found list;"),
    ],
)
def test_a_field_is_named_by_its_path(content, message):
    if message is None:
        assert checked(Outer, content, source="f.json").many[0].name == "a\n" * 99
        return
    with pytest.raises(InputError, match=message) as caught:
        checked(Outer, content, source="f.json", remedy="mend it")
    assert str(caught.value).startswith("f.json") and "\n" not in str(caught.value)


def test_all_that_is_missing_is_named_at_once():
    with pytest.raises(InputError, match="^f, row 3: name, step, run_id missing; mend it"):
        checked(RunLine, {}, source="f", row=3)


def test_a_value_is_shown_short():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "list" and shown({"a": 1}) == "{'a': 1}"
    assert len(shown("x" * 10**6)) <= 40


def test_lines_end_at_newlines_only(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"name": "a\u2028b\u0085c", "step": 1, "more": [1.5]}, {"name": "d", "step": 2}]
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(text, encoding="utf-8")
    found = list(read_lines(path, LogLine))
    assert [line.content for line in found] == rows
    assert [(line.number, line.record.step) for line in found] == [(1, 1), (3, 2)]


def test_a_log_says_whether_its_end_is_cut(tmp_path):
    path = tmp_path / "a.jsonl"
    assert read_log(path, LogLine) == ([], False)
    write_lines(path, [{"name": "a", "step": 1}])
    append_line(path, {"name": "a", "step": 2})
    lines, is_cut = read_log(path, LogLine)
    assert [line.record.step for line in lines] == [1, 2] and not is_cut
    path.write_bytes(path.read_bytes() + b'{"name": "a", "step": 3}')  # whole, but for its end
    lines, is_cut = read_log(path, LogLine)
    assert len(lines) == 2 and is_cut
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_lines(path, [{"step": math.nan}])
    path.write_text("\n")
    with pytest.raises(InputError, match="a.jsonl, line 1: no JSON from character 1 on"):
        read_log(path, LogLine)


def test_a_mark_before_the_text_is_no_part_of_it(tmp_path):
    mark = b"\xef\xbb\xbf"
    lines, whole = tmp_path / "x.jsonl", tmp_path / "x.json"
    # as Windows' editors save; an end of line in a text is none, an empty line holds nothing
    text = '{"prompt": "a", "trace": "b\u2028c"}\r\n\r\n{"prompt": "a", "trace": "b\u0085c"}\r\n'
    lines.write_bytes(mark + text.encode())
    whole.write_bytes(mark + b'[{"prompt": "a", "trace": "b"}]')
    assert load_traces(lines)["trace"][:] == ["b\u2028c", "b\u0085c"]
    assert load_traces(whole)["trace"][:] == ["b"]
    lines.write_bytes(mark)
    with pytest.raises(InputError, match="it is empty"):
        load_traces(lines)
    lines.write_bytes(b'{"prompt": "a", "trace": "' + mark + b'"}')  # inside a text it is a letter
    assert load_traces(lines)["trace"][:] == ["\ufeff"]
