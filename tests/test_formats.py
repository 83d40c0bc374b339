"""Every server's shape, span by span against a plain reading, and what a defect costs."""

import json
import math
import warnings

import numpy as np
import pytest
from helpers.formats import (
    LOGPROBS,
    PIECES,
    SHAPES,
    TEXT,
    THINKING,
    THOUGHT,
    WHOLE,
    chat,
    lists,
    mean_logprob,
    row,
    spans,
    think_tokens,
    token,
    tokens,
    write_rows,
)
from helpers.tokenizers import byte_level_nfc, byte_level_of, llama

from hf_proxy import InputError, load_traces
from hf_proxy.traces.parts import overlap
from hf_proxy.traces.reading import read_traces
from hf_proxy.traces.shapes.answer import Place
from hf_proxy.traces.shapes.recognise import SHAPES as READERS
from hf_proxy.traces.shapes.recognise import read_answer


def traces(tmp_path, *rows, **arguments):
    """Rows and health of a file of these."""
    found, health = read_traces(write_rows(tmp_path / "rows.jsonl", rows), **arguments)
    return found.to_list(), health


def content_of(trace):
    return trace["trace"], trace["frontier_spans"], trace["frontier_logprobs"]


# shapes


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_read_span_by_span(tmp_path, name):
    source, by_part = SHAPES[name]
    for part, expected in by_part.items():
        (trace,), health = traces(tmp_path, source, part=part)
        assert content_of(trace) == expected, part
        assert health.dropped == {}


def test_every_reader_has_a_shape():
    names = set()
    for source, _ in SHAPES.values():
        response = source.get("response", source)
        response = response[0] if isinstance(response, list) else response
        body = response if isinstance(response, dict) else source
        names.add(next(reader.name for reader in READERS if reader.fits(body)))
    assert names == {reader.name for reader in READERS} - {"ids"}  # those below


def test_one_file_may_mix_them_and_names_rows_that_have_no_id(tmp_path):
    rows = [source | {"example_id": name} for name, (source, _) in SHAPES.items()]
    del rows[0]["example_id"]  # the server's own
    del rows[-1]["example_id"]  # none at all
    found, health = traces(tmp_path, *rows, protocol="text")
    expected = ["chatcmpl-9", *list(SHAPES)[1:-1], f"rows-{len(rows) - 1}"]
    assert [trace["example_id"] for trace in found] == expected
    for trace, (_, by_part) in zip(found, SHAPES.values(), strict=True):
        assert content_of(trace) == by_part[None]
    assert health.parts["reasoning"] + health.parts["answer"] == len(SHAPES)


def test_both_parts_keep_the_blanks_between_them(tmp_path):
    text = f"{THOUGHT}\n\n{TEXT}"
    (trace,), _ = traces(tmp_path, SHAPES["sglang"][0], part="all")
    assert trace["trace"] == text
    pieces = [token["bytes"] for token in think_tokens()[1:-1] if token["token"] != "</think>"]
    assert trace["frontier_spans"] == spans(pieces, pieces)[0]
    # without any the blank line goes with the answer's first token
    (trace,), _ = traces(tmp_path, SHAPES["deepseek"][0], part="all")
    assert trace["trace"] == text
    assert trace["frontier_spans"][3] == [len(THOUGHT), len(THOUGHT) + len("\n\nIt")]


def test_an_answer_never_stands_for_a_reasoning_without_probabilities(tmp_path):
    bare = row(chat(TEXT, tokens(), reasoning_content=THOUGHT), example_id="bare")
    found, health = traces(tmp_path, bare, SHAPES["sglang"][0])
    assert [trace["example_id"] for trace in found] == ["a"]
    assert health.dropped == {"reasoning without log-probabilities": 1}
    found, _ = traces(tmp_path, bare, part="answer")
    assert content_of(found[0]) == WHOLE
    with pytest.raises(InputError, match="there is no reasoning apart from the answer; score the"):
        traces(tmp_path, SHAPES["openai"][0], part="reasoning")
    # one that has none among others that do is said
    plain = SHAPES["openai"][0] | {"example_id": "plain"}
    with pytest.warns(UserWarning, match="parts differ: answer x 1, reasoning x 1"):
        load_traces(write_rows(tmp_path / "rows.jsonl", [plain, SHAPES["sglang"][0]]))


