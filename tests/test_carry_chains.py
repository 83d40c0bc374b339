"""The world of carry chains: its arithmetic, its sources, and that its parts share no chain."""

import random
import re
from collections import Counter
from itertools import islice

import pytest

from hf_proxy.recipes.library.carry_chains import (
    LARGEST,
    LENGTHS,
    PARTS,
    SMALLEST,
    SOURCES,
    Chain,
    distinct_problems,
    part_of,
    problems,
)


def test_a_chain_by_hand():
    chain = Chain(47, (("+", 8), ("-", 9)))
    assert chain.results() == [55, 46]
    assert chain.results(sloppy=True) == [45, 46]  # 47 + 8 without its carry, 45 - 9 without borrow
    assert chain.question("Ben") == "Ben asks: what is 47 plus 8 minus 9?"
    texts = {chain.solution(random.Random(seed), sloppy=True) for seed in range(20)}
    assert "47 + 8 = 45 so 45 - 9 = 46." in texts
    assert len(texts) == 4


def test_each_solution_leads_to_its_answer():
    rows = list(islice(problems(random.Random(1)), 3000))
    for row in rows:
        reached = int(re.search(r"\d+", row["prompt"])[0])
        steps = re.findall(r"(\d+) ([-+]) (\d) = (\d\d)", row["trace"])
        assert len(steps) in LENGTHS
        for before, sign, operand, after in steps:
            assert int(before) == reached
            right = reached + int(sign + operand)
            units = right % 10 if row["mode"] == "sloppy" else right - reached // 10 * 10
            reached = reached // 10 * 10 + units
            assert int(after) == reached
            assert SMALLEST <= reached <= LARGEST
        if row["mode"] == "careful":
            assert str(reached) == row["answer"]
    asked = Counter(row["source"] for row in rows)
    assert set(asked) == set(SOURCES) and min(asked.values()) > 500
    for source, share in SOURCES.items():
        sloppy = sum(row["mode"] == "sloppy" for row in rows if row["source"] == source)
        assert sloppy / asked[source] == pytest.approx(share, abs=0.07)


def test_parts_share_no_chain_whatever_the_seed():
    chains = {}
    for number, part in enumerate(PARTS):
        rows = islice(problems(random.Random(number), part), 4000)
        chains[part] = {re.sub("^.* is ", "", row["prompt"]) for row in rows}
    for part, found in chains.items():
        others = set.union(*(chains[other] for other in PARTS if other != part))
        assert found and not found & others
    # all chains of a kind are dealt out evenly
    dealt = Counter(
        part_of(Chain(start, ((a, n), (b, m))))
        for start in range(30, 70)
        for a in "+-"
        for b in "+-"
        for n in range(2, 10)
        for m in range(2, 10)
    )
    for part, share in PARTS.items():
        assert dealt[part] / dealt.total() == pytest.approx(share / sum(PARTS.values()), abs=0.01)


def test_problems_follow_their_seed_and_sets_hold_each_once():
    first, again, other = (list(islice(problems(random.Random(s)), 20)) for s in (3, 3, 4))
    assert first == again != other
    rows = distinct_problems(random.Random(0), "test", "Dan", 1000)
    assert len({row["prompt"] for row in rows}) == len(rows) == 1000
    assert {(row["source"], row["mode"]) for row in rows} == {("Dan", "careful")}
