import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from gca_core.errors import DataValidationError
from gca_core.matrix.stats import group_sums, univariate_model


def test_statistics_equal_those_of_numpy():
    rng = np.random.default_rng(0)
    X = rng.poisson(1.0, size=(40, 7)).astype(np.float32)
    codes = rng.integers(0, 3, size=40)
    found = group_sums([sp.csr_matrix(X[:25]), sp.csr_matrix(X[25:])], codes, 3).inside()
    for g in range(3):
        cells = X[codes == g].astype(np.float64)
        assert np.allclose(found.mean[g], cells.mean(axis=0))
        assert np.allclose(found.variance[g], cells.var(axis=0, ddof=1))
        assert np.allclose(found.fraction[g], (cells > 0).mean(axis=0))
    assert found.n_cells.tolist() == np.bincount(codes, minlength=3).tolist()


def test_cells_without_a_group_are_left_out_and_empty_groups_are_zero():
    found = group_sums([sp.csr_matrix([[1.0], [5.0], [9.0]])], [0, -1, 0], 2).inside()
    assert found.mean.tolist() == [[5.0], [0.0]]
    assert found.variance.tolist() == [[32.0], [0.0]]
    assert found.n_cells.tolist() == [2, 0]


def test_the_input_is_not_changed():
    X = sp.csr_matrix(np.array([[2.0, 0.0], [3.0, 1.0]]))
    group_sums([X], [0, 0], 1)
    assert X.toarray().tolist() == [[2.0, 0.0], [3.0, 1.0]]


@pytest.mark.parametrize("codes", [[0], [0, 2], [0, -2]])
def test_codes_that_do_not_fit_are_refused(codes):
    with pytest.raises(DataValidationError):
        group_sums([sp.csr_matrix(np.ones((2, 2)))], codes, 2)


@pytest.mark.parametrize("n_rows", [None, 5])
def test_the_univariate_model_is_a_regression(n_rows):
    rng = np.random.default_rng(0)
    values = rng.normal(size=60) if n_rows is None else rng.poisson(0.5, size=(n_rows, 60)).astype(np.float32)
    weights = np.zeros((3, 60))
    weights[1, :20], weights[2, [3, 50]] = 1.0 + np.arange(20), (-2.0, 1.0)
    rows = np.atleast_2d(values)
    t = univariate_model(sp.csr_matrix(weights), values if n_rows is None else sp.csr_matrix(values))
    assert t.shape == (len(rows), 3) and (t[:, 0] == 0).all()
    for i, row in enumerate(rows):
        for k in (1, 2):
            fit = stats.linregress(weights[k], row)
            assert t[i, k] == pytest.approx(fit.slope / fit.stderr, rel=1e-6)
    assert (univariate_model(sp.csr_matrix(weights), np.zeros(60)) == 0).all()