def test_ids_are_spelt_by_the_servers_tokenizer(tmp_path):
    tokenizer = byte_level_of(*(piece.decode() for piece in (b"It", b" is", b" 16")))
    ids = tokenizer("It is 16\u00b2.", add_special_tokens=False)["input_ids"]
    pieces = [b"It", b" is", b" 16", b"\xc2", b"\xb2", b"."]
    logprobs = [-0.1, -0.2, -0.01, -0.4, -0.3, -0.2]
    names = [f"token_id:{id}".encode() for id in ids]
    as_text = row(chat(TEXT, tokens(names, logprobs)))
    (trace,), _ = traces(tmp_path, as_text, tokenizer=tokenizer)
    assert content_of(trace) == (TEXT, *spans(pieces, logprobs))
    with pytest.raises(InputError, match=r"the tokens are ids, without text; name the server's"):
        traces(tmp_path, as_text)
    # and from its folder, in a set whose texts stand beside it
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    sample = {"sample_uuid": "u", "token_ids": ids, "logprobs": logprobs}
    other = {"uuid": "v", "input": "other?", "output": "x"}
    beside = write_rows(tmp_path / "texts.jsonl",
                        [other, {"uuid": "u", "input": "2048/128?", "output": TEXT}])  # fmt: skip
    (trace,), _ = traces(tmp_path, sample, texts=beside, tokenizer=tmp_path / "tokenizer")
    assert content_of(trace) == (TEXT, *spans(pieces, logprobs))
    assert (trace["example_id"], trace["prompt"]) == ("u", "2048/128?")
    with pytest.raises(InputError, match="field prompt: it is missing; .* texts="):
        traces(tmp_path, sample, tokenizer=tokenizer)
    with pytest.raises(InputError, match="id 999999 is none of the tokenizer's"):
        traces(tmp_path, sample | {"token_ids": [999999] * 6}, texts=beside, tokenizer=tokenizer)


def test_ids_of_sentencepiece_and_control_tokens(tmp_path):
    for tokenizer, text in ((llama(), "12 + 30 \u6c34"), (byte_level_nfc(), "ab\u6c34")):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids.append(tokenizer.eos_token_id)
        logprobs = [-0.1 * (i + 1) for i in range(len(ids))]
        sample = {"example_id": "a", "prompt": "q", "token_ids": ids, "logprobs": logprobs}
        (trace,), _ = traces(tmp_path, sample, tokenizer=tokenizer)
        assert trace["trace"].lstrip() == text  # SentencePiece writes a blank before the first
        assert trace["frontier_logprobs"] == pytest.approx(logprobs[:-1])


def test_a_reader_serves_a_client_that_has_no_file():
    answer = read_answer(SHAPES["deepseek"][0]["response"], "", Place(None, None))
    assert answer.content == TEXT and answer.reasoning == THOUGHT
    assert [token.data for token in answer.tokens] == PIECES
    with pytest.raises(InputError, match="^not a response of a known shape .*; store the whole"):
        read_answer({"detail": "not found"}, "", Place(None, None))


# pieces of letters


LOST = [239, 191, 189]  # U+FFFD


def lost(logprob, text="\ufffd"):
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}


@pytest.mark.parametrize(
    ("content", "pieces", "expected"),
    [
        # one byte a piece
        ("a\u00b2b", [token(b"a", -1), lost(-2), lost(-3), token(b"b", -4)],
         ([[0, 1], [1, 2], [2, 3], [3, 4]], [-1, -2, -3, -4])),
        # fewer pieces than bytes, of one letter
        ("\U0001f60a.", [lost(-2), lost(-3), token(b".", -4)],
         ([[0, 4], [4, 5]], [mean_logprob(-2, -3), -4])),
        # a piece beside letters in one token, at the end of the text
        ("x \u6c34", [lost(-1, "x \ufffd"), lost(-2), lost(-3)],
         ([[0, 3], [3, 4], [4, 5]], [-1, -2, -3])),
        # the letter follows whole
        ("a\u201cb", [token(b"a", -1), token(b"", -2), token(b"", -3),
                      token("\u201c".encode(), -4), token(b"b", -5)],
         ([[0, 1], [1, 4], [4, 5]], [-1, mean_logprob(-2, -3, -4), -5])),
        ("\U0001f60a!", [lost(-2), lost(-3), token("\U0001f60a!".encode(), -4)],
         ([[0, 4], [4, 5]], [mean_logprob(-2, -3, -4), -4])),
        # a letter of one byte has no pieces: that was a mark that spells nothing
        ("ab", [token(b"a", -1), token(b"", -2), token(b"b", -3)],
         ([[0, 1], [1, 2]], [-1, -3])),
        # the letter itself
        ("a\ufffdb", [token(b"a", -1), lost(-2), token(b"b", -3)],
         ([[0, 1], [1, 4], [4, 5]], [-1, -2, -3])),
    ],
)  # fmt: skip
def test_pieces_of_letters_are_placed_by_their_neighbours(tmp_path, content, pieces, expected):
    (trace,), _ = traces(tmp_path, row(chat(content, pieces)))
    assert trace["frontier_spans"] == expected[0]
    assert trace["frontier_logprobs"] == pytest.approx(expected[1], rel=1e-14)


