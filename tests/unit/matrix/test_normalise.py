import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gca_core.errors import DataValidationError
from gca_core.matrix.normalise import log_normalise, recover_counts


def test_log_normalise_follows_its_formula_and_leaves_its_input():
    counts = sp.csr_matrix(np.array([[1, 3, 0], [0, 0, 0], [2, 0, 2]], dtype=np.int32))
    before = counts.toarray().copy()
    found = log_normalise(counts, dtype=np.float64).toarray()
    expected = [[np.log1p(2500), np.log1p(7500), 0], [0, 0, 0], [np.log1p(5000), 0, np.log1p(5000)]]
    assert np.allclose(found, expected)
    assert (counts.toarray() == before).all()


def test_log_normalise_is_float32_unless_told():
    assert log_normalise(np.array([[1, 2]])).dtype == np.float32


@pytest.mark.parametrize("bad", [np.array([[-1.0, 2.0]]), np.array([[np.nan, 2.0]])])
def test_log_normalise_refuses_what_cannot_be_counts(bad):
    with pytest.raises(DataValidationError, match="needs counts"):
        log_normalise(bad)


def test_log_normalise_refuses_a_target_that_is_not_positive():
    with pytest.raises(DataValidationError, match="target_sum"):
        log_normalise(np.ones((1, 1)), target_sum=0)


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(np.int64, st.tuples(st.integers(1, 8), st.integers(2, 12)), elements=st.integers(0, 300)),
    st.sampled_from([1e3, 1e4, 1e6]),
)
def test_counts_come_back_from_float32_logs(counts, target_sum):
    counts[:, 0] = 1
    assert (recover_counts(log_normalise(counts, target_sum)).toarray() == counts).all()


def test_counts_come_back_from_logs_with_three_decimals():
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, size=(20, 300))
    counts[:, 0], counts[:, 1] = 1, 150
    rounded = np.round(log_normalise(counts, dtype=np.float64).toarray(), 3)
    assert (recover_counts(rounded).toarray() == counts).all()


def test_recovery_refuses_values_that_were_corrected():
    rng = np.random.default_rng(0)
    with pytest.raises(DataValidationError, match="can't be recovered"):
        recover_counts(rng.uniform(1.0, 6.0, size=(20, 10)))


def test_recovery_refuses_other_kinds():
    with pytest.raises(DataValidationError, match="is counts"):
        recover_counts(np.array([[1, 2, 3]]))
    with pytest.raises(DataValidationError, match="is scaled"):
        recover_counts(np.array([[-1.0, 2.5]]))
