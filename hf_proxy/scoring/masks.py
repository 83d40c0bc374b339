"""Perplexities of the words and bytes between masks, as rBridge's authors report them.

Source: the mask mode of the released code, without its quirks: spans over line breaks count, and a
token that a tokenizer puts before a text moves no mask (`format="rbridge-mask"`, `align_traces`).
"""

import math
from collections.abc import Iterable, Mapping

from hf_proxy.records.errors import InputError
from hf_proxy.records.scores import ProxyScore


def masked_figures(score: ProxyScore, traces: Iterable[Mapping]) -> dict[str, float | int | None]:
    """Corpus-level figures of a score on traces of weighting `"mask"`.

    `exp(nll / words)`, `exp(nll / bytes)` and `nll / (bytes ln 2)`, with nll summed over the labels
    that touch a span, words (parted by blanks) and UTF-8 bytes over the joined text of the spans;
    a trace without any span counts whole.

    Args:
        score: of these traces; its labels in masks have weight 1, all others 0.

    Returns:
        `word_perplexity, byte_perplexity, bits_per_byte, num_words, num_bytes`; None where a figure
        is none: no word stands in a mask, or it is beyond the largest number.

    Raises:
        InputError: a trace of the score is not here, or has another weighting.
    """
    by_id = {row["example_id"]: row for row in traces}
    nll = math.fsum(score.rows["weighted_nll_sum"])
    num_words = num_bytes = 0
    for example_id in score.rows["example_id"]:
        row = by_id.get(example_id)
        if row is None or row["weighting"] != "mask":
            raise InputError.at(
                "a masked trace of the score is not here" if row is None else "it has no mask",
                remedy="pass the traces that were scored",
                row=example_id,
            )
        data = row["trace"].encode()
        spans = row["frontier_spans"] or [[0, len(data)]]
        text = b"".join(data[start:end] for start, end in spans)
        num_words += len(text.decode(errors="replace").split())
        num_bytes += len(text)
    return {
        "word_perplexity": _exp(nll, num_words),
        "byte_perplexity": _exp(nll, num_bytes),
        "bits_per_byte": nll / (num_bytes * math.log(2)) if num_bytes else None,
        "num_words": num_words,
        "num_bytes": num_bytes,
    }


def _exp(nll: float, count: int) -> float | None:
    try:
        return math.exp(nll / count)
    except (OverflowError, ZeroDivisionError):
        return None
