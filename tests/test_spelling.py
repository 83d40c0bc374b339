"""Which bytes a token stands for, for every kind of tokenizer, and what makes two of them one."""

import itertools
import re
import unicodedata

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers import tokenizers as tiny_tokenizers
from helpers.models import make_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

from hf_proxy import InputError, align_traces, annotate_traces, token_logprobs
from hf_proxy.building.annotation import whole_letters
from hf_proxy.records.rows import TRACE_FEATURES
from hf_proxy.tokens.spans import byte_level
from hf_proxy.tokens.tokenizers import encode_contexts, encode_traces, tokenizer_fingerprint
from hf_proxy.traces.alignment import token_weights

EXACT = (
    "byte_level",
    "byte_level_prefix_space",
    "byte_level_bos_eos",
    "byte_level_stripping",
    "llama",
    "llama_without_dummy",
    "llama_metaspace",
    "sentencepiece_slow",
    "sentencepiece_slow_new",
    "byt5",
)
REWRITTEN = ("byte_level_nfc", "byte_level_nfc_trimmed", "llama_nfc", "llama_metaspace_nfkc")
DUMMIES = ("▁", "Ġ")

# pieces of text that have broken a tokenizer or an offset somewhere
AWKWARD = [
    "\r\n", "\n\n", "\t", "  ", " ", "\u00a0", "\u3000", "\u2028", "\x00", "\x1c", "\x7f", "\u200d",
    "e\u0301", "\u0301", "a\u0323\u0307", "q\u0307\u0323", "\u212b", "\u2126", "\u0958", "\u0344",
    "²", "½", "ﬁ", "é", "中文", "한국", "\u1112\u1161\u11ab", "\u1100", "\u1161", "\u11a8",
    "😀", "👩\u200d👩\u200d👧", "🇩🇪", "אב\u05bc\u05b0ג", "\u202eשלום\u202c", "أولا", "नमस्ते",
    "▁", "▁▁", "▁a", "Ġ", "##", "<0x41>", "�", "<s>", "</s>", "<|im_end|>", "<think>", "<mask>",
    "<|endoftext|>", "the", " answer", "42", "\\frac{1}{2}", ".", "x",
]  # fmt: skip
TEXT = (
    st.lists(
        st.sampled_from(AWKWARD) | st.text(st.characters(exclude_categories=("Cs",)), max_size=4),
        min_size=1,
        max_size=10,
    )
    .map("".join)
    .filter(bool)
)
fuzzed = settings(deadline=None, derandomize=True)


def byte_level_stripping():
    """Its `<mask>` takes the blanks on both sides, as RoBERTa's does on the left."""
    tokenizer = tiny_tokenizers.byte_level()
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, rstrip=True)])
    return tokenizer


def byte_level_nfc_trimmed():
    """Its own offsets leave out leading blanks, so that they could not tell the spans."""
    tokenizer = tiny_tokenizers.byte_level_nfc()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def llama_nfc():
    tokenizer = tiny_tokenizers.llama()
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), backend.normalizer])
    return tokenizer


