"""Tokenizers of every kind that a proxy may come with, trained here on a few lines of text.

Each function gives a fresh tokenizer, so a test may change its own. Vocabularies are small on
purpose: many letters are split between tokens.
"""

import io
from pathlib import Path

import sentencepiece
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import ByT5Tokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

CORPUS = [
    "First we add 12 and 30, which gives 42. Then we halve it: 42 / 2 = 21.",
    "The area is a² + b², so the answer is \\frac{3}{4} or 0.75.",
    "Let x = 5.\nThen 3x = 15.\r\n\tTherefore x² = 25, and we are done.",
    "def half(x):\n    return x / 2\n\n\nprint(half(42))",
    "Zuerst addieren wir 12 und 30; das ergibt über den Daumen 42 Äpfel.",
    "D'abord, on ajoute 12 à 30 : ça fait 42. Le café est prêt, voilà l'idée.",
    "Сначала сложим 12 и 30, получим 42. Затем разделим пополам.",
    "首先我们把十二和三十相加，得到四十二。然后除以二。",
    "먼저 12와 30을 더하면 42입니다. 그런 다음 반으로 나눕니다.",
    "أولا نجمع 12 و 30 فنحصل على 42. ثم نقسم على اثنين.",
    "ראשית נחבר 12 ו-30 ונקבל 42.",
    "पहले हम 12 और 30 जोड़ते हैं।",
    "Nice 😀 work 👩‍👩‍👧 done ✅",
]
EUROPEAN = CORPUS[:6]  # letters beyond these are spelt in bytes, or unknown
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE without normaliser, as GPT-2 and SmolLM have."""
    return _wrap(
        _byte_level_bpe(["<|endoftext|>"]), bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )


def byte_level_nfc() -> PreTrainedTokenizerFast:
    """Byte-level BPE behind NFC, with a chat template and added tokens, as Qwen has."""
    tokenizer = _byte_level_bpe([], normalizer=normalizers.NFC())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    wrapped = _wrap(tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def byte_level_prefix_space() -> PreTrainedTokenizerFast:
    """Byte-level BPE that puts a space before the first word, as RoBERTa-style exports do."""
    return _wrap(
        _byte_level_bpe(["<|endoftext|>"], add_prefix_space=True), eos_token="<|endoftext|>"
    )


def byte_level_bos_eos() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose post-processor puts BOS before a text and EOS behind it."""
    tokenizer = _byte_level_bpe(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")],
    )
    return _wrap(tokenizer, bos_token="<s>", eos_token="</s>")


