"""A model without any training of ours: n-grams of a corpus, and their NLL of expert traces."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from math import log
from typing import Any

from corpora_documents import CORPORA
from corpora_world import World

from hf_proxy import load_traces
from hf_proxy.recipes.library.small_world import encode_documents
from hf_proxy.records.storage import fingerprint, write_text

ORDERS = (2, 5)  # fixed before the run
NUM_STEPS = 150  # batches of documents that are counted


class Ngrams:
    """Interpolated n-grams after Witten and Bell (1991), down to a uniform distribution.

    Args:
        texts: token ids of documents.
        order: tokens of the longest n-gram.
        vocab_size: tokens that there are.
    """

    def __init__(self, texts: Sequence[Sequence[int]], order: int, vocab_size: int):
        self.order, self.vocab_size = order, vocab_size
        self.counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for ids in texts:
            for place, token in enumerate(ids):
                for length in range(min(order - 1, place) + 1):
                    self.counts[tuple(ids[place - length : place])][token] += 1
        self.totals = {history: own.total() for history, own in self.counts.items()}

    def prob(self, history: Sequence[int], token: int) -> float:
        """Of this token after these: each order leaves to the lower one what is new to it."""
        value = 1 / self.vocab_size
        for length in range(min(self.order - 1, len(history)) + 1):
            own = self.counts.get(tuple(history[len(history) - length :]))
            if own is None:
                break
            total, kinds = self.totals[tuple(history[len(history) - length :])], len(own)
            value = (own[token] + kinds * value) / (total + kinds)
        return value


def ngrams_of(world: World, corpora: Sequence[str]) -> dict[str, dict[str, float]]:
    """Of each order, each corpus's NLL of the traces' tokens, nats per token; counted once."""
    path = world.folder / "ngrams.json"
    known: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    traces = load_traces(world.trace_sets()["rbridge"])
    rows = encode_documents(world.tokenizer, list(traces))
    found: dict[str, dict[str, float]] = {f"{order}-gram NLL": {} for order in ORDERS}
    for corpus in corpora:
        key = fingerprint(vars(CORPORA[corpus]) | {"steps": NUM_STEPS, "traces": len(rows)})
        if known.get(corpus, {}).get("key") != key:
            texts = [d["input_ids"] for d in world.documents(CORPORA[corpus], corpus, NUM_STEPS)]
            known[corpus] = {"key": key}
            for order in ORDERS:
                model = Ngrams(texts, order, len(world.tokenizer))
                known[corpus][f"{order}-gram NLL"] = nll_of(model, rows)
        for name, own in found.items():
            own[corpus] = known[corpus][name]
    write_text(path, json.dumps(known, indent=1))
    return found


def nll_of(model: Ngrams, rows: Sequence[dict[str, list[int]]]) -> float:
    """Mean over rows of the mean NLL of their labels, nats per token."""
    means = []
    for row in rows:
        ids, labels = row["input_ids"], row["labels"]
        nll = [
            -log(model.prob(ids[max(0, place - model.order + 1) : place], ids[place]))
            for place, label in enumerate(labels)
            if label >= 0
        ]
        means.append(sum(nll) / len(nll))
    return sum(means) / len(means)