def llama_metaspace_nfkc():
    tokenizer = tiny_tokenizers.llama_metaspace()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory):
    """One tokenizer of each kind, which tests only read, by name."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    made = {
        "byte_level": tiny_tokenizers.byte_level(),
        "byte_level_prefix_space": tiny_tokenizers.byte_level_prefix_space(),
        "byte_level_bos_eos": tiny_tokenizers.byte_level_bos_eos(),
        "byte_level_stripping": byte_level_stripping(),
        "llama": tiny_tokenizers.llama(),
        "llama_without_dummy": tiny_tokenizers.llama(dummy_prefix=False),
        "llama_metaspace": tiny_tokenizers.llama_metaspace(),
        "sentencepiece_slow": tiny_tokenizers.sentencepiece_slow(folder),
        "sentencepiece_slow_new": tiny_tokenizers.sentencepiece_slow(folder, legacy=False),
        "byt5": tiny_tokenizers.byt5(),
        "byte_level_nfc": tiny_tokenizers.byte_level_nfc(),
        "byte_level_nfc_trimmed": byte_level_nfc_trimmed(),
        "llama_nfc": llama_nfc(),
        "llama_metaspace_nfkc": llama_metaspace_nfkc(),
    }
    return lambda kind: made[kind]


def encode(tokenizer, text):
    (result,) = encode_traces(tokenizer, [text])
    assert not isinstance(result, str), result
    ids, spans = result
    assert spans.shape == (len(ids), 2)
    return tokenizer.convert_ids_to_tokens(ids), spans.tolist()


def own_bytes(tokenizer, piece):
    """What a piece spells, by the published definition of each kind of symbol."""
    if isinstance(tokenizer, ByT5Tokenizer):
        return bytes([ord(piece)])
    if "▁" in tokenizer.get_vocab():
        if byte := re.fullmatch("<0x(..)>", piece):
            return bytes.fromhex(byte[1])
        return piece.replace("▁", " ").encode()
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = {chr(byte): byte for byte in printable}
    symbols |= {chr(256 + place): byte for place, byte in enumerate(others)}
    return bytes(symbols[symbol] for symbol in piece)


def check_tiling(text, pieces, spans, added):
    """Every byte in exactly one token, in order; a token without bytes is a dummy prefix."""
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
    assert spans[-1][1] == len(text.encode())
    for place, (start, stop) in enumerate(spans):
        assert start <= stop
        if start == stop:
            assert pieces[place] in DUMMIES
            assert place == 0 or pieces[place - 1] in added


@pytest.mark.parametrize("kind", EXACT)
@fuzzed
@given(text=TEXT)
def test_tokens_tile_the_text_and_spell_it(tokenizer_of, kind, text):
    tokenizer = tokenizer_of(kind)
    added = tokenizer.get_added_vocab()
    pieces, spans = encode(tokenizer, text)
    check_tiling(text, pieces, spans, added)
    for place, (piece, (start, stop)) in enumerate(zip(pieces, spans, strict=True)):
        covered = text.encode()[start:stop]
        if piece in added:
            assert covered.decode().strip() == piece
            continue
        spelt = own_bytes(tokenizer, piece)
        if spelt[:1] == b" " and len(spelt) == 1 + len(covered.replace("▁".encode(), b" ")):
            assert place == 0 or pieces[place - 1] in added
            spelt = spelt[1:]
        if "▁" in piece:  # SentencePiece has one symbol for a space and for its own mark
            covered = covered.replace("▁".encode(), b" ")
        assert covered == spelt


def borders_of(text, normalize):
    """Byte of the normalised text -> least and most byte of the text where it may lie.

    Letters that normalisation keeps apart are parts; inside a part that it leaves alone every byte
    has its place, inside one that it changes only the ends have.
    """
    parts = []
    for letter in text:
        goes_on = unicodedata.combining(unicodedata.normalize("NFD", letter)[0])
        if parts and (
            goes_on or normalize(parts[-1] + letter) != normalize(parts[-1]) + normalize(letter)
        ):
            parts[-1] += letter
        else:
            parts.append(letter)
    assert "".join(map(normalize, parts)) == normalize(text)
    borders = {0: (0, 0)}
    seen_at = text_at = 0
    for part in parts:
        seen_size, text_size = len(normalize(part).encode()), len(part.encode())
        for byte in range(1, seen_size):
            exact = normalize(part) == part
            low = text_at + byte if exact else text_at
            borders[seen_at + byte] = (low, low if exact else text_at + text_size)
        seen_at += seen_size
        text_at += text_size
        borders[seen_at] = (text_at, text_at)
    return borders


@pytest.mark.parametrize("kind", REWRITTEN)
@fuzzed
@given(text=TEXT)
def test_tokens_of_a_rewritten_text_keep_to_the_letters_they_were_made_of(tokenizer_of, kind, text):
    tokenizer = tokenizer_of(kind)
    added = tokenizer.get_added_vocab()
    normalizer = normalizers.NFKC() if kind.endswith("nfkc") else normalizers.NFC()
    # an added token is cut out before normalisation, and a literal mark is read as a space
    assume("\u0338" not in text and not any(token in text for token in added) and "▁" not in text)
    pieces, spans = encode(tokenizer, text)
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
    spelt = [own_bytes(tokenizer, piece) for piece in pieces]
    borders = borders_of(text, normalizer.normalize_str)
    seen_size = len(normalizer.normalize_str(text).encode())
    assert sum(map(len, spelt)) - seen_size in (0, 1)
    at = seen_size - sum(map(len, spelt))  # -1: a dummy prefix
    for piece, (_, stop) in zip(spelt, spans, strict=True):
        at += len(piece)
        assert borders[at][0] <= stop <= borders[at][1]
    assert at == seen_size


@pytest.mark.parametrize("kind", REWRITTEN)
@fuzzed
@given(text=TEXT)
def test_rewritten_text_with_added_tokens_is_tiled(tokenizer_of, kind, text):
    assume("\u0338" not in text)
    pieces, spans = encode(tokenizer_of(kind), text)
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
    assert spans[-1][1] == len(text.encode())
    assert all(start <= stop for start, stop in spans)
    for piece, (start, stop) in zip(pieces, spans, strict=True):
        if piece in tokenizer_of(kind).get_added_vocab():
            assert text.encode()[start:stop].startswith(piece.encode())


def test_tokens_that_cut_a_letter_take_its_bytes_apart():
    tokenizer = tiny_tokenizers.byte_level_of()
    assert encode(tokenizer, "a²😀") == (
        ["a", "Â", "²", "ð", "Ł", "ĺ", "Ģ"],
        [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6], [6, 7]],
    )


def test_token_over_whole_letters_and_a_part_of_the_next():
    tokenizer = tiny_tokenizers.byte_level_of("x²")
    # without the last byte of the letter: U+00B3 begins with the same byte as U+00B2
    assert encode(tokenizer, "x³x²") == (["xÂ", "³", "xÂ²"], [[0, 2], [2, 3], [3, 6]])


def test_byte_fallback_pieces_are_one_byte_each(tokenizer_of):
    pieces, spans = encode(tokenizer_of("llama_without_dummy"), "中x")
    assert pieces == ["<0xE4>", "<0xB8>", "<0xAD>", "x"]
    assert spans == [[0, 1], [1, 2], [2, 3], [3, 4]]


def test_dummy_prefix_covers_no_byte(tokenizer_of):
    assert encode(tokenizer_of("llama"), "中") == (
        ["▁", "<0xE4>", "<0xB8>", "<0xAD>"],
        [[0, 0], [0, 1], [1, 2], [2, 3]],
    )
    assert encode(tokenizer_of("byte_level_prefix_space"), "²b") == (
        ["Ġ", "Â²", "b"],
        [[0, 0], [0, 2], [2, 3]],
    )
    assert encode(tokenizer_of("sentencepiece_slow"), "a²") == (["▁a", "²"], [[0, 1], [1, 3]])


def test_text_that_begins_with_a_space_behind_a_dummy_prefix(tokenizer_of):
    assert encode(tokenizer_of("llama"), " ²") == (["▁", "▁", "²"], [[0, 0], [0, 1], [1, 3]])
    assert encode(tokenizer_of("llama"), "  ²")[1] == [[0, 0], [0, 1], [1, 2], [2, 4]]
    assert encode(tokenizer_of("sentencepiece_slow"), " a") == (["▁", "▁a"], [[0, 0], [0, 2]])
    # these two leave the dummy out where a space leads
    assert encode(tokenizer_of("llama_metaspace"), " ²") == (["▁", "²"], [[0, 1], [1, 3]])
    assert encode(tokenizer_of("byte_level_prefix_space"), " is") == (["Ġis"], [[0, 3]])


def test_one_piece_for_the_dummy_and_the_blanks_behind_it():
    backend = Tokenizer(models.BPE({"▁": 0, "a": 1, "▁▁": 2, "▁▁▁": 3}, [("▁", "▁"), ("▁▁", "▁")]))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert encode(tokenizer, " a") == (["▁▁", "a"], [[0, 1], [1, 2]])
    assert encode(tokenizer, "  a") == (["▁▁▁", "a"], [[0, 2], [2, 3]])
    # the mark of SentencePiece in the text itself, 3 bytes
    assert encode(tokenizer, "▁a") == (["▁▁", "a"], [[0, 3], [3, 4]])
    assert encode(tokenizer, " ▁a") == (["▁▁▁", "a"], [[0, 4], [4, 5]])


def test_dummy_prefix_comes_again_behind_an_added_token(tokenizer_of):
    assert encode(tokenizer_of("llama"), "²</s>²") == (
        ["▁", "²", "</s>", "▁", "²"],
        [[0, 0], [0, 2], [2, 6], [6, 6], [6, 8]],
    )
    assert encode(tokenizer_of("sentencepiece_slow"), "²</s> ²") == (
        ["▁", "²", "</s>", "▁▁", "²"],
        [[0, 0], [0, 2], [2, 6], [6, 7], [7, 9]],
    )


def test_the_mark_of_sentencepiece_in_the_text(tokenizer_of):
    assert encode(tokenizer_of("llama"), "▁²") == (["▁", "▁", "²"], [[0, 0], [0, 3], [3, 5]])
    assert encode(tokenizer_of("llama_without_dummy"), "▁²") == (["▁", "²"], [[0, 3], [3, 5]])
    assert encode(tokenizer_of("sentencepiece_slow"), "▁a") == (["▁", "▁a"], [[0, 0], [0, 4]])
    assert encode(tokenizer_of("sentencepiece_slow"), "▁²") == (["▁▁", "²"], [[0, 3], [3, 5]])


def test_added_token_takes_the_blanks_it_strips(tokenizer_of):
    assert encode(tokenizer_of("byte_level_stripping"), "b \u00a0\n<mask>\u3000 b") == (
        ["b", "<mask>", "b"],
        [[0, 1], [1, 15], [15, 16]],
    )
    assert encode(tokenizer_of("byt5"), "a </s>\u2028b</s>") == (
        ["a", "</s>", "b", "</s>"],
        [[0, 1], [1, 9], [9, 10], [10, 14]],
    )
    assert encode(tokenizer_of("byte_level"), "b <|endoftext|> is") == (
        ["b", "Ġ", "<|endoftext|>", "Ġis"],
        [[0, 1], [1, 2], [2, 15], [15, 18]],
    )


def test_accent_belongs_to_the_token_that_composed_it():
    tokenizer = tiny_tokenizers.byte_level_of("caf", "é!", normalizer=normalizers.NFC())
    assert encode(tokenizer, "cafe\u0301!e\u0301a") == (
        ["caf", "Ã©!", "Ã©", "a"],
        [[0, 3], [3, 7], [7, 10], [10, 11]],
    )


def test_tokens_behind_a_composed_letter_are_exact():
    # three jamo of 9 bytes become one letter of 3; an ohm sign of 3 bytes becomes an omega of 2
    tokenizer = tiny_tokenizers.byte_level_of("각", "Ω", "  ", normalizer=normalizers.NFC())
    assert encode(tokenizer, "\u1100\u1161\u11a8²  \u2126") == (
        ["ê°ģ", "Â", "²", "ĠĠ", "Î©"],
        [[0, 9], [9, 10], [10, 11], [11, 13], [13, 16]],
    )


# one letter that becomes several, several that become one, and letters that stay
REFORMED = ["½", "¾", "…", "ﬁ", "ﬃ", "Ａ", "é", "e\u0301", "각", "\u2126", "x", " ", "İ", "㎏", "₹"]


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@pytest.mark.parametrize("merges", [(), ("⁄2x", "fi", "...", "kg")], ids=["bytes", "merged"])
def test_pieces_take_the_weight_of_the_letter_they_are_made_of(form, merges):
    """Against letters that Python's own tables follow, for every neighbour of each."""
    tokenizer = tiny_tokenizers.byte_level_of(*merges, normalizer=getattr(normalizers, form)())
    for pair in itertools.product(REFORMED, repeat=2):
        parts = [*pair, "x"]
        seen = [unicodedata.normalize(form, part).encode() for part in parts]
        assert b"".join(seen) == unicodedata.normalize(form, "".join(parts)).encode()
        sizes = [len(part.encode()) for part in parts]
        ends = np.cumsum(sizes)
        row = {
            "trace": "".join(parts),
            "weighting": "logprob",
            "frontier_spans": np.stack([ends - sizes, ends], 1).tolist(),
            "frontier_logprobs": np.log([0.1, 0.5, 0.9]).tolist(),
        }
        ((ids, spans),) = encode_traces(tokenizer, [row["trace"]])
        owner = [place for place, part in enumerate(seen) for _ in part]
        weights = token_weights(row, spans, unit="letter")
        masked = row | {"weighting": "mask", "frontier_spans": row["frontier_spans"][1:2]}
        touched = token_weights(masked, spans, unit="letter")
        at = 0
        for piece, weight, touches in zip(
            tokenizer.convert_ids_to_tokens(ids), weights, touched, strict=True
        ):
            own = {*owner[at : at + len(byte_level(piece))]}
            at += len(byte_level(piece))
            p = [(0.1, 0.5, 0.9)[place] for place in own]
            assert min(p) - 1e-12 <= weight <= max(p) + 1e-12
            assert len(own) > 1 or weight == pytest.approx(p[0], abs=1e-12)
            assert touches == (1 in own)
        assert at == len(owner)