@pytest.mark.parametrize(
    ("content", "pieces"),
    [
        # two letters of six bytes, three pieces: whose is the second?
        ("\u6c34\u6c34.", [lost(-1), lost(-2), lost(-3), token(b".", -4)]),
        # the known letter stands there twice
        ("\u6c34\u6c34\u6c34\u6c34", [lost(-1), token("\u6c34".encode(), -1)]),
        ("ab", [token(b"a", -1), lost(-2)]),
    ],
)
def test_pieces_that_nothing_places_cost_the_row(tmp_path, content, pieces):
    good = row(chat("fine", tokens([b"fine"], [-1])), example_id="good")
    found, health = traces(tmp_path, row(chat(content, pieces)), good)
    assert [trace["example_id"] for trace in found] == ["good"]
    assert health.dropped == {"pieces of letters": 1}
    assert health.dropped_rows == {"pieces of letters": ["0"]}


# defects


def cut(response, **changes):
    response["choices"][0] |= changes
    return row(response)


def one(content, *changes, **more):
    return row(chat(content, tokens([content.encode()], [-0.5]), *changes, **more))


GOOD_JSON = '{"reasoning": "So x = 4", "final_answer": "4"}'
DEFECTS = {
    **{f"answer cut off (finish_reason {end})": one(TEXT, end) for end in (
        "length", "content_filter", "abort", "error", "max_tokens", "MAX_TOKENS", "weird")},
    "answer cut off (finish_reason null)": one(TEXT, None),
    "no answer (refused or empty)": row(chat(None, tokens())),
    "no log-probabilities": cut(chat(TEXT, tokens()), logprobs=None),
    "chunks of a stream": row({"object": "chat.completion.chunk", "choices": [{"delta": {}}]}),
    "not one answer": row({"choices": []}),
    "no answer of a known shape": row({"error": {"message": "overloaded"}}),
    "bad format": one('{"reasoning": "So \\( x = 4 \\)", "final_answer": "4"}'),
    "a logprob is missing or no logprob": row(chat("ab", [token(b"a", -1), token(b"b", None)])),
    "tokens do not spell the answer": row(chat("abc", tokens([b"a", b"b"], [-1, -2]))),
    "tokens and logprobs differ in number": row(
        chat(TEXT, None, logprobs=lists() | {"token_logprobs": [-1.0]})),
    "malformed answer": row(chat(TEXT, [token(b"a", "-1")])),
    "probabilities after sampling": row(
        {"content": "a", "completion_probabilities": [{"token": "a", "prob": 0.5}]}),
    "tokens without text": row(chat("a", [{"logprob": -1.0}])),
    "several messages on one channel": row(chat("analysisassistantfinal", tokens(
        [b"<|channel|>analysis<|message|>a<|end|><|channel|>analysis<|message|>b<|end|>"], [-1]))),
}  # fmt: skip


@pytest.mark.parametrize("reason", DEFECTS)
def test_a_servers_defect_costs_its_row_and_is_named(tmp_path, reason):
    good = row(chat(TEXT, tokens()), example_id="good")
    bad = DEFECTS[reason]
    found, health = traces(tmp_path, good, bad)
    assert [trace["example_id"] for trace in found] == ["good"]
    assert {key.lower(): count for key, count in health.dropped.items()} == {reason.lower(): 1}
    assert list(health.dropped_rows.values()) == [["1"]]
    with pytest.raises(InputError, match="rows.jsonl, row 1 .*example_id 'a'.*; "):
        traces(tmp_path, good, bad, strict=True)


