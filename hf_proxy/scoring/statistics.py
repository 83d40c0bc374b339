"""Statistics of a trace's labels under several weightings, from what one forward pass gave.

Ten statistics and the logarithm of one, each averaged over the last labels of a trace under eight
weightings. None of them needs the frontier's probabilities, nor the model again.

Source: arXiv 2605.18607, which names them. Where it gives no formula the choice is named here.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from scipy.special import digamma, gammaln

from hf_proxy.records.defaults import LAST_TOKENS
from hf_proxy.records.errors import InputError, did_you_mean
from hf_proxy.scoring.summary import expected_rank, expected_top

# statistic: whether lower is better; None: nobody has shown
LOWER_IS_BETTER: dict[str, bool | None] = {
    "ce": True,  # -ln p of the label, nats
    "top1": False,  # the label is among the first k
    "top2": False,
    "top3": False,
    "top5": False,
    "entropy": None,  # of the distribution, over ln V
    "rank": True,  # of the label, from 1
    "log_rank": True,  # its logarithm: the worst 1 % of labels make nine tenths of the mean rank
    "rrank": False,  # 1 over it
    "margin": True,  # p of the likeliest token less p of the label
    "wrongconf": True,  # p of the likeliest token where that is not the label, else 0
}
STATISTICS = tuple(LOWER_IS_BETTER)
WEIGHTINGS = ("uniform", "p", "1-p", "entropy", "inv_entropy", "freq", "inv_freq", "gauss")
COUNTS = "scored tokens of the trace set"  # what the frequencies are of
_LABELS_TOGETHER = 2**16  # chosen here: a block's columns stay under 16 MiB


class Labels(NamedTuple):
    """Labels of several traces, one trace behind the other: float64 arrays [N].

    Attributes:
        label_id: token.
        weight: the frontier's, see `align_traces`.
        logprob, greater, equal, entropy, max_logprob, other_logprob: of `LabelLogprobs`, in nats.
        vocab_size: tokens of the distribution.
    """

    label_id: np.ndarray
    weight: np.ndarray
    logprob: np.ndarray
    greater: np.ndarray
    equal: np.ndarray
    entropy: np.ndarray
    max_logprob: np.ndarray
    other_logprob: np.ndarray
    vocab_size: int

    def part(self, index: Any) -> "Labels":
        """Some of them, as an index or a slice of arrays takes them."""
        columns = {name: getattr(self, name)[index] for name in self._fields[:-1]}
        return self._replace(**columns)


# column of `token_logprobs`: field of `Labels`
LABEL_COLUMNS = {
    "label_ids": "label_id",
    "label_logprobs": "logprob",
    "greater": "greater",
    "equal": "equal",
    "entropies": "entropy",
    "max_logprobs": "max_logprob",
    "other_logprobs": "other_logprob",
}


class Statistics(NamedTuple):
    """Means of the statistics, by name.

    Attributes:
        macro: weighted mean of each trace, then the mean over traces.
        pooled: one weighted mean over all labels.
        zero_weight_traces: weighting to the number of traces in which all of its weights are 0;
            they are averaged uniformly. Weightings without such a trace are left out.
    """

    macro: dict[str, float]
    pooled: dict[str, float]
    zero_weight_traces: dict[str, int]


def statistic_name(weighting: str, statistic: str) -> str:
    """`freq_top5`; of the uniform weighting the statistic's name alone."""
    return statistic if weighting == "uniform" else f"{weighting}_{statistic}"


_PARTS = {statistic_name(w, s): (w, s) for w, s in product(WEIGHTINGS, STATISTICS)}
STATISTIC_NAMES = tuple(_PARTS)


def is_lower_better(name: str) -> bool | None:
    """Whether a lower value of a named statistic tells of a better model; None: not known."""
    return LOWER_IS_BETTER[_PARTS[name][1]]


