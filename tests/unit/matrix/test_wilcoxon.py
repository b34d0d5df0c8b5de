import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import rankdata

from gca_core.errors import DataValidationError
from gca_core.matrix import chunks
from gca_core.matrix.chunks import ChunkedMatrix
from gca_core.matrix.normalise import log_normalise
from gca_core.matrix.ranking import rank_genes
from gca_core.matrix.wilcoxon import wilcoxon_scores


def by_the_book(X: np.ndarray, codes: np.ndarray, n_groups: int) -> np.ndarray:
    n = len(X)
    ranks = np.apply_along_axis(rankdata, 0, X)
    scores = np.zeros((n_groups, X.shape[1]))
    for g in range(n_groups):
        own = int((codes == g).sum())
        if 0 < own < n:
            spread = np.sqrt(own * (n - own) * (n + 1) / 12)
            scores[g] = (ranks[codes == g].sum(axis=0) - own * (n + 1) / 2) / spread
    return scores


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(2, 25), st.integers(1, 6)), elements=st.sampled_from([0, 0, 0, 1, 2.5])
    ),
    st.randoms(use_true_random=False),
)
def test_scores_are_those_of_the_definition(X, random):
    codes = np.array([random.randint(-1, 2) for _ in range(len(X))])
    found = wilcoxon_scores(ChunkedMatrix(sp.csr_matrix(X)), codes, 3)
    assert np.allclose(found, by_the_book(X, codes, 3))


def test_stored_zeros_are_zeros():
    X = np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0], [1.0, 1.0]], dtype=np.float32)
    full = sp.csr_matrix((X.ravel(), np.tile([0, 1], 4), np.arange(0, 9, 2)), shape=X.shape)
    assert full.nnz == 8
    codes = np.array([0, 0, 1, 1])
    assert np.allclose(wilcoxon_scores(ChunkedMatrix(full), codes, 2), by_the_book(X, codes, 2))
    assert full.nnz == 8


def test_parts_of_columns_give_the_same_scores(monkeypatch):
    rng = np.random.default_rng(0)
    X = log_normalise(rng.poisson(0.7, size=(50, 23)))
    codes = rng.integers(0, 3, size=50)
    whole = wilcoxon_scores(ChunkedMatrix(X), codes, 3)
    monkeypatch.setattr(chunks, "BLOCK_IN_MEMORY", 40)
    assert (wilcoxon_scores(ChunkedMatrix(X), codes, 3) == whole).all()


def test_negative_values_are_refused():
    with pytest.raises(DataValidationError, match="negative"):
        wilcoxon_scores(ChunkedMatrix(np.array([[1.0], [-1.0]])), [0, 1], 2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["wilcoxon", "t-test", "t-test_overestim_var"])
def test_genes_and_scores_are_those_of_scanpy(method):
    rng = np.random.default_rng(1)
    means = rng.gamma(0.5, 2.0, size=(4, 60))
    X = log_normalise(np.vstack([rng.poisson(m, size=(30, 60)) for m in means]))
    names = [f"G{j}" for j in range(60)]
    groups = pd.Series(pd.Categorical(np.repeat(list("abcd"), 30)))
    data = ad.AnnData(X, obs=pd.DataFrame({"k": groups.to_numpy()}, index=map(str, range(120))))
    data.var_names = names
    sc.tl.rank_genes_groups(data, "k", method=method, n_genes=20)
    ranked = rank_genes(X, names, groups, n_top=20, method=method)
    for group, table in ranked.groupby("group", observed=True):
        assert np.allclose(table["score"], data.uns["rank_genes_groups"]["scores"][group], rtol=1e-4, atol=1e-4)
        assert set(table["gene"][:10]) == set(data.uns["rank_genes_groups"]["names"][group][:10])
