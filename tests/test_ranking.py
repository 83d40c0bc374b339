"""Rankings against brute force, the paper's compute savings, ties and settings."""

from itertools import combinations

import numpy as np
import pytest
from helpers.published import BASELINE_FRONTIER, RBRIDGE_FRONTIER, SAVINGS
from helpers.scores import make_score

from hf_proxy import (
    InputError,
    compute_saving,
    decision_accuracy,
    kendall_tau,
    rank,
    signal_to_noise,
)
from hf_proxy.intervals import bootstrap_interval
from hf_proxy.scoring.comparison import score_terms

# decisions


def brute_force(proxy, target):
    """Pairs the target orders, and how many of them the proxy orders alike; ties count half."""
    right = pairs = 0
    for a, b in combinations(sorted(proxy), 2):
        if target[a] == target[b]:
            continue
        pairs += 1
        if proxy[a] == proxy[b]:
            right += 0.5
        else:
            right += (proxy[a] < proxy[b]) == (target[a] > target[b])
    return right / pairs, pairs


def test_decision_accuracy_by_hand():
    """Four corpora, six pairs: the target ties one, the proxy ties one and swaps one."""
    target = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.7}
    proxy = {"a": 1.0, "b": 1.0, "c": 3.0, "d": 0.5}
    found = decision_accuracy(proxy, target)
    # ab half, ac right, ad wrong, bc right, bd wrong; cd is no decision
    assert (found.value, found.num_pairs, found.num_ties) == (2.5 / 5, 5, 1)


def test_decision_accuracy_against_brute_force():
    rng = np.random.default_rng(3)
    for _ in range(20):
        proxy = {f"c{i}": float(v) for i, v in enumerate(rng.integers(0, 8, 9))}
        target = {f"c{i}": float(v) for i, v in enumerate(rng.integers(0, 8, 9))}
        found = decision_accuracy(proxy, target)
        assert (found.value, found.num_pairs) == pytest.approx(brute_force(proxy, target))
        if found.low is not None:
            assert found.low <= found.value <= found.high
        mirrored = {name: -value for name, value in proxy.items()}
        assert decision_accuracy(mirrored, target, lower_is_better=False) == found
        assert decision_accuracy(proxy, target).high == found.high  # seeded


def test_kendall_tau_by_hand():
    target = {"a": 3.0, "b": 2.0, "c": 1.0}
    assert kendall_tau({"a": 1.0, "b": 2.0, "c": 3.0}, target) == 1
    assert kendall_tau({"a": 3.0, "b": 2.0, "c": 1.0}, target) == -1
    assert kendall_tau({"a": 1.0, "b": 3.0, "c": 2.0}, target) == pytest.approx(1 / 3)
    higher = {"a": 3.0, "b": 2.0, "c": 1.0}
    assert kendall_tau(higher, target, lower_is_better=False) == 1


def test_a_perfect_proxy_stays_perfect_when_corpora_are_drawn_again():
    """Pairs of a corpus with itself would be ties and pull the interval below 1."""
    names = [f"c{i}" for i in range(6)]
    proxy = {name: float(i) for i, name in enumerate(names)}
    target = {name: 1.0 - i / 10 for i, name in enumerate(names)}
    found = decision_accuracy(proxy, target)
    # no resample differs, so there is nothing to say of other draws, least of all certainty
    assert found.value == 1
    assert found.low is found.high is found.smallest_difference is None


def test_seeds_widen_the_interval():
    rng = np.random.default_rng(0)
    names = [f"c{i}" for i in range(12)]
    proxy = {name: float(i) for i, name in enumerate(names)}
    target = {name: -np.array([i, i, i], float) for i, name in enumerate(names)}
    steady = decision_accuracy(proxy, target)
    noisy = {name: own + rng.normal(size=3) - 0 for name, own in target.items()}
    noisy = {name: own - own.mean() + target[name] for name, own in noisy.items()}  # same means
    shaken = decision_accuracy(proxy, noisy)
    assert shaken.value == steady.value == 1
    assert shaken.low < 1 and steady.low is None


def test_the_targets_own_noise_by_hand():
    """Three seeds; a and b are one, c lies far below: 2 of 3 pairs are clear."""
    target = {"a": [0.60, 0.62, 0.61], "b": [0.61, 0.60, 0.61], "c": [0.10, 0.12, 0.11]}
    proxy = {"a": 2.0, "b": 1.0, "c": 3.0}  # a and b the wrong way round
    found = decision_accuracy(proxy, target)
    assert (found.value, found.num_pairs) == (2 / 3, 3)
    assert (found.num_close, found.value_clear) == (1, 1.0)
    # a against b: seed 1 says b, its others a; seed 2 says a, its others b; seed 3 ties, theirs a
    assert found.noise_floor == pytest.approx(np.mean([2 / 3, 2 / 3, 2.5 / 3]))
    bare = decision_accuracy(proxy, {name: own[0] for name, own in target.items()})
    assert bare.noise_floor is bare.num_close is bare.value_clear is None
    uneven = decision_accuracy(proxy, target | {"c": [0.1]})
    assert uneven.noise_floor is None and uneven.num_close == 1


