"""Counts of chosen genes, in memory or, where they don't fit, in a scratch file."""

import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

IntArray = npt.NDArray[np.int64]
BLOCK_CELLS = 64
BUFFER_CELLS = 8192
_VALUE, _INDEX = np.dtype(np.float32), np.dtype(np.int32)
BYTES_PER_COUNT = _VALUE.itemsize + _INDEX.itemsize


class CountStore(Protocol):
    """Counts by cell."""

    @property
    def n_counts(self) -> int:
        """Nonzero counts."""
        ...

    def rows(self, cells: IntArray) -> sp.csr_matrix:
        """Counts of some cells in the order given, float32 CSR."""
        ...

    def shuffled(self, cells: IntArray, batch_size: int, rng: np.random.Generator) -> Iterator[IntArray]:
        """The cells in an order by chance that the store can serve fast, as batches of nearly equal size."""
        ...


class MemoryStore:
    """Counts in memory.

    Args:
        counts: (cells, genes) float32 CSR.
    """

    def __init__(self, counts: sp.csr_matrix) -> None:
        self.counts = counts
        self.n_counts = int(counts.nnz)

    def rows(self, cells: IntArray) -> sp.csr_matrix:
        """Counts of some cells in the order given."""
        return self.counts[cells]

    def shuffled(self, cells: IntArray, batch_size: int, rng: np.random.Generator) -> Iterator[IntArray]:
        """Every order is as likely as every other."""
        return iter(equal_parts(rng.permutation(cells), batch_size))


class ScratchStore:
    """Counts in an uncompressed temporary file that lives as long as the store.

    Cells are shuffled as blocks of 64 neighbours in the file, some thousand of which are mixed in memory: the
    cost of a cell doesn't grow with the file, and the memory taken is that of the mixed ones.

    Args:
        chunks: the counts in file order, CSR.
        n_genes: columns.
    """

    def __init__(self, chunks: Iterable[sp.csr_matrix], n_genes: int) -> None:
        folder = tempfile.TemporaryDirectory(prefix="gca-latent-")
        self._closing = weakref.finalize(self, folder.cleanup)
        self._paths = Path(folder.name) / "values", Path(folder.name) / "columns"
        sizes = [np.zeros(1, dtype=np.int64)]
        with self._paths[0].open("wb") as values, self._paths[1].open("wb") as columns:
            for chunk in chunks:
                values.write(chunk.data.astype(_VALUE, copy=False).tobytes())
                columns.write(chunk.indices.astype(_INDEX, copy=False).tobytes())
                sizes.append(np.diff(chunk.indptr).astype(np.int64))
        self._starts = np.concatenate(sizes).cumsum()
        self._n_genes = n_genes
        self.n_counts = int(self._starts[-1])
        self._buffer: tuple[IntArray, sp.csr_matrix] | None = None

    def rows(self, cells: IntArray) -> sp.csr_matrix:
        """Counts of some cells in the order given; those of the buffer come from memory."""
        if self._buffer is not None:
            held, counts = self._buffer
            places = np.searchsorted(held, cells)
            if places.max(initial=0) < len(held) and np.array_equal(held[places], cells):
                return counts[places]
        distinct, back = np.unique(cells, return_inverse=True)
        return self._read(distinct)[back]

    def shuffled(self, cells: IntArray, batch_size: int, rng: np.random.Generator) -> Iterator[IntArray]:
        """Blocks of neighbours by chance, mixed within a buffer."""
        blocks = equal_parts(cells, BLOCK_CELLS)
        order = np.concatenate([blocks[i] for i in rng.permutation(len(blocks))])
        for part in equal_parts(order, BUFFER_CELLS):
            held = np.sort(part)
            self._buffer = (held, self._read(held))
            yield from equal_parts(rng.permutation(part), batch_size)
        self._buffer = None

    def _read(self, cells: IntArray) -> sp.csr_matrix:
        """Counts of distinct cells in ascending order, each run of neighbours in one read."""
        sizes = self._starts[cells + 1] - self._starts[cells]
        indptr = np.concatenate([[0], sizes.cumsum()])
        runs = np.split(cells, np.flatnonzero(np.diff(cells) > 1) + 1) if len(cells) else []
        spans = [(self._starts[run[0]], self._starts[run[-1] + 1]) for run in runs]
        values, columns = (
            np.concatenate(
                [
                    np.empty(0, dtype),
                    *(np.fromfile(path, dtype, int(b - a), offset=int(a) * dtype.itemsize) for a, b in spans),
                ]
            )
            for path, dtype in zip(self._paths, (_VALUE, _INDEX), strict=True)
        )
        return sp.csr_matrix((values, columns, indptr), shape=(len(cells), self._n_genes))


def memory_store(chunks: Iterable[sp.csr_matrix], n_cells: int, n_genes: int, n_counts: int) -> MemoryStore:
    """Gather chunks in arrays of the final size, so that nothing is held twice.

    Args:
        chunks: the counts in file order, CSR.
        n_cells: rows.
        n_genes: columns.
        n_counts: nonzero counts of all chunks.
    """
    values, columns = np.empty(n_counts, dtype=_VALUE), np.empty(n_counts, dtype=_INDEX)
    indptr = np.zeros(n_cells + 1, dtype=np.int64)
    cell = count = 0
    for chunk in chunks:
        end, rows = count + chunk.nnz, chunk.shape[0]
        values[count:end], columns[count:end] = chunk.data, chunk.indices
        indptr[cell + 1 : cell + rows + 1] = count + chunk.indptr[1:]
        cell, count = cell + rows, end
    return MemoryStore(sp.csr_matrix((values, columns, indptr), shape=(n_cells, n_genes)))


def equal_parts(cells: IntArray, size: int) -> list[IntArray]:
    """Parts of nearly equal size, ``size`` at most: no part of one cell is left over."""
    return np.array_split(cells, -(-len(cells) // size)) if len(cells) else []
