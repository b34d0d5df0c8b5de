"""Reading an h5ad file in blocks of rows, so that memory doesn't grow with the file."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anndata as ad
import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from gca_core.errors import DataValidationError
from gca_core.matrix.anndata_io import read_elem, sparse_dataset
from gca_core.matrix.hostile import refuse_foreign_data
from gca_core.matrix.kinds import require_counts
from gca_core.threads import prefetch

BLOCK_ROWS = 16_384
BLOCK_VALUES = 4_000_000
RAW = "raw"
_SAMPLE_ROWS = 500
_MITOCHONDRIAL = ("MT-", "mt-")
THREADS = 2

R = TypeVar("R")


class CountSource:
    """An open h5ad file: its tables, and its counts block by block.

    Args:
        file: the open file.
        name: what to call it in messages.
        layer: the layer that holds the counts, or ``raw``; None means X.
        gene_column: var column of the genes' names; None means the index.
    """

    def __init__(self, file: h5py.File, name: str, layer: str | None, gene_column: str | None = None) -> None:
        self._file, self._name, self._layer = file, name, layer
        if "obs" not in file or "var" not in file:
            raise DataValidationError(f"{name} is not an h5ad file: it has no obs and var")
        self._path, var = _places(file, layer)
        self.columns = table_columns(file["obs"])
        self.n_cells = _n_rows(file["obs"])
        self.genes = _gene_names(read_elem(var), name, gene_column)
        self._check_kind()
        self._matrix = self._open(self._path)
        self._indptr: npt.NDArray[np.int64] | None = None
        if isinstance(self._matrix, h5py.Group):
            self._indptr = np.asarray(self._matrix["indptr"], dtype=np.int64)

    def table(self, columns: Sequence[str]) -> pd.DataFrame:
        """Some columns of obs; those that aren't there are left out. Its index is without meaning."""
        obs = self._file["obs"]
        if isinstance(obs, h5py.Dataset):
            whole: pd.DataFrame = read_elem(obs)
            return whole[[name for name in columns if name in self.columns]].reset_index(drop=True)
        found = {name: read_elem(obs[name]) for name in columns if name in self.columns}
        return pd.DataFrame(found, index=pd.RangeIndex(self.n_cells))

    def cell_names(self) -> npt.NDArray[np.object_]:
        """The names of the cells, as text."""
        obs = self._file["obs"]
        names = read_elem(obs).index if isinstance(obs, h5py.Dataset) else read_elem(obs[obs.attrs["_index"]])
        return np.array([str(name) for name in names], dtype=object)

    def mitochondrial(self) -> npt.NDArray[np.bool_] | None:
        """Which genes are mitochondrial, by their names; None where none is."""
        found = np.array([gene.startswith(_MITOCHONDRIAL) for gene in self.genes], dtype=np.bool_)
        return found if found.any() else None

    def stored_sizes(self) -> npt.NDArray[np.int64] | None:
        """Values stored per cell, zeros among them where the file has some; None where that takes a pass."""
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
            found = sp.csr_matrix(self._matrix[start:stop])
            block = self._csr(found.data, found.indices, found.indptr)
        if not block.has_canonical_format:
            block.sum_duplicates()
        if np.count_nonzero(block.data) < block.nnz:
            block.eliminate_zeros()
        return block

    def _csr(self, values: Any, indices: Any, indptr: Any) -> sp.csr_matrix:
        shape = (indptr.size - 1, len(self.genes))
        if indices.size and (indices.min() < 0 or indices.max() >= shape[1]):
            raise DataValidationError(f"{self._name} is damaged: it stores values of genes that it doesn't have")
        with np.errstate(invalid="ignore"):
            counts = np.asarray(values).astype(np.int32)
        if counts.size and (counts.min() < 0 or not np.array_equal(counts, values)):
            require_counts(ad.AnnData(X=sp.csr_matrix((values, indices, indptr), shape=shape)))
            raise DataValidationError(f"{self._name} holds counts above 2,147,483,647; is it really a count matrix?")
        return sp.csr_matrix((counts, indices.astype(np.int32, copy=False), indptr), shape=shape)

    def _check_kind(self) -> None:
        """Look at some rows of every matrix, so that the message can say where counts are."""
        layers = {name: self._head(f"layers/{name}") for name in self._file.get("layers", {})}
        X = self._head("X") if _holds_values(self._file.get("X")) else None
        shape = next((layer.shape for layer in layers.values()), None) if X is None else None
        sample = ad.AnnData(X=X, layers=layers, shape=shape)
        raw = self._file.get("raw")
        has_raw = isinstance(raw, h5py.Group) and _holds_values(raw.get("X"))
        if has_raw:
            sample.raw = ad.AnnData(X=self._head("raw/X"))
        in_raw = self._path == "raw/X"
        if in_raw and not has_raw:
            raise DataValidationError(f"{self._name} can't be ingested: it has no raw.X")
        try:
            require_counts(ad.AnnData(X=self._head("raw/X")) if in_raw else sample, None if in_raw else self._layer)
        except DataValidationError as error:
            raise DataValidationError(f"{self._name} can't be ingested: {error}") from None

    def _head(self, path: str) -> Any:
        element = self._file[path]
        return sp.csr_matrix((element if isinstance(element, h5py.Dataset) else sparse_dataset(element))[:_SAMPLE_ROWS])

    def _open(self, path: str) -> Any:
        """A dense matrix or a row-wise one in the file; a column-wise one in memory, since its rows lie anywhere."""
        element = self._file[path]
        if isinstance(element, h5py.Dataset):
            return element
        return (
            element if sparse_dataset(element).format == "csr" else sp.csr_matrix(sparse_dataset(element).to_memory())
        )