def test_pieces_of_a_half_by_hand():
    tokenizer = tiny_tokenizers.byte_level_of(normalizer=normalizers.NFKC())
    pieces, spans = encode(tokenizer, "a½x")
    assert pieces == ["a", "1", "â", "ģ", "Ħ", "2", "x"]
    assert spans == [[0, 1], [1, 2], [2, 2], [2, 2], [2, 2], [2, 3], [3, 4]]


def test_a_letter_of_more_pieces_than_bytes_has_the_mean_of_their_probabilities():
    half = "a½x".encode()
    p = [0.5, 0.1, 0.2, 0.3, 0.4, 0.7, 0.9]
    spans = [[0, 1], [1, 2], [2, 2], [2, 2], [2, 2], [2, 3], [3, 4]]
    found, logprobs = whole_letters(half, np.asarray(spans), np.log(p))
    assert found.tolist() == [[0, 1], [1, 3], [3, 4]]
    np.testing.assert_allclose(np.exp(logprobs), [0.5, (0.1 + 0.2 + 0.3 + 0.4 + 0.7) / 5, 0.9])
    # its neighbours' tokens reach into it, and a dummy leading space is no piece of anything
    spans = [[0, 0], [0, 2], [2, 2], [2, 4]]
    found, logprobs = whole_letters(half, np.asarray(spans), np.log([0.9, 0.1, 0.2, 0.6]))
    assert found.tolist() == [[0, 1], [1, 3], [3, 4]]
    np.testing.assert_allclose(np.exp(logprobs), [0.1, 0.3, 0.6])
    # where every piece has a byte nothing moves
    spans, logprobs = np.asarray([[0, 0], [0, 2], [2, 4]]), np.log([0.9, 0.1, 0.6])
    found, same = whole_letters(half, spans, logprobs)
    assert found.tolist() == [[0, 2], [2, 4]]
    assert same.tolist() == logprobs[1:].tolist()
    found, logprobs = whole_letters(half, spans[:1], np.asarray([-1.0]))
    assert found.shape == (0, 2) and logprobs.shape == (0,)


