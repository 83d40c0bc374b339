"""Which corpus, which model: orders with intervals, and how far to trust them.

Lower is better for the proxy (it is a negative log-likelihood), higher for the target.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from hf_proxy.intervals import (
    LEAST_FOR_INTERVAL,
    LEVEL,
    NUM_RESAMPLES,
    bootstrap_interval,
)
from hf_proxy.prediction.decisions import (
    DETECTABLE,
    DecisionAccuracy,
    decide,
    tau_b,
)
from hf_proxy.prediction.noise import Values, seeds_by_name
from hf_proxy.records.errors import InputError
from hf_proxy.records.scores import ProxyScore
from hf_proxy.scoring.comparison import score_terms


@dataclass(frozen=True)
class Ranking:
    """Models or corpora, best first.

    Attributes:
        order: their names.
        value: metric of each, mean over its seeds; lower is better.
        low, high: 90 % interval of each, bootstrap over traces, and over seeds where there are
            several; of one score alone it is that of the score.
        best_rank, worst_rank: 90 % interval of each one's place, 1 being the best.
        metric: of the `ProxyScore`s.
        num_traces: how many each was scored on.
        smallest_difference: in the metric's unit, what two must differ by for this many traces to
            show it (90 %, two-sided, with 80 % power); median over pairs.
        decisions: against the target, where it was given.
        kendall_tau: tau-b against the target, where it was given.
        notes: what to keep in mind.
    """

    order: tuple[str, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    best_rank: tuple[int, ...]
    worst_rank: tuple[int, ...]
    metric: str
    num_traces: int
    smallest_difference: float
    decisions: DecisionAccuracy | None
    kendall_tau: float | None
    notes: tuple[str, ...]


def rank(
    scores: Mapping[str, ProxyScore | Sequence[ProxyScore]],
    *,
    metric: str = "value",
    target: Values | None = None,
    seed: int = 0,
) -> Ranking:
    """Order models or corpora by their scores, lowest first, with intervals.

    Args:
        scores: name to the score of its model, or to the scores of several seeds.
        metric: `"value"`, `"trace_nll"` or `"bits_per_byte"`.
        target: name to the large model's accuracy, or to those of several seeds.
        seed: of the bootstrap.

    Raises:
        InputError: fewer than two names, scores of different settings (the parts are named), fewer
            than three traces, equal scores only, names that differ between scores and target.
    """
    seeds = {n: [s] if isinstance(s, ProxyScore) else list(s) for n, s in scores.items()}
    if len(seeds) < 2 or not all(seeds.values()):
        raise InputError.at("there is nothing to rank", remedy="give at least two names a score")
    everything = [score for own in seeds.values() for score in own]
    notes = set()
    for score in everything[1:]:
        differing, note = everything[0].setting.incomparable(score.setting, metric)
        notes |= {note} - {""}
        if differing:
            raise InputError.at(
                f"{everything[0].model_id} and {score.model_id} cannot be ranked together: "
                f"{'; '.join(differing)}",
                remedy="score all in one setting, or rank by metric='bits_per_byte'",
                field="setting",
            )
    num_traces = everything[0].num_traces
    if num_traces < LEAST_FOR_INTERVAL:
        problem = "one trace ranks nothing" if num_traces == 1 else "two traces rank nothing"
        raise InputError.at(problem, remedy=f"score at least {LEAST_FOR_INTERVAL}")
    names = list(seeds)
    value_M = np.array([np.mean([getattr(score, metric) for score in seeds[n]]) for n in names])
    if np.ptp(value_M) == 0:
        raise InputError.at("all scores are equal", remedy="there is no order to be found")
    rng = np.random.default_rng(seed)
    draw_RM = _score_draws([seeds[name] for name in names], metric, rng)
    place_RM = stats.rankdata(draw_RM, axis=1)
    edges = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low_M, high_M = np.quantile(draw_RM, edges, axis=0)
    for m, name in enumerate(names):
        if len(seeds[name]) == 1:  # one interval for one thing, wherever it is shown
            low_M[m], high_M[m] = bootstrap_interval(*score_terms(seeds[name][0], metric))
    best_M = np.quantile(place_RM, edges[0], axis=0, method="closest_observation")
    worst_M = np.quantile(place_RM, edges[1], axis=0, method="closest_observation")
    errors = [np.std(draw_RM[:, a] - draw_RM[:, b]) for a, b in combinations(range(len(names)), 2)]
    if all(len(own) == 1 for own in seeds.values()):
        notes.add("one seed for each: the intervals hold no seed noise")
    decisions = tau = None
    if target is not None:
        target_seeds = seeds_by_name(target, names, "target")
        decisions = decide(value_M, draw_RM, target_seeds, rng)
        tau = tau_b(value_M, np.array([np.mean(own) for own in target_seeds]))
    order = [int(place) for place in np.lexsort((np.array(names), value_M))]
    return Ranking(
        order=tuple(names[m] for m in order),
        value=tuple(float(value_M[m]) for m in order),
        low=tuple(float(low_M[m]) for m in order),
        high=tuple(float(high_M[m]) for m in order),
        best_rank=tuple(int(np.floor(best_M[m])) for m in order),
        worst_rank=tuple(int(np.ceil(worst_M[m])) for m in order),
        metric=metric,
        num_traces=num_traces,
        smallest_difference=DETECTABLE * float(np.median(errors)),
        decisions=decisions,
        kendall_tau=tau,
        notes=tuple(sorted(notes)),
    )


def _score_draws(
    seeds: list[list[ProxyScore]], metric: str, rng: np.random.Generator
) -> np.ndarray:
    """`[R, M]`: the metric on resampled traces, the same for all models, and resampled seeds."""
    num_traces = seeds[0][0].num_traces
    share = np.full(num_traces, 1 / num_traces)
    count_RN = rng.multinomial(num_traces, share, size=NUM_RESAMPLES).astype(np.float64)
    columns = []
    for own in seeds:
        draw_RS = []
        for score in own:
            numerator_N, weight_N = score_terms(score, metric)
            draw_RS.append((count_RN @ numerator_N) / (count_RN @ weight_N))
        chosen_RS = rng.integers(len(own), size=(NUM_RESAMPLES, len(own)))
        columns.append(np.take_along_axis(np.stack(draw_RS, 1), chosen_RS, axis=1).mean(axis=1))
    return np.stack(columns, axis=1)
