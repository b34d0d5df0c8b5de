"""From counts to log-normalised values, and back where that is possible."""

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gca_core.errors import DataValidationError
from gca_core.matrix.kinds import MatrixKind, examine

TARGET_SUM = 1e4
_TOLERANCE = 0.05
# logs stored with three decimals are off by up to 0.05 %, the smallest value likewise
_RELATIVE_TOLERANCE = 1e-3
_MAX_TOLERANCE = 0.3


def log_normalise(
    counts: Any, target_sum: float = TARGET_SUM, *, dtype: type[np.floating[Any]] = np.float32
) -> sp.csr_matrix:
    """log1p of counts per ``target_sum``, natural logarithm; cells without counts stay zero.

    Args:
        counts: cells x genes, dense or sparse, non-negative; not changed.
        target_sum: what each cell's counts sum to before the logarithm.
        dtype: of the result; the arithmetic is done in float64.

    Returns:
        CSR, cells x genes.

    Raises:
        DataValidationError: negative, NaN or infinite values, or ``target_sum`` not positive.
    """
    if not target_sum > 0:
        raise DataValidationError(f"target_sum is {target_sum}; expected a positive number")
    # a copy in float64: the sums of large libraries lose digits in float32
    X = sp.csr_matrix(counts).astype(np.float64, copy=True)
    if X.nnz and (not np.isfinite(X.data).all() or X.data.min() < 0):
        raise DataValidationError("log_normalise needs counts: found negative, NaN or infinite values")
    totals = np.asarray(X.sum(axis=1)).ravel()
    factors = np.divide(target_sum, totals, out=np.zeros_like(totals), where=totals > 0)
    X.data *= np.repeat(factors, np.diff(X.indptr))
    np.log1p(X.data, out=X.data)
    return sp.csr_matrix(X, dtype=dtype)


def recover_counts(log_normalised: Any) -> sp.csr_matrix:
    """The counts behind log1p-normalised values: expm1(x), divided by each cell's smallest non-zero value.

    That is exact when each cell has at least one gene with a single count, the rule in UMI data, and is
    checked: the quotients have to be integers, up to the error of logs stored with three decimals.

    Args:
        log_normalised: cells x genes, dense or sparse.

    Returns:
        CSR of int64, cells x genes.

    Raises:
        DataValidationError: the values aren't log-normalised, or the quotients aren't integers.
    """
    found = examine(log_normalised)
    if found.kind not in {MatrixKind.LOG_NORMALISED, MatrixKind.EMPTY}:
        raise DataValidationError(
            f"counts are recovered from log-normalised values, but the matrix is {found.kind.value}"
        )
    X = sp.csr_matrix(log_normalised, dtype=np.float64, copy=True)
    X.eliminate_zeros()
    linear = np.expm1(X.data * np.log(found.base or np.e))
    quotients = linear / np.repeat(_row_minima(linear, X.indptr), np.diff(X.indptr))
    counts = np.rint(quotients)
    wrong = np.abs(quotients - counts) > np.minimum(_TOLERANCE + _RELATIVE_TOLERANCE * counts, _MAX_TOLERANCE)
    if wrong.any():
        raise DataValidationError(
            f"counts can't be recovered: {int(wrong.sum())} of {counts.size} values are no whole multiple of their "
            "cell's smallest value; they were corrected or scaled after normalisation, so start from the raw counts"
        )
    X.data = counts
    return X.astype(np.int64)


def _row_minima(values: npt.NDArray[np.float64], indptr: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    minima = np.ones(len(indptr) - 1)
    filled = np.diff(indptr) > 0
    if filled.any():
        minima[filled] = np.minimum.reduceat(values, indptr[:-1][filled])
    return minima