def test_one_seed_decides_by_hand():
    target = {"a": 0.9, "b": 0.8, "c": 0.7}
    proxy = {"a": [1.0, 3.0], "b": [2.0, 2.0], "c": [3.0, 1.0]}
    found = decision_accuracy(proxy, target, single_seed=True)
    assert found.value == 0.5  # all right, then all wrong
    assert found.low < 0.5 < found.high
    with pytest.raises(InputError, match="all are equal"):
        decision_accuracy(proxy, target)  # the means over seeds are
    with pytest.raises(InputError, match="field proxy: corpora have different numbers of seeds"):
        decision_accuracy(proxy | {"a": [1.0]}, target, single_seed=True)


def test_signal_to_noise_by_hand():
    # means 1, 3, 5: deviation 2; seeds at +-1: variance 2 within each
    assert signal_to_noise({"a": [0, 2], "b": [2, 4], "c": [4, 6]}) == pytest.approx(2 / 2**0.5)
    mixed = {"a": [0, 2], "b": [2, 4], "c": [5]}  # one seed says nothing of the noise
    assert signal_to_noise(mixed) == pytest.approx(2 / 2**0.5)
    for values, message in (
        ({"a": 1.0, "b": 2.0}, "each has one seed"),
        ({"a": [1, 1], "b": [2, 2]}, "seeds never differ"),
        ({"a": [1, 2]}, "there is no pair"),
    ):
        with pytest.raises(InputError, match=message):
            signal_to_noise(values)


def test_corpora_without_an_order_are_refused():
    three = {"a": 1.0, "b": 2.0, "c": 3.0}
    same = dict.fromkeys("abc", 0.5)
    with pytest.raises(InputError, match="field target: all are equal"):
        decision_accuracy(three, same)
    with pytest.raises(InputError, match="field proxy: all are equal"):
        decision_accuracy(same, three)
    with pytest.raises(InputError, match="no order"):
        kendall_tau(same, three)
    with pytest.raises(InputError, match=r"different corpora: \['c', 'd'\]"):
        decision_accuracy(three, {"a": 1.0, "b": 2.0, "d": 3.0})
    with pytest.raises(InputError, match="row b, field proxy: .*nan"):
        decision_accuracy(three | {"b": float("nan")}, three)
    with pytest.raises(InputError, match="there is no pair"):
        decision_accuracy({"a": 1.0}, {"a": 1.0})


# compute


def test_the_papers_five_savings():
    found = compute_saving(RBRIDGE_FRONTIER, BASELINE_FRONTIER)
    assert [saving.factor for saving in found] == pytest.approx(SAVINGS, abs=0.5)
    shuffled = compute_saving(RBRIDGE_FRONTIER[::-1] + [(3e16, 60.0)], BASELINE_FRONTIER[::-1])
    assert shuffled == found  # a dominated point changes nothing


def test_savings_that_cannot_be_read_off_say_why():
    low, _, high = compute_saving([(1.0, 10), (2.0, 55), (3.0, 99)], [(10.0, 50), (1000.0, 60)])
    assert low.factor is None and "starts at 50 already" in low.note
    assert high.factor is None and "never gets beyond 60" in high.note
    (middle,) = compute_saving([(2.0, 55)], [(10.0, 50), (1000.0, 60)])
    assert middle.factor == pytest.approx(100 / 2)  # half way in ln(FLOPs) between 10 and 1000
    for bad in ([], [(0.0, 5)], [(1.0, float("nan"))], [1.0, 2.0]):
        with pytest.raises(InputError, match="field proxy: expected pairs"):
            compute_saving(bad, BASELINE_FRONTIER)


# ranking


def test_a_ranking_against_brute_force():
    rng = np.random.default_rng(5)
    nll = {
        name: rng.normal(10 + shift, 1, 60)
        for name, shift in zip("cabd", (2, 0, 1, 1.02), strict=True)
    }
    found = rank({name: make_score(own) for name, own in nll.items()})
    assert found.order[0] == "a" and found.order[-1] == "c"
    means = {name: (own / 10).mean() for name, own in nll.items()}
    assert list(found.value) == pytest.approx(sorted(means.values()))
    assert (found.best_rank[0], found.worst_rank[0]) == (1, 1)
    middle = {found.order[1], found.order[2]}
    assert middle == {"b", "d"} and (found.best_rank[1], found.worst_rank[2]) == (2, 3)
    a = nll["a"] / 10
    error = a.std() / np.sqrt(60)
    place = found.order.index("a")
    assert found.low[place] == pytest.approx(a.mean() - 1.645 * error, abs=0.1 * error * 3)
    assert found.num_traces == 60
    # paired difference of independent noise: sqrt(2) * 0.1 / sqrt(60), times 1.645 + 0.842
    expected = 2.487 * np.sqrt(2) * 0.1 / np.sqrt(60)
    assert found.smallest_difference == pytest.approx(expected, rel=0.15)
    assert found.notes == ("one seed for each: the intervals hold no seed noise",)