@pytest.mark.parametrize(
    "content",
    [
        '{"reasoning": "So \\( x = 4 \\)", "final_answer": "4"}',
        '{"reasoning": "So x = 4", "final_answer": "4",}',
        f"Sure, here it is:\n{GOOD_JSON}",
        f"<think>ok</think>\n{GOOD_JSON}",
        f"```JSON\n{GOOD_JSON}\n```",
        "So x = 4",
    ],
)
def test_a_scaffold_is_never_scored(tmp_path, content):
    rows = [one(GOOD_JSON) | {"example_id": f"good-{i}"} for i in range(3)]
    found, health = traces(tmp_path, *rows, one(content))
    assert [trace["trace"] for trace in found] == ["So x = 4"] * 3
    assert health.dropped == {"bad format": 1}
    found, health = traces(tmp_path, one(GOOD_JSON), one(content) | {"example_id": "b"},
                           protocol="json")  # fmt: skip
    assert health.dropped == {"bad format": 1}
    (trace,), _ = traces(tmp_path, one(content), protocol="text", part="all")
    if "<think>" not in content:
        assert trace["trace"] == content


@pytest.mark.parametrize(
    ("raw", "trace"),
    [
        (r"half is $\frac{1}{2}\text{m}$", r"half is $\frac{1}{2}\text{m}$"),
        (r"\beta \neq \theta \rho \nabla", r"\beta \neq \theta \rho \nabla"),
        (r"one\ntwo\tthree\n\\frac{1}{2}", "one\ntwo\tthree\n\\frac{1}{2}"),
    ],
)
def test_latex_with_a_lone_backslash_is_as_it_was_written(tmp_path, raw, trace):
    content = f'{{"reasoning": "{raw}"}}'
    (found,), _ = traces(tmp_path, row(chat(content, tokens([bytes([b]) for b in content.encode()],
                                                            [-0.5] * len(content)))))  # fmt: skip
    assert found["trace"] == trace
    assert set(np.round(found["frontier_logprobs"], 12)) == {-0.5}


def test_parts_of_a_json_answer(tmp_path):
    content = '{"reasoning": "So", "final_answer": 4}'
    pieces = [b'{"reasoning": "', b"So", b'", "final_answer": ', b"4", b"}"]
    source = row(chat(content, tokens(pieces, [-1, -2, -3, -4, -5])))
    for part, expected in (
        ("reasoning", ("So", [[0, 2]], [-2])),
        ("answer", ("4", [[0, 1]], [-4])),
        ("all", (content, *spans(pieces, [-1, -2, -3, -4, -5]))),
    ):
        (trace,), _ = traces(tmp_path, source, part=part)
        assert content_of(trace) == expected


def test_ends_and_roundings_of_servers(tmp_path):
    for content, pieces, expected in (
        # a stop string ends inside the last token
        ("So x=4.", [token(b"So x=4", -1), token(b".\n\n", -3)], ([[0, 6], [6, 7]], [-1, -3])),
        ("ab", [token(b"a", 9e-5), token(b"b", -3)], ([[0, 1], [1, 2]], [0.0, -3])),
        ("ab", [token(b"ab", -3), token(b"<|im_end|>", None)], ([[0, 2]], [-3])),
        ("a b", [token(b"\n\n", -2), token(b" a b", -1), token(b" \n", -2)], ([[0, 3]], [-1])),
        ("ab", [token(b"a", -math.inf), token(b"b", -3)], ([[0, 1], [1, 2]], [-9999.0, -3])),
    ):
        (trace,), _ = traces(tmp_path, row(chat(content, pieces)))
        assert (trace["frontier_spans"], trace["frontier_logprobs"]) == expected
    with pytest.raises(InputError, match=r"content\[0\].logprob: 0.0002, expected a finite"):
        traces(tmp_path, row(chat("a", [token(b"a", 2e-4)])))


# health


def test_probabilities_that_are_none_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    pieces = [b"a"] * 40
    source = row(chat("a" * 40, tokens(pieces, [0.0, -9999.0] * 19 + [0.0, -0.5])))
    write_rows(path, [source])
    with pytest.raises(InputError, match=r"97.5% of the probabilities are exactly 0 or 1.*--allow"):
        load_traces(path)
    (_,), health = traces(tmp_path, source, allow_degenerate=True)
    assert (health.zeros, health.ones, health.tokens) == (19, 20, 40)
    bearable = row(chat("a" * 40, tokens(pieces, [0.0] * 38 + [-0.5] * 2)))
    with pytest.warns(UserWarning, match="95% of the probabilities are exactly 0 or 1"):
        load_traces(write_rows(path, [bearable]))


