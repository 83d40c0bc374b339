"""From size and data to bits per byte: the first of two steps to a larger model's accuracy."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from hf_proxy.records.errors import InputError

logger = logging.getLogger(__name__)
_LEAST_POINTS = 7  # five parameters, and something left to judge them by


@dataclass(frozen=True)
class Ladder:
    """`bits_per_byte = E + A / N**a + B / D**b`, N in parameters and D in tokens.

    Attributes:
        irreducible: E, bits per byte.
        size_factor, size_exponent: A, a.
        data_factor, data_exponent: B, b.
        relative_error: mean over the points of |predicted / observed - 1|.
        num_points: how many there were.
    """

    irreducible: float
    size_factor: float
    size_exponent: float
    data_factor: float
    data_exponent: float
    relative_error: float
    num_points: int

    def predict(self, num_parameters: float, tokens: float) -> float:
        """Bits per byte of a model of that size after that many tokens."""
        size = self.size_factor / num_parameters**self.size_exponent
        return self.irreducible + size + self.data_factor / tokens**self.data_exponent


def fit_ladder(
    num_parameters: Sequence[float], tokens: Sequence[float], bits_per_byte: Sequence[float]
) -> Ladder:
    """Fit E + A / N^a + B / D^b by least squares of the logarithm, from a grid of starts.

    Args:
        num_parameters: [n], size of each model.
        tokens: [n], tokens it was trained on.
        bits_per_byte: [n], what it reached.

    Raises:
        InputError: fewer than seven points, numbers that are not positive and finite, one size or
            one number of tokens only.

    Source: arXiv 2412.04403, equation 1 (there with a Huber loss, here with plain squares).
    """
    columns = {"num_parameters": num_parameters, "tokens": tokens, "bits_per_byte": bits_per_byte}
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
    for name, array in arrays.items():
        if array.shape != arrays["tokens"].shape or array.ndim != 1:
            raise InputError.at("the columns differ in length", remedy="mend them", field=name)
        if not np.isfinite(array).all() or (array <= 0).any():
            raise InputError.at("it must be positive and finite", remedy="mend it", field=name)
        if len(np.unique(array)) < 2:
            raise InputError.at("it is constant", remedy="give points that differ", field=name)
    size, data, observed = arrays.values()
    if len(size) < _LEAST_POINTS:
        raise InputError.at(
            f"{len(size)} points are too few for five parameters",
            remedy=f"give at least {_LEAST_POINTS}",
        )
    ones = np.ones_like(size)
    if np.linalg.matrix_rank(np.stack([ones, np.log(size), np.log(data)]), tol=1e-3) < 3:
        raise InputError.at(
            "size and tokens grow together, so their shares cannot be told apart",
            remedy="give runs of other ratios of tokens to size",
            field="tokens",
        )
    # the terms at the middle of the points, so that all parameters are of one order
    size_scale, data_scale = np.exp(np.log(size).mean()), np.exp(np.log(data).mean())

    def value(p: np.ndarray) -> np.ndarray:
        terms = np.exp(p[1]) * (size / size_scale) ** -np.exp(p[2])
        return np.exp(p[0]) + terms + np.exp(p[3]) * (data / data_scale) ** -np.exp(p[4])

    best = None
    middle = float(observed.mean())
    for share in (0.1, 0.4, 0.8):
        for exponent in (0.1, 0.3, 0.6):
            rest = np.log((1 - share) * middle / 2)
            start = [np.log(share * middle), rest, np.log(exponent), rest, np.log(exponent)]
            found = optimize.least_squares(
                lambda p: np.log(value(p)) - np.log(observed),
                start,
                bounds=([-20, -20, -5, -20, -5], [5, 5, 1.5, 5, 1.5]),
                max_nfev=2000,
            )
            if best is None or found.cost < best.cost:
                best = found
    assert best is not None
    if best.active_mask.any():
        logger.warning("the ladder's fit ran to a limit: these points do not hold all five numbers")
    floor, size_term, size_log, data_term, data_log = best.x
    size_exponent, data_exponent = float(np.exp(size_log)), float(np.exp(data_log))
    return Ladder(
        irreducible=float(np.exp(floor)),
        size_factor=float(np.exp(size_term) * size_scale**size_exponent),
        size_exponent=size_exponent,
        data_factor=float(np.exp(data_term) * data_scale**data_exponent),
        data_exponent=data_exponent,
        relative_error=float(np.abs(value(best.x) / observed - 1).mean()),
        num_points=len(size),
    )
