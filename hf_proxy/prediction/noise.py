"""What seeds say about an order: noise of one, pairs too close to tell, signal over noise."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from hf_proxy.intervals import LEVEL
from hf_proxy.records.errors import InputError

Values = Mapping[str, float] | Mapping[str, Sequence[float]]


def signal_to_noise(values: Values) -> float:
    """How far a metric spreads over corpora, in units of its spread over seeds of one corpus.

    Standard deviation over corpora of the mean over seeds, over the standard deviation of one seed
    within its corpus (pooled). Around 1 one seed orders corpora hardly better than chance.

    Args:
        values: corpus to its numbers, one for each seed.

    Raises:
        InputError: fewer than two corpora, none of two seeds, numbers that are not finite, seeds
            that never differ.
    """
    seeds = seeds_by_name(values, sorted(values), "values")
    if all(len(own) < 2 for own in seeds):
        raise InputError.at(
            "each has one seed, so there is no noise to see",
            remedy="give two or more of some",
            field="values",
        )
    noise, _ = seed_deviation(seeds)
    if noise == 0:
        raise InputError.at("seeds never differ", remedy="check the seeds", field="values")
    return float(np.std([own.mean() for own in seeds], ddof=1) / noise)


def seed_deviation(seeds: list[np.ndarray]) -> tuple[float, int]:
    """Standard deviation of one seed within its name, pooled over names, and its degrees."""
    degrees = sum(len(own) - 1 for own in seeds)
    squares = sum(float(((own - own.mean()) ** 2).sum()) for own in seeds)
    return float(np.sqrt(squares / degrees)), degrees


def clear_pairs(seeds: list[np.ndarray], first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether the means over seeds of each pair differ beyond the noise of seeds, `[P]`.

    By the pooled deviation of a seed and Student's t, two-sided, at the level of our intervals.
    """
    deviation, degrees = seed_deviation(seeds)
    mean = np.array([own.mean() for own in seeds])
    share = np.array([1 / len(own) for own in seeds])
    error = deviation * np.sqrt(share[first] + share[second])
    bound = stats.t.ppf((1 + LEVEL) / 2, degrees) * error
    return np.abs(mean[first] - mean[second]) > bound


def seeds_by_name(values: Values, names: list[str], field: str) -> list[np.ndarray]:
    """Each name's numbers, one for each seed."""
    if set(values) != set(names):
        raise InputError.at(
            f"proxy and target name different corpora: {sorted(set(values) ^ set(names))}",
            remedy="give both the same",
            field=field,
        )
    if len(names) < 2:
        raise InputError.at("there is no pair", remedy="give at least two corpora", field=field)
    found = [np.atleast_1d(np.asarray(values[name], dtype=np.float64)) for name in names]
    for name, own in zip(names, found, strict=True):
        if not len(own) or not np.isfinite(own).all():
            raise InputError.at(
                f"{own.tolist()} are no numbers", remedy="drop it", row=name, field=field
            )
    return found
