"""The group expression store: one dataset's cells sorted by group, and each group's statistics.

``cells.h5ad`` holds raw counts with the cells of a group in contiguous rows; ``groups.h5ad`` holds the
mean (X) and the sample variance (layer ``variance``) of log1p counts per 10,000, groups x genes. Both
are ordinary h5ad files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from anndata.io import read_elem

from gca_core import io
from gca_core.atlas.plan import IngestPlan
from gca_core.atlas.source import BLOCK_ROWS, CountSource
from gca_core.errors import StoreError
from gca_core.matrix.normalise import log_normalise
from gca_core.matrix.stats import group_mean_variance

CELLS_FILE = "cells.h5ad"
GROUPS_FILE = "groups.h5ad"
STORE_VERSION = 1
_BLOCK_GROUPS = 256


def cell_quality(source: CountSource) -> pd.DataFrame:
    """Total counts and detected genes of every cell of the file; checks all of it on the way."""
    counts = np.zeros(len(source.obs), dtype=np.float64)
    genes = np.zeros(len(source.obs), dtype=np.int64)
    for start, block in source.blocks():
        stop = start + block.shape[0]
        counts[start:stop] = np.asarray(block.sum(axis=1), dtype=np.float64).ravel()
        genes[start:stop] = np.diff(block.indptr)
    return pd.DataFrame({"n_counts": counts, "n_genes": genes}, index=source.obs.index.astype(str))


def write_cells(folder: Path, source: CountSource, plan: IngestPlan, quality: pd.DataFrame) -> pd.DataFrame:
    """Write the cells sorted by group; returns their table in the order of the store.

    Memory holds one block of the file at a time.
    """
    order = np.argsort(plan.codes, kind="stable")[int((plan.codes < 0).sum()) :]
    place = np.full(plan.codes.size, -1, dtype=np.int64)
    place[order] = np.arange(order.size)
    indptr = np.concatenate([[0], np.cumsum(quality["n_genes"].to_numpy()[order])])
    codes = plan.codes[order]
    cells = pd.DataFrame(
        {
            "group_id": pd.Categorical.from_codes(codes, pd.Index([group.group_id for group in plan.groups])),
            "cell_name": quality.index.to_numpy(dtype=str)[order],
            "n_counts": quality["n_counts"].to_numpy()[order],
            "n_genes": quality["n_genes"].to_numpy()[order],
        },
        index=[f"cell-{row}" for row in range(order.size)],
    )
    path = folder / CELLS_FILE
    ad.AnnData(obs=cells, var=pd.DataFrame(index=source.genes)).write_h5ad(path, convert_strings_to_categoricals=False)
    with h5py.File(path, "r+") as file:
        data, indices = _make_csr(file, indptr, len(source.genes))
        for start, block in source.blocks():
            _scatter(block, place[start : start + block.shape[0]], indptr, data, indices)
    return cells


def write_groups(folder: Path, plan: IngestPlan) -> None:
    """Write the statistics of every group, read back from the cells in the order of the store."""
    n_cells = np.array([group.n_cells for group in plan.groups], dtype=np.int64)
    obs = pd.DataFrame({"n_cells": n_cells}, index=[group.group_id for group in plan.groups])
    with h5py.File(folder / CELLS_FILE, "r") as cells:
        genes = [str(gene) for gene in read_elem(cells["var"]).index]
        path = folder / GROUPS_FILE
        ad.AnnData(obs=obs, var=pd.DataFrame(index=genes)).write_h5ad(path)
        with h5py.File(path, "r+") as file:
            # the file has no X yet; anndata marks its absence with an element of this name
            file.pop("X", None)
            mean = _make_dense(file, "X", (n_cells.size, len(genes)))
            variance = _make_dense(file["layers"], "variance", (n_cells.size, len(genes)))
            for group, n, its_mean, squares in _statistics(cells, n_cells):
                mean[group] = its_mean
                variance[group] = squares / max(n - 1, 1)


class ExpressionStore:
    """One dataset's store, opened for reading file by file."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def genes(self) -> list[str]:
        """The genes, in the order of the columns."""
        with self._open(GROUPS_FILE) as file:
            return [str(gene) for gene in read_elem(file["var"]).index]

    def rows(self, rows: npt.NDArray[np.int64]) -> tuple[sp.csr_matrix, list[str]]:
        """Counts (float32) and names of some cells, in ascending order of their rows.

        Neighbouring rows are read at once.
        """
        with self._open(CELLS_FILE) as file:
            n_genes = int(file["X"].attrs["shape"][1])
            parts = [_read_csr(file["X"], start, stop, n_genes) for start, stop in _runs(rows, gap=64)]
            spans = [np.arange(start, stop) for start, stop in _runs(rows, gap=64)]
            keep = np.isin(np.concatenate(spans), rows) if spans else np.zeros(0, dtype=bool)
            stored = _strings(file["obs/cell_name"])
            names = [stored[start:stop] for start, stop in _runs(rows, gap=64)]
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


