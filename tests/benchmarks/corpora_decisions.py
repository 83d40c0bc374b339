"""Decision accuracy of many predictors at once: paired differences, and what choosing one is worth.

Axes: F predictors, lower is better; C corpora; S seeds; P pairs of corpora. One attempt is one seed
of the proxy for each corpus; the target is the mean over its seeds. Ties are as in
`hf_proxy.decision_accuracy`.
"""

from typing import NamedTuple

import numpy as np

from hf_proxy.intervals import LEVEL, NUM_RESAMPLES

EDGES = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
NUM_DRAWS = NUM_RESAMPLES
NUM_PERMUTATIONS = 1000


def right_of(value_FC: np.ndarray, target_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`[F, P]` how right each pair is (1, 0.5, 0), and `[P]` whether the target orders it."""
    first, second = np.triu_indices(len(target_C), 1)
    mine = np.sign(value_FC[:, second] - value_FC[:, first])
    theirs = np.sign(target_C[first] - target_C[second])
    return np.where(mine == 0, 0.5, mine == theirs), theirs != 0


def share_drawn(
    value_FCS: np.ndarray,
    target_CS: np.ndarray,
    rng: np.random.Generator,
    num_draws: int | None = None,
) -> np.ndarray:
    """`[R, F]`: decision accuracy of one attempt, on corpora and seeds drawn anew.

    The same draw for all predictors, so that they can be compared; pairs of a corpus with itself
    are dropped.
    """
    _, num, proxy_seeds = value_FCS.shape
    first, second = np.triu_indices(num, 1)
    shares = []
    for _ in range(num_draws or NUM_DRAWS):
        corpus_C = rng.integers(num, size=num)
        seed_C = rng.integers(proxy_seeds, size=num)[corpus_C]
        seed_CS = rng.integers(target_CS.shape[1], size=target_CS.shape)
        target_C = np.take_along_axis(target_CS, seed_CS, axis=1).mean(axis=1)[corpus_C]
        right_FP, decided_P = right_of(value_FCS[:, corpus_C, seed_C], target_C)
        decided_P &= corpus_C[first] != corpus_C[second]
        if decided_P.any():
            shares.append(right_FP[:, decided_P].mean(axis=1))
    return np.array(shares)


class Choice(NamedTuple):
    """What choosing among predictors is worth; means over attempts.

    Attributes:
        best: decision accuracy of the best, chosen on the pairs that it is judged on.
        names: places of the best, one for each attempt.
        floor_mean, floor_high: mean and 95 % point of `best` where accuracies belong to other
            corpora, drawn at random.
        nested: of each pair the decision of that which is best on pairs without either corpus.
        low, high: interval of `nested`, bootstrap over corpora, choices as they are.
        nested_floor_high: 95 % point of `nested` where accuracies are permuted.
        p_value: share of those that reach `nested`.
    """

    best: float
    names: tuple[int, ...]
    floor_mean: float
    floor_high: float
    nested: float
    low: float
    high: float
    nested_floor_high: float
    p_value: float


def choose(value_FCS: np.ndarray, target_CS: np.ndarray, rng: np.random.Generator) -> Choice:
    """Choose among predictors, and what of it is chance."""
    target_C = target_CS.mean(axis=1)
    attempts = np.moveaxis(value_FCS, -1, 0)
    best, nested, places, nested_P = [], [], [], []
    for value_FC in attempts:
        right_FP, decided_P = right_of(value_FC, target_C)
        own_P = _nested(right_FP, decided_P, len(target_C))
        share_F = right_FP[:, decided_P].mean(axis=1)
        best.append(share_F.max())
        places.append(int(share_F.argmax()))
        nested.append(own_P[decided_P].mean())
        nested_P.append(own_P)
    floor, nested_floor = [], []
    for _ in range(NUM_PERMUTATIONS):
        other_C = rng.permutation(target_C)
        found = [right_of(value_FC, other_C) for value_FC in attempts]
        floor.append(np.mean([r[:, d].mean(axis=1).max() for r, d in found]))
        nested_floor.append(np.mean([_nested(r, d, len(target_C))[d].mean() for r, d in found]))
    value = float(np.mean(nested))
    drawn = _pairs_drawn(np.mean(nested_P, axis=0), decided_P, len(target_C), rng)
    low, high = np.quantile(drawn, EDGES)
    return Choice(
        best=float(np.mean(best)),
        names=tuple(places),
        floor_mean=float(np.mean(floor)),
        floor_high=float(np.quantile(floor, 0.95)),
        nested=value,
        low=float(low),
        high=float(high),
        nested_floor_high=float(np.quantile(nested_floor, 0.95)),
        p_value=float((1 + np.sum(np.array(nested_floor) >= value)) / (1 + NUM_PERMUTATIONS)),
    )


def _nested(right_FP: np.ndarray, decided_P: np.ndarray, num: int) -> np.ndarray:
    """`[P]`: each pair by the predictor that is best on pairs of other corpora."""
    first, second = np.triu_indices(num, 1)
    right_FP = right_FP * decided_P
    has_PC = np.arange(num) == first[:, None]
    has_PC |= np.arange(num) == second[:, None]
    of_FC = right_FP @ has_PC
    elsewhere_FP = right_FP.sum(axis=1)[:, None] - of_FC[:, first] - of_FC[:, second] + right_FP
    return right_FP[elsewhere_FP.argmax(axis=0), np.arange(len(first))]


def _pairs_drawn(
    right_P: np.ndarray, decided_P: np.ndarray, num: int, rng: np.random.Generator
) -> np.ndarray:
    """`[R]`: the share of pairs that are right, on corpora drawn anew."""
    first, second = np.triu_indices(num, 1)
    right_CC, weight_CC = np.zeros((num, num)), np.zeros((num, num))
    right_CC[first, second], weight_CC[first, second] = right_P * decided_P, decided_P
    right_CC, weight_CC = right_CC + right_CC.T, weight_CC + weight_CC.T
    # of a corpus drawn twice, the pair with itself weighs nothing
    count_RC = rng.multinomial(num, np.full(num, 1 / num), size=NUM_DRAWS).astype(float)
    weight_R = np.einsum("ra,ab,rb->r", count_RC, weight_CC, count_RC)
    right_R = np.einsum("ra,ab,rb->r", count_RC, right_CC, count_RC)
    return right_R[weight_R > 0] / weight_R[weight_R > 0]
