"""Principal components, clusters and a UMAP of the expression, through scanpy."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from gca_core.annotation.adata.expression import Expression
from gca_core.cache import keep_compiled_umap
from gca_core.errors import DataValidationError

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger(__name__)

N_COMPONENTS = 30
N_VARIABLE = 2000
N_NEIGHBOURS = 15
# from so many cells on, neighbours are searched approximately: below, the exact search takes less than a minute
MANY_CELLS = 100_000


def principal_components(expression: Expression, seed: int) -> npt.NDArray[np.float64]:
    """(n_cells, k) components of the 2,000 most variable genes, scaled to unit variance and clipped at 10.

    Raises:
        DataValidationError: too few genes or cells.
    """
    import scanpy as sc
    from anndata import AnnData

    data = AnnData(X=expression.matrix.astype(np.float32), var=pd.DataFrame(index=list(expression.genes)))
    if data.n_obs < 3:
        raise DataValidationError(f"{data.n_obs} cells; at least 3 are needed")
    sc.pp.filter_genes(data, min_cells=3)
    if data.n_vars < 3:
        raise DataValidationError("fewer than three genes are found in three cells or more")
    if data.n_vars > N_VARIABLE:
        sc.pp.highly_variable_genes(data, n_top_genes=N_VARIABLE, flavor="seurat", subset=True)
    with warnings.catch_warnings():
        # scanpy warns that centring makes the matrix dense, which is meant here
        warnings.simplefilter("ignore", UserWarning)
        sc.pp.scale(data, max_value=10)
    k = min(N_COMPONENTS, data.n_vars - 1, data.n_obs - 1)
    sc.pp.pca(data, n_comps=k, svd_solver="arpack", random_state=seed)
    return np.asarray(data.obsm["X_pca"], dtype=np.float64)


def leiden_clusters(components: npt.NDArray[np.float64], *, resolution: float, seed: int) -> pd.Categorical:
    """Leiden clusters of the neighbour graph of ``components``, named "0", "1", ... by size."""
    import scanpy as sc

    data = _with_neighbours(components, seed)
    sc.tl.leiden(data, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
    found = data.obs["leiden"].cat
    log.info("%d clusters found at resolution %g", len(found.categories), resolution)
    return pd.Categorical(data.obs["leiden"])


def umap_coordinates(components: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    """(n_cells, 2) UMAP of the neighbour graph of ``components``."""
    import scanpy as sc

    data = _with_neighbours(components, seed)
    sc.tl.umap(data, random_state=seed)
    return np.asarray(data.obsm["X_umap"], dtype=np.float64)


def _with_neighbours(components: npt.NDArray[np.float64], seed: int) -> AnnData:
    import scanpy as sc
    from anndata import AnnData

    keep_compiled_umap()
    data = AnnData(X=components.astype(np.float32))
    transformer = "sklearn" if data.n_obs < MANY_CELLS else _approximate(seed, data.n_obs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.neighbors(
            data,
            n_neighbors=min(N_NEIGHBOURS, data.n_obs - 1),
            use_rep="X",
            random_state=seed,
            transformer=transformer,
        )
    return data


def _approximate(seed: int, n_cells: int) -> Any:
    """scanpy's search for the neighbours of many cells, with its result as the matrix that scanpy expects.

    From version 0.7 on, pynndescent gives a sparse array instead, which scanpy 1.11 doesn't take.
    """
    from pynndescent import PyNNDescentTransformer  # type: ignore[import-untyped]

    class Transformer(PyNNDescentTransformer):  # type: ignore[misc]
        def fit_transform(self, X: Any, y: Any = None, **options: Any) -> sp.csr_matrix:
            return sp.csr_matrix(super().fit_transform(X, y, **options))

    return Transformer(
        n_neighbors=N_NEIGHBOURS,
        metric="euclidean",
        random_state=seed,
        n_trees=min(64, 5 + round(n_cells**0.5 / 20)),
        n_iters=max(5, round(np.log2(n_cells))),
    )