def test_health_counts_what_its_rows_tell(tmp_path):
    half = chat("x=\\boxed{4}", tokens([b"x=\\boxed{4}"], [math.log(0.55)]))
    half["choices"][0]["logprobs"]["content"][0]["top_logprobs"] = [{"logprob": -0.1}] * 2
    rows = [
        row(half, example_id="right", gold="steps\n#### 4"),
        row(half, example_id="wrong", gold=5, request={"temperature": 0.7}),
        row(half, example_id="told", gold=None, correct=True, prompt="another"),
    ]
    _, health = traces(tmp_path, *rows, columns={"answer": "gold"})
    assert (health.right, health.wrong, health.duplicates, health.over_one) == (2, 1, 1, 3)
    assert health.temperatures == {"0.7": 1}
    assert health.histogram == [0] * 5 + [3] + [0] * 4
    assert health.parts == {"answer": 3}
    line = health.line()
    for said in ("3 traces", "1 duplicates", "2 right, 1 wrong", "temperature 0.7 x 1: prob",
                 "3 tokens whose alternatives sum to more than 1"):  # fmt: skip
        assert said in line
    assert "\n" not in line
    unread = row(half, gold=["4"])
    with pytest.raises(InputError, match="row 0 .*field answer: expected text, found .'4'.; fill"):
        traces(tmp_path, unread, columns={"answer": "gold"})


def test_temperature_of_a_batch_is_known_from_its_requests(tmp_path):
    body = {"messages": [{"role": "user", "content": "2+2?"}], "temperature": 0.7}
    requests = write_rows(
        tmp_path / "requests.jsonl",
        [{"custom_id": "c", "body": body}, {"custom_id": "d", "body": {"prompt": "3+3?"}}],
    )
    answers = [
        {"custom_id": name, "response": {"status_code": 200, "body": chat(TEXT, tokens())}}
        for name in "cd"
    ]
    found, health = traces(tmp_path, *answers, requests=requests)
    assert [trace["prompt"] for trace in found] == ["2+2?", "3+3?"]
    assert health.temperatures == {"0.7": 1}


def test_what_is_for_servers_answers_is_refused_elsewhere(tmp_path):
    plain = {"prompt": "q", "trace": "t"}
    for name, value in (("part", "answer"), ("protocol", "json"), ("tokenizer", byte_level_nfc())):
        with pytest.raises(InputError, match=f"field {name}: rows of format text have no use for"):
            traces(tmp_path, plain, **{name: value})
    with pytest.raises(InputError, match="part 'thinking' is not known; use one of"):
        traces(tmp_path, plain, part="thinking")


@pytest.mark.parametrize(
    ("asked", "data", "size"),
    [(b"Q\n", b"\nIt", 1), (b"Q\n", b"Q\nIt", 2), (b"Q", b"It", 0), (b"aab", b"aabx", 3),
     (b"a" * 50, b"a" * 60, 50), (b"abcabc", b"abcx", 3), (b"", b"x", 0), (b"Q\n", b"\n", 1)],
)  # fmt: skip
def test_the_longest_end_of_the_prompt_is_context(asked, data, size):
    assert overlap(asked, data) == size
    plain = [n for n in range(len(asked) + 1) if data.startswith(asked[len(asked) - n :])]
    assert max(plain) == size


def test_a_sound_set_is_said_in_one_line(tmp_path, caplog):
    with warnings.catch_warnings(), caplog.at_level("INFO", "hf_proxy.traces.reading"):
        warnings.simplefilter("error")
        load_traces(write_rows(tmp_path / "rows.jsonl", [SHAPES["openai"][0]]))
    (record,) = caplog.records
    assert record.message.endswith("1 traces, 10 letters, 5 tokens, 0.0% of p exactly 0 or 1")


# the released sets


def released(tmp_path, tokens_of_row, reasoning=("x\n\u00b2", "ok"), **names):
    """An array of completions and the parts of its tokens."""
    rows = [
        {"idx": i, "question": f"q{i}", "reasoning": text, "final_answer": "1"}
        for i, text in enumerate(reasoning)
    ]
    (tmp_path / "set.json").write_text(json.dumps(rows))
    lines = [
        {"idx": i, "pos": pos, "tok": piece.decode(errors="replace"), "raw": list(piece), "lp": lp}
        for i, own in enumerate(tokens_of_row)
        for pos, (piece, lp) in enumerate(own)
    ]
    write_rows(tmp_path / "set_logprobs_part01_of_02.jsonl", lines[3:])  # positions decide
    write_rows(tmp_path / "set_logprobs_part02_of_02.jsonl", lines[:3])
    return tmp_path / "set.json"


