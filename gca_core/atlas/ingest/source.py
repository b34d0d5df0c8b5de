"""Reading counts in blocks of rows, so that memory doesn't grow with the file."""

import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar

import anndata as ad
import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from gca_core.errors import DataValidationError
from gca_core.matrix.cells import RAW, CellFile
from gca_core.matrix.genes import gene_rows, unique_symbols
from gca_core.matrix.kinds import to_csr
from gca_core.matrix.places import counts_place, head, named_place, require_counts
from gca_core.threads import prefetch

BLOCK_ROWS = 16_384
BLOCK_VALUES = 4_000_000
_SAMPLE_ROWS = 500
_MITOCHONDRIAL = ("MT-", "mt-")
THREADS = 2

R = TypeVar("R")


class CountSource:
    """The counts of a file block by block, and its table of cells.

    Args:
        cells: the open file.
        layer: the layer that holds the counts, or ``raw``; None means X.
        gene_column: var column of the genes' names; None means the index, or the column of symbols where that holds
            ids or numbers.

    Raises:
        DataValidationError: the file holds no counts there, or genes that can't be told apart.
    """

    def __init__(self, cells: CellFile, layer: str | None, gene_column: str | None = None) -> None:
        self._cells, self._name = cells, cells.name
        self.columns = cells.columns("obs")
        adata = cells.read(backed=cells.stays_on_disk, columns=())
        self.n_cells = adata.n_obs
        try:
            counts_place(head(adata, _SAMPLE_ROWS, layer), layer)
            place = named_place(adata, layer)
        except DataValidationError as error:
            raise DataValidationError(f"{self._name} can't be ingested: {error}") from None
        self._rows = gene_rows(place.var, place.name, place.fallback, tell=True)
        var = place.var if self._rows is None else place.var.iloc[self._rows]
        self.genes = unique_symbols(var, self._name, column=gene_column, fallback=place.fallback)
        if len(set(self.genes)) != len(self.genes):
            raise DataValidationError(
                f"{self._name} names some genes twice; make them unique first (adata.var_names_make_unique())"
            )
        self._n_stored = int(place.X.shape[1])
        # rows of a matrix that is stored by columns lie anywhere
        self._matrix: Any = to_csr(place.X) if getattr(place.X, "format", None) == "csc" else place.X
        self._indptr: npt.NDArray[np.int64] | None = None
        if hasattr(self._matrix, "group"):
            self._matrix = self._matrix.group
            self._indptr = np.asarray(self._matrix["indptr"][:], dtype=np.int64)

    def table(self, columns: Sequence[str]) -> pd.DataFrame:
        """Some columns of obs; those that aren't there are left out. Its index is without meaning."""
        return self._cells.obs(columns).reset_index(drop=True)

    def cell_names(self) -> npt.NDArray[np.object_]:
        """The names of the cells, as text."""
        return np.array([str(name) for name in self._cells.obs(()).index], dtype=object)

    def mitochondrial(self) -> npt.NDArray[np.bool_] | None:
        """Which genes are mitochondrial, by their names; None where none is."""
        found = np.array([gene.startswith(_MITOCHONDRIAL) for gene in self.genes], dtype=np.bool_)
        return found if found.any() else None

    def stored_sizes(self) -> npt.NDArray[np.int64] | None:
        """Values stored per cell, zeros among them where the file has some; None where that takes a pass."""
        if self._rows is not None:
            return None
        if self._indptr is not None:
            return np.diff(self._indptr)
        return np.diff(self._matrix.indptr).astype(np.int64) if isinstance(self._matrix, sp.csr_matrix) else None

    def counted_sizes(self) -> npt.NDArray[np.int64]:
        """Values other than zero per cell; reads the whole file."""
        sizes = np.zeros(self.n_cells, dtype=np.int64)
        for start, block in self.blocks():
            sizes[start : start + block.shape[0]] = np.diff(block.indptr)
        return sizes

    def blocks(self, first: int = 0) -> Generator[tuple[int, sp.csr_matrix]]:
        """First row and counts of each block from a row on; see :meth:`each_block`."""
        return self.each_block(lambda start, block: (start, block), first)

    def each_block(self, work: Callable[[int, sp.csr_matrix], R], first: int = 0) -> Generator[R]:
        """What becomes of the first row and counts (CSR of int32, no stored zeros, sorted) of each block from a row on.

        Blocks are read and worked on in several threads; the results come in the order of the file.

        Raises:
            DataValidationError: a block doesn't hold counts.
        """

        def read_and_work(rows: tuple[int, int]) -> R:
            return work(rows[0], self._block(*rows))

        return prefetch(read_and_work, self._ranges(first), THREADS)

    def _ranges(self, first: int) -> Iterator[tuple[int, int]]:
        """Row ranges of at most so many rows and so many values, and of one row at least."""
        start = first
        while start < self.n_cells:
            stop = min(start + BLOCK_ROWS, self.n_cells)
            if self._indptr is not None:
                full = int(np.searchsorted(self._indptr, self._indptr[start] + BLOCK_VALUES, side="right")) - 1
                stop = max(min(stop, full), start + 1)
            else:
                stop = max(min(stop, start + 4 * BLOCK_VALUES // max(len(self.genes), 1)), start + 1)
            yield start, stop
            start = stop

    def _block(self, start: int, stop: int) -> sp.csr_matrix:
        if self._indptr is not None:
            ends = self._indptr[start : stop + 1]
            part = slice(int(ends[0]), int(ends[-1]))
            values, indices = (_values(self._matrix[name], part) for name in ("data", "indices"))
            block = self._csr(values, indices, ends - ends[0])
        else:
            found = to_csr(self._matrix[start:stop])
            block = self._csr(found.data, found.indices, found.indptr)
        if not block.has_canonical_format:
            block.sum_duplicates()
        if np.count_nonzero(block.data) < block.nnz:
            block.eliminate_zeros()
        return block

    def _csr(self, values: Any, indices: Any, indptr: Any) -> sp.csr_matrix:
        shape = (indptr.size - 1, self._n_stored)
        if indices.size and (indices.min() < 0 or indices.max() >= shape[1]):
            raise DataValidationError(f"{self._name} is damaged: it stores values of genes that it doesn't have")
        if self._rows is not None:
            of_genes = sp.csr_matrix((values, indices, indptr), shape=shape)[:, self._rows]
            values, indices, indptr, shape = of_genes.data, of_genes.indices, of_genes.indptr, of_genes.shape
        with np.errstate(invalid="ignore"):
            counts = np.asarray(values).astype(np.int32)
        if counts.size and (counts.min() < 0 or not np.array_equal(counts, values)):
            require_counts(ad.AnnData(X=sp.csr_matrix((values, indices, indptr), shape=shape)))
            raise DataValidationError(f"{self._name} holds counts above 2,147,483,647; is it really a count matrix?")
        return sp.csr_matrix((counts, indices.astype(np.int32, copy=False), indptr), shape=shape)


def _values(dataset: Any, part: slice) -> npt.NDArray[Any]:
    """Some values of a list of numbers."""
    packed = isinstance(dataset, h5py.Dataset) and dataset.compression == "gzip" and dataset.chunks[0] <= BLOCK_VALUES
    if packed and dataset.id.get_create_plist().get_nfilters() == 1 + dataset.shuffle:
        try:
            return _unpacked(dataset, part)
        except (OSError, RuntimeError, ValueError, zlib.error):
            # a chunk that isn't there, or isn't packed like the others
            pass
    found: npt.NDArray[Any] = dataset[part]
    return found


def _unpacked(dataset: h5py.Dataset, part: slice) -> npt.NDArray[Any]:
    """As HDF5 would unpack them, which it does under a lock that all threads share."""
    size, width = dataset.chunks[0], dataset.dtype.itemsize
    found = np.empty(part.stop - part.start, dtype=dataset.dtype)
    for first in range(part.start - part.start % size, part.stop, size):
        skipped, packed = dataset.id.read_direct_chunk((first,))
        chunk = np.frombuffer(zlib.decompress(packed, bufsize=size * width), dtype=np.uint8)
        if skipped or chunk.size != size * width:
            raise ValueError
        if dataset.shuffle:
            chunk = chunk.reshape(width, size).T.ravel()
        low, high = max(first, part.start), min(first + size, part.stop)
        found[low - part.start : high - part.start] = chunk.view(dataset.dtype)[low - first : high - first]
    return found


def read_header(cells: CellFile) -> dict[str, list[str]]:
    """The obs and var columns and the layers of a file; ``raw`` is among the layers where raw.X is there."""
    var, layers = cells.columns("var"), cells.layers()
    if RAW in layers:
        var = sorted({*var} & {*(cells.columns("raw/var") or var)})
    return {"obs": cells.columns("obs"), "var": var, "layers": layers}
