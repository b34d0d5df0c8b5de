"""How much one measured response says about another.

A response is read as a draw from a Gaussian process over pairs of perturbation and cell type. The covariance of two
pairs is a product: how alike the perturbations act, times how alike the types are. Each factor keeps a share of what
is common to all, so the mean response of a type and that of a perturbation are part of the answer. What is asked is
then a ridge regression on the measured responses, and what a left-out response would have been follows from one
inverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.linalg.lapack import dpotrf, dpotri

from gca_core.errors import DataValidationError
from gca_core.responses.measured import Array, Indices, Measured

TINY = float(np.finfo(float).tiny)
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Shares:
    """What is fitted by leaving out known pairs.

    Attributes:
        noise: variance of a response of many cells that no other explains, beside that which others may explain.
        common: share of a response that all perturbations have in common.
        across: share of a response that all types have in common.
        catalogue: share of the catalogue in how alike perturbations are, where that was also measured.
        reach: distance of types over which likeness falls to 1/e.
        cells: number of cells whose sampling noise equals ``noise``.
    """

    noise: float = 1.0
    common: float = 0.1
    across: float = 0.25
    catalogue: float = 0.1
    reach: float = 0.2
    cells: float = 100.0


class Covariance:
    """Measured pairs with their Gram matrix, and what they say of likeness.

    Attributes:
        length: (n_pairs,) of the centred responses.
        gram: (n_pairs, n_pairs) inner products of the centred responses at unit length.
    """

    def __init__(self, data: Measured) -> None:
        self.data = data
        centred = data.responses - data.responses.mean(axis=1, keepdims=True)
        inner = np.asarray(centred @ centred.T, dtype=np.float64)
        self.length = np.sqrt(np.maximum(np.diag(inner), TINY))
        self.gram = inner / self.length[:, None] / self.length[None, :]
        self._in_type = {int(u): self._cosines(np.flatnonzero(data.cell_type == u)) for u in np.unique(data.cell_type)}
        self._sum = np.zeros((len(data.perturbations),) * 2)
        for places, cosines in self._in_type.values():
            self._sum[np.ix_(places, places)] += cosines

    @cached_property
    def prior(self) -> Array:
        """(n_perturbations, n_perturbations) the catalogue's likeness; an unknown perturbation is like none."""
        return semidefinite(np.where(np.eye(len(self.data.perturbations)), 1.0, np.nan_to_num(self.data.likeness)))

    def compared(self, target: int) -> tuple[Array, Mask]:
        """Likeness of perturbations as measured in all types but ``target``, and of which there is such a measure."""
        total = self._sum.copy()
        if target in self._in_type:
            places, cosines = self._in_type[target]
            total[np.ix_(places, places)] -= cosines
        # a sum of ones, or of nothing
        known = np.diag(total) > 0.5
        norm = np.sqrt(np.where(known, np.diag(total), 1.0))
        return np.where(np.outer(known, known), total / norm[:, None] / norm[None, :], 0.0), known

    def perturbations(self, target: int | None, shares: Shares) -> Array:
        """(n_perturbations, n_perturbations) how alike they act in ``target``; by the catalogue alone where None."""
        alike = self.prior
        if target is not None:
            measured, known = self.compared(target)
            weight = np.where(known, np.sqrt(shares.catalogue), 1.0)
            alike = (1 - shares.catalogue) * measured + weight[:, None] * self.prior * weight[None, :]
        return np.asarray(shares.common + (1 - shares.common) * alike)

    def cell_types(self, shares: Shares) -> Array:
        """(n_types, n_types) how alike types respond."""
        return shares.across + (1 - shares.across) * semidefinite(np.exp(-self.data.distances / shares.reach))

    def noise(self, shares: Shares) -> Array:
        """(n_pairs,) variance that is a pair's own."""
        return shares.noise * (1 + shares.cells * self.data.shrinkage)

    def between(self, target: int | None, shares: Shares) -> tuple[Array, Array]:
        """Covariances of all perturbations and of all types, of which a pair's is the product."""
        return self.perturbations(target, shares), self.cell_types(shares)

    def inverse(self, target: int | None, shares: Shares) -> Array:
        """(n_pairs, n_pairs) inverse of the pairs' covariance with their noise."""
        alike, near = self.between(target, shares)
        p, t = self.data.perturbation, self.data.cell_type
        found = alike[np.ix_(p, p)] * near[np.ix_(t, t)] + np.diag(self.noise(shares))
        return inverse_of(found)

    def _cosines(self, own: Indices) -> tuple[Indices, Array]:
        """Perturbations of one type and the cosines of their responses, the type's mean taken off."""
        # a mean that is shrunk to 0, as if there were one more response: a single one keeps what it says
        centre = np.eye(len(own)) - 1.0 / (len(own) + 1)
        inner = centre @ self.gram[np.ix_(own, own)] @ centre
        norm = np.sqrt(np.maximum(np.diag(inner), TINY))
        return self.data.perturbation[own], inner / norm[:, None] / norm[None, :]


def inverse_of(matrix: Array) -> Array:
    """The inverse of a positive definite matrix, three times faster than that of any other."""
    factor, failed = dpotrf(matrix, lower=1)
    if failed:
        raise DataValidationError("likeness and distances give no covariance; are they finite?")
    lower, _ = dpotri(factor, lower=1)
    found = np.asarray(lower + lower.T)
    np.fill_diagonal(found, np.diag(lower))
    return found


def semidefinite(matrix: Array) -> Array:
    """The matrix without its negative eigenvalues, and with ones on the diagonal."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    found = (vectors * np.maximum(values, 0)) @ vectors.T
    norm = np.sqrt(np.maximum(np.diag(found), TINY))
    result = found / norm[:, None] / norm[None, :]
    np.fill_diagonal(result, 1.0)
    return np.asarray(result)