def test_a_frontier_that_expands_letters_gives_each_the_mean_of_its_pieces():
    """Against the means of plain label log-probabilities, piece by piece."""
    tokenizer = tiny_tokenizers.byte_level_of(normalizer=normalizers.NFKC())
    rows = [{"example_id": "a", "prompt": "q", "trace": "a½x"}]
    empty = {"weighting": "none", "frontier_spans": [], "frontier_logprobs": []}
    blank = Dataset.from_list([row | empty for row in rows], features=TRACE_FEATURES)
    model = make_model("llama", len(tokenizer), dtype=torch.float64)
    (row,) = annotate_traces(blank, model, tokenizer)
    (plain,) = token_logprobs(model, align_traces(blank, tokenizer))
    p = np.exp(plain["label_logprobs"])
    assert row["frontier_spans"] == [[0, 1], [1, 3], [3, 4]]
    expected = [p[0], p[1:6].mean(), p[6]]
    np.testing.assert_allclose(np.exp(row["frontier_logprobs"]), expected, rtol=1e-12)


def test_offsets_without_blanks_mislead_nobody():
    tokenizer = tiny_tokenizers.byte_level_of("Å", "  ", normalizer=normalizers.NFC())
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    assert encode(tokenizer, "\u212b  ") == (["Ã\u0127", "ĠĠ"], [[0, 3], [3, 5]])
    assert encode(tokenizer, "   \u212b") == (["ĠĠ", "Ġ", "Ã\u0127"], [[0, 2], [2, 3], [3, 6]])


