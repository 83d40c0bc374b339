"""The world of carry chains: its arithmetic, its sources, and that its parts share no chain."""

import random
import re
from collections import Counter
from itertools import islice
from pathlib import Path

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
        rows = islice(problems(random.Random(number), part), 1500)
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


def right_row(seed, arm, num_right, **more):
    """What one training gave on 200 problems of which the first so many are right."""
    row = {"seed": seed, "source": "Chloé", "amateur": "normal", "arm": arm, "cpu_seconds": 1.0}
    return row | {"right": num_right * "1" + (200 - num_right) * "0"} | more


def test_tables_of_the_committed_run_by_hand(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "benchmarks")
    from carry_chains_tables import tables_of

    rows = []
    for seed, gained in ((1, 4), (2, 6), (3, 8)):
        rows.append(right_row(seed, "base", 100, amateur_right=200 * "0"))
        rows.append(right_row(seed, "LightReasoner 0.4", 100 + gained, kept_tokens=10 * seed))
        rows.append(right_row(seed, "no contrast", 100 - 2 * gained))
        told = {"divergence_beta": 0.4, "gain": gained / 100, "verdict": "no evidence"}
        rows.append(right_row(seed, "foretold", 0, foretold=[told]))
    tables = {table["caption"]: table["rows"] for table in tables_of(rows)}
    assert tables["Accuracy before"][0]["expert"] == 50
    ours, other = tables["Gain after training"]
    # 2, 3, 4 points: t of 2 degrees of freedom is 4.302653, the standard error 1/sqrt(3)
    assert ours["mean"] == pytest.approx(3)
    assert ours["high"] == pytest.approx(3 + 4.302653 / 3**0.5, rel=1e-6)
    assert (ours["seeds with a gain"], ours["seeds with a loss"]) == (2, 0)  # 2 points are none
    assert (other["mean"], other["seeds with a loss"]) == (pytest.approx(-6), 3)
    assert ours["kept tokens"] == 20 and other["kept tokens"] is None
    (against,) = tables["LightReasoner 0.4 against the other arms"]
    assert against["mean"] == pytest.approx(9) and against["by seed"] == [6, 9, 12]
    (told,) = tables["Foretold and come"]
    assert (told["foretold"], told["came"]) == (pytest.approx(6), pytest.approx(3))
    judged = tables["Foretelling judged"][0]
    assert judged["Pearson"] == pytest.approx(1) and judged["pairs"] == 3
    assert (judged["gains"], judged["gains without go"], judged["go"]) == (2, 2, 0)
