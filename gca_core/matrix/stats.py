"""Statistics of groups of cells, in one pass over the matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gca_core.errors import DataValidationError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GroupStatistics:
    """Statistics of g groups over n genes.

    Attributes:
        mean: (g, n); zero for a group without cells.
        variance: (g, n), the sample variance (n - 1); zero for a group of fewer than two cells.
        n_cells: (g,).
        fraction: (g, n), share of the group's cells with a value above zero.
    """

    mean: Floats
    variance: Floats
    n_cells: npt.NDArray[np.int64]
    fraction: Floats

    def of_genes(self, positions: npt.ArrayLike) -> GroupStatistics:
        """The same of the genes at ``positions``."""
        at = np.asarray(positions, dtype=np.int64)
        return GroupStatistics(self.mean[:, at], self.variance[:, at], self.n_cells, self.fraction[:, at])


@dataclass(frozen=True)
class GroupSums:
    """Sums over the cells of g groups, and in a last row over the cells without a group.

    Attributes:
        total, square: (g + 1, n), of the values and their squares.
        positive: (g + 1, n), how many values are above zero.
        n_cells: (g + 1,).
    """

    total: Floats
    square: Floats
    positive: Floats
    n_cells: npt.NDArray[np.int64]

    def inside(self) -> GroupStatistics:
        """Statistics of each group."""
        return _statistics(self.total[:-1], self.square[:-1], self.positive[:-1], self.n_cells[:-1])

    def outside(self) -> GroupStatistics:
        """Statistics of all cells outside each group, those without a group among them."""
        total, square, positive = (sums.sum(axis=0) - sums[:-1] for sums in (self.total, self.square, self.positive))
        return _statistics(total, square, positive, self.n_cells.sum() - self.n_cells[:-1])


def group_sums(chunks: Iterable[sp.csr_matrix], codes: npt.ArrayLike, n_groups: int) -> GroupSums:
    """Add up each group of cells over parts of rows; O(stored values + parts x groups x genes).

    Args:
        chunks: the rows of a cells x genes matrix, in order.
        codes: (n_cells,) group of each cell, 0 to ``n_groups`` - 1; -1 is a cell without a group.
        n_groups: number of groups; groups without cells are allowed.

    Raises:
        DataValidationError: the codes don't fit the matrix or the number of groups.
    """
    groups = np.asarray(codes, dtype=np.int64)
    if groups.size and (groups.min() < -1 or groups.max() >= n_groups):
        raise DataValidationError(
            f"group codes run from {groups.min()} to {groups.max()}; expected -1 to {n_groups - 1}"
        )
    groups = np.where(groups < 0, n_groups, groups)
    sums: tuple[Floats, Floats, Floats] | None = None
    done = 0
    for chunk in chunks:
        member = _membership(groups[done : done + chunk.shape[0]], n_groups + 1, chunk.shape[0])
        done += chunk.shape[0]
        part = _sums(chunk, member)
        sums = part if sums is None else (sums[0] + part[0], sums[1] + part[1], sums[2] + part[2])
    if sums is None or groups.shape != (done,):
        raise DataValidationError(f"expected one group code for each of {done} cells, found {groups.shape}")
    return GroupSums(*sums, np.bincount(groups, minlength=n_groups + 1).astype(np.int64))


def univariate_model(weights: sp.csr_matrix, values: Floats | sp.csr_matrix) -> Floats:
    """Activity of each regulator in each row of values: t of their slope over its weights, decoupler's ``ulm``.

    Args:
        weights: (n_regulators, n_genes) signed weights, 0 for genes that are none of its targets.
        values: (n_genes,) or (n_rows, n_genes).

    Returns:
        (n_rows, n_regulators) t, one row for a vector; positive where the regulator is active.
    """
    n = weights.shape[1]
    rows = sp.csr_matrix(values, dtype=np.float64)
    (at, spread), (level, deviation) = _moments(weights), _moments(rows)
    covariance = _dense(rows @ weights.T) / n - np.outer(level, at)
    spreads = np.outer(deviation, spread)
    r = np.clip(np.divide(covariance, spreads, out=np.zeros_like(covariance), where=spreads > 1e-12), -1.0, 1.0)
    with np.errstate(divide="ignore"):
        t = r * np.sqrt(max(n - 2, 0) / np.maximum(1.0 - r**2, 1e-300))
    return np.where(np.abs(r) < 1.0, t, np.sign(r) * 1e6)


def _moments(rows: sp.csr_matrix) -> tuple[Floats, Floats]:
    """(n_rows,) means and standard deviations (n)."""
    mean = np.asarray(rows.mean(axis=1)).ravel()
    square = np.asarray(rows.multiply(rows).mean(axis=1)).ravel()
    return mean, np.sqrt(np.maximum(square - mean**2, 0.0))


def _statistics(total: Floats, square: Floats, positive: Floats, n_cells: npt.NDArray[np.int64]) -> GroupStatistics:
    divisor = np.maximum(n_cells, 1)[:, None]
    mean = total / divisor
    variance = (square - divisor * mean**2) / np.maximum(n_cells - 1, 1)[:, None]
    variance[n_cells < 2] = 0.0
    return GroupStatistics(mean, np.maximum(variance, 0.0), n_cells, positive / divisor)


def _sums(chunk: sp.csr_matrix, member: sp.csr_matrix) -> tuple[Floats, Floats, Floats]:
    """Sums of the values, of their squares, and of how many are above zero, by group."""
    values = chunk.astype(np.float64)
    total = member @ values
    values.data = values.data**2
    square = member @ values
    values.data = (chunk.data > 0).astype(np.float64)
    return _dense(total), _dense(square), _dense(member @ values)


def _dense(matrix: Any) -> Floats:
    return np.asarray(matrix.todense(), dtype=np.float64)


def _membership(groups: npt.NDArray[np.int64], n_groups: int, n_cells: int) -> sp.csr_matrix:
    cells = np.arange(min(n_cells, groups.size))
    return sp.csr_matrix((np.ones(cells.size), (groups[cells], cells)), shape=(n_groups, n_cells))
