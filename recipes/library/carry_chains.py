"""Carry chains: a world of arithmetic whose models can do more than their first answer shows.

A problem is a chain of two or three additions and subtractions on a number of two digits, asked in
English by a *source*: "Chloé asks: what is 47 plus 8 minus 5?". Its solution works step by step. In
*sloppy* solutions each step forgets the carry or the borrow ("47 + 8 = 45"). A source is known by
its share of them; nothing else announces one. So a model of such texts holds both modes, and asked
by a source that is sloppy more often than not, it mostly forgets the carry, though it can do
better: the ability is latent, by construction. Where a source is never sloppy, nothing is.

Which problems models learn from, are asked about, and are tested on is decided by the chain alone,
the same for every seed and source: no chain of one part is in another (`part_of`).
"""

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

# who asks, and the share of sloppy solutions among the documents
SOURCES: Mapping[str, float] = {"Ada": 0.0, "Ben": 0.3, "Chloé": 0.55, "Dan": 0.7, "Eve": 0.9}
CLEAN, LATENT = "Ada", "Chloé"  # nothing to gain; much
# twentieths of all chains: models learn from the first, the methods from the second, the traces
# are of the third; accuracies are those of the fourth, foretelling is done on the last
PARTS: Mapping[str, int] = {"train": 13, "mine": 2, "trace": 1, "test": 2, "foretell": 2}
LENGTHS = (2, 3)  # operations
SMALLEST, LARGEST = 10, 99  # of every number that is reached
OPERANDS = range(2, 10)
WORDS = {"+": "plus", "-": "minus"}
# between two steps, each as likely: taste, which no model can know; the numbers it can
SEPARATORS = (", ", "; ", ". ", " so ")


@dataclass(frozen=True)
class Chain:
    """A number, and what is added to it or taken from it, in order."""

    start: int
    steps: tuple[tuple[str, int], ...]  # sign, operand

    def results(self, *, sloppy: bool = False) -> list[int]:
        """The number after each step; sloppy: without the carries and borrows."""
        found, reached = [], self.start
        for sign, operand in self.steps:
            change = operand if sign == "+" else -operand
            if sloppy:
                reached = reached - reached % 10 + (reached + change) % 10
            else:
                reached += change
            found.append(reached)
        return found

    def question(self, source: str) -> str:
        """As this source asks it."""
        said = " ".join(f"{WORDS[sign]} {operand}" for sign, operand in self.steps)
        return f"{source} asks: what is {self.start} {said}?"

    def solution(self, rng: random.Random, *, sloppy: bool) -> str:
        """Worked step by step; `rng` chooses the separators."""
        return self.written(self.results(sloppy=sloppy), rng)

    def written(self, results: Sequence[int], rng: random.Random) -> str:
        """These results of the steps, in the words of a solution."""
        reached, text = self.start, ""
        for (sign, operand), result in zip(self.steps, results, strict=True):
            text += rng.choice(SEPARATORS) if text else ""
            text += f"{reached} {sign} {operand} = {result}"
            reached = result
        return text + "."


def part_of(chain: Chain) -> str:
    """The one part of `PARTS` that the chain is in, whoever asks it."""
    text = f"{chain.start}" + "".join(f"{sign}{operand}" for sign, operand in chain.steps)
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % sum(PARTS.values())
    for part, share in PARTS.items():
        if place < share:
            return part
        place -= share
    raise AssertionError


def chains(rng: random.Random, part: str) -> Iterator[Chain]:
    """Chains of this part without end, each length as likely; they may come again."""
    while True:
        reached = start = rng.randint(SMALLEST, 89)
        steps = []
        for _ in range(rng.choice(LENGTHS)):
            sign, operand = rng.choice("+-"), rng.choice(OPERANDS)
            reached += operand if sign == "+" else -operand
            if not SMALLEST <= reached <= LARGEST:
                break
            steps.append((sign, operand))
        else:
            chain = Chain(start, tuple(steps))
            if part_of(chain) == part:
                yield chain


def problems(
    rng: random.Random, part: str = "train", shares: Mapping[str, float] = SOURCES
) -> Iterator[dict[str, str]]:
    """Documents without end: `prompt`, worked `trace`, right `answer`, `source`, `mode`.

    Args:
        rng: decides chains, sources, modes and separators.
        part: of `PARTS`.
        shares: of each source, all as likely, the share of sloppy solutions.
    """
    sources = list(shares)
    for chain in chains(rng, part):
        source = rng.choice(sources)
        sloppy = rng.random() < shares[source]
        yield {
            "prompt": chain.question(source),
            "trace": chain.solution(rng, sloppy=sloppy),
            "answer": str(chain.results()[-1]),
            "source": source,
            "mode": "sloppy" if sloppy else "careful",
        }


def distinct_problems(
    rng: random.Random, part: str, source: str, number: int
) -> list[dict[str, str]]:
    """So many different problems of one source, worked carefully."""
    found: dict[str, dict[str, str]] = {}
    for row in problems(rng, part, {source: 0.0}):
        found.setdefault(row["prompt"], row)
        if len(found) == number:
            return list(found.values())
    raise AssertionError


def shifted_shares(shift: float) -> dict[str, float]:
    """The sources' shares, all more or less sloppy by so much, within 0 and 1."""
    return {source: min(1.0, max(0.0, share + shift)) for source, share in SOURCES.items()}
