import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from gca_core.errors import DataValidationError
from gca_core.matrix.compare import de_overlap, log_fold_change, pearson

VECTORS = st.lists(st.floats(-5, 5), min_size=2, max_size=30)


def test_log_fold_change_is_the_difference_of_mean_logs():
    treated, control = np.array([[1, 1], [3, 1]]), sp.csr_matrix([[1, 0]])
    expected = [
        (math.log1p(5000) + math.log1p(7500)) / 2 - math.log1p(10000),
        (math.log1p(5000) + math.log1p(2500)) / 2,
    ]
    assert np.allclose(log_fold_change(treated, control), expected)


@pytest.mark.parametrize("sides", [((2, 3), (2, 4)), ((0, 3), (2, 3)), ((2, 3), (0, 3))])
def test_log_fold_change_refuses_sides_that_do_not_fit(sides):
    with pytest.raises(DataValidationError):
        log_fold_change(*(np.ones(shape) for shape in sides))


def test_pearson_agrees_with_numpy_and_is_nan_for_a_constant():
    a, b = [1.0, 2.0, 4.0], [0.5, 3.0, 2.0]
    assert pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert math.isnan(pearson([1, 1, 1], b))


@given(VECTORS)
def test_a_vector_overlaps_itself_and_its_negative(values):
    assert de_overlap(values, values, k=5) == 1.0
    assert de_overlap(values, [-v for v in values], k=5) == 1.0


def test_overlap_counts_the_largest_changes_either_way_and_breaks_ties_by_order():
    assert de_overlap([5, -4, 0, 0], [0, 4, 5, 0], k=2) == 0.5
    assert de_overlap([1, 1, 1, 0], [1, 1, 0, 1], k=2) == 1.0


@pytest.mark.parametrize(
    "call", [lambda: pearson([1], [1]), lambda: de_overlap([1, 2], [1, 2, 3]), lambda: de_overlap([1, 2], [1, 2], 0)]
)
def test_vectors_that_do_not_fit_are_refused(call):
    with pytest.raises(DataValidationError):
        call()
