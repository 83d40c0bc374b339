"""Ways to choose among columns, each a set of weights: the best, the best few, a linear SVM."""

from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn.svm import LinearSVC

from hf_proxy.prediction.selection_table import SelectionTable

NUM_SPARSE = 3  # arXiv 2605.18607
PENALTIES = (0.001, 0.01, 0.1, 1.0)  # C of the SVM, chosen here; one of them inside each fold


class Fold(NamedTuple):
    """Places of tasks and models, and the columns of the training part."""

    tasks: np.ndarray
    models: np.ndarray
    test_tasks: np.ndarray
    test_models: np.ndarray
    z_TMF: np.ndarray
    rank_TMF: np.ndarray  # of unit length and mean 0 over models: a product is a correlation


def fold_of(
    table: SelectionTable,
    tasks: np.ndarray,
    models: np.ndarray,
    test_tasks: np.ndarray,
    test_models: np.ndarray,
) -> Fold:
    """The fold that learns from some tasks and models and is judged on others."""
    z_TMF = table.z_TMF[np.ix_(tasks, models)]
    return Fold(tasks, models, test_tasks, test_models, z_TMF, unit_ranks(z_TMF, axis=1))


def unit_ranks(value: np.ndarray, axis: int) -> np.ndarray:
    """Ranks of mean 0 and length 1, so that a sum of products is Spearman's correlation.

    Equal values share their mean rank; where all are equal there is no order, and all are 0.
    """
    rank = stats.rankdata(value, axis=axis)
    rank -= rank.mean(axis=axis, keepdims=True)
    length = np.sqrt((rank**2).sum(axis=axis, keepdims=True))
    return rank / np.where(length > 0, length, 1)


def _correlations(fold: Fold, accuracy_TM: np.ndarray) -> np.ndarray:
    """[F], mean over tasks."""
    target_TM = unit_ranks(accuracy_TM, axis=1)
    return np.einsum("tmf,tm->f", fold.rank_TMF, target_TM) / len(target_TM)


def correlations_by_task(fold: Fold, table: SelectionTable, accuracy_TM: np.ndarray) -> np.ndarray:
    """[T, F], Spearman of each column with each task's accuracies; high where it foretells them.

    Of a column whose better end is not known the sign is that of its mean over tasks.
    """
    target_TM = unit_ranks(accuracy_TM, axis=1)
    rho_TF = np.einsum("tmf,tm->tf", fold.rank_TMF, target_TM)
    return rho_TF * _signs(rho_TF.mean(axis=0), table)


def _signs(rho_F: np.ndarray, table: SelectionTable) -> np.ndarray:
    return np.where(table.is_known_F | (rho_F >= 0), 1.0, -1.0)


def fit_single(fold: Fold, table: SelectionTable, accuracy_TM: np.ndarray) -> np.ndarray:
    """Weights [F] that hold one column."""
    rho_F = _correlations(fold, accuracy_TM)
    sign_F = _signs(rho_F, table)
    weight_F = np.zeros(len(rho_F))
    best = int(np.argmax(rho_F * sign_F))
    weight_F[best] = sign_F[best]
    return weight_F


def fit_sparse(fold: Fold, table: SelectionTable, accuracy_TM: np.ndarray) -> np.ndarray:
    """Weights [F] of up to `NUM_SPARSE` columns, each of which made the mean correlation better."""
    rho_F = _correlations(fold, accuracy_TM)
    sign_F = _signs(rho_F, table)
    best, reached = int(np.argmax(rho_F * sign_F)), float((rho_F * sign_F).max())
    weight_F = np.zeros(len(rho_F))
    weight_F[best] = sign_F[best]
    target_TM = unit_ranks(accuracy_TM, axis=1)
    num = fold.z_TMF.shape[1]
    length = np.sqrt(num * (num**2 - 1) / 12)  # of ranks without ties, less their mean
    for _ in range(NUM_SPARSE - 1):
        sum_TMF = (fold.z_TMF @ weight_F)[:, :, None] + fold.z_TMF * sign_F
        # sums of standardised columns hardly tie: places are ranks, and quick to find
        rank_TMF = np.argsort(np.argsort(sum_TMF, axis=1), axis=1) - (num - 1) / 2
        found_F = np.einsum("tmf,tm->f", rank_TMF, target_TM) / (length * len(target_TM))
        found_F[weight_F != 0] = -np.inf
        best = int(np.argmax(found_F))
        if not found_F[best] > reached:
            break
        weight_F[best], reached = sign_F[best], float(found_F[best])
    return weight_F


def fit_ranksvm(fold: Fold, table: SelectionTable, accuracy_TM: np.ndarray) -> np.ndarray:
    """Weights [F] of a linear SVM on differences, C chosen by leaving out one task at a time."""
    pairs = [_differences(*own) for own in zip(fold.z_TMF, accuracy_TM, strict=True)]
    penalty = PENALTIES[len(PENALTIES) // 2]
    if len(pairs) > 1:
        found = []
        for one in PENALTIES:
            rho = []
            for out in range(len(pairs)):
                weight_F = _svm([p for i, p in enumerate(pairs) if i != out], one)
                rho.append(spearman(fold.z_TMF[out] @ weight_F, accuracy_TM[out]))
            found.append(np.mean(rho))
        penalty = PENALTIES[int(np.argmax(found))]
    return _svm(pairs, penalty)


def _differences(z_MF: np.ndarray, accuracy_M: np.ndarray) -> np.ndarray:
    """[pairs, F], the better model less the other; pairs of equal accuracy say nothing."""
    first, second = np.triu_indices(len(accuracy_M), 1)
    sign = np.sign(accuracy_M[first] - accuracy_M[second])
    return ((z_MF[first] - z_MF[second]) * sign[:, None])[sign != 0]


def _svm(pairs: list[np.ndarray], penalty: float) -> np.ndarray:
    better_PF = np.concatenate(pairs)
    # half of them the other way round: a classifier wants two classes
    sign_P = np.where(np.arange(len(better_PF)) % 2, 1, -1)
    svm = LinearSVC(C=penalty, fit_intercept=False, dual=False, tol=1e-3, max_iter=200)
    return svm.fit(better_PF * sign_P[:, None], sign_P).coef_[0]


def spearman(value_M: np.ndarray, accuracy_M: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where one side has no order."""
    return float(unit_ranks(value_M, axis=0) @ unit_ranks(accuracy_M, axis=0))
