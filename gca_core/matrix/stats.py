"""Mean, variance and detection rate per group of cells, in one pass over a sparse matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gca_core.errors import DataValidationError


@dataclass(frozen=True)
class GroupStatistics:
    """Statistics of g groups over n genes.

    Attributes:
        mean: (g, n); zero for a group without cells.
        variance: (g, n), the sample variance (n - 1); zero for a group of fewer than two cells.
        n_cells: (g,).
        fraction: (g, n), share of the group's cells with a value above zero.
    """

    mean: npt.NDArray[np.float64]
    variance: npt.NDArray[np.float64]
    n_cells: npt.NDArray[np.int64]
    fraction: npt.NDArray[np.float64]


def group_mean_variance(X: Any, codes: npt.ArrayLike, n_groups: int) -> GroupStatistics:
    """Statistics of each group of cells; O(stored values + groups x genes).

    Args:
        X: cells x genes, dense or sparse.
        codes: (n_cells,) group of each cell, 0 to ``n_groups`` - 1; -1 leaves the cell out.
        n_groups: number of groups; groups without cells are allowed.

    Raises:
        DataValidationError: the codes don't fit the matrix or the number of groups.
    """
    matrix = X if isinstance(X, sp.csr_matrix) else sp.csr_matrix(X)
    groups = np.asarray(codes, dtype=np.int64)
    if groups.shape != (matrix.shape[0],):
        raise DataValidationError(f"expected one group code for each of {matrix.shape[0]} cells, found {groups.shape}")
    if groups.size and (groups.min() < -1 or groups.max() >= n_groups):
        raise DataValidationError(
            f"group codes run from {groups.min()} to {groups.max()}; expected -1 to {n_groups - 1}"
        )
    member = _membership(groups, n_groups)
    n_cells = np.bincount(groups[groups >= 0], minlength=n_groups).astype(np.int64)
    divisor = np.maximum(n_cells, 1)[:, None]
    mean = _dense(member @ matrix.astype(np.float64)) / divisor
    square = matrix.astype(np.float64)
    square.data **= 2
    variance = (_dense(member @ square) - divisor * mean**2) / np.maximum(n_cells - 1, 1)[:, None]
    variance[n_cells < 2] = 0.0
    square.data = (matrix.data > 0).astype(np.float64)
    fraction = _dense(member @ square) / divisor
    return GroupStatistics(mean, np.maximum(variance, 0.0), n_cells, fraction)


def _membership(groups: npt.NDArray[np.int64], n_groups: int) -> sp.csr_matrix:
    cells = np.flatnonzero(groups >= 0)
    return sp.csr_matrix((np.ones(cells.size), (groups[cells], cells)), shape=(n_groups, groups.size))


def _dense(matrix: Any) -> npt.NDArray[np.float64]:
    return np.asarray(matrix.todense(), dtype=np.float64)
