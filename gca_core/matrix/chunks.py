"""Matrices that are read in parts, whether they lie in memory or in a file."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gca_core.matrix.kinds import in_memory, to_csr

log = logging.getLogger(__name__)

# cells x genes of one part of rows
CHUNK_SIZE = 20_000_000
# stored values of one part of columns: small ones stay in the processor's cache, large ones save passes over a file
BLOCK_IN_MEMORY = 500_000
BLOCK_IN_FILE = 40_000_000
MAX_BLOCK_WIDTH = 1 << 15


@dataclass(frozen=True)
class ChunkedMatrix:
    """A cells x genes matrix, read in parts of rows or columns.

    The parts are the same in memory and on disk, and so are results that are added up over them.

    Attributes:
        stored: dense or sparse, in memory or backed by a file.
        columns: positions of the columns to keep; None keeps all.
        transform: what is done to each part of rows before columns are left out, such as normalising.
    """

    stored: Any
    columns: npt.NDArray[np.int64] | None = None
    transform: Callable[[sp.csr_matrix], sp.csr_matrix] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        rows, width = self.stored.shape
        return int(rows), int(width if self.columns is None else len(self.columns))

    @property
    def in_memory(self) -> bool:
        """Whether the stored matrix lies in memory."""
        return in_memory(self.stored)

    def chunks(self) -> Iterator[sp.csr_matrix]:
        """Parts of rows from top to bottom."""
        n_rows, width = self.stored.shape
        step = max(1, CHUNK_SIZE // max(width, 1))
        source = readable_by_rows(self.stored)
        for start in range(0, n_rows, step):
            yield self._finish(to_csr(source[start : min(start + step, n_rows)]))

    def rows(self, positions: npt.NDArray[np.int64]) -> sp.csr_matrix:
        """The rows at ascending ``positions``, in memory."""
        return self._finish(to_csr(readable_by_rows(self.stored)[positions]))

    def to_csr(self) -> sp.csr_matrix:
        """The whole matrix in memory."""
        if self.in_memory:
            return self._finish(to_csr(self.stored))
        return sp.csr_matrix(sp.vstack(list(self.chunks()), format="csr"))

    def column_blocks(self) -> Iterator[tuple[int, sp.csc_matrix]]:
        """Parts of columns from left to right, each with the position of its first one.

        In a file that is stored by rows, each part takes a pass over the file.
        """
        if self.in_memory:
            whole = sp.csc_matrix(self.to_csr())
            for start, stop in _bounds(np.diff(whole.indptr), BLOCK_IN_MEMORY):
                yield start, whole[:, start:stop]
            return
        counts = np.zeros(self.shape[1], dtype=np.int64)
        for chunk in self.chunks():
            counts += np.bincount(chunk.indices, minlength=self.shape[1])
        for start, stop in _bounds(counts, BLOCK_IN_FILE):
            parts = [chunk[:, start:stop] for chunk in self.chunks()]
            yield start, sp.csc_matrix(sp.vstack(parts, format="csc"))

    def _finish(self, rows: sp.csr_matrix) -> sp.csr_matrix:
        done = rows if self.transform is None else self.transform(rows)
        return done if self.columns is None else sp.csr_matrix(done[:, self.columns])


def as_chunked(X: Any) -> ChunkedMatrix:
    """``X`` itself, or a :class:`ChunkedMatrix` of it."""
    return X if isinstance(X, ChunkedMatrix) else ChunkedMatrix(X)


def readable_by_rows(X: Any) -> Any:
    """``X``, or its copy in memory where it can't be read by rows: a matrix stored by columns."""
    if in_memory(X):
        return X if isinstance(X, np.ndarray) else to_csr(X)
    if getattr(X, "format", None) == "csc":
        log.warning("the matrix is stored by columns (CSC), so the whole of it is read into memory; CSR avoids that")
        return to_csr(X)
    return X


def _bounds(counts: npt.NDArray[Any], n_values: int) -> Iterator[tuple[int, int]]:
    """Ranges of columns with about ``n_values`` values and ``MAX_BLOCK_WIDTH`` columns at most."""
    start, held = 0, 0
    for position, count in enumerate(counts.tolist()):
        if position > start and (held + count > n_values or position - start >= MAX_BLOCK_WIDTH):
            yield start, position
            start, held = position, 0
        held += count
    if start < len(counts):
        yield start, len(counts)