def check_statistics(names: Iterable[str], *, field: str = "statistics") -> tuple[str, ...]:
    """The names as they are.

    Raises:
        InputError: one is no statistic, or stands twice.
    """
    names = tuple(names)
    for place, name in enumerate(names):
        if name not in _PARTS:
            near = did_you_mean(str(name), STATISTIC_NAMES)
            raise InputError.at(
                f"there is no statistic {name!r}{near}",
                remedy=f"one of {', '.join(STATISTICS)}, or one of these behind "
                f"{', '.join(f'{weighting}_' for weighting in WEIGHTINGS[1:])}",
                field=field,
            )
        if name in names[:place]:
            raise InputError.at(f"{name!r} stands twice", remedy="name it once", field=field)
    return names


def statistics_parts(last_tokens: int | None) -> dict[str, Any]:
    """What must be equal, beside the score's setting, for two statistics to be compared.

    Raises:
        InputError: `last_tokens` is neither None nor a positive number.
    """
    if last_tokens is not None and last_tokens < 1:
        raise InputError.at(
            f"expected a positive number of tokens, not {last_tokens}",
            remedy="None takes all of a trace",
            field="last_tokens",
        )
    return {"last_tokens": last_tokens, "counts": COUNTS}


def statistics_of(
    labels: Labels,
    num_labels: np.ndarray,
    *,
    last_tokens: int | None = LAST_TOKENS,
    frequency: np.ndarray | None = None,
) -> Statistics:
    """All statistics under all weightings, `sum_t w_t * m_t / sum_t w_t`.

    Ties are counted as the mean over a random order of those that tie. Weights: `uniform` 1; `p` of
    the label; `1-p`; `entropy`; `inv_entropy` 1 - entropy / ln V; `freq` the label's share f of all
    scored labels; `inv_freq` 1 / f; `gauss` exp(-(ce - mu)^2 / (2 s^2)) with mean and population
    deviation of ce over the trace (pooled: over all labels), 1 where s is 0.

    Args:
        labels: of all traces.
        num_labels: [number of traces], of each trace; none is empty.
        last_tokens: labels of each trace that count, from its end (published: 1000); None: all.
        frequency: [N], f of each label; None: counted over these labels.

    Raises:
        InputError: `last_tokens` is neither None nor a positive number.
    """
    statistics_parts(last_tokens)  # refuses a wrong one
    end = np.cumsum(num_labels)
    if last_tokens is not None and num_labels.max() > last_tokens:
        own = np.minimum(num_labels, last_tokens)
        index = np.concatenate([np.arange(e - n, e) for e, n in zip(end, own, strict=True)])
        labels, num_labels, end = labels.part(index), own, np.cumsum(own)
        frequency = None if frequency is None else frequency[index]
    start = end - num_labels
    if frequency is None:
        _, kind, count = np.unique(labels.label_id, return_inverse=True, return_counts=True)
        frequency = count[kind] / len(kind)
    ce = -labels.logprob
    all_mean = ce.mean()
    all_variance = ((ce - all_mean) ** 2).mean()

    shape = (len(WEIGHTINGS), len(STATISTICS), len(num_labels))
    macro, pooled = np.empty(shape), np.empty(shape)
    pooled_weight = np.empty((len(WEIGHTINGS), len(num_labels)))
    zero = np.zeros(len(WEIGHTINGS), dtype=np.int64)
    for traces in _blocks(num_labels):
        where = slice(start[traces.start], end[traces.stop - 1])
        first, own_num = start[traces] - where.start, num_labels[traces]
        block = labels.part(where)
        value_SN = label_statistics(block)
        mean = np.add.reduceat(ce[where], first) / own_num
        deviation = ce[where] - np.repeat(mean, own_num)
        variance = np.add.reduceat(deviation**2, first) / own_num
        weights = _label_weights(block, frequency[where])
        gauss = _gauss(ce[where], np.repeat(mean, own_num), np.repeat(variance, own_num))
        pooled_gauss = _gauss(ce[where], all_mean, all_variance)
        for row, (weight_N, pooled_N) in enumerate(
            [*((weight_N, weight_N) for weight_N in weights), (gauss, pooled_gauss)]
        ):
            pooled_weight[row, traces] = np.add.reduceat(pooled_N, first)
            pooled[row, :, traces] = np.add.reduceat(value_SN * pooled_N, first, axis=1)
            sums = np.add.reduceat(weight_N, first)
            if not sums.all():
                zero[row] += (sums == 0).sum()
                weight_N = np.where(np.repeat(sums == 0, own_num), 1.0, weight_N)
                sums = np.add.reduceat(weight_N, first)
            macro[row, :, traces] = np.add.reduceat(value_SN * weight_N, first, axis=1) / sums
    weight_W, value_WS = pooled_weight.sum(axis=1), pooled.sum(axis=2)
    own_W = np.where(weight_W > 0, np.arange(len(WEIGHTINGS)), 0)  # 0 everywhere: uniform
    return Statistics(
        macro=_by_name(macro.mean(axis=2)),
        pooled=_by_name(value_WS[own_W] / weight_W[own_W, None]),
        zero_weight_traces={w: int(n) for w, n in zip(WEIGHTINGS, zero, strict=True) if n},
    )