COLUMNS = {"example_id": "idx", "position": "pos", "token": "tok", "bytes": "raw", "logprob": "lp"}
FIRST = [(b'{"reasoning": "', -1), (b"x\\", -2), (b"n\xc2", -3), (b"\xb2", -4), (b'"}', -5)]
SECOND = [(b'{"reasoning": "o', -0.5), (b'k", "final_answer": "1"}', -0.25)]


def test_released_traces_are_joined_to_their_tokens(tmp_path):
    path = released(tmp_path, [FIRST, SECOND])
    found = load_traces(path, format="rbridge", columns=COLUMNS).to_list()
    assert [(t["example_id"], t["prompt"]) for t in found] == [("0", "q0"), ("1", "q1")]
    # the escape of the newline belongs to two tokens, so it has a span of its own
    assert found[0]["frontier_spans"] == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert found[0]["frontier_logprobs"] == pytest.approx([-2, mean_logprob(-2, -3), -3, -4])
    assert content_of(found[1]) == ("ok", [[0, 1], [1, 2]], [-0.5, -0.25])
    assert load_traces(tmp_path, format="rbridge", columns=COLUMNS).to_list() == found


def test_released_traces_that_their_tokens_do_not_spell_are_refused(tmp_path):
    path = released(tmp_path, [FIRST, SECOND], reasoning=("x\n\u00b2", "no"))
    with pytest.raises(InputError, match=r"row 1 .*they spell 'ok', the reasoning is 'no'; the to"):
        load_traces(path, format="rbridge", columns=COLUMNS)
    with pytest.raises(InputError, match=r"row 0, field example_id: there is no such field; the r"):
        load_traces(path, format="rbridge")
    path = released(tmp_path, [FIRST, SECOND], reasoning=("x\n\u00b2", "ok", "more"))
    with pytest.raises(InputError, match=r"row 2 .*no token names it; the tokens must spell"):
        load_traces(path, format="rbridge", columns=COLUMNS)
    for part in tmp_path.glob("*.jsonl"):
        part.unlink()
    with pytest.raises(InputError, match="set.json: there are no logprobs beside it; put NAME_log"):
        load_traces(path, format="rbridge", columns=COLUMNS)


def test_masks_are_read_over_line_breaks_and_odd_marks(tmp_path):
    rows = [
        {
            "question": "Q",
            "reasoning": "a <span>k\u00e9y\nstep<\\span> b<span></span><span>c</span>",
        },
        {"question": "Q", "reasoning": "<span>a<span>b</span></span>c"},
        {"question": "Q", "reasoning": "no mark"},
        {"question": "Q", "reasoning": "a <span>b"},
        {"question": "Q", "reasoning": "a</span>"},
    ]
    found, health = traces(tmp_path, *rows)
    assert [(t["trace"], t["frontier_spans"], t["weighting"]) for t in found] == [
        ("a k\u00e9y\nstep bc", [[2, 11], [13, 14]], "mask"),
        ("abc", [[0, 2]], "mask"),
        ("no mark", [], "mask"),
    ]
    assert [t["example_id"] for t in found] == ["0", "1", "2"]
    assert health.dropped == {"marks of spans that do not pair": 2}


def test_questions_of_known_sets():
    from hf_proxy.answers.grading import gold_answer, grade
    from hf_proxy.answers.questions import QUESTION_SETS

    rows = {
        "gsm8k": {"question": "2+2?", "answer": "2+2=<<2+2=4>>4\n#### 4"},
        "math500": {"problem": "2+2?", "solution": "$4$", "answer": "4", "unique_id": "a/1"},
    }
    for name, questions in QUESTION_SETS.items():
        source = rows[name]
        assert questions.prompt(source).startswith("2+2?\n\n")
        gold = gold_answer(questions.gold(source), questions.answer_pattern, row="0")
        assert grade("so \\boxed{4}", gold).correct and not grade("\\boxed{5}", gold).correct
        with pytest.raises(InputError, match=f"field {questions.prompt_column}: there is none; na"):
            questions.prompt({})
    assert THINKING[0] == THOUGHT and LOGPROBS  # the reading that all the above is held against
