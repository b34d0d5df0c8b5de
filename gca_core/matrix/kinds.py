"""What kind of expression matrix this is, told by looking at its values."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gca_core.errors import DataValidationError

MAX_VALUES = 20_000_000
MIN_ROWS = 200
# parts of a file that are read instead of single rows
N_PLACES = 20
# log1p of a whole library of a million counts is 13.8; log2 of it is 20
LOG_CEILING = 15.0
LINEAR_FLOOR = 25.0
BASES = (float(np.e), 2.0, 10.0)
_SUM_TOLERANCE = 1e-3


class MatrixKind(StrEnum):
    """What the values of a matrix are."""

    COUNTS = "counts"
    LOG_NORMALISED = "log-normalised"
    NORMALISED = "normalised, not logged"
    SCALED = "scaled"
    AMBIGUOUS = "ambiguous"
    EMPTY = "empty"
    NOT_FINITE = "not finite: it holds NaN or infinite values"


@dataclass(frozen=True)
class Examined:
    """What the values of a matrix are.

    Attributes:
        base: of its logarithms, where the values tell it: cells then sum to one constant without them, or hold
            values that are too large for natural ones.
    """

    kind: MatrixKind
    base: float | None = None


def classify_matrix(X: Any) -> MatrixKind:
    """Tell the kind of a matrix from its values; see :func:`examine`."""
    return examine(X).kind


def examine(X: Any, columns: npt.NDArray[np.int64] | None = None) -> Examined:
    """Tell the kind of a cells x genes matrix from its values.

    All values are read where there are at most 20 million, else as many rows as hold about that number:
    evenly spaced ones in memory, and rows from twenty evenly spaced places of a file. Non-negative integers
    are counts; negative values mean centred or scaled data. Other values are log-normalised or merely
    normalised when the libraries sum to one constant on that scale, or when their largest value can only be
    reached on one of the two.

    Args:
        X: dense or sparse matrix, in memory or backed by a file.
        columns: the only ones to look at.

    Raises:
        DataValidationError: not two-dimensional, or not numeric.
    """
    rows = _sample_rows(X)
    if columns is not None:
        rows = rows[:, columns]
    values = rows.data if is_sparse(rows) else rows.ravel()
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == np.bool_):
        raise DataValidationError(f"the matrix holds {values.dtype} values; expected numbers")
    if values.size == 0 or not values.any():
        return Examined(MatrixKind.EMPTY)
    if not np.isfinite(values).all():
        return Examined(MatrixKind.NOT_FINITE)
    if values.min() < 0:
        return Examined(MatrixKind.SCALED)
    if _all_integers(values):
        return Examined(MatrixKind.COUNTS)
    return _normalised_kind(rows, float(values.max()))


def is_sparse(X: Any) -> bool:
    """Whether ``X`` is a scipy sparse matrix or array in memory."""
    return bool(sp.issparse(X))


def in_memory(X: Any) -> bool:
    """Whether ``X`` is a matrix in memory, not one backed by a file."""
    return is_sparse(X) or isinstance(X, np.ndarray)


def to_csr(X: Any) -> sp.csr_matrix:
    """``X`` in memory as a CSR matrix, without copying one that already is."""
    if not in_memory(X):
        X = X[:] if not hasattr(X, "to_memory") else X.to_memory()
    if X.dtype == np.float16:
        X = X.astype(np.float32)
    return X if isinstance(X, sp.csr_matrix) else sp.csr_matrix(X)


def _sample_rows(X: Any) -> Any:
    """Evenly spaced rows of ``X``, CSR or dense, with about ``MAX_VALUES`` values at most."""
    shape = getattr(X, "shape", None)
    if shape is None or len(shape) != 2:
        raise DataValidationError(f"expected a two-dimensional cells x genes matrix, found {type(X).__name__} {shape}")
    n_rows, n_columns = shape
    stored = X.nnz if is_sparse(X) else n_rows * n_columns
    if stored > MAX_VALUES:
        keep = min(n_rows, max(MIN_ROWS, int(n_rows * MAX_VALUES / stored)))
        X = X[np.unique(np.linspace(0, n_rows - 1, keep).astype(int))] if in_memory(X) else _places(X, n_rows, keep)
    elif not in_memory(X):
        X = X[:]
    if X.dtype == np.float16:
        X = X.astype(np.float32)
    return sp.csr_matrix(X) if is_sparse(X) else np.asarray(X)


def _places(X: Any, n_rows: int, keep: int) -> Any:
    """About ``keep`` rows from evenly spaced places of a matrix in a file."""
    size = max(1, keep // N_PLACES)
    starts = np.unique(np.linspace(0, n_rows - size, N_PLACES).astype(int)).tolist()
    parts = [X[start : start + size] for start in starts]
    return sp.vstack(parts, format="csr") if is_sparse(parts[0]) else np.vstack(parts)


def _all_integers(values: npt.NDArray[Any]) -> bool:
    return values.dtype.kind in "iub" or bool((values == np.floor(values)).all())


def _normalised_kind(rows: Any, largest: float) -> Examined:
    for base in BASES:
        if largest * np.log(base) <= LINEAR_FLOOR and _constant_sums(_expm1(rows, np.log(base))):
            return Examined(MatrixKind.LOG_NORMALISED, base)
    if _constant_sums(rows) or largest > LINEAR_FLOOR:
        return Examined(MatrixKind.NORMALISED)
    if largest > LOG_CEILING:
        return Examined(MatrixKind.AMBIGUOUS, 2.0)
    return Examined(MatrixKind.LOG_NORMALISED if largest > 1.0 else MatrixKind.AMBIGUOUS)


def _expm1(rows: Any, factor: float) -> Any:
    rows = rows.astype(np.float64) * factor
    return rows.expm1() if is_sparse(rows) else np.expm1(rows)


def _constant_sums(rows: Any) -> bool:
    """Whether at least three non-empty libraries sum to the same constant."""
    sums = np.asarray(rows.sum(axis=1), dtype=np.float64).ravel()
    sums = sums[sums > 0]
    if sums.size < 3:
        return False
    return bool(np.ptp(sums) <= _SUM_TOLERANCE * np.median(sums))
