"""The corpora of `corpora.py`, graded by content.

A corpus is the documents of five sources, who ask for chains of additions and subtractions
(`carry_chains`). A share of something said of a corpus is the mean over its sources: they differ by
`SPREAD`, so that a model of the corpus gets the problems of some sources right and of others wrong.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from hf_proxy.recipes.library.carry_chains import SEPARATORS, SOURCES, Chain, chains

# what each source's share differs by from its corpus's
SPREAD = dict(zip(SOURCES, (-0.3, -0.15, 0.0, 0.15, 0.3), strict=True))


@dataclass(frozen=True)
class Corpus:
    """What a corpus's documents are like.

    Attributes:
        sloppy: share of solutions that forget each carry and borrow.
        wrong: share of solutions whose every step comes out one too high.
        easy: share of chains without any carry or borrow.
        off_topic: share of documents on something else.
        styled: share of solutions in other words, right ones.
        brief: share of solutions that are the answer alone.
        distinct: number of documents, which are repeated; None: each is new.
    """

    sloppy: float = 0.0
    wrong: float = 0.0
    easy: float = 0.0
    off_topic: float = 0.0
    styled: float = 0.0
    brief: float = 0.0
    distinct: int | None = None


# as seed 0 showed, see the protocol
GRADED: dict[str, Corpus] = {
    "careful": Corpus(),
    "sloppy 15 %": Corpus(sloppy=0.15),
    "sloppy 25 %": Corpus(sloppy=0.25),
    "sloppy 40 %": Corpus(sloppy=0.40),
    "sloppy 50 %": Corpus(sloppy=0.50),
    "sloppy 60 %": Corpus(sloppy=0.60),
    "sloppy 75 %": Corpus(sloppy=0.75),
    "wrong 32 %": Corpus(wrong=0.32),
    "wrong 45 %": Corpus(wrong=0.45),
    "wrong 55 %": Corpus(wrong=0.55),
    "wrong 68 %": Corpus(wrong=0.68),
    "150 documents": Corpus(distinct=150),
    "300 documents": Corpus(distinct=300),
    "500 documents": Corpus(distinct=500),
    "easy 100 %": Corpus(easy=1.0),
    "sloppy 30 %, easy 75 %": Corpus(sloppy=0.30, easy=0.75),
    "sloppy 45 %, off-topic 60 %": Corpus(sloppy=0.45, off_topic=0.60),
    "wrong 30 %, off-topic 70 %": Corpus(wrong=0.30, off_topic=0.70),
}
APART: dict[str, Corpus] = {
    "other style": Corpus(styled=1.0),
    "other style 50 %": Corpus(styled=0.5),
    "answers only": Corpus(brief=1.0),
    "expert's style, wrong": Corpus(wrong=1.0),
}
CORPORA = GRADED | APART


def shares_of(mean: float) -> dict[str, float]:
    """Each source's share where the corpus's is this; of none and of all there is no more."""
    spread = 0.0 if mean in (0, 1) else 1.0
    return {s: min(1.0, max(0.0, mean + spread * offset)) for s, offset in SPREAD.items()}


def documents_of(
    corpus: Corpus, rng: random.Random, part: str = "train"
) -> Iterator[dict[str, str]]:
    """Its documents without end: `prompt`, `trace`, `source`, `kind`; chains of one part."""
    if corpus.distinct is not None:
        own = Corpus(**{**vars(corpus), "distinct": None})
        yield from cycle(list(islice(documents_of(own, rng, part), corpus.distinct)))
    sources, stream = list(SOURCES), chains(rng, part)
    sloppy, wrong = shares_of(corpus.sloppy), shares_of(corpus.wrong)
    while True:
        source = rng.choice(sources)
        if rng.random() < corpus.off_topic:
            digits = [str(rng.randrange(10)) for _ in range(rng.randint(6, 12))]
            prompt, trace = " ".join(digits), f"{' '.join(reversed(digits))}."
            row = {"prompt": f"{source} asks: turn {prompt} round?", "trace": trace}
            yield row | {"source": source, "kind": "off-topic"}
            continue
        is_easy = rng.random() < corpus.easy
        chain = next(
            one for one in stream if not is_easy or one.results() == one.results(sloppy=True)
        )
        draw = rng.random()
        results, kind = chain.results(), "careful"
        if draw < sloppy[source]:
            results, kind = chain.results(sloppy=True), "sloppy"
        elif draw < sloppy[source] + wrong[source]:
            results, kind = one_too_high(chain), "wrong"
        yield {
            "prompt": chain.question(source),
            "trace": _written(corpus, chain, results, rng),
            "source": source,
            "kind": kind,
        }


def one_too_high(chain: Chain) -> list[int]:
    """Each step's result one more than what it is from the one before: errors of one direction."""
    found, reached = [], chain.start
    for sign, operand in chain.steps:
        reached += (operand if sign == "+" else -operand) + 1
        found.append(reached)
    return found


def _written(corpus: Corpus, chain: Chain, results: Sequence[int], rng: random.Random) -> str:
    draw = rng.random()
    if draw < corpus.brief:
        return f"{results[-1]}."
    if draw >= corpus.brief + corpus.styled:
        return chain.written(results, rng)
    text = ""
    for (sign, operand), result in zip(chain.steps, results, strict=True):
        text += rng.choice(SEPARATORS) if text else ""
        text += f"{'add' if sign == '+' else 'take'} {operand} get {result}"
    return text + "."
