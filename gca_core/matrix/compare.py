"""Responses to a perturbation, and how alike two of them are."""

from typing import Any

import numpy as np
import numpy.typing as npt

from gca_core.errors import DataValidationError
from gca_core.matrix.normalise import log_normalise


def log_fold_change(treated_counts: Any, control_counts: Any) -> npt.NDArray[np.float64]:
    """Difference of the mean log1p counts per 10,000, treated minus control.

    Args:
        treated_counts: cells x genes.
        control_counts: cells x the same genes.

    Returns:
        (n_genes,), natural logarithm.

    Raises:
        DataValidationError: no cells on a side, or other genes.
    """
    if treated_counts.shape[1] != control_counts.shape[1]:
        raise DataValidationError(
            f"{treated_counts.shape[1]} genes against {control_counts.shape[1]}; align them first"
        )
    if 0 in (treated_counts.shape[0], control_counts.shape[0]):
        raise DataValidationError("a log fold change needs cells on both sides; one side has none")
    return _mean(treated_counts) - _mean(control_counts)


def pearson(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Pearson correlation; NaN when one side is constant.

    Raises:
        DataValidationError: the lengths differ, or fewer than two values.
    """
    x, y = _pair(a, b)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(x, y)[0, 1])


def de_overlap(a: npt.ArrayLike, b: npt.ArrayLike, k: int = 50) -> float:
    """Share of the ``k`` largest absolute changes of ``a`` that are among those of ``b``.

    Ties are broken by gene order; with fewer than ``k`` genes all of them count.

    Raises:
        DataValidationError: the lengths differ, fewer than two values, or ``k`` below one.
    """
    if k < 1:
        raise DataValidationError(f"k is {k}; expected at least one gene")
    x, y = _pair(a, b)
    k = min(k, x.size)
    shared = set(_largest(x, k)) & set(_largest(y, k))
    return len(shared) / k


def _largest(values: npt.NDArray[np.float64], k: int) -> list[int]:
    order: list[int] = np.argsort(-np.abs(values), kind="stable")[:k].tolist()
    return order


def _mean(counts: Any) -> npt.NDArray[np.float64]:
    return np.asarray(log_normalise(counts, dtype=np.float64).mean(axis=0), dtype=np.float64).ravel()


def _pair(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    x, y = np.asarray(a, dtype=np.float64).ravel(), np.asarray(b, dtype=np.float64).ravel()
    if x.size != y.size or x.size < 2:
        raise DataValidationError(f"expected two vectors of one length, at least 2; found {x.size} and {y.size}")
    return x, y