def _values(dataset: h5py.Dataset, part: slice) -> npt.NDArray[Any]:
    """Some values of a list of numbers."""
    packed = dataset.compression == "gzip" and dataset.chunks[0] <= BLOCK_VALUES
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


@contextmanager
def open_counts(path: Path, name: str, layer: str | None, gene_column: str | None = None) -> Iterator[CountSource]:
    """Open an h5ad file for reading.

    Raises:
        DataValidationError: it isn't one, or holds no counts.
    """
    with _opened(path, name) as file:
        try:
            source = CountSource(file, name, layer, gene_column)
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            raise DataValidationError(
                f"{name} can't be read as h5ad ({type(error).__name__}: {error}); write it anew with anndata"
            ) from error
        yield source


def read_header(path: Path, name: str) -> dict[str, list[str]]:
    """The obs and var columns and the layers of a file; ``raw`` is among the layers where raw.X is there.

    Raises:
        DataValidationError: it isn't an h5ad file.
    """
    with _opened(path, name) as file:
        layers = list(file.get("layers", {}))
        raw = file.get("raw")
        has_raw = isinstance(raw, h5py.Group) and _holds_values(raw.get("X"))
        var = raw["var"] if has_raw and "var" in raw else file.get("var")
        return {
            "obs": table_columns(file.get("obs")),
            "var": sorted({*table_columns(var)} & {*table_columns(file.get("var"))} if has_raw else table_columns(var)),
            "layers": [*layers, *([RAW] if has_raw else [])],
        }


def table_columns(element: Any) -> list[str]:
    """The columns of a stored table."""
    if isinstance(element, h5py.Dataset):
        return list(element.dtype.names or ())[1:]
    return [] if element is None else [str(name) for name in element.attrs.get("column-order", ())]


@contextmanager
def _opened(path: Path, name: str) -> Iterator[h5py.File]:
    refuse_foreign_data(path, name)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataValidationError(f"{name} is not a readable h5ad file: {error}") from None
    with file:
        yield file


def _places(file: h5py.File, layer: str | None) -> tuple[str, Any]:
    """Path of the counts, and the table of their genes."""
    if layer is None:
        return "X", file["var"]
    if layer == RAW and RAW not in file.get("layers", {}):
        raw = file.get("raw")
        return "raw/X", raw["var"] if isinstance(raw, h5py.Group) and "var" in raw else file["var"]
    return f"layers/{layer}", file["var"]


def _n_rows(obs: Any) -> int:
    if isinstance(obs, h5py.Dataset):
        return int(obs.shape[0])
    index = obs[obs.attrs["_index"]]
    return int((index["values"] if isinstance(index, h5py.Group) else index).shape[0])


def _gene_names(var: pd.DataFrame, name: str, column: str | None) -> list[str]:
    index = [str(gene) for gene in var.index]
    if column is None:
        if len(set(index)) != len(index):
            raise DataValidationError(
                f"{name} names some genes twice; make them unique first (adata.var_names_make_unique())"
            )
        return index
    if column not in var.columns:
        raise DataValidationError(
            f"the gene column {column!r} is not in var of {name}; found {', '.join(map(repr, var.columns)) or 'none'}"
        )
    # symbols of several genes: all but the first keep their id beside the symbol
    seen: set[str] = set()
    genes = []
    for gene, identifier in zip(var[column].astype(object), index, strict=True):
        symbol = identifier if pd.isna(gene) or not str(gene).strip() else str(gene).strip()
        genes.append(f"{symbol}_{identifier}" if symbol in seen else symbol)
        seen.add(genes[-1])
    if len(set(genes)) != len(genes):
        raise DataValidationError(f"{name} names some genes twice, by {column!r} and by the index of var")
    return genes


def _holds_values(element: Any) -> bool:
    """Whether an element of the file is a matrix; newer files mark what is absent with an empty dataset."""
    return isinstance(element, h5py.Group) or (isinstance(element, h5py.Dataset) and element.shape is not None)
