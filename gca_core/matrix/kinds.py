"""What kind of expression matrix this is, told by looking at its values."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gca_core.errors import DataValidationError

if TYPE_CHECKING:
    from anndata import AnnData

MAX_VALUES = 20_000_000
MIN_ROWS = 200
# parts of a file that are read instead of single rows
N_PLACES = 20
# log1p of a whole library of a million counts is 13.8; log2 of it is 20
LOG_CEILING = 15.0
LINEAR_FLOOR = 25.0
_SUM_TOLERANCE = 1e-3


class MatrixKind(StrEnum):
    """What the values of a matrix are."""

    COUNTS = "counts"
    LOG_NORMALISED = "log-normalised"
    NORMALISED = "normalised, not logged"
    SCALED = "scaled"
    AMBIGUOUS = "ambiguous"
    EMPTY = "empty"


def classify_matrix(X: Any) -> MatrixKind:
    """Tell the kind of a cells x genes matrix from its values.

    All values are read where there are at most 20 million, else as many rows as hold about that number:
    evenly spaced ones in memory, and rows from twenty evenly spaced places of a file. Non-negative integers
    are counts; negative values mean centred or scaled data. Other values are log-normalised or merely
    normalised when the libraries sum to one constant on that scale, or when their largest value can only be
    reached on one of the two.

    Args:
        X: dense or sparse matrix, in memory or backed by a file.

    Raises:
        DataValidationError: not two-dimensional, not numeric, or with NaN or infinite values.
    """
    rows = _sample_rows(X)
    values = rows.data if is_sparse(rows) else rows.ravel()
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == np.bool_):
        raise DataValidationError(f"the matrix holds {values.dtype} values; expected numbers")
    if values.size == 0 or not values.any():
        return MatrixKind.EMPTY
    if not np.isfinite(values).all():
        raise DataValidationError(
            "the matrix holds NaN or infinite values; remove or impute them, or start again from the raw counts"
        )
    if values.min() < 0:
        return MatrixKind.SCALED
    if _all_integers(values):
        return MatrixKind.COUNTS
    return _normalised_kind(rows, float(values.max()))


def require_counts(adata: AnnData, layer: str | None = None) -> sp.csr_matrix:
    """The raw counts of ``adata`` as float32 or integer CSR, cells x genes.

    Args:
        adata: annotated data.
        layer: the layer that holds the counts; None means ``X``.

    Raises:
        DataValidationError: no such layer, or its values aren't counts; says where counts were seen.
    """
    if layer is not None and layer not in layer_names(adata):
        raise DataValidationError(f"there is no layer {layer!r}; found {_listing(layer_names(adata))}")
    X = adata.X if layer is None else adata.layers[layer]
    where = "X" if layer is None else f"layer {layer!r}"
    kind = MatrixKind.EMPTY if X is None else classify_matrix(X)
    if kind is not MatrixKind.COUNTS:
        raise DataValidationError(f"{where} is {kind.value}, but raw counts are needed; {_advice(adata, layer)}")
    return to_csr(X)


def matrix_kinds(adata: AnnData) -> dict[str, MatrixKind]:
    """The kind of ``X``, of every layer (``layers/<name>``) and of ``raw``, as far as they are there.

    A matrix with NaN or infinite values is reported as ambiguous here.
    """
    found = {"X": adata.X} if adata.X is not None else {}
    found |= {f"layers/{name}": adata.layers[name] for name in layer_names(adata)}
    if adata.raw is not None:
        found["raw"] = adata.raw.X
    return {name: _quiet_kind(X) for name, X in found.items()}


def layer_names(adata: AnnData) -> list[str]:
    """The names of the layers; anndata 0.13 lists ``X`` among them, under None."""
    return [name for name in adata.layers if name is not None]


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
    return X if isinstance(X, sp.csr_matrix) else sp.csr_matrix(X)


def _quiet_kind(X: Any) -> MatrixKind:
    try:
        return classify_matrix(X)
    except DataValidationError:
        return MatrixKind.AMBIGUOUS


def _advice(adata: AnnData, layer: str | None) -> str:
    kinds = matrix_kinds(adata)
    current = "X" if layer is None else f"layers/{layer}"
    counts = [name for name, kind in kinds.items() if kind is MatrixKind.COUNTS and name != current]
    if counts:
        return f"counts were found in {', '.join(counts)}: name that instead"
    logged = [name for name, kind in kinds.items() if kind is MatrixKind.LOG_NORMALISED]
    if logged:
        return f"no layer holds counts; they may be recoverable from the log-normalised {', '.join(logged)}"
    seen = "; ".join(f"{name} is {kind.value}" for name, kind in kinds.items()) or "the object has no matrix"
    return f"no layer holds counts ({seen}): start from the file with raw counts"


def _listing(names: Any) -> str:
    return ", ".join(repr(name) for name in names) or "no layers"


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
    return sp.csr_matrix(X) if is_sparse(X) else np.asarray(X)


def _places(X: Any, n_rows: int, keep: int) -> Any:
    """About ``keep`` rows from evenly spaced places of a matrix in a file."""
    size = max(1, keep // N_PLACES)
    starts = np.unique(np.linspace(0, n_rows - size, N_PLACES).astype(int)).tolist()
    parts = [X[start : start + size] for start in starts]
    return sp.vstack(parts, format="csr") if is_sparse(parts[0]) else np.vstack(parts)


def _all_integers(values: npt.NDArray[Any]) -> bool:
    return values.dtype.kind in "iub" or bool((values == np.floor(values)).all())


def _normalised_kind(rows: Any, largest: float) -> MatrixKind:
    if largest <= LINEAR_FLOOR and _constant_sums(_expm1(rows)):
        return MatrixKind.LOG_NORMALISED
    if _constant_sums(rows):
        return MatrixKind.NORMALISED
    if largest <= LOG_CEILING:
        return MatrixKind.LOG_NORMALISED if largest > 1.0 else MatrixKind.AMBIGUOUS
    return MatrixKind.NORMALISED if largest > LINEAR_FLOOR else MatrixKind.AMBIGUOUS


def _expm1(rows: Any) -> Any:
    rows = rows.astype(np.float64)
    return rows.expm1() if is_sparse(rows) else np.expm1(rows)


def _constant_sums(rows: Any) -> bool:
    """Whether at least three non-empty libraries sum to the same constant."""
    sums = np.asarray(rows.sum(axis=1), dtype=np.float64).ravel()
    sums = sums[sums > 0]
    if sums.size < 3:
        return False
    return bool(np.ptp(sums) <= _SUM_TOLERANCE * np.median(sums))
