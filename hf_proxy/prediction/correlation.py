"""Errors of a fit where neighbours resemble each other and runs differ.

Checkpoints of one run are no independent draws: noise of one lasts into the next, so residuals look
smaller than they are and the curve surer than it is. How far it lasts cannot be told from ten or
twenty points; so nothing is chosen, and errors are averaged over what may be.
"""

from dataclasses import replace

import numpy as np
from scipy.signal import lfilter

from hf_proxy.prediction.forms import Fit

CORRELATIONS = np.arange(10) / 10  # between the noise of neighbours; each as likely as the next
RUN_RATIOS = (0.0, 0.5, 1.0, 2.0, 4.0)  # deviation of runs over that within a run, alike
ASSUMED_RATIO = 2.0  # where there is one run, which does not show it; chosen here


def with_correlated_noise(
    fit: Fit, x: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None
) -> Fit:
    """The fit with errors as of AR(1) noise within runs, and of a deviation of each whole run.

    The curve itself stays that of least squares. Its covariance is `(X'X)^-1 X'VX (X'X)^-1 s^2`
    with X the slopes of the curve and V the correlation of the noise: `rho^|i-j|` within a run, and
    `ratio^2` added between all points of one. s^2 is the REML estimate under V. Covariance and
    variances are averaged over the grid of rho and ratio, each weighted by its restricted
    likelihood with s^2 integrated out (Harville 1974, flat priors).

    Args:
        fit: of `fit_form`, to these points.
        x, y: [n], in the order of training within each run.
        groups: [n], the run of each point; None: one run.

    Returns:
        a `Fit` with `covariance`, `residual_sd` (within a run), `run_sd`, `run_freedom`. One run
        does not tell how runs differ: `run_sd` is then `ASSUMED_RATIO` times `residual_sd`.
    """
    scale, num_points = fit.scale, len(x)
    slope_NP, residual_N = fit.slopes(x), (y - fit(x)) / scale.y_sd
    inverse = np.array(fit.covariance) / (fit.residual_sd / scale.y_sd) ** 2  # (X'X)^-1
    # an orthonormal base of the directions in which the parameters are free
    base_NP, size, _ = np.linalg.svd(slope_NP @ inverse, full_matrices=False)
    base_NP = base_NP[:, size > 1e-9 * size.max()]
    freedom = num_points - base_NP.shape[1]
    runs = [np.arange(num_points)]
    if groups is not None:
        runs = [np.flatnonzero(groups == run) for run in np.unique(groups)]
    ratios = RUN_RATIOS if len(runs) > 1 else (0.0,)
    stacked = np.column_stack([base_NP, residual_N])
    sums_RP = np.array([slope_NP[run].sum(axis=0) for run in runs])

    rho_G = CORRELATIONS
    spread_GPP = np.sum([_correlated(slope_NP[run], rho_G) for run in runs], axis=0)  # X'VX
    whites = [whiten(stacked[run], rho_G) for run in runs]
    ones = [whiten(np.ones((len(run), 1)), rho_G) for run in runs]
    product_GQQ = np.sum([white.mT @ white for white in whites], axis=0)
    shared_RG = np.array([(one**2).sum(axis=(1, 2)) for one in ones])
    moment_RGQ = np.array([(w.mT @ one)[:, :, 0] for w, one in zip(whites, ones, strict=True)])
    log_det_G = (num_points - len(runs)) * np.log(1 - rho_G**2)

    log_weight, within, between, covariance = [], [], [], []  # of each ratio, [G] and [G, P, P]
    for ratio in ratios:
        share_RG = ratio**2 / (1 + ratio**2 * shared_RG)
        own = product_GQQ - np.einsum("rg,rgp,rgq->gpq", share_RG, moment_RGQ, moment_RGQ)
        mean, cross = own[:, :-1, :-1], own[:, :-1, -1]
        explained = (cross * np.linalg.solve(mean, cross[:, :, None])[:, :, 0]).sum(axis=1)
        sse = np.maximum(own[:, -1, -1] - explained, num_points * np.finfo(float).eps)
        whole = log_det_G + np.log1p(ratio**2 * shared_RG).sum(axis=0)
        whole += np.linalg.slogdet(mean)[1]
        log_weight.append(-0.5 * (whole + freedom * np.log(sse)))
        within.append(sse / freedom)
        between.append(ratio**2 * sse / freedom)
        inner = spread_GPP + ratio**2 * sums_RP.T @ sums_RP
        covariance.append((sse / freedom)[:, None, None] * (inverse @ inner @ inverse))
    weight = np.exp(np.array(log_weight) - np.max(log_weight))
    weight /= weight.sum()
    covariance_PP = np.einsum("kg,kgpq->pq", weight, np.array(covariance))
    residual_sd = scale.y_sd * float(np.sqrt((weight * within).sum()))
    if len(runs) > 1:
        run_sd = scale.y_sd * float(np.sqrt((weight * between).sum()))
    else:
        run_sd = ASSUMED_RATIO * residual_sd
    return replace(
        fit,
        covariance=tuple(map(tuple, covariance_PP.tolist())),
        residual_sd=residual_sd,
        run_sd=run_sd,
        run_freedom=len(runs) - 1,
    )


def whiten(columns_MQ: np.ndarray, rho_G: np.ndarray) -> np.ndarray:
    """Each column times a root of the inverse of `rho^|i-j|`, `[G, M, Q]`."""
    rho = rho_G[:, None, None]
    white = np.repeat(columns_MQ[None], len(rho_G), axis=0)
    white[:, 1:] = (columns_MQ[1:] - rho * columns_MQ[:-1]) / np.sqrt(1 - rho**2)
    return white


def _correlated(slope_MP: np.ndarray, rho_G: np.ndarray) -> np.ndarray:
    """`X' V X` with V = `rho^|i-j|`, `[G, P, P]`, without an `[M, M]` matrix."""
    before = [slope_MP.T @ lfilter([1.0], [1.0, -rho], slope_MP, axis=0) for rho in rho_G]
    before_GPP = np.array(before)
    return before_GPP + before_GPP.mT - slope_MP.T @ slope_MP