def test_the_same_traces_are_drawn_for_all():
    """Two models that differ by a constant on every trace never change places."""
    base = np.random.default_rng(1).normal(10, 3, 40)
    found = rank({"worse": make_score(base + 0.01), "better": make_score(base)})
    assert found.order == ("better", "worse")
    assert found.best_rank == found.worst_rank == (1, 2)
    assert found.smallest_difference == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("metric", ["value", "trace_nll", "bits_per_byte"])
def test_each_metric_is_the_scores_own(metric):
    rng = np.random.default_rng(2)
    labels = rng.integers(5, 40, 30)
    scores = {
        name: make_score(rng.gamma(5, 2, 30), num_labels=labels, model_id=name) for name in "abc"
    }
    found = rank(scores, metric=metric)
    expected = sorted(scores, key=lambda name: getattr(scores[name], metric))
    assert list(found.order) == expected
    for i, name in enumerate(found.order):
        assert found.value[i] == getattr(scores[name], metric)
        assert found.low[i] < found.value[i] < found.high[i]


def test_seeds_are_averaged_and_shaken():
    base = np.random.default_rng(1).normal(10, 0.1, 40)
    seeds = [make_score(base + shift) for shift in (-1, 0, 1)]
    found = rank({"a": seeds, "b": make_score(base + 0.5)})
    assert found.order == ("a", "b")
    assert found.value[0] == pytest.approx(make_score(base).value)
    assert found.high[0] - found.low[0] > 5 * (found.high[1] - found.low[1])
    assert found.notes == ()


def test_a_ranking_is_held_against_the_target():
    rng = np.random.default_rng(4)
    scores = {f"c{i}": make_score(rng.normal(10 + i, 0.5, 50)) for i in range(8)}
    target = {f"c{i}": 0.9 - i / 20 for i in range(8)}
    found = rank(scores, target=target)
    assert found.decisions.value == 1 and found.decisions.num_pairs == 28
    assert found.kendall_tau == pytest.approx(1)
    with pytest.raises(InputError, match="different corpora"):
        rank(scores, target={"c0": 0.5, "c1": 0.6})


def test_scores_of_other_settings_are_refused():
    a, b = make_score([1, 2, 3]), make_score([1, 2, 4], parts={"tokenizer": "other"}, model_id="b")
    with pytest.raises(InputError, match="m and b cannot be ranked.*tokenizer: 'k' != 'other'"):
        rank({"a": a, "b": b})
    assert rank({"a": a, "b": b}, metric="bits_per_byte").order == ("a", "b")
    with pytest.raises(InputError, match="nothing to rank"):
        rank({"a": a})
    with pytest.raises(InputError, match="two traces rank nothing; score at least 3"):
        rank({"a": make_score([1, 2]), "b": make_score([2, 3])})
    with pytest.raises(InputError, match="one trace ranks nothing"):
        rank({"a": make_score([1]), "b": make_score([2])})
    with pytest.raises(InputError, match="all scores are equal"):
        rank({"a": a, "b": a})
    with pytest.raises(ValueError, match="metric must be one of"):
        rank({"a": a, "b": b}, metric="loss")


@pytest.mark.parametrize("metric", ["value", "bits_per_byte"])
def test_one_score_has_one_interval_wherever_it_is_shown(metric):
    """Of `rank` and of `score_traces`, equal to the last bit; several seeds have another."""
    rng = np.random.default_rng(3)
    scores = {name: make_score(rng.gamma(8, size=40)) for name in "abc"}
    found = rank(scores, metric=metric, seed=5)
    for place, name in enumerate(found.order):
        low, high = bootstrap_interval(*score_terms(scores[name], metric))
        assert (found.low[place], found.high[place]) == (low, high)
        if metric == "value":  # what a score holds, see `summarise`
            rows = scores[name].rows
            own = np.array(rows["weighted_nll_sum"]) / np.array(rows["num_labels"])
            assert (low, high) == bootstrap_interval(own)
    seeds = {**scores, "a": [scores["a"], make_score(rng.gamma(8, size=40))]}
    several = rank(seeds, metric=metric, seed=5)
    place = several.order.index("a")
    assert several.high[place] - several.low[place] > 0
    assert (several.low[place], several.high[place]) != bootstrap_interval(
        *score_terms(scores["a"], metric)
    )
