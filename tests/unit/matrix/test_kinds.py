import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gca_core.errors import DataValidationError
from gca_core.matrix.kinds import MatrixKind, classify_matrix
from gca_core.matrix.normalise import log_normalise
from gca_core.matrix.places import matrix_kinds, require_counts

COUNT_ARRAYS = hnp.arrays(np.int64, st.tuples(st.integers(1, 8), st.integers(1, 6)), elements=st.integers(0, 5000))


@pytest.fixture
def counts() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.poisson(rng.gamma(0.5, 2.0, size=(1, 40)), size=(30, 40))


@pytest.mark.parametrize("make", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
def test_tells_the_kinds_apart_dense_and_sparse(counts, make):
    libraries = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    logged = np.log1p(counts / libraries * 1e4)
    assert classify_matrix(make(counts)) is MatrixKind.COUNTS
    assert classify_matrix(make(counts.astype(np.float32))) is MatrixKind.COUNTS
    assert classify_matrix(make(logged)) is MatrixKind.LOG_NORMALISED
    assert classify_matrix(make(counts / libraries * 1e4)) is MatrixKind.NORMALISED
    assert classify_matrix(make(logged - logged.mean(axis=0))) is MatrixKind.SCALED
    assert classify_matrix(make(np.zeros((3, 2)))) is MatrixKind.EMPTY


def test_a_gene_subset_of_logged_values_is_still_log_normalised(counts):
    logged = log_normalise(counts).toarray()[:, ::3]
    assert classify_matrix(logged) is MatrixKind.LOG_NORMALISED


@pytest.mark.parametrize(("highest", "shape"), [(0.9, (20, 5)), (20, (50, 5))])
def test_fractions_below_one_and_values_between_the_scales_are_ambiguous(highest, shape):
    assert classify_matrix(np.random.default_rng(1).uniform(0, highest, size=shape)) is MatrixKind.AMBIGUOUS


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_told(bad):
    assert classify_matrix(np.array([[1.0, bad]])) is MatrixKind.NOT_FINITE


@pytest.mark.parametrize("bad", [np.arange(3), None, np.array([["a", "b"]])])
def test_what_is_no_numeric_matrix_is_refused(bad):
    with pytest.raises(DataValidationError, match="expected"):
        classify_matrix(bad)


@settings(max_examples=50, deadline=None)
@given(COUNT_ARRAYS)
def test_counts_are_counts_whatever_their_storage(array):
    expected = MatrixKind.COUNTS if array.any() else MatrixKind.EMPTY
    for stored in (array, array.astype(np.float64), sp.csr_matrix(array), sp.csc_matrix(array.astype(np.float32))):
        assert classify_matrix(stored) is expected


@settings(max_examples=50, deadline=None)
@given(COUNT_ARRAYS, st.randoms(use_true_random=False))
def test_the_kind_does_not_depend_on_the_order_of_cells(array, random):
    logged = log_normalise(array).toarray()
    order = list(range(len(array)))
    random.shuffle(order)
    assert classify_matrix(logged) is classify_matrix(logged[order])


@settings(max_examples=50, deadline=None)
@given(COUNT_ARRAYS)
def test_a_negative_value_is_never_taken_for_counts(array):
    array = array.astype(np.float64)
    array[0, 0] = -1.0
    assert classify_matrix(array) is MatrixKind.SCALED


def test_a_backed_matrix_is_read(tmp_path, counts):
    path = tmp_path / "x.h5ad"
    for X in (counts.astype(np.float32), sp.csr_matrix(counts.astype(np.float32))):
        ad.AnnData(X=X).write_h5ad(path)
        backed = ad.read_h5ad(path, backed="r")
        assert classify_matrix(backed.X) is MatrixKind.COUNTS
        assert (require_counts(backed).toarray() == counts).all()
        backed.file.close()


def test_require_counts_returns_them_from_x_or_a_layer(counts):
    adata = ad.AnnData(X=log_normalise(counts), layers={"raw_counts": sp.csr_matrix(counts)})
    assert (require_counts(adata, "raw_counts").toarray() == counts).all()
    assert (require_counts(ad.AnnData(X=counts)).toarray() == counts).all()


def test_require_counts_names_the_layer_that_holds_them(counts):
    adata = ad.AnnData(X=log_normalise(counts), layers={"raw_counts": sp.csr_matrix(counts)})
    with pytest.raises(DataValidationError, match=r"X is log-normalised.*layers/raw_counts"):
        require_counts(adata)


def test_require_counts_points_at_recovery(counts):
    adata = ad.AnnData(X=np.asarray(log_normalise(counts).toarray()))
    adata.raw = adata.copy()
    adata.X = adata.X - 1.0
    with pytest.raises(DataValidationError, match=r"X is scaled.*recoverable from the log-normalised raw"):
        require_counts(adata)


def test_require_counts_without_any_says_what_each_matrix_is():
    with pytest.raises(DataValidationError, match="X is scaled"):
        require_counts(ad.AnnData(X=np.array([[-1.0, 0.5]])))


def test_an_unknown_layer_is_refused_with_the_ones_there(counts):
    adata = ad.AnnData(X=counts, layers={"spliced": counts})
    with pytest.raises(DataValidationError, match="'spliced'"):
        require_counts(adata, "counts")


def test_matrix_kinds_lists_every_matrix(counts):
    adata = ad.AnnData(X=log_normalise(counts), layers={"counts": counts})
    adata.raw = adata.copy()
    assert matrix_kinds(adata) == {
        "X": MatrixKind.LOG_NORMALISED,
        "layers/counts": MatrixKind.COUNTS,
        "raw": MatrixKind.LOG_NORMALISED,
    }