def test_blanks_that_a_normaliser_takes_away_go_with_the_token_behind():
    collapse = normalizers.Sequence([normalizers.Strip(), normalizers.Replace(Regex(" +"), " ")])
    tokenizer = tiny_tokenizers.byte_level_of(" b", normalizer=collapse)
    assert encode(tokenizer, "  a   b  a\n") == (
        ["a", "Ġb", "Ġ", "a"],
        [[0, 3], [3, 7], [7, 9], [9, 11]],
    )


def test_words_take_the_blanks_before_them():
    tokenizer = tiny_tokenizers.wordpiece()
    assert encode(tokenizer, " First  we\nadd \n") == (
        ["Fir", "##st", "we", "add"],
        [[0, 4], [4, 6], [6, 10], [10, 16]],
    )
    # spaces are put around CJK letters, which covers nothing of the text
    assert encode(tokenizer, "然后 然") == (["然", "后", "然"], [[0, 3], [3, 6], [6, 10]])
    assert encode(tokenizer, "we [SEP] add")[1] == [[0, 2], [2, 8], [8, 12]]


def test_lowercasing_tokenizer_is_exact_where_there_is_nothing_to_lower():
    tokenizer = tiny_tokenizers.wordpiece(lowercase=True)
    assert encode(tokenizer, "first we") == (["fir", "##st", "we"], [[0, 3], [3, 5], [5, 8]])


