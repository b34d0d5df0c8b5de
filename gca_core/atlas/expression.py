"""The group expression store: one dataset's cells sorted by group, and each group's statistics.

``cells.h5ad`` holds raw counts with the cells of a group in contiguous rows; ``groups.h5ad`` holds the
mean (X) and the sample variance (layer ``variance``) of log1p counts per 10,000, groups x genes. Both
are ordinary h5ad files, uncompressed: what is read of them is small, and it is written at the disk's speed.
:mod:`gca_core.atlas.ingest.store` writes them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from gca_core import io
from gca_core.errors import StoreError
from gca_core.matrix.files.anndata_io import read_elem

CELLS_FILE = "cells.h5ad"
GROUPS_FILE = "groups.h5ad"
STORE_VERSION = 2
QUALITY = ("n_counts", "n_genes", "mito_fraction")


class ExpressionStore:
    """One dataset's store, opened for reading file by file."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def genes(self) -> list[str]:
        """The genes, in the order of the columns."""
        with self._open(GROUPS_FILE) as file:
            return [str(gene) for gene in read_elem(file["var"]).index]

    def cells(self) -> pd.DataFrame:
        """Name and quality of every cell, in the order of the store."""
        with self._open(CELLS_FILE) as file:
            names = np.array(_strings(file["obs/cell_name"])[:], dtype=object)
            return pd.DataFrame({"cell_name": names, **{name: file[f"obs/{name}"][:] for name in QUALITY}})

    def rows(self, rows: npt.NDArray[np.int64]) -> tuple[sp.csr_matrix, list[str]]:
        """Counts (float32) and names of some cells, in ascending order of their rows.

        Neighbouring rows are read at once.
        """
        with self._open(CELLS_FILE) as file:
            n_genes = int(file["X"].attrs["shape"][1])
            parts = [_read_csr(file["X"], start, stop, n_genes) for start, stop in row_ranges(rows, gap=64)]
            spans = [np.arange(start, stop) for start, stop in row_ranges(rows, gap=64)]
            keep = np.isin(np.concatenate(spans), rows) if spans else np.zeros(0, dtype=bool)
            stored = _strings(file["obs/cell_name"])
            names = [stored[start:stop] for start, stop in row_ranges(rows, gap=64)]
        counts = sp.csr_matrix(sp.vstack(parts, format="csr")[keep], dtype=np.float32)
        return counts, [str(name) for name in np.concatenate(names)[keep]]

    def means(self, group_ids: Sequence[str]) -> npt.NDArray[np.float64]:
        """Mean log1p counts per 10,000 of some groups, in the order asked; groups x genes."""
        with self._open(GROUPS_FILE) as file:
            place = {str(name): row for row, name in enumerate(read_elem(file["obs"]).index)}
            missing = [name for name in group_ids if name not in place]
            if missing:
                raise StoreError(f"{self.uri} lacks the groups {missing}; ingest the dataset again")
            rows = np.array([place[name] for name in group_ids], dtype=np.int64)
            distinct, back = np.unique(rows, return_inverse=True)
            return np.asarray(file["X"][distinct], dtype=np.float64)[back]

    @contextmanager
    def _open(self, name: str) -> Iterator[h5py.File]:
        path = io.as_path(io.join_uri(self.uri, name))
        try:
            stream = path.open("rb")
        except OSError as error:
            raise StoreError(
                f"the expression store {path} can't be read ({type(error).__name__}); ingest the dataset again, "
                "or check that this machine reaches it"
            ) from error
        with stream, h5py.File(stream, "r") as file:
            yield file


def _strings(element: Any) -> Any:
    """The texts of a column; pandas 3 has anndata keep them beside a mask of missing ones."""
    return (element["values"] if isinstance(element, h5py.Group) else element).asstr()


def _read_csr(group: Any, start: int, stop: int, n_genes: int) -> sp.csr_matrix:
    indptr = group["indptr"][start : stop + 1]
    part = slice(int(indptr[0]), int(indptr[-1]))
    arrays = (group["data"][part], group["indices"][part], indptr - indptr[0])
    return sp.csr_matrix(arrays, shape=(stop - start, n_genes))


def row_ranges(
    values: npt.NDArray[np.int64], *, gap: int = 1, breaks: npt.NDArray[np.bool_] | None = None
) -> list[tuple[int, int]]:
    """Ranges that cover ascending ``values``, joined where the next is at most ``gap`` away."""
    if not values.size:
        return []
    cut = np.flatnonzero(np.diff(values) > gap if breaks is None else breaks) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(values, cut)]