def byte_level_of(*tokens: str, **kwargs) -> PreTrainedTokenizerFast:
    """Byte-level BPE of the 256 bytes and exactly these tokens, each built byte by byte."""
    spelt = [pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(t) for t in tokens]
    vocab = {symbol: id for id, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for ((symbols, _),) in spelt:
        for end in range(2, len(symbols) + 1):
            if symbols[:end] not in vocab:
                vocab[symbols[:end]] = len(vocab)
                merges.append((symbols[: end - 1], symbols[end - 1]))
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.normalizer = kwargs.pop("normalizer", None)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _wrap(tokenizer, **kwargs)


class Processor(ProcessorMixin):
    """As models of text and images have: a tokenizer beside whatever reads the images."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer)


class ImageProcessor(BaseImageProcessor):
    """Reads images, holds no tokenizer."""


def with_gaps(*, pad: bool = False) -> PreTrainedTokenizerFast:
    """Control tokens above free ids, as tiktoken-born ones have: 22 tokens, `<|end|>` at 30."""
    words = {"<unk>": 0} | {f"w{i}": i for i in range(1, 20)}
    control = {"<|user|>": 25, "<|end|>": 30}
    tokenizer = Tokenizer(models.WordLevel(words | control, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(control))
    wrapped = _wrap(tokenizer, eos_token="<|end|>", unk_token="<unk>")
    if pad:
        wrapped.add_special_tokens({"pad_token": "<|pad|>"})
    return wrapped


def llama(*, dummy_prefix: bool = True) -> PreTrainedTokenizerFast:
    """BPE over SentencePiece symbols with byte fallback and BOS, as Llama 2 and Mistral have.

    The dummy prefix is part of the normaliser, so it comes again behind every added token.
    """
    tokenizer = _byte_fallback_bpe()
    spaces = [normalizers.Replace(" ", "▁")]
    if dummy_prefix:
        spaces.insert(0, normalizers.Prepend("▁"))
    tokenizer.normalizer = normalizers.Sequence(spaces)
    _llama_ends(tokenizer, strip=int(dummy_prefix))
    return _wrap(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def llama_metaspace() -> PreTrainedTokenizerFast:
    """The same with the dummy prefix in a Metaspace, which leaves out one where a space leads."""
    tokenizer = _byte_fallback_bpe()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    _llama_ends(tokenizer, strip=1)
    return _wrap(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def sentencepiece_slow(
    folder: Path, *, byte_fallback: bool = True, **kwargs
) -> SentencePieceBackend:
    """Slow SentencePiece BPE: every blank kept, a dummy prefix before each part of the text.

    Without byte fallback, letters that it has not seen are unknown.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(EUROPEAN),
        model_writer=model,
        model_type="bpe",
        vocab_size=400 if byte_fallback else 144,
        byte_fallback=byte_fallback,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    path = Path(folder) / "tokenizer.model"
    path.write_bytes(model.getvalue())
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return SentencePieceBackend(vocab_file=str(path), **(names | kwargs))


def byt5() -> ByT5Tokenizer:
    """One token per byte, slow; its `</s>` strips the blanks on both sides."""
    return ByT5Tokenizer()


def wordpiece(*, lowercase: bool = False) -> PreTrainedTokenizerFast:
    """WordPiece with `[UNK]` and without byte fallback, as BERT has."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=lowercase, handle_chinese_chars=True, clean_text=True
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    names = ("unk_token", "cls_token", "sep_token", "pad_token")
    return _wrap(tokenizer, **dict(zip(names, special, strict=True)))


class WordTokenizer(PreTrainedTokenizer):
    """Slow, and written as `word</w>`: neither offsets nor symbols that spell the bytes."""

    def __init__(self, **kwargs):
        words = sorted({word for line in CORPUS for word in line.split()})
        self._ids = {f"{word}</w>": id for id, word in enumerate(words)}
        self._words = {id: token for token, id in self._ids.items()}
        super().__init__(unk_token="<unk>", **kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self._ids)

    def get_vocab(self) -> dict[str, int]:
        return self._ids | self.added_tokens_encoder

    def _tokenize(self, text: str) -> list[str]:
        return [f"{word}</w>" for word in text.split()]

    def _convert_token_to_id(self, token: str) -> int | None:
        return self._ids.get(token, self.unk_token_id)

    def _convert_id_to_token(self, index: int) -> str | None:
        return self._words.get(index)


def word_slow() -> WordTokenizer:
    """A tokenizer that cannot say which bytes its tokens cover."""
    return WordTokenizer()


def _byte_level_bpe(special, *, normalizer=None, add_prefix_space=False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=normalizer is None)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _byte_fallback_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=450, special_tokens=pieces, show_progress=False)
    tokenizer.train_from_iterator(EUROPEAN, trainer)
    # byte pieces are plain vocabulary, only the first three are added tokens
    model = tokenizer.model
    bare = Tokenizer(model)
    bare.add_special_tokens([AddedToken(piece, normalized=False) for piece in pieces[:3]])
    return bare


def _llama_ends(tokenizer: Tokenizer, *, strip: int) -> None:
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", left=strip, right=0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )


def _wrap(tokenizer: Tokenizer, **kwargs) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **kwargs
    )
