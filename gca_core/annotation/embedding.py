"""Principal components, clusters and a UMAP of the expression, through scanpy."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData

from gca_core.annotation.inputs import Expression
from gca_core.annotation.scoring import Array
from gca_core.errors import DataValidationError

log = logging.getLogger(__name__)

N_COMPONENTS = 30
N_VARIABLE = 2000
N_NEIGHBOURS = 15


def principal_components(expression: Expression, seed: int) -> Array:
    """(n_cells, k) components of the 2,000 most variable genes, scaled to unit variance and clipped at 10.

    Raises:
        DataValidationError: too few genes or cells.
    """
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


def leiden_clusters(components: Array, *, resolution: float, seed: int) -> pd.Categorical:
    """Leiden clusters of the neighbour graph of ``components``, named "0", "1", ... by size."""
    data = _with_neighbours(components, seed)
    sc.tl.leiden(data, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
    found = data.obs["leiden"].cat
    log.info("%d clusters found at resolution %g", len(found.categories), resolution)
    return pd.Categorical(data.obs["leiden"])


def umap_coordinates(components: Array, seed: int) -> Array:
    """(n_cells, 2) UMAP of the neighbour graph of ``components``."""
    data = _with_neighbours(components, seed)
    sc.tl.umap(data, random_state=seed)
    return np.asarray(data.obsm["X_umap"], dtype=np.float64)


def _with_neighbours(components: Array, seed: int) -> AnnData:
    data = AnnData(X=components.astype(np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.neighbors(data, n_neighbors=min(N_NEIGHBOURS, data.n_obs - 1), use_rep="X", random_state=seed)
    return data
