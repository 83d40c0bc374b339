"""Frontier confidence onto proxy tokens: worked numbers, plain formulas, and what is refused."""

import json
import math

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from helpers import reference
from helpers import tokenizers as tiny_tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_proxy import InputError, align_traces
from hf_proxy.records.rows import ALIGNED_FEATURES, TRACE_FEATURES
from hf_proxy.tokens.tokenizers import encode_contexts, encode_traces
from hf_proxy.traces import alignment

# the worked example: "a²+b" is 4 letters and 5 bytes
FRONTIER_A = ([[0, 3], [3, 5]], [0.9, 0.4])
FRONTIER_B = ([[0, 2], [2, 5]], [0.9, 0.4])  # parts the letter
NLLS = [-math.log(p) for p in (0.5, 0.25, 0.1)]
SECOND_NLLS = [-math.log(p) for p in (0.8, 0.2)]


def trace_row(trace, spans=(), probabilities=(), *, example_id="a", prompt="q", weighting=None):
    return {
        "example_id": example_id,
        "prompt": prompt,
        "trace": trace,
        "weighting": weighting or ("logprob" if len(spans) else "none"),
        "frontier_spans": [list(span) for span in spans],
        "frontier_logprobs": [math.log(p) if p else -9999.0 for p in probabilities],
    }


def trace_set(*rows):
    return Dataset.from_list(list(rows), features=TRACE_FEATURES)


def second_row():
    return trace_row("ok", [[0, 1], [1, 2]], [1.0, 0.6], example_id="second")


def weights_of(aligned):
    """Label weights of each row, after looking that everything before is 0."""
    weights = []
    for row in aligned:
        assert len(row["label_weight"]) == len(row["input_ids"])
        assert row["label_weight"][: row["label_start"]] == [0.0] * row["label_start"]
        weights.append(row["label_weight"][row["label_start"] :])
        assert len(weights[-1]) == len(row["label_spans"])
    return weights


@pytest.fixture(scope="module")
def worked():
    """Its tokens for the worked example are `a`, `²+`, `b` and `o`, `k`."""
    return tiny_tokenizers.byte_level_of("²+")


@pytest.fixture(scope="module")
def tokenizer_of():
    made = {
        "byte_level": tiny_tokenizers.byte_level(),
        "byte_level_nfc": tiny_tokenizers.byte_level_nfc(),
        "byte_level_bos_eos": tiny_tokenizers.byte_level_bos_eos(),
        "llama": tiny_tokenizers.llama(),
        "wordpiece": tiny_tokenizers.wordpiece(),
    }
    return lambda kind: made[kind]


@pytest.mark.parametrize(
    ("frontier", "unit", "raw", "scaled", "value", "over_weights", "value_raw"),
    [
        (FRONTIER_A, "letter", (0.9, 0.65, 0.4), (1, 0.5, 0), 0.462098, 0.924196, 0.815319),
        (FRONTIER_A, "byte", (0.9, 2.2 / 3, 0.4), (1, 2 / 3, 0), 0.539114, 0.970406, 0.853827),
        (FRONTIER_B, "letter", (0.9, 0.525, 0.4), (1, 0.25, 0), 0.346574, 0.831777, 0.757557),
        (FRONTIER_B, "byte", (0.9, 1.7 / 3, 0.4), (1, 1 / 3, 0), 0.385082, 0.866434, 0.776811),
    ],
    ids=["A letter", "A byte", "B letter", "B byte"],
)
def test_worked_example(worked, frontier, unit, raw, scaled, value, over_weights, value_raw):
    traces = trace_set(trace_row("a²+b", *frontier))
    aligned = align_traces(traces, worked, unit=unit)
    (row,) = aligned
    assert row["label_spans"] == [[0, 1], [1, 4], [4, 5]]
    assert row["num_bytes"] == 5
    (weights,) = weights_of(aligned)
    np.testing.assert_allclose(weights, scaled, rtol=0, atol=1e-12)
    (unscaled,) = weights_of(align_traces(traces, worked, unit=unit, minmax_over=None))
    np.testing.assert_allclose(unscaled, raw, rtol=0, atol=1e-12)
    assert round(reference.score(NLLS, weights), 6) == value
    assert round(reference.score(NLLS, weights, "weights"), 6) == over_weights
    assert round(reference.score(NLLS, unscaled), 6) == value_raw


