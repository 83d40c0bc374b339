"""Trace files: every format read, every malformed row named by file, row, field and remedy."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import DatasetDict
from helpers.traces import make_traces

from hf_proxy import InputError, load_traces
from hf_proxy.records.rows import TRACE_FEATURES
from hf_proxy.records.storage import save_dataset
from hf_proxy.traces.checks import traces_fingerprint
from hf_proxy.traces.reading import read_traces


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def trace_row(**changes):
    row = {
        "example_id": "a",
        "prompt": "1+1?",
        "trace": "a²+b",
        "weighting": "logprob",
        "frontier_spans": [[0, 3], [3, 5]],
        "frontier_logprobs": [math.log(0.9), math.log(0.4)],
    }
    return row | changes


def tokens_of(*pieces, p=0.5):
    """`logprobs.content` of these raw pieces, as the API writes it."""
    return [
        {
            "token": piece.decode(errors="replace"),
            "bytes": list(piece),
            "logprob": math.log(p[i] if isinstance(p, list) else p),
            "top_logprobs": [],
        }
        for i, piece in enumerate(pieces)
    ]


def completion(content, tokens, finish_reason="stop"):
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "frontier",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": content, "refusal": None},
                "logprobs": {"content": tokens, "refusal": None},
            }
        ],
    }


def openai_row(content, pieces, p=0.5, **changes):
    row = {
        "example_id": "a",
        "prompt": "q",
        "response": completion(content, tokens_of(*pieces, p=p)),
    }
    return row | changes


def loaded(tmp_path, *rows, **arguments):
    return load_traces(write_rows(tmp_path / "rows.jsonl", rows), **arguments)


# files and formats


def test_every_file_type_and_folder_gives_the_same_rows(tmp_path):
    rows = make_traces(5).to_list()
    expected = make_traces(5).to_list()
    write_rows(tmp_path / "t.jsonl", rows)
    (tmp_path / "t.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    make_traces(5).save_to_disk(str(tmp_path / "saved"))
    DatasetDict({"test": make_traces(5)}).save_to_disk(str(tmp_path / "splits"))
    (tmp_path / "parts").mkdir()
    write_rows(tmp_path / "parts" / "1.jsonl", rows[:2])
    write_rows(tmp_path / "parts" / "2.jsonl", rows[2:])
    for name in ("t.jsonl", "t.json", "t.parquet", "saved", "splits", "parts"):
        traces = load_traces(tmp_path / name)
        assert traces.features == TRACE_FEATURES
        assert traces.to_list() == expected, name
    two = DatasetDict({"train": make_traces(2), "test": make_traces(5)})
    two.save_to_disk(str(tmp_path / "two"))
    assert load_traces(tmp_path / "two", split="test").to_list() == expected
    with pytest.raises(InputError, match=r"several splits: \['test', 'train'\]; pass split="):
        load_traces(tmp_path / "two")


def test_text_rows_have_weight_one_and_row_numbers(tmp_path):
    rows = [{"question": "q1", "answer": "x"}, {"question": "q2", "answer": "y"}]
    traces = loaded(tmp_path, *rows, columns={"prompt": "question", "trace": "answer"})
    assert traces.to_list() == [
        {
            "example_id": str(number),
            "prompt": f"q{number + 1}",
            "trace": "xy"[number],
            "weighting": "none",
            "frontier_spans": [],
            "frontier_logprobs": [],
        }
        for number in range(2)
    ]


def test_a_changed_file_is_read_again(tmp_path):
    assert loaded(tmp_path, trace_row())[0]["prompt"] == "1+1?"
    assert loaded(tmp_path, trace_row(prompt="2+2?"))[0]["prompt"] == "2+2?"


def test_minus_infinity_is_written_as_the_one_zero(tmp_path):
    row = trace_row(frontier_logprobs=[-math.inf, -0.5])
    assert loaded(tmp_path, row)[0]["frontier_logprobs"] == [-9999.0, -0.5]
    assert np.exp(-9999.0) == 0.0


def test_a_whole_number_is_a_logprob_too(tmp_path):
    row = trace_row(frontier_logprobs=[-(2**63), -1])
    assert loaded(tmp_path, row)[0]["frontier_logprobs"] == [-(2.0**63), -1.0]


def test_fingerprint_knows_content_not_order():
    traces = make_traces(6)
    assert traces_fingerprint(traces) == traces_fingerprint(traces.shuffle(seed=1))
    changed = traces.to_list()
    changed[3]["frontier_logprobs"][0] += 1e-12
    assert traces_fingerprint(changed) != traces_fingerprint(traces)


BAD = [
    ({"frontier_logprobs": [math.log(0.9), None]}, "frontier_logprobs.*logprob 1 is missing"),
    ({"frontier_logprobs": [-0.1]}, "frontier_logprobs.*1 logprobs for 2 spans"),
    ({"frontier_logprobs": [math.nan, -0.1]}, "frontier_logprobs.*logprob 0 is nan"),
    ({"frontier_logprobs": [-0.1, 0.25]}, "frontier_logprobs.*logprob 1 is 0.25"),
    ({"frontier_logprobs": None}, "frontier_logprobs.*0 logprobs for 2 spans"),
    ({"frontier_spans": [[0, 3], [3, 4]]}, "frontier_spans.*end at byte 4, the trace has 5"),
    ({"frontier_spans": [[0, 3], [3, 9]]}, r"frontier_spans.*span 1 is \[3, 9\)"),
    ({"frontier_spans": [[0, 2], [3, 5]]}, "frontier_spans.*span 1 starts at byte 3, the one befo"),
    ({"frontier_spans": [[0, 3], [2, 5]]}, "frontier_spans.*span 1 starts at byte 2"),
    ({"frontier_spans": []}, "frontier_spans.*end at byte 0"),
    ({"trace": ""}, "field trace: it is empty"),
    ({"trace": None}, "field trace: expected text, found None"),
    ({"prompt": 3}, "field prompt: expected text, found 3"),
    ({"example_id": None}, "field example_id: expected text"),
    ({"example_id": ""}, "field example_id: it is empty"),
    ({"weighting": "weights"}, "field weighting: 'weights' is not known"),
    ({"weighting": "none"}, "frontier_spans.*'none' takes no spans"),
    ({"weighting": "mask"}, "frontier_logprobs.*'mask' takes none"),
    ({"trace": "\ud800bc"}, "field trace: lone surrogate at character 0"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_a_malformed_row_is_named(tmp_path, changes, message):
    good = trace_row(example_id="good")
    with pytest.raises(InputError, match=message) as caught:
        loaded(tmp_path, good, trace_row(**changes))
    assert "rows.jsonl, row 1 (example_id" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)  # and what to do


def test_repeated_ids_are_named(tmp_path):
    with pytest.raises(InputError, match="rows.jsonl.*'a' stands in row 0 and again in row 2"):
        loaded(tmp_path, trace_row(), trace_row(example_id="b"), trace_row())


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InputError, match="no-such.jsonl: there is no such file; check the path"):
        load_traces(tmp_path / "no-such.jsonl")
    (tmp_path / "cut.jsonl").write_text(json.dumps(trace_row()) + '\n{"example_id": "b", "pro')
    with pytest.raises(
        InputError, match=r"cut.jsonl, row 1: no JSON from line 2, character \d+ on"
    ):
        load_traces(tmp_path / "cut.jsonl")
    (tmp_path / "list.jsonl").write_text("[1, 2]\n")
    with pytest.raises(InputError, match=r"list.jsonl, row 0: expected an object, found \[1, 2\]"):
        load_traces(tmp_path / "list.jsonl")
    (tmp_path / "object.json").write_text("{}")
    with pytest.raises(InputError, match="object.json: expected a list of rows"):
        load_traces(tmp_path / "object.json")
    (tmp_path / "t.txt").write_text("a,b")
    with pytest.raises(InputError, match="file type '.txt' is not read"):
        load_traces(tmp_path / "t.txt")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="empty.jsonl: it is empty"):
        load_traces(tmp_path / "empty.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="the folder holds no set"):
        load_traces(tmp_path / "folder")


def test_unknown_formats_and_columns_are_named(tmp_path):
    with pytest.raises(
        InputError, match=r"fit no format of \('trace', 'text', 'openai', .*\); make a trace set"
    ):
        loaded(tmp_path, {"question": "q", "answer": "a"})
    with pytest.raises(InputError, match="format 'alpaca' is not known"):
        loaded(tmp_path, trace_row(), format="alpaca")
    with pytest.raises(InputError, match=r"columns maps \['question'\], which no format reads"):
        loaded(tmp_path, trace_row(), columns={"question": "prompt"})
    with pytest.raises(InputError, match="field solution: there is no such field"):
        loaded(tmp_path, trace_row(), columns={"trace": "solution"})


# chat completions


def test_a_plain_answer_keeps_the_frontiers_tokens(tmp_path):
    (row,) = loaded(tmp_path, openai_row("a²+b", [b"a\xc2", b"\xb2+b"], p=[0.9, 0.4]))
    assert row["trace"] == "a²+b"
    assert row["frontier_spans"] == [[0, 2], [2, 5]]
    assert row["frontier_logprobs"] == [math.log(0.9), math.log(0.4)]


def test_the_reasoning_of_a_json_answer_is_decoded(tmp_path):
    content = '{"reasoning": "x\\n\\u00b2\\"y", "final_answer": "3"}'
    pieces = [
        b'{"reasoning": "',  # scaffolding
        b"x",  # .8
        b"\\",  # .6: half of the escape of a newline
        b"n",  # .2: the other half
        b"\\u00",  # .5: four of the six raw bytes of the letter
        b"b2",  # .2
        b'\\"y',  # .7: an escape and a letter in one token
        b'", "final_answer": "3"}',
    ]
    (row,) = loaded(
        tmp_path, openai_row(content, pieces, p=[0.1, 0.8, 0.6, 0.2, 0.5, 0.2, 0.7, 0.1])
    )
    assert row["trace"] == 'x\n²"y'
    assert row["frontier_spans"] == [[0, 1], [1, 2], [2, 4], [4, 6]]
    mean = [0.8, (0.6 + 0.2) / 2, (4 * 0.5 + 2 * 0.2) / 6, 0.7]
    assert np.exp(row["frontier_logprobs"]) == pytest.approx(mean, rel=1e-14)


def test_escaped_surrogate_pairs_are_one_letter(tmp_path):
    content = '{"reasoning": "\\ud83d\\ude42!"}'
    pieces = [b'{"reasoning": "', b"\\ud83d\\", b"ude42", b"!", b'"}']
    (row,) = loaded(tmp_path, openai_row(content, pieces, p=[0.5, 0.9, 0.3, 0.4, 0.5]))
    assert row["trace"] == "🙂!"
    assert row["frontier_spans"] == [[0, 4], [4, 5]]
    mean = (7 * 0.9 + 5 * 0.3) / 12
    assert np.exp(row["frontier_logprobs"]) == pytest.approx([mean, 0.4], rel=1e-14)


@pytest.mark.parametrize(
    ("content", "trace"),
    [
        ('```json\n{"final_answer": "1", "reasoning": "yes"}\n```', "yes"),
        ('{"a": {"reasoning": "inner"}, "reasoning": "outer"}', "outer"),
        ('{"note": "\\"reasoning\\": \\"no\\"", "reasoning" : "yes"}', "yes"),
        ('{"reasoning": "first", "reasoning": "last"}', "last"),
        ('{"answer": "1"}', '{"answer": "1"}'),
        ("{x} is a set", "{x} is a set"),
        ('{"reasoning": "line\nbreak\ttab"}', "line\nbreak\ttab"),
    ],
)
def test_which_part_of_the_answer_is_the_trace(tmp_path, content, trace):
    pieces = [bytes([byte]) for byte in content.encode()]
    (row,) = loaded(tmp_path, openai_row(content, pieces))
    assert row["trace"] == trace


def test_prompts_come_from_messages_or_requests(tmp_path):
    messages = [
        {"role": "system", "content": "You solve problems."},
        {"role": "user", "content": [{"type": "text", "text": "1+1?"}]},
    ]
    row = openai_row("2", [b"2"], messages=messages)
    del row["prompt"]
    assert loaded(tmp_path, row)[0]["prompt"] == "1+1?"

    requests = write_rows(
        tmp_path / "requests.jsonl",
        [{"custom_id": "r1", "method": "POST", "url": "/v1", "body": {"messages": messages}}],
    )
    body = completion("2", tokens_of(b"2"))
    batch = [
        {"custom_id": "r1", "response": {"status_code": 200, "body": body}, "error": None},
        {"custom_id": "r2", "response": {"status_code": 500, "body": {}}, "error": None},
        {"custom_id": "r3", "response": None, "error": {"code": "batch_expired"}},
    ]
    path = write_rows(tmp_path / "batch.jsonl", batch)
    traces, health = read_traces(path, requests=requests)
    assert traces[0]["example_id"] == "r1" and traces[0]["prompt"] == "1+1?"
    assert health.dropped == {"request failed": 2}
    assert read_traces(path, requests=requests)[1] == health  # and again, from the cache
    with pytest.warns(UserWarning, match=r"2 x request failed \(row 1, 2\)"):
        load_traces(path, requests=requests)


def test_answers_that_cannot_be_used_are_counted(tmp_path):
    cut = openai_row("x", [b"x"], example_id="cut")
    cut["response"]["choices"][0]["finish_reason"] = "length"
    refused = openai_row("x", [b"x"], example_id="refused")
    refused["response"]["choices"][0]["message"]["content"] = None
    empty = '{"reasoning": ""}'
    number = '{"reasoning": 3}'
    rows = [
        cut,
        refused,
        openai_row(empty, [empty.encode()], example_id="empty"),
        openai_row(number, [number.encode()], example_id="number"),
        openai_row("fine", [b"fine"], example_id="fine"),
    ]
    traces, health = read_traces(write_rows(tmp_path / "rows.jsonl", rows))
    assert traces["example_id"] == ["fine"]
    assert health.dropped == {
        "answer cut off (finish_reason length)": 1,
        "no answer (refused or empty)": 1,
        "reasoning is empty or not text": 2,
    }


def test_tokens_behind_the_answer_are_allowed(tmp_path):
    (row,) = loaded(tmp_path, openai_row("ok", [b"o", b"k", b"<|im_end|>"]))
    assert row["frontier_spans"] == [[0, 1], [1, 2]]


def bad_completion(**changes):
    row = openai_row("ok", [b"o", b"k"])
    choice = row["response"]["choices"][0]
    for name, value in changes.items():
        choice[name] = value
    return row


NO_BYTES = [{"token": "\ufffd", "bytes": None, "logprob": -0.1}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            bad_completion(logprobs=None),
            r"choices\[0\].logprobs: it is missing; ask with logprobs=true",
        ),
        (bad_completion(logprobs={"content": tokens_of(b"o")}), "tokens end at byte 1, the answer"),
        (
            bad_completion(logprobs={"content": tokens_of(b"o", b"x")}),
            r"content\[1\]: the token is b'x', the answer goes on with b'k' at byte 1",
        ),
        (bad_completion(logprobs={"content": NO_BYTES}), r"content\[0\]: 1 pieces of letters"),
        (
            bad_completion(logprobs={"content": [{"token": "ok", "logprob": None}]}),
            r"content\[0\].logprob: None, expected a finite number <= 0",
        ),
        (
            bad_completion(logprobs={"content": [{"token": "ok", "logprob": 0.5}]}),
            r"content\[0\].logprob: 0.5, expected",
        ),
        (
            openai_row("ok", [b"ok"], response={"id": 1}),
            "field response: not a response of a known shape",
        ),
        (openai_row("ok", [b"ok"], prompt=None), "field prompt: it is missing; add prompt or mess"),
    ],
)
def test_a_malformed_completion_is_named(tmp_path, row, message):
    fine = openai_row("fine", [b"fine"], example_id="z")
    with pytest.raises(InputError, match=message) as caught:
        loaded(tmp_path, fine, row, strict=True)
    assert "rows.jsonl, row 1 (example_id 'a'), field " in str(caught.value)
    if row.get("prompt") is None:  # the file's own fault, not the server's
        return
    with pytest.warns(UserWarning, match=r"rows dropped: 1 x .* \(row 1\)"):
        assert loaded(tmp_path, fine, row)["example_id"] == ["z"]
    with pytest.raises(InputError, match="no trace is left of .*" + message):
        loaded(tmp_path, row)


def test_several_choices_are_refused(tmp_path):
    row = openai_row("ok", [b"ok"])
    row["response"]["choices"] *= 2
    with pytest.raises(InputError, match="2 choices; ask with n = 1"):
        loaded(tmp_path, row)


# writing


def test_a_set_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    save_dataset(make_traces(3), folder, {"source": "test"})
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["source"] == "test" and provenance["versions"]["datasets"]
    with pytest.raises(InputError, match="the folder is there already"):
        save_dataset(make_traces(4), folder, {})
    save_dataset(make_traces(4), folder, {}, overwrite=True)
    assert len(load_traces(folder)) == 4

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hf_proxy.records.storage.provenance_of", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_dataset(make_traces(5), folder, {}, overwrite=True)
    assert len(load_traces(folder)) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_readers_that_start_at_once_read_the_same(tmp_path):
    """Ranks share one cache: none may take away the rows that another is about to open."""
    for attempt in range(20):
        rows = [trace_row(example_id=f"{attempt}-{index}") for index in range(50)]
        path = write_rows(tmp_path / f"rows-{attempt}.jsonl", rows)
        with ThreadPoolExecutor(4) as pool:
            read = list(pool.map(read_traces, [path] * 4))
        assert [len(traces) for traces, _ in read] == [50] * 4
        assert [health.rows for _, health in read] == [50] * 4