def label_statistics(labels: Labels) -> np.ndarray:
    """`[S, N]`, the statistics of each label in the order of `STATISTICS`."""
    greater, equal = labels.greater, labels.equal
    top = [expected_top(k, greater, equal) for k in (1, 2, 3, 5)]
    highest = np.exp(labels.max_logprob)
    log_rank, reciprocal = np.log(greater + 1), 1 / (greater + 1)
    tied = np.flatnonzero(equal)
    if len(tied):  # means of ln r and 1 / r over r from greater + 1 to greater + equal + 1
        low, high, num = greater[tied] + 1, greater[tied] + equal[tied] + 2, equal[tied] + 1
        log_rank[tied] = (gammaln(high) - gammaln(low)) / num
        reciprocal[tied] = (digamma(high) - digamma(low)) / num
    found = {
        "ce": -labels.logprob,
        **dict(zip(("top1", "top2", "top3", "top5"), top, strict=True)),
        "entropy": labels.entropy / math.log(labels.vocab_size),
        "rank": expected_rank(greater, equal),
        "log_rank": log_rank,
        "rrank": reciprocal,
        "margin": highest - np.exp(labels.logprob),
        "wrongconf": highest * (1 - top[0]),
    }
    return np.stack([found[name] for name in STATISTICS])


def _label_weights(labels: Labels, frequency: np.ndarray) -> Iterator[np.ndarray]:
    """`[N]` of each weighting but the last, which needs a trace's mean."""
    share = labels.entropy / math.log(labels.vocab_size)
    yield np.ones(len(share))
    yield np.exp(labels.logprob)
    yield -np.expm1(labels.logprob)
    yield labels.entropy
    yield np.maximum(1 - share, 0)  # 1 / entropy would give a hundredth of the labels two thirds
    yield frequency
    yield 1 / frequency


def _gauss(ce: np.ndarray, mean: Any, variance: Any) -> np.ndarray:
    """The kernel; a deviation within the rounding of the mean is none."""
    spread = variance > (1e-12 * mean) ** 2
    distance = (ce - mean) ** 2 / np.where(spread, 2 * variance, 1)
    return np.where(spread, np.exp(-distance), 1.0)


def _blocks(num_labels: np.ndarray) -> Iterator[slice]:
    """Traces in order, so many together that their labels are about `_LABELS_TOGETHER`."""
    begin = labels = 0
    for place, num in enumerate(num_labels.tolist()):
        labels += num
        if labels >= _LABELS_TOGETHER or place == len(num_labels) - 1:
            yield slice(begin, place + 1)
            begin, labels = place + 1, 0


def _by_name(value_WS: np.ndarray) -> dict[str, float]:
    """`[weightings, statistics]` by name."""
    return dict(zip(STATISTIC_NAMES, value_WS.flatten().tolist(), strict=True))