def _make_csr(file: h5py.File, indptr: npt.NDArray[np.int64], n_genes: int) -> tuple[h5py.Dataset, h5py.Dataset]:
    file.pop("X", None)
    group = file.create_group("X")
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
    group.attrs["shape"] = np.array([indptr.size - 1, n_genes])
    group.create_dataset("indptr", data=indptr)
    stored = int(indptr[-1])
    return group.create_dataset("data", (stored,), np.int32), group.create_dataset("indices", (stored,), np.int32)


def _make_dense(parent: Any, name: str, shape: tuple[int, int]) -> h5py.Dataset:
    dataset = parent.create_dataset(name, shape, np.float32)
    dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return dataset


def _scatter(
    block: sp.csr_matrix,
    place: npt.NDArray[np.int64],
    indptr: npt.NDArray[np.int64],
    data: h5py.Dataset,
    indices: h5py.Dataset,
) -> None:
    """Write a block's kept rows to their places, neighbours at once."""
    rows = np.argsort(place, kind="stable")[int((place < 0).sum()) :]
    if not rows.size:
        return
    block, place = block[rows], place[rows]
    for first, last in _runs(np.arange(place.size), breaks=np.diff(place) != 1):
        target = slice(int(indptr[place[first]]), int(indptr[place[last - 1] + 1]))
        part = slice(int(block.indptr[first]), int(block.indptr[last]))
        data[target] = block.data[part].astype(np.int32)
        indices[target] = block.indices[part]


def _statistics(
    cells: h5py.File, n_cells: npt.NDArray[np.int64]
) -> Iterator[tuple[int, int, npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Group, cells, mean and sum of squared deviations of each group, in order.

    Groups that span blocks are combined pairwise (Chan, Golub and LeVeque, 1979).
    """
    codes = np.repeat(np.arange(n_cells.size), n_cells)
    n_genes = int(cells["X"].attrs["shape"][1])
    group, n = -1, 0
    mean, squares = np.zeros(n_genes), np.zeros(n_genes)
    for start, stop in _blocks(codes):
        logged = log_normalise(_read_csr(cells["X"], start, stop, n_genes), dtype=np.float64)
        present, local = np.unique(codes[start:stop], return_inverse=True)
        found = group_mean_variance(logged, local, present.size)
        for index, code in enumerate(present.tolist()):
            its_n, its_mean = int(found.n_cells[index]), found.mean[index]
            its_squares = found.variance[index] * (its_n - 1)
            if code == group:
                delta, total = its_mean - mean, n + its_n
                squares = squares + its_squares + delta**2 * (n * its_n / total)
                mean, n = mean + delta * (its_n / total), total
                continue
            if group >= 0:
                yield group, n, mean, squares
            group, n, mean, squares = code, its_n, its_mean, its_squares
    if group >= 0:
        yield group, n, mean, squares


def _blocks(codes: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Row ranges of at most so many rows and so many groups."""
    start = 0
    while start < codes.size:
        stop = min(start + BLOCK_ROWS, codes.size)
        stop = min(stop, int(np.searchsorted(codes, codes[start] + _BLOCK_GROUPS)))
        yield start, stop
        start = stop


def _strings(element: Any) -> Any:
    """The texts of a column; pandas 3 has anndata keep them beside a mask of missing ones."""
    return (element["values"] if isinstance(element, h5py.Group) else element).asstr()


def _read_csr(group: Any, start: int, stop: int, n_genes: int) -> sp.csr_matrix:
    indptr = group["indptr"][start : stop + 1]
    part = slice(int(indptr[0]), int(indptr[-1]))
    arrays = (group["data"][part], group["indices"][part], indptr - indptr[0])
    return sp.csr_matrix(arrays, shape=(stop - start, n_genes))


def _runs(
    values: npt.NDArray[np.int64], *, gap: int = 1, breaks: npt.NDArray[np.bool_] | None = None
) -> list[tuple[int, int]]:
    """Ranges that cover ascending ``values``, joined where the next is at most ``gap`` away."""
    if not values.size:
        return []
    cut = np.flatnonzero(np.diff(values) > gap if breaks is None else breaks) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(values, cut)]