def rewriting():
    return tiny_tokenizers.byte_level_of(normalizer=normalizers.Lowercase())


def dropping():
    """Its pre-tokeniser removes commas."""
    tokenizer = tiny_tokenizers.byte_level_of()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(",", "removed"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    return tokenizer


def few_bytes():
    """Byte-level, trained without the 256 bytes: what it has not seen leaves no token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(False, use_regex=False)
    backend.train_from_iterator(["abc"], trainers.BpeTrainer(show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=backend)


REFUSALS = {
    "unknown letter": (
        tiny_tokenizers.wordpiece,
        "a b 各",
        "the tokenizer has no token for '各' at character 4",
    ),
    "unknown letter beside the unknown token itself": (
        tiny_tokenizers.wordpiece,
        "[UNK] 各",
        "the tokenizer has no token for '各' at character 6",
    ),
    "rewriting normaliser": (rewriting, "A b", "rewrites the text"),
    "accents stripped": (lambda: tiny_tokenizers.wordpiece(lowercase=True), "é", "rewrites"),
    "control character cleaned away": (tiny_tokenizers.wordpiece, "a\x07b", "rewrites"),
    "letters dropped by the pre-tokeniser": (dropping, "a,b", "do not spell it"),
    "bytes outside the alphabet": (few_bytes, "ab😀", "do not spell it"),
    "no token at all": (tiny_tokenizers.wordpiece, " \n", "gives no token"),
    "slow without byte symbols": (
        tiny_tokenizers.word_slow,
        "First we",
        "the tokens of WordTokenizer do not spell it",
    ),
    "slow with an unknown word": (tiny_tokenizers.word_slow, "zzz", "has no token for a part"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusal_is_a_sentence_and_an_input_error_with_its_place(case):
    build, text, sentence = REFUSALS[case]
    tokenizer = build()
    known = "<unk>" if tokenizer.unk_token == "<unk>" else "a"
    fine, refused = encode_traces(tokenizer, [known, text])
    assert not isinstance(fine, str)
    assert sentence in refused
    rows = [
        {"example_id": name, "prompt": "a", "trace": trace, "weighting": "none"}
        | {"frontier_spans": [], "frontier_logprobs": []}
        for name, trace in (("fine", known), ("bad", text))
    ]
    with pytest.raises(InputError) as error:
        align_traces(Dataset.from_list(rows, features=TRACE_FEATURES), tokenizer)
    assert str(error.value).startswith("row 1 (example_id 'bad'), field trace: ")
    assert sentence in str(error.value)


def test_slow_sentencepiece_without_byte_fallback_refuses_what_it_has_not_seen(tmp_path):
    tokenizer = tiny_tokenizers.sentencepiece_slow(tmp_path, byte_fallback=False)
    assert encode(tokenizer, "a²") == (["▁a", "²"], [[0, 1], [1, 3]])
    assert encode_traces(tokenizer, ["a中"]) == ["the tokenizer has no token for a part of it"]


def tokens_of(tokenizer, text, *, chat=False):
    (ids,) = encode_contexts(tokenizer, [text], chat=chat)
    return tokenizer.convert_ids_to_tokens(ids)


def test_context_keeps_the_bos_and_drops_the_eos(tokenizer_of, tmp_path):
    both = tokenizer_of("byte_level_bos_eos")
    assert both.convert_ids_to_tokens(both("b is")["input_ids"]) == ["<s>", "b", "Ġis", "</s>"]
    assert tokens_of(both, "b is") == ["<s>", "b", "Ġis"]
    assert tokens_of(tokenizer_of("llama"), "²") == ["<s>", "▁", "²"]
    assert tokens_of(tokenizer_of("byt5"), "ab") == ["a", "b"]
    assert tokens_of(tiny_tokenizers.wordpiece(), "we add") == ["[CLS]", "we", "add"]
    slow = tiny_tokenizers.sentencepiece_slow(tmp_path, special_tokens_pattern="bos_eos")
    assert tokens_of(slow, "a") == ["<s>", "▁a"]


def test_text_with_its_own_bos_gets_no_second(tokenizer_of):
    assert tokens_of(tokenizer_of("byte_level_bos_eos"), "<s>b") == ["<s>", "b"]
    assert tokens_of(tokenizer_of("llama"), "<s>²") == ["<s>", "▁", "²"]
    # the EOS that a text brings itself stays, and so does a BOS that is not its first token
    assert tokens_of(tokenizer_of("byte_level_bos_eos"), "b<s></s>") == ["<s>", "b", "<s>", "</s>"]


def test_empty_context_is_the_bos(tokenizer_of):
    assert tokens_of(tokenizer_of("byte_level_bos_eos"), "") == ["<s>"]
    assert tokens_of(tokenizer_of("byte_level"), "") == []


def test_chat_text_brings_its_own_specials(tokenizer_of):
    assert tokens_of(tokenizer_of("byte_level_bos_eos"), "b", chat=True) == ["b"]
    assert tokens_of(tokenizer_of("byte_level_bos_eos"), "<s>b", chat=True) == ["<s>", "b"]


def reloaded(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    if isinstance(tokenizer, (ByT5Tokenizer, SentencePieceBackend)):
        return type(tokenizer).from_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


BUILDERS = {
    "byte_level": lambda folder: tiny_tokenizers.byte_level(),
    "byte_level_nfc": lambda folder: tiny_tokenizers.byte_level_nfc(),
    "byte_level_bos_eos": lambda folder: tiny_tokenizers.byte_level_bos_eos(),
    "llama": lambda folder: tiny_tokenizers.llama(),
    "sentencepiece_slow": lambda folder: tiny_tokenizers.sentencepiece_slow(folder),
    "byt5": lambda folder: tiny_tokenizers.byt5(),
}


@pytest.mark.parametrize("kind", BUILDERS)
def test_fingerprint_stays_through_what_changes_no_ids(tmp_path, kind):
    tokenizer = BUILDERS[kind](tmp_path)
    before = tokenizer_fingerprint(tokenizer)
    assert tokenizer_fingerprint(BUILDERS[kind](tmp_path)) == before
    assert tokenizer_fingerprint(reloaded(tokenizer, tmp_path / "saved")) == before
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    tokenizer.model_max_length = 7
    tokenizer(["a b", "a"], truncation=True, max_length=3)
    assert tokenizer_fingerprint(tokenizer) == before


@pytest.mark.parametrize("kind", BUILDERS)
def test_fingerprint_stays_when_eos_pads(tmp_path, kind):
    tokenizer = BUILDERS[kind](tmp_path)
    before = tokenizer_fingerprint(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer_fingerprint(tokenizer) == before


@pytest.mark.parametrize("kind", BUILDERS)
def test_fingerprint_stays_when_a_pad_token_is_added(tmp_path, kind):
    tokenizer = BUILDERS[kind](tmp_path)
    before, size = tokenizer_fingerprint(tokenizer), len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert len(tokenizer) == size + 1
    assert tokenizer_fingerprint(tokenizer) == before
    assert tokenizer_fingerprint(reloaded(tokenizer, tmp_path / "saved")) == before


def test_eos_behind_the_vocabulary_may_pad():
    # as in Qwen and GPT-2, where the EOS is the last token of all
    tokenizer = tiny_tokenizers.byte_level_of("ab")
    tokenizer.add_special_tokens({"eos_token": "<eos>"})
    before = tokenizer_fingerprint(tokenizer)
    tokenizer.pad_token = "<eos>"
    assert tokenizer_fingerprint(tokenizer) == before


def changed(**parts):
    tokenizer = tiny_tokenizers.byte_level_of("ab")
    for name, value in parts.items():
        setattr(tokenizer.backend_tokenizer, name, value)
    return tokenizer


def with_token(token):
    tokenizer = tiny_tokenizers.byte_level_of("ab")
    tokenizer.add_tokens([token])
    return tokenizer


def with_bos():
    tokenizer = with_token(AddedToken("<x>"))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<x> $A", special_tokens=[("<x>", tokenizer.convert_tokens_to_ids("<x>"))]
    )
    return tokenizer


def with_special_tokens_split():
    tokenizer = tiny_tokenizers.byte_level_of("ab")
    tokenizer.split_special_tokens = True
    return tokenizer


def test_fingerprint_tells_apart_what_gives_other_ids(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    different = {
        "plain": tiny_tokenizers.byte_level_of("ab"),
        "vocabulary": tiny_tokenizers.byte_level_of("ac"),
        "order of merges": tiny_tokenizers.byte_level_of("ab", "bc"),
        "other order of merges": tiny_tokenizers.byte_level_of("bc", "ab"),
        "normaliser": changed(normalizer=normalizers.NFC()),
        "pre-tokeniser": changed(pre_tokenizer=pre_tokenizers.ByteLevel(False)),
        "other pre-tokeniser": changed(
            pre_tokenizer=pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(r"\d"), "isolated"),
                    pre_tokenizers.ByteLevel(False, use_regex=False),
                ]
            )
        ),
        "added token": with_token(AddedToken("<x>")),
        "added token by name": with_token(AddedToken("<y>")),
        "added token that strips": with_token(AddedToken("<x>", lstrip=True)),
        "post-processor": with_bos(),
        "special tokens split": with_special_tokens_split(),
        "slow": tiny_tokenizers.sentencepiece_slow(one),
        "slow, other model": tiny_tokenizers.sentencepiece_slow(two, byte_fallback=False),
        "slow, other handling of dummies": tiny_tokenizers.sentencepiece_slow(one, legacy=False),
        "slow, with BOS": tiny_tokenizers.sentencepiece_slow(one, special_tokens_pattern="bos"),
        "bytes": tiny_tokenizers.byt5(),
    }
    hashes = {name: tokenizer_fingerprint(tokenizer) for name, tokenizer in different.items()}
    assert len(set(hashes.values())) == len(hashes), hashes


def test_spans_are_whole_numbers(tokenizer_of):
    ((_, spans),) = encode_traces(tokenizer_of("byte_level_nfc"), ["e\u0301"])
    assert spans.dtype == np.int64
