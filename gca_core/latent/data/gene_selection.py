"""Highly variable genes, by scanpy."""

import warnings

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from gca_core.matrix.normalise import log_normalise

IntArray = npt.NDArray[np.int64]
MIN_BATCH_CELLS = 50


def select_genes(counts: sp.csr_matrix, batch_codes: IntArray, n_top_genes: int) -> IntArray:
    """Columns of the highly variable genes, ascending, (genes,).

    Counts are normalised to 10,000 a cell and logged, and scanpy's ``highly_variable_genes`` ranks the
    dispersions, flavour ``seurat``; within each batch of at least 50 cells where there are two of them.

    Args:
        counts: (cells, genes) of training cells.
        batch_codes: (cells,).
        n_top_genes: how many; all are taken if there are no more than that.
    """
    import scanpy as sc

    if counts.shape[1] <= n_top_genes:
        return np.arange(counts.shape[1])
    expressed = np.flatnonzero(np.bincount(counts.indices, minlength=counts.shape[1]))
    if len(expressed) <= n_top_genes:
        return expressed
    codes, sizes = np.unique(batch_codes, return_counts=True)
    large = codes[sizes >= MIN_BATCH_CELLS]
    by_batch = len(large) > 1
    rows = np.flatnonzero(np.isin(batch_codes, large)) if by_batch else np.arange(counts.shape[0])
    obs = pd.DataFrame({"batch": pd.Categorical(batch_codes[rows].astype(str))}, index=rows.astype(str))
    logged = ad.AnnData(X=log_normalise(counts[rows])[:, expressed], obs=obs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = sc.pp.highly_variable_genes(
            logged, n_top_genes=n_top_genes, batch_key="batch" if by_batch else None, inplace=False
        )
    return expressed[np.flatnonzero(table["highly_variable"].to_numpy(dtype=bool))]
