"""Which steps of a mining batch are kept; every rule but `all` keeps as many as `kl` does.

With K the number of steps whose KL reaches `divergence_beta`:

    kl                   those K
    all                  every step, whatever its KL
    random               K drawn without return, by (seed, batch)
    entropy              the K with the expert's highest entropy
    low_entropy_high_kl  of the steps whose expert entropy lies below the batch's median, the K of
                         highest KL, so those that reach `divergence_beta` first; where fewer than K
                         lie below, the others of highest KL fill up

Of equal ones the earlier of the batch comes first.

Sources: arXiv 2510.07962, equation 3; the last is after arXiv 2604.14084.
"""

from collections.abc import Sequence

import numpy as np

from hf_proxy.mining.settings import MiningSettings


def choose_steps(
    kl_N: np.ndarray, expert_entropy_N: np.ndarray, settings: MiningSettings, seed: Sequence[int]
) -> np.ndarray:
    """Whether each step of a mining batch is kept.

    Args:
        kl_N, expert_entropy_N: of all its steps, nats.
        seed: numbers that decide what `random` draws.
    """
    if settings.select == "all":
        return np.ones(len(kl_N), bool)
    reaches_N = kl_N >= kl_N.dtype.type(settings.divergence_beta)
    if settings.select == "kl":
        return reaches_N
    if settings.select == "random":
        order_N = np.random.default_rng(list(seed)).permutation(len(kl_N))
    elif settings.select == "entropy":
        order_N = np.argsort(-expert_entropy_N, kind="stable")
    else:
        middle = np.median(expert_entropy_N) if len(kl_N) else 0.0
        order_N = np.lexsort((-kl_N, expert_entropy_N >= middle))  # the last key counts first
    keep_N = np.zeros(len(kl_N), bool)
    keep_N[order_N[: int(reaches_N.sum())]] = True
    return keep_N
