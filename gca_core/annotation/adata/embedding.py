"""Principal components of the expression by scanpy's recipe, without scanpy, whose import takes seconds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from gca_core.annotation.adata.expression import Expression
from gca_core.errors import DataValidationError
from gca_core.matrix.neighbours import NeighbourGraph, neighbour_graph
from gca_core.matrix.stats import GroupStatistics, group_sums

N_COMPONENTS = 30
N_VARIABLE = 2000
N_BINS = 20
MIN_CELLS = 3
MAX_SCALED = 10.0


def cell_graph(expression: Expression, seed: int) -> NeighbourGraph:
    """Which cells are near each other in their principal components."""
    return neighbour_graph(principal_components(expression, seed), seed)


def principal_components(expression: Expression, seed: int) -> npt.NDArray[np.float64]:
    """(n_cells, k) components of the 2,000 most variable genes, scaled to unit variance and clipped at 10.

    Raises:
        DataValidationError: too few genes or cells.
    """
    from scipy.sparse.linalg import LinearOperator, svds

    n_cells = expression.n_cells
    if n_cells < MIN_CELLS:
        raise DataValidationError(f"{n_cells} cells; at least {MIN_CELLS} are needed")
    unlogged = (_expm1(chunk) for chunk in expression.values.chunks())
    moments = group_sums(unlogged, np.zeros(n_cells, dtype=np.int64), 1).inside()
    genes = np.flatnonzero(np.rint(moments.fraction[0] * n_cells) >= MIN_CELLS)
    if genes.size < 3:
        raise DataValidationError("fewer than three genes are found in three cells or more")
    if genes.size > N_VARIABLE:
        genes = genes[_most_variable(moments.of_genes(genes))]
    scaled = _scaled(expression.of_genes([expression.genes[j] for j in genes]))
    k = min(N_COMPONENTS, genes.size - 1, n_cells - 1)
    # centred without making it dense
    mean, turned = np.asarray(scaled.mean(axis=0)).ravel(), sp.csr_matrix(scaled.T)
    centred = LinearOperator(
        scaled.shape,
        matvec=lambda x: scaled @ x.ravel() - mean @ x.ravel(),
        rmatvec=lambda y: turned @ y.ravel() - mean * y.sum(),
        dtype=scaled.dtype,
    )
    cells, sizes, axes = svds(centred, k, random_state=np.random.default_rng(seed))
    signs = np.sign(axes[range(k), np.abs(axes).argmax(axis=1)])
    return np.asarray((cells * sizes * signs)[:, ::-1], dtype=np.float64)


def _expm1(chunk: sp.csr_matrix) -> sp.csr_matrix:
    return sp.csr_matrix(chunk.expm1())


def _most_variable(moments: GroupStatistics) -> npt.NDArray[np.int64]:
    """Positions of the genes whose dispersion stands out most among those of like mean: scanpy's flavor ``seurat``."""
    mean, variance = moments.mean[0], moments.variance[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        dispersion = pd.Series(np.log(np.where(variance > 0, variance / mean, np.nan)))
    bins = dispersion.groupby(pd.cut(np.log1p(mean), N_BINS, labels=False))
    middle, spread = bins.transform("mean"), bins.transform("std")
    # a gene alone in its bin stands out by one
    normal = ((dispersion - middle) / spread).where(spread.notna(), 1.0).where(dispersion.notna(), -np.inf)
    return np.sort(np.argsort(-normal.to_numpy(), kind="stable")[:N_VARIABLE])


def _scaled(values: sp.csr_matrix) -> sp.csr_matrix:
    """Values over their standard deviation, clipped at 10, less what zero becomes: so the matrix stays sparse."""
    cells = sp.csr_matrix(values, dtype=np.float64)
    moments = group_sums([cells], np.zeros(cells.shape[0], dtype=np.int64), 1).inside()
    mean, deviation = moments.mean[0], np.sqrt(moments.variance[0])
    deviation[deviation == 0] = 1.0
    zero = np.maximum(-mean / deviation, -MAX_SCALED)
    at = cells.indices
    clipped = np.clip((cells.data - mean[at]) / deviation[at], -MAX_SCALED, MAX_SCALED)
    return sp.csr_matrix((clipped - zero[at], at, cells.indptr), shape=cells.shape)
