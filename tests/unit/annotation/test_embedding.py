import numpy as np
import pytest
import scanpy as sc

from gca_core.annotation.adata.embedding import principal_components
from gca_core.annotation.adata.expression import Expression
from gca_core.datasets import kang2018_mini
from gca_core.matrix.chunks import ChunkedMatrix
from gca_core.matrix.normalise import log_normalise


@pytest.mark.slow
def test_the_components_are_those_of_scanpys_recipe():
    cells = kang2018_mini()[:400].copy()
    cells.X = log_normalise(cells.X)
    expression = Expression(ChunkedMatrix(cells.X), tuple(cells.var_names), "X")
    found = principal_components(expression, 0)
    sc.pp.filter_genes(cells, min_cells=3)
    sc.pp.highly_variable_genes(cells, n_top_genes=2000, flavor="seurat", subset=True)
    sc.pp.scale(cells, max_value=10)
    sc.pp.pca(cells, n_comps=30, svd_solver="arpack")
    assert np.abs(np.abs(found) - np.abs(cells.obsm["X_pca"])).max() < 0.01