def test_worked_example_of_two_traces(worked):
    traces = trace_set(trace_row("a²+b", *FRONTIER_A), second_row())
    nlls = [NLLS, SECOND_NLLS]

    weights = weights_of(align_traces(traces, worked, minmax_over="trace"))
    assert weights[1] == [1.0, 0.0]
    scores = [reference.score(*pair) for pair in zip(nlls, weights, strict=True)]
    assert round(scores[1], 6) == 0.111572
    assert round(sum(scores) / 2, 6) == 0.286835
    assert round(reference.pooled(nlls, weights), 6) == 0.321888

    weights = weights_of(align_traces(traces, worked, minmax_over="dataset"))
    np.testing.assert_allclose(weights[0], [0.5 / 0.6, 0.25 / 0.6, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(weights[1], [1, 0.2 / 0.6], rtol=0, atol=1e-12)
    scores = [reference.score(*pair) for pair in zip(nlls, weights, strict=True)]
    assert [round(score, 6) for score in scores] == [0.385082, 0.379811]
    assert round(sum(scores) / 2, 6) == 0.382447  # the mean of the unrounded two
    assert round(reference.pooled(nlls, weights), 6) == 0.382974


def test_token_over_one_byte_of_a_letter_has_the_letters_confidence():
    single_bytes = tiny_tokenizers.byte_level_of()
    traces = trace_set(trace_row("a²+b", *FRONTIER_B))
    (weights,) = weights_of(align_traces(traces, single_bytes, minmax_over=None))
    np.testing.assert_allclose(weights, [0.9, 0.65, 0.65, 0.4, 0.4], rtol=0, atol=1e-12)
    (weights,) = weights_of(align_traces(traces, single_bytes, unit="byte", minmax_over=None))
    np.testing.assert_allclose(weights, [0.9, 0.9, 0.4, 0.4, 0.4], rtol=0, atol=1e-12)


def test_dummy_prefix_has_the_confidence_of_what_follows(tokenizer_of):
    traces = trace_set(trace_row("²b", [[0, 2], [2, 3]], [0.9, 0.4]))
    aligned = align_traces(traces, tokenizer_of("llama"), minmax_over=None)
    assert aligned[0]["label_spans"] == [[0, 0], [0, 2], [2, 3]]
    (weights,) = weights_of(aligned)
    np.testing.assert_allclose(weights, [0.9, 0.9, 0.4], rtol=0, atol=1e-12)


LETTERS = st.sampled_from([*"ab x1.\n", "²", "é", "中", "한", "😀", "e\u0301", " the", "42", "ש"])
TEXT = st.lists(LETTERS, min_size=1, max_size=14).map("".join)


@st.composite
def scored_traces(draw):
    """One to three traces, cut into frontier tokens at any bytes, also inside letters."""
    rows = []
    for number in range(draw(st.integers(1, 3))):
        trace = draw(TEXT)
        num_bytes = len(trace.encode())
        cuts = sorted(draw(st.sets(st.integers(1, num_bytes), max_size=8)) | {num_bytes})
        spans = [list(span) for span in zip([0, *cuts[:-1]], cuts, strict=True)]
        sixteenths = draw(st.lists(st.integers(0, 16), min_size=len(cuts), max_size=len(cuts)))
        probabilities = [number / 16 for number in sixteenths]
        rows.append(trace_row(trace, spans, probabilities, example_id=str(number)))
    return rows


@pytest.mark.parametrize("kind", ["byte_level", "byte_level_nfc", "llama"])
@settings(deadline=None, derandomize=True)
@given(
    rows=scored_traces(),
    unit=st.sampled_from(["letter", "byte"]),
    over=st.sampled_from(["trace", "dataset", None]),
)
def test_weights_are_those_of_the_plain_formula(tokenizer_of, kind, rows, unit, over):
    aligned = align_traces(trace_set(*rows), tokenizer_of(kind), unit=unit, minmax_over=over)
    expected = []
    for row, aligned_row in zip(rows, aligned, strict=True):
        byte_probability = reference.byte_probabilities(
            row["frontier_spans"], row["frontier_logprobs"]
        )
        spans = aligned_row["label_spans"]
        expected.append(reference.token_weights(row["trace"], byte_probability, spans, unit))
    expected = reference.min_max_over(expected, over)
    for weights, plain in zip(weights_of(aligned), expected, strict=True):
        np.testing.assert_allclose(weights, plain, rtol=0, atol=1e-12)
        assert all(0 <= weight <= 1 for weight in weights)
    if over == "trace":
        for weights in weights_of(aligned):
            assert max(weights) == 1
            assert min(weights) in (0, 1)


@pytest.mark.parametrize("over", ["trace", "dataset"])
@pytest.mark.parametrize("probability", [0.1, 0.3, 0.7, 0.9, 1.0, 0.0])
def test_constant_confidence_weighs_1(tokenizer_of, over, probability):
    # tokens of 1 to 11 bytes: means of one number, taken over different counts, differ by rounding
    trace = "First we add 12 and 30, which gives 42; a² + b² = 中."
    row = trace_row(trace, [[0, 20], [20, len(trace.encode())]], [probability] * 2)
    for kind in ("byte_level", "llama"):
        for unit in ("letter", "byte"):
            aligned = align_traces(trace_set(row), tokenizer_of(kind), unit=unit, minmax_over=over)
            assert set(weights_of(aligned)[0]) == {1.0}


def test_single_label_weighs_1(worked):
    traces = trace_set(trace_row("a", [[0, 1]], [0.25]))
    assert weights_of(align_traces(traces, worked)) == [[1.0]]
    assert weights_of(align_traces(traces, worked, minmax_over=None)) == [[0.25]]


@pytest.mark.parametrize("over", ["trace", "dataset", None])
def test_mask_weighs_what_it_touches(worked, over):
    def masked(spans):
        row = trace_row("a²+bok", spans, weighting="mask")
        other = trace_row("ok", [[0, 1], [1, 2]], [0.9, 0.4], example_id="other")
        return weights_of(align_traces(trace_set(row, other), worked, minmax_over=over))[0]

    # labels: a [0, 1), ²+ [1, 4), b [4, 5), o [5, 6), k [6, 7)
    assert masked([[1, 4]]) == [0, 1, 0, 0, 0]
    assert masked([[3, 5]]) == [0, 1, 1, 0, 0]
    assert masked([[0, 1], [6, 7]]) == [1, 0, 0, 0, 1]
    assert masked([[1, 2], [2, 3]]) == [0, 1, 0, 0, 0]
    assert masked([[0, 7]]) == [1, 1, 1, 1, 1]  # not scaled to 0 or left out: constant
    assert masked([]) == [1, 1, 1, 1, 1]


def test_mask_touches_no_dummy_prefix(tokenizer_of):
    traces = trace_set(trace_row("²b", [[0, 2]], weighting="mask"))
    assert weights_of(align_traces(traces, tokenizer_of("llama"))) == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize("over", ["trace", "dataset", None])
def test_weighting_none_weighs_1_and_stays_out_of_the_extremes(worked, over):
    traces = trace_set(
        trace_row("a²+b", *FRONTIER_A), trace_row("ok", example_id="plain", weighting="none")
    )
    weights = weights_of(align_traces(traces, worked, minmax_over=over))
    assert weights[1] == [1.0, 1.0]
    alone = weights_of(align_traces(traces.select([0]), worked, minmax_over=over))
    assert weights[0] == alone[0]


def test_context_and_trace_are_encoded_apart(tokenizer_of):
    tokenizer = tokenizer_of("byte_level_bos_eos")
    traces = trace_set(trace_row("en²", example_id="a", prompt="Th"))
    (row,) = align_traces(traces, tokenizer, context="{prompt}")
    # together the text would begin with the one token "Then"
    assert tokenizer.tokenize("Then²") == ["Then", "Â²"]
    tokens = tokenizer.convert_ids_to_tokens(row["input_ids"])
    assert tokens == ["<s>", "Th", "en", "Â²"]
    assert row["label_start"] == 2
    assert row["label_spans"] == [[0, 2], [2, 4]]


def test_text_context_replaces_the_prompt_and_nothing_else(worked):
    traces = trace_set(trace_row("ok", prompt="{prompt} {0} {x}"))
    (row,) = align_traces(traces, worked, context="Q{}: {prompt}\nA{y}: {prompt}|")
    context = worked.decode(row["input_ids"][: row["label_start"]])
    assert context == "Q{}: {prompt} {0} {x}\nA{y}: {prompt} {0} {x}|"
    (default,) = align_traces(trace_set(trace_row("ok", prompt="why")), worked)
    assert worked.decode(default["input_ids"]) == "why\nok"
    assert default["label_start"] == 4


def test_chat_context_is_the_template_with_the_generation_prompt(tokenizer_of):
    tokenizer = tokenizer_of("byte_level_nfc")
    traces = trace_set(trace_row("ok", prompt="why"))
    (row,) = align_traces(traces, tokenizer, context="chat")
    text = "<|im_start|>user\nwhy<|im_end|>\n<|im_start|>assistant\n"
    assert row["input_ids"][: row["label_start"]] == tokenizer(text)["input_ids"]
    assert tokenizer.decode(row["input_ids"]) == text + "ok"


def test_chat_context_gets_no_bos_but_the_templates_own():
    tokenizer = tiny_tokenizers.byte_level_bos_eos()
    tokenizer.chat_template = "<s>{{ messages[0].content }}"
    traces = trace_set(trace_row("ok", prompt="b"))
    (row,) = align_traces(traces, tokenizer, context="chat")
    assert tokenizer.convert_ids_to_tokens(row["input_ids"]) == ["<s>", "b", "o", "k"]
    tokenizer.chat_template = "{{ messages[0].content }}"
    (row,) = align_traces(traces, tokenizer, context="chat")
    assert tokenizer.convert_ids_to_tokens(row["input_ids"]) == ["b", "o", "k"]


def test_function_context(worked):
    traces = trace_set(trace_row("ok", prompt="why", example_id="e7"))
    (row,) = align_traces(
        traces, worked, context=lambda row: f"{row['example_id']}:", context_name="by id"
    )
    assert worked.decode(row["input_ids"]) == "e7:ok"
    assert json.loads(row["setting_parts"])["context"] == "function by id"


def test_what_context_cannot_be(worked):
    traces = trace_set(trace_row("ok"))
    with pytest.raises(ValueError, match="context_name"):
        align_traces(traces, worked, context=lambda row: "x")
    with pytest.raises(ValueError, match="has no {prompt}"):
        align_traces(traces, worked, context="Question:\n")
    with pytest.raises(ValueError, match="chat template"):
        align_traces(traces, worked, context="chat")


def test_first_label_needs_something_before_it(worked, tokenizer_of):
    traces = trace_set(trace_row("ok"), trace_row("ok", example_id="bare", prompt=""))
    with pytest.raises(InputError, match=r"^row 1 \(example_id 'bare'\), field prompt: .*empty"):
        align_traces(traces, worked, context="{prompt}")
    aligned = align_traces(traces, tokenizer_of("byte_level_bos_eos"), context="{prompt}")
    assert aligned["label_start"] == [2, 1]  # the BOS is enough


@pytest.mark.parametrize(
    ("argument", "value"), [("unit", "word"), ("minmax_over", "batch"), ("too_long", "cut")]
)
def test_unknown_choice_is_named(worked, argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be .* not '{value}'"):
        align_traces(trace_set(trace_row("ok")), worked, **{argument: value})


def long_and_short():
    # with the context "q\n": 4, 6 and 4 tokens
    return trace_set(
        trace_row("ok", [[0, 1], [1, 2]], [0.2, 0.1], example_id="first"),
        trace_row("okok", [[0, 4]], [0.9], example_id="long"),
        trace_row("ab", [[0, 1], [1, 2]], [0.6, 0.3], example_id="last"),
    )


def test_too_long_is_an_error(worked):
    assert len(align_traces(long_and_short(), worked, max_length=6)) == 3
    with pytest.raises(
        InputError, match=r"row 1 \(example_id 'long'\).* 6 tokens.*max_length is 5"
    ):
        align_traces(long_and_short(), worked, max_length=5)


def test_too_long_is_dropped_and_counted(worked, caplog):
    options = {"max_length": 5, "minmax_over": "dataset"}
    aligned = align_traces(long_and_short(), worked, too_long="drop", **options)
    assert aligned["example_id"] == ["first", "last"]
    assert [record.getMessage() for record in caplog.records] == ["dropped 1 traces longer than 5"]
    # as if the row had not been there: the setting, and the extremes of the set
    without = align_traces(long_and_short().select([0, 2]), worked, **options)
    assert aligned.to_list() == without.to_list()
    assert max(map(max, weights_of(aligned))) == 1


def test_all_too_long_is_an_error(worked):
    with pytest.raises(InputError, match="every trace is longer than max_length"):
        align_traces(long_and_short(), worked, max_length=3, too_long="drop")


def broken(field, value, **others):
    return trace_row("abok", [[0, 2], [2, 4]], [0.5, 0.5], example_id="bad") | {
        field: value,
        **others,
    }


REFUSED = {
    "repeated id": (trace_row("ab", example_id="fine"), "example_id", "stands in row 0"),
    "empty trace": (broken("trace", ""), "trace", "it is empty"),
    "missing trace": (broken("trace", None), "trace", "expected text"),
    "unknown weighting": (broken("weighting", "log"), "weighting", "'log' is not known"),
    "missing logprob": (broken("frontier_logprobs", [-1.0, None]), "frontier_logprobs", "1 is mis"),
    "fewer logprobs": (
        broken("frontier_logprobs", [-1.0]),
        "frontier_logprobs",
        "1 logprobs for 2",
    ),
    "more logprobs": (broken("frontier_logprobs", [-1.0] * 3), "frontier_logprobs", "3 logprobs"),
    "no logprobs": (broken("frontier_logprobs", []), "frontier_logprobs", "0 logprobs for 2"),
    "NaN": (broken("frontier_logprobs", [-1.0, math.nan]), "frontier_logprobs", "1 is nan"),
    "minus infinity": (broken("frontier_logprobs", [-math.inf, -1.0]), "frontier_logprobs", "-inf"),
    "positive logprob": (broken("frontier_logprobs", [0.1, -1.0]), "frontier_logprobs", "0 is 0.1"),
    "gap": (broken("frontier_spans", [[0, 2], [3, 4]]), "frontier_spans", "starts at byte 3"),
    "overlap": (broken("frontier_spans", [[0, 3], [2, 4]]), "frontier_spans", "starts at byte 2"),
    "late start": (broken("frontier_spans", [[1, 2], [2, 4]]), "frontier_spans", "byte 1"),
    "early end": (broken("frontier_spans", [[0, 2], [2, 3]]), "frontier_spans", "end at byte 3"),
    "beyond the end": (broken("frontier_spans", [[0, 2], [2, 5]]), "frontier_spans", "[2, 5)"),
    "empty span": (broken("frontier_spans", [[0, 0], [0, 4]]), "frontier_spans", "[0, 0)"),
    "no spans": (broken("frontier_spans", []), "frontier_spans", "end at byte 0"),
    "spans without weighting": (broken("weighting", "none"), "frontier_spans", "takes no spans"),
    "mask with logprobs": (broken("weighting", "mask"), "frontier_logprobs", "takes none"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_malformed_row_is_named(worked, case):
    row, field, problem = REFUSED[case]
    traces = trace_set(trace_row("ok", example_id="fine"), row)
    with pytest.raises(InputError) as error:
        align_traces(traces, worked)
    message = str(error.value)
    assert message.startswith("row 1")
    assert f"field {field}: " in message
    assert problem in message
    assert "; " in message  # the remedy
    if case != "repeated id":
        assert "example_id 'bad'" in message


def parts_of(aligned):
    (parts,) = set(aligned["setting_parts"])  # one and the same in all rows
    return json.loads(parts)


def test_setting_parts_name_what_was_done(tokenizer_of):
    traces = trace_set(trace_row("a²+b", *FRONTIER_A), second_row())
    parts = parts_of(align_traces(traces, tokenizer_of("byte_level")))
    hashes = {parts.pop("traces"), parts.pop("tokenizer")}
    assert all(len(value) == 16 and int(value, 16) for value in hashes)
    assert parts == {
        "num_traces": 2,
        "context": "text {prompt}\n",
        "unit": "letter",
        "minmax_over": "trace",
        "max_length": None,
    }


def test_each_argument_changes_its_part_of_the_setting(tokenizer_of):
    tokenizer = tokenizer_of("byte_level_nfc")
    other_template = tiny_tokenizers.byte_level_nfc()
    other_template.chat_template += "<think>"
    traces = trace_set(trace_row("a²+b", *FRONTIER_A), second_row())
    lower = trace_set(trace_row("a²+b", FRONTIER_A[0], [0.9, 0.3]), second_row())
    prompted = trace_set(trace_row("a²+b", *FRONTIER_A, prompt="p"), second_row())
    base = {"tokenizer": tokenizer}
    changes = {
        "unit": [{"unit": "byte"}],
        "minmax_over": [{"minmax_over": "dataset"}, {"minmax_over": None}],
        "max_length": [{"max_length": 50}, {"max_length": 51}],
        "tokenizer": [{"tokenizer": tokenizer_of("byte_level")}],
        "context": [
            {"context": "{prompt} "},
            {"context": "chat"},
            {"context": "chat", "tokenizer": other_template},
            {"context": lambda row: row["prompt"], "context_name": "one"},
            {"context": lambda row: row["prompt"], "context_name": "two"},
        ],
        "traces": [{"traces": lower}, {"traces": prompted}, {"traces": traces.select([0])}],
    }
    plain = parts_of(align_traces(traces, tokenizer))
    seen = [plain]
    for part, variants in changes.items():
        for variant in variants:
            arguments = {"traces": traces} | base | variant
            parts = parts_of(align_traces(arguments.pop("traces"), **arguments))
            differing = {name for name in plain if plain[name] != parts[name]}
            assert differing - {"num_traces"} == {part}
            assert parts not in seen
            seen.append(parts)


def test_row_order_changes_rows_but_no_setting(worked):
    traces = trace_set(trace_row("a²+b", *FRONTIER_A), second_row())
    turned = traces.select([1, 0])
    for over in ("trace", "dataset", None):
        aligned = align_traces(traces, worked, minmax_over=over)
        assert align_traces(turned, worked, minmax_over=over).to_list() == aligned.to_list()[::-1]
        # parts put together again are the whole
        halves = concatenate_datasets([aligned.select([1]), aligned.select([0])])
        assert set(halves["setting_parts"]) == set(aligned["setting_parts"])


def test_rows_hold_plain_numbers(worked):
    aligned = align_traces(trace_set(trace_row("a²+b", *FRONTIER_A)), worked)
    assert aligned.features == ALIGNED_FEATURES
    assert aligned.data.nbytes > 0
    assert aligned.cache_files  # memory-mapped, so that a large set takes no memory


def test_second_call_reads_what_the_first_has_written(worked, monkeypatch):
    traces = trace_set(trace_row("a²+b", *FRONTIER_A, prompt="once"), second_row())
    first = align_traces(traces, worked).to_list()

    def never(*args, **kwargs):
        raise AssertionError("aligned again")

    monkeypatch.setattr(alignment, "token_weights", never)
    assert align_traces(traces, worked).to_list() == first
    with pytest.raises(AssertionError, match="aligned again"):
        align_traces(traces, worked, unit="byte")


@pytest.mark.parametrize("over", ["trace", "dataset", None])
@pytest.mark.parametrize("max_length", [None, 5])
def test_each_text_is_tokenized_once(worked, monkeypatch, over, max_length):
    """Before, the set was tokenized two times for `dataset` or `max_length`, three for both."""
    texts = []

    def counted(tokenizer, batch):
        texts.extend(batch)
        return encode_traces(tokenizer, batch)

    monkeypatch.setattr(alignment, "encode_traces", counted)
    prompt = f"{over} {max_length}"
    traces = long_and_short().map(lambda row: {"prompt": prompt}, load_from_cache_file=False)
    options = {"minmax_over": over, "context": "{prompt}"}
    limit = {"max_length": max_length and len(prompt) + 3, "too_long": "drop"}
    aligned = align_traces(traces, worked, **options, **limit)
    assert len(aligned) == (2 if max_length else 3)
    assert texts == list(traces["trace"])
    # nor again for what is the same text: the same, other weights, another limit
    align_traces(traces, worked, **options, **limit)
    align_traces(traces, worked, **options, **limit, unit="byte")
    align_traces(traces, worked, **options)
    assert len(texts) == 3
    align_traces(traces, worked, minmax_over=over, context="{prompt}!")
    assert len(texts) == 6


def test_function_that_changes_its_text_is_not_served_stale(worked):
    traces = trace_set(trace_row("ok", prompt="p"))
    for text in ("one ", "two "):
        aligned = align_traces(traces, worked, context=lambda row: text, context_name="same")  # noqa: B023
        assert worked.decode(aligned[0]["input_ids"]) == text + "ok"


def test_template_that_prints_the_date_is_not_served_stale(monkeypatch):
    tokenizer = tiny_tokenizers.byte_level_nfc()
    traces = trace_set(trace_row("ok", prompt="p"))
    parts = []
    for day in ("Monday", "Tuesday"):
        monkeypatch.setattr(
            tokenizer, "apply_chat_template", lambda turn, day=day, **kwargs: f"{day}: "
        )
        aligned = align_traces(traces, tokenizer, context="chat")
        assert tokenizer.decode(aligned[0]["input_ids"]) == f"{day}: ok"
        parts += aligned["setting_parts"]
    assert parts[0] == parts[1]  # the setting holds the template's own text


def test_pad_token_that_stands_in_a_text_is_not_served_stale():
    traces = trace_set(trace_row("[PAD]"))
    tokenizer = tiny_tokenizers.byte_level_of()
    before = align_traces(traces, tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    after = align_traces(traces, tokenizer)
    assert before["setting_parts"] == after["setting_parts"]
    assert len(before[0]["label_spans"]) == 5
    assert after[0]["input_ids"][after[0]["label_start"] :] == [tokenizer.pad_token_id]


def test_many_rows_keep_their_order_across_chunks(worked, monkeypatch):
    monkeypatch.setattr(alignment, "_CHUNK", 2)
    rows = [
        trace_row(
            "ok" * number, [[0, 2 * number]], [0.5], example_id=str(number), prompt="p" * number
        )
        for number in range(1, 6)
    ]
    aligned = align_traces(trace_set(*rows), worked)
    assert aligned["example_id"] == ["1", "2", "3", "4", "5"]
    for row, aligned_row in zip(rows, aligned, strict=True):
        assert worked.decode(aligned_row["input_ids"]) == row["prompt"] + "\n" + row["trace"]
        assert [aligned_row["input_ids"][: aligned_row["label_start"]]] == encode_contexts(
            worked, [row["prompt"] + "\n"], chat=False
        )


def test_refused_letter_names_its_row_in_any_chunk(tokenizer_of, monkeypatch):
    monkeypatch.setattr(alignment, "_CHUNK", 2)
    rows = [
        trace_row(trace, example_id=f"t{place}") for place, trace in enumerate(["a", "b", "a各"])
    ]
    with pytest.raises(InputError, match=r"^row 2 \(example_id 't2'\), field trace: .*'各'"):
        align_traces(trace_set(*rows), tokenizer_of("wordpiece"))
