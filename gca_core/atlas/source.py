"""Reading an h5ad file in blocks of rows, so that memory doesn't grow with the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import pandas as pd
import scipy.sparse as sp
from anndata.io import read_elem, sparse_dataset

from gca_core.errors import DataValidationError
from gca_core.matrix.kinds import require_counts

BLOCK_ROWS = 4096
_SAMPLE_ROWS = 500


class CountSource:
    """An open h5ad file: its tables, and its counts block by block.

    Args:
        file: the open file.
        name: what to call it in messages.
        layer: the layer that holds the counts; None means X.
    """

    def __init__(self, file: h5py.File, name: str, layer: str | None) -> None:
        self._file, self._name, self._layer = file, name, layer
        if "obs" not in file or "var" not in file:
            raise DataValidationError(f"{name} is not an h5ad file: it has no obs and var")
        self.obs: pd.DataFrame = read_elem(file["obs"])
        self.genes: list[str] = [str(gene) for gene in read_elem(file["var"]).index]
        if len(set(self.genes)) != len(self.genes):
            raise DataValidationError(
                f"{name} names some genes twice; make them unique first (adata.var_names_make_unique())"
            )
        self._check_kind()
        self._matrix = self._open("X" if layer is None else f"layers/{layer}")

    def blocks(self) -> Iterator[tuple[int, sp.csr_matrix]]:
        """First row and counts (CSR, no stored zeros) of each block.

        Raises:
            DataValidationError: a block doesn't hold counts.
        """
        for start in range(0, len(self.obs), BLOCK_ROWS):
            block = sp.csr_matrix(self._matrix[start : start + BLOCK_ROWS])
            block.eliminate_zeros()
            if block.nnz:
                require_counts(ad.AnnData(X=block))
            block.sort_indices()
            yield start, block

    def _check_kind(self) -> None:
        """Look at some rows of every matrix, so that the message can say where counts are."""
        layers = {name: self._head(f"layers/{name}") for name in self._file.get("layers", {})}
        sample = ad.AnnData(X=self._head("X") if _holds_values(self._file.get("X")) else None, layers=layers)
        raw = self._file.get("raw")
        if isinstance(raw, h5py.Group) and _holds_values(raw.get("X")):
            sample.raw = ad.AnnData(X=self._head("raw/X"))
        try:
            require_counts(sample, self._layer)
        except DataValidationError as error:
            raise DataValidationError(f"{self._name} can't be ingested: {error}") from None

    def _head(self, path: str) -> Any:
        return sp.csr_matrix(self._open(path)[:_SAMPLE_ROWS])

    def _open(self, path: str) -> Any:
        element = self._file[path]
        if isinstance(element, h5py.Dataset):
            return element
        dataset = sparse_dataset(element)
        # rows of a column-wise matrix can't be read in blocks
        return dataset if dataset.format == "csr" else dataset.to_memory().tocsr()


@contextmanager
def open_counts(path: Path, name: str, layer: str | None) -> Iterator[CountSource]:
    """Open an h5ad file for reading.

    Raises:
        DataValidationError: it isn't one, or holds no counts.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataValidationError(f"{name} is not a readable h5ad file: {error}") from None
    with file:
        try:
            source = CountSource(file, name, layer)
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            raise DataValidationError(
                f"{name} can't be read as h5ad ({type(error).__name__}: {error}); write it anew with anndata"
            ) from error
        yield source


def _holds_values(element: Any) -> bool:
    """Whether an element of the file is a matrix; newer files mark what is absent with an empty dataset."""
    return isinstance(element, h5py.Group) or (isinstance(element, h5py.Dataset) and element.shape is not None)
