"""Whether a proxy decides between corpora as the target does, and what compute that saves.

Ties. A pair that the target does not order is no decision and is left out, counted; a pair that
only the proxy does not order is half right.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from hf_proxy.intervals import LEVEL, NUM_RESAMPLES
from hf_proxy.prediction.noise import Values, clear_pairs, seeds_by_name
from hf_proxy.records.errors import InputError

# a true difference of this many standard errors shows at 90 %, two-sided, in 80 of 100 studies
DETECTABLE = float(stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(0.80))


@dataclass(frozen=True)
class DecisionAccuracy:
    """Share of corpus pairs that the proxy orders as the target does.

    Attributes:
        value: the share.
        low, high: 90 % interval, bootstrap over corpora (pairs of a corpus with itself dropped),
            seeds, and traces where `rank` gave them; None where no resample differs, because so few
            corpora in so clear an order show nothing.
        num_pairs: pairs that the target orders.
        num_ties: pairs that it does not.
        smallest_difference: what the share must differ from a given one, as 0.5 for chance, for
            this many corpora to show it (90 %, two-sided, with 80 % power); None likewise.
        noise_floor: the same share for the target itself, one seed against the mean of its others,
            mean over seeds: a proxy cannot be expected to do better. None where corpora have one
            seed, or different numbers of them.
        num_close: pairs whose difference the target's own seeds do not tell from 0; None where no
            corpus has two.
        value_clear: the share among the other pairs; None where there is none.
    """

    value: float
    low: float | None
    high: float | None
    num_pairs: int
    num_ties: int
    smallest_difference: float | None
    noise_floor: float | None = None
    num_close: int | None = None
    value_clear: float | None = None


@dataclass(frozen=True)
class ComputeSaving:
    """A point of the proxy's frontier against the baseline's.

    Attributes:
        flops: compute of the proxy's point.
        decision_accuracy: its decision accuracy.
        factor: compute that the baseline needs for the same, over `flops`; None where the baseline
            never reaches it or was never so low.
        note: why there is no factor.
    """

    flops: float
    decision_accuracy: float
    factor: float | None
    note: str


def decision_accuracy(
    proxy: Values,
    target: Values,
    *,
    lower_is_better: bool = True,
    single_seed: bool = False,
    seed: int = 0,
) -> DecisionAccuracy:
    """Share of corpus pairs that the proxy orders as the target does, with its interval.

    Args:
        proxy: corpus to its score, or to the scores of several seeds.
        target: corpus to the target's accuracy, or to those of several seeds; higher is better.
        lower_is_better: of the proxy; False for an accuracy.
        single_seed: of the proxy one seed decides, as in a study that trains each proxy once: the
            mean over such attempts, and the interval of one; False: the mean over seeds decides.
        seed: of the bootstrap.

    Raises:
        InputError: other corpora in one than in the other, fewer than two, numbers that are not
            finite, a target that orders no pair, a proxy that gives all the same, `single_seed`
            with different numbers of seeds.
    """
    names = sorted(proxy)
    proxy_seeds = seeds_by_name(proxy, names, "proxy")
    target_seeds = seeds_by_name(target, names, "target")
    sign = 1.0 if lower_is_better else -1.0
    if single_seed:
        rng = np.random.default_rng(seed)
        draw_RM = np.stack([rng.choice(sign * own, NUM_RESAMPLES) for own in proxy_seeds], axis=1)
        attempts = [
            decide(sign * own_M, draw_RM, target_seeds, np.random.default_rng(seed + 1))
            for own_M in _equal_seeds(proxy_seeds, "proxy")
        ]
        clear = [one.value_clear for one in attempts if one.value_clear is not None]
        return replace(  # what is said of the target and of draws is the same for all
            attempts[0],
            value=float(np.mean([one.value for one in attempts])),
            value_clear=float(np.mean(clear)) if clear else None,
        )
    value_M = sign * np.array([np.mean(own) for own in proxy_seeds])
    rng = np.random.default_rng(seed)
    return decide(value_M, sign * seed_draws(proxy_seeds, rng), target_seeds, rng)


def kendall_tau(proxy: Values, target: Values, *, lower_is_better: bool = True) -> float:
    """Kendall's tau-b between the proxy's order and the target's; 1 is the same order.

    Raises:
        InputError: as in `decision_accuracy`.
    """
    names = sorted(proxy)
    sign = 1.0 if lower_is_better else -1.0
    value_M = sign * np.array([np.mean(own) for own in seeds_by_name(proxy, names, "proxy")])
    return tau_b(
        value_M, np.array([np.mean(own) for own in seeds_by_name(target, names, "target")])
    )


def compute_saving(
    proxy: Sequence[tuple[float, float]], baseline: Sequence[tuple[float, float]]
) -> list[ComputeSaving]:
    """How much compute the baseline needs for the proxy's decision accuracy.

    ln(FLOPs) of the baseline's frontier is interpolated linearly in decision accuracy.

    Args:
        proxy, baseline: (FLOPs, decision accuracy) of their checkpoints, in any order and one unit;
            points that another beats with less compute are left out.

    Returns:
        one for each point of the proxy's frontier, by compute.

    Raises:
        InputError: no points, numbers that are not finite, FLOPs that are not positive or shares
            below 0.

    Source: arXiv 2509.21013, figure of section 5; rule recovered from its points.
    """
    mine, theirs = _frontier(proxy, "proxy"), _frontier(baseline, "baseline")
    flops, reached = np.array(theirs).T
    found = []
    for own_flops, accuracy in mine:
        factor, note = None, ""
        if accuracy > reached[-1]:
            note = f"the baseline never gets beyond {reached[-1]:g}"
        elif accuracy < reached[0]:
            note = f"the baseline starts at {reached[0]:g} already"
        else:
            factor = float(np.exp(np.interp(accuracy, reached, np.log(flops))) / own_flops)
        found.append(ComputeSaving(own_flops, accuracy, factor, note))
    return found


def _frontier(points: Sequence[tuple[float, float]], name: str) -> list[tuple[float, float]]:
    """Points that no cheaper or equally cheap one equals or beats, by compute."""
    array = np.asarray(points, dtype=np.float64)
    is_table = array.ndim == 2 and array.shape[1] == 2 and bool(np.isfinite(array).all())
    if not is_table or array[:, 0].min() <= 0 or array[:, 1].min() < 0:  # all wrong is a share too
        raise InputError.at(
            "expected pairs of FLOPs above 0 and decision accuracy from 0, all finite",
            remedy="mend the points",
            field=name,
        )
    best, kept = -np.inf, []
    for flops, accuracy in sorted(map(tuple, array.tolist()), key=lambda p: (p[0], -p[1])):
        if accuracy > best:
            best = accuracy
            kept.append((flops, accuracy))
    return kept


def seed_draws(seeds: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """`[R, M]`: means over seeds drawn with replacement."""
    draws = [own[rng.integers(len(own), size=(NUM_RESAMPLES, len(own)))] for own in seeds]
    return np.stack([draw.mean(axis=1) for draw in draws], axis=1)


def decide(
    proxy_M: np.ndarray,
    proxy_RM: np.ndarray,
    target_seeds: list[np.ndarray],
    rng: np.random.Generator,
) -> DecisionAccuracy:
    """Decision accuracy of M names, its interval from R resamples of names and of their values.

    Args:
        proxy_M, proxy_RM: the proxy's value of each, and resampled; lower is better.
        target_seeds: the target's values of each, one for each seed.
        rng: of the resamples.

    Raises:
        InputError: the proxy or the target gives all the same.
    """
    target_M = np.array([np.mean(own) for own in target_seeds])
    num = len(proxy_M)
    first, second = np.triu_indices(num, 1)
    if np.ptp(proxy_M) == 0:
        raise InputError.at("all are equal, there is no order", remedy="check it", field="proxy")
    if np.ptp(target_M) == 0:
        raise InputError.at("all are equal, there is no order", remedy="check it", field="target")
    right, decided = _decisions(proxy_M[None], target_M[None], first, second)
    target_RM = seed_draws(target_seeds, rng)
    corpus_RM = rng.integers(num, size=(NUM_RESAMPLES, num))
    proxy_RM, target_RM = (
        np.take_along_axis(draw, corpus_RM, axis=1) for draw in (proxy_RM, target_RM)
    )
    itself_RP = corpus_RM[:, first] == corpus_RM[:, second]
    right_RP, decided_RP = _decisions(proxy_RM, target_RM, first, second)
    decided_RP &= ~itself_RP
    num_R = decided_RP.sum(axis=1)
    share_R = (right_RP * decided_RP).sum(axis=1)[num_R > 0] / num_R[num_R > 0]
    differ = len(share_R) > 1 and np.ptp(share_R) > 0
    low, high = np.quantile(share_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return DecisionAccuracy(
        value=float(right[decided].mean()),
        low=float(low) if differ else None,
        high=float(high) if differ else None,
        num_pairs=int(decided.sum()),
        num_ties=int((~decided).sum()),
        smallest_difference=DETECTABLE * float(share_R.std()) if differ else None,
        **_noise(target_seeds, right[0], decided[0], first, second),
    )


def _equal_seeds(seeds: list[np.ndarray], field: str) -> np.ndarray:
    """`[seeds, M]`."""
    if len({len(own) for own in seeds}) > 1:
        raise InputError.at(
            "corpora have different numbers of seeds", remedy="give each as many", field=field
        )
    return np.stack(seeds, axis=1)


def _noise(target_seeds, right, decided, first, second) -> dict[str, Any]:
    """The fields of `DecisionAccuracy` that the target's seeds give."""
    found: dict[str, Any] = {}
    counts = {len(own) for own in target_seeds}
    if max(counts) > 1:
        clear = clear_pairs(target_seeds, first, second) & decided
        found["num_close"] = int((decided & ~clear).sum())
        found["value_clear"] = float(right[clear].mean()) if clear.any() else None
    if len(counts) == 1 and max(counts) > 1:
        seed_SM, shares = _equal_seeds(target_seeds, "target"), []
        for place, own_M in enumerate(seed_SM):
            others_M = np.delete(seed_SM, place, axis=0).mean(axis=0)
            own_right, own_decided = _decisions(-own_M[None], others_M[None], first, second)
            if own_decided.any():
                shares.append(own_right[own_decided].mean())
        found["noise_floor"] = float(np.mean(shares)) if shares else None
    return found


def _decisions(proxy_RM, target_RM, first, second) -> tuple[np.ndarray, np.ndarray]:
    """How right each pair is (1, 0.5, 0), and whether the target decides it, `[R, P]`."""
    mine = np.sign(proxy_RM[:, second] - proxy_RM[:, first])  # 1: the first is better
    theirs = np.sign(target_RM[:, first] - target_RM[:, second])
    return np.where(mine == 0, 0.5, mine == theirs), theirs != 0


def tau_b(proxy_M: np.ndarray, target_M: np.ndarray) -> float:
    """Kendall's tau-b; the proxy is better where lower, the target where higher."""
    tau = float(stats.kendalltau(-proxy_M, target_M).statistic)
    if not np.isfinite(tau):
        raise InputError.at("all are equal, there is no order", remedy="check proxy and target")
    return tau
