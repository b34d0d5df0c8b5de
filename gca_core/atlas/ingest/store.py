"""Writing the group expression store; :mod:`gca_core.atlas.expression` says what it holds.

The cells file is laid out first, complete but for its numbers. These are then put in their places by offset, in
one pass over the source. A file that a killed ingest left is therefore whole, and the pass can go on.
"""

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from gca_core.atlas.expression import CELLS_FILE, GROUPS_FILE, QUALITY, row_ranges
from gca_core.atlas.ingest.checkpoint import IngestCheckpoint
from gca_core.atlas.ingest.plan import IngestPlan
from gca_core.atlas.ingest.source import BLOCK_ROWS, BLOCK_VALUES, THREADS, CountSource
from gca_core.errors import DataValidationError, StoreError
from gca_core.matrix.files.anndata_io import read_elem, write_elem
from gca_core.matrix.normalise import TARGET_SUM
from gca_core.progress import report_progress
from gca_core.threads import prefetch

_BLOCK_GROUPS = 256
_INT32, _FLOAT32 = np.dtype("<i4"), np.dtype("<f4")
_EXACT = 2**24


class _OtherSizesError(Exception):
    """The file stores zeros, so that cells take less room than it says."""


@dataclass(frozen=True)
class _Layout:
    """Where the cells file keeps its numbers.

    Attributes:
        indptr: first value of each row of the store.
        data: byte offset of the counts.
        indices: byte offset of their genes.
        quality: byte offsets of the columns of :data:`QUALITY`.
    """

    indptr: npt.NDArray[np.int64]
    data: int
    indices: int
    quality: tuple[int, ...]


def write_cells(folder: Path, source: CountSource, plan: IngestPlan, progress: IngestCheckpoint) -> pd.DataFrame:
    """Write the cells sorted by group, and what is known of each; goes on where ``progress`` stands.

    Memory holds two blocks of the file at a time, one for each thread, and a few numbers per cell.

    Returns:
        The columns of :data:`QUALITY`, cells in the order of the store.

    Raises:
        DataValidationError: the file doesn't hold counts.
    """
    sizes = source.stored_sizes()
    exact = sizes is None or progress.counted
    try:
        return _write_cells(folder, source, plan, progress, source.counted_sizes() if exact else sizes)
    except _OtherSizesError:
        progress.restart(counted=True)
        return _write_cells(folder, source, plan, progress, source.counted_sizes())


def _write_cells(
    folder: Path, source: CountSource, plan: IngestPlan, progress: IngestCheckpoint, sizes: Any
) -> pd.DataFrame:
    order = store_order(plan)
    place = np.full(plan.codes.size, -1, dtype=np.int64)
    place[order] = np.arange(order.size)
    path = folder / CELLS_FILE
    if progress.next_row == 0:
        _lay_out(path, source, plan, order, np.asarray(sizes)[order])
    layout = _read_layout(path)
    mitochondrial = source.mitochondrial()
    writing = threading.Lock()
    with path.open("r+b", buffering=0) as file:

        def take(start: int, block: sp.csr_matrix) -> tuple[int, int, npt.NDArray[np.float32]]:
            stop = start + block.shape[0]
            if not np.array_equal(np.diff(block.indptr), sizes[start:stop]):
                raise _OtherSizesError
            # the system takes one write to a file at a time; two threads would burn time waiting for each other
            with writing:
                _scatter(file.fileno(), block, place[start:stop], layout)
            return start, stop, _quality(block, mitochondrial)

        with closing(source.each_block(take, progress.next_row)) as done:
            for start, stop, quality in done:
                progress.quality[start:stop] = quality
                progress.advance(stop)
                report_progress("store", stop, plan.codes.size)
        quality = progress.quality[order]
        for column, offset in enumerate(layout.quality):
            _write_at(file.fileno(), np.ascontiguousarray(quality[:, column], dtype=_FLOAT32), offset)
    return pd.DataFrame(quality, columns=list(QUALITY))


def store_order(plan: IngestPlan) -> npt.NDArray[np.int64]:
    """The rows of the file in the order of the store; cells that are left out are missing."""
    return np.argsort(plan.codes, kind="stable")[int((plan.codes < 0).sum()) :].astype(np.int64)


def write_groups(folder: Path, plan: IngestPlan) -> None:
    """Write the statistics of every group, read back from the cells in the order of the store."""
    n_cells = np.array([group.n_cells for group in plan.groups], dtype=np.int64)
    obs = pd.DataFrame({"n_cells": n_cells}, index=[group.group_id for group in plan.groups])
    cells = folder / CELLS_FILE
    with h5py.File(cells, "r") as file:
        var = read_elem(file["var"])
    path, shape = folder / GROUPS_FILE, (n_cells.size, len(var))
    ad.AnnData(obs=obs, var=pd.DataFrame(index=var.index)).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        # the file has no X yet; anndata marks its absence with an element of this name
        file.pop("X", None)
        offsets = [_make_dense(file, "X", shape), _make_dense(file["layers"], "variance", shape)]
    with path.open("r+b", buffering=0) as file:
        for group, sums, squares in _group_sums(cells, n_cells, len(var)):
            n = n_cells[group]
            mean = sums / n
            variance = np.maximum(squares - n * mean**2, 0.0) / max(n - 1, 1)
            for values, offset in zip((mean, variance), offsets, strict=True):
                _write_at(file.fileno(), values.astype(_FLOAT32), offset + group * len(var) * _FLOAT32.itemsize)


def _lay_out(
    path: Path, source: CountSource, plan: IngestPlan, order: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> None:
    """Write the file with room for its numbers; it appears complete or not at all."""
    cells = pd.DataFrame(
        {
            "group_id": pd.Categorical.from_codes(
                plan.codes[order], pd.Index([group.group_id for group in plan.groups])
            ),
            "cell_name": source.cell_names()[order],
            **{name: np.zeros(order.size, dtype=np.float32) for name in QUALITY},
        },
        index=[f"cell-{row}" for row in range(order.size)],
    )
    staging = path.with_suffix(".new")
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    with h5py.File(staging, "w") as file:
        # names stay strings, which AnnData.write_h5ad would make categories
        write_elem(file, "/", ad.AnnData(obs=cells, var=pd.DataFrame(index=source.genes)))
        file.pop("X", None)
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = np.array([order.size, len(source.genes)])
        group.create_dataset("indptr", data=indptr)
        for name in ("data", "indices"):
            _make_room(group, name, (int(indptr[-1]),), _INT32)
    staging.replace(path)


def _make_room(parent: Any, name: str, shape: tuple[int, ...], kind: np.dtype[Any]) -> h5py.Dataset:
    """A dataset whose place in the file is fixed now and whose values come later."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple(shape)
    return h5py.Dataset(
        h5py.h5d.create(parent.id, name.encode(), h5py.h5t.py_create(kind, logical=True), space, creation)
    )


def _read_layout(path: Path) -> _Layout:
    with h5py.File(path, "r") as file:
        offsets = [file[f"X/{name}"].id.get_offset() for name in ("data", "indices")]
        quality = [file[f"obs/{name}"].id.get_offset() for name in QUALITY]
        if quality[0] is None:
            raise StoreError(f"{path} has no room for the cells' quality; remove its folder and ingest again")
        data, indices = (offset or 0 for offset in offsets)
        return _Layout(file["X/indptr"][:], data, indices, tuple(quality))


def _quality(block: sp.csr_matrix, mitochondrial: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.float32]:
    """Total counts, detected genes and mitochondrial fraction of each cell; NaN where no gene is known as such."""
    found = np.full((block.shape[0], len(QUALITY)), np.nan, dtype=np.float32)
    totals = _row_sums(block, np.ones(block.shape[1], dtype=np.bool_))
    found[:, 0], found[:, 1] = totals, np.diff(block.indptr)
    if mitochondrial is not None:
        theirs = _row_sums(block, mitochondrial)
        found[:, 2] = np.divide(theirs, totals, out=np.zeros(totals.size), where=totals > 0)
    return found


def _row_sums(counts: sp.csr_matrix, genes: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Counts of each cell in some genes. Sums stay in 32 bits, which needs no copy, where they fit."""
    largest = int(counts.data.max(initial=0)) * int(np.diff(counts.indptr).max(initial=0))
    kind = np.int32 if largest < 2**31 else np.int64
    return np.asarray(counts @ genes.astype(kind), dtype=np.int64)


def _make_dense(parent: Any, name: str, shape: tuple[int, ...]) -> int:
    """Room for a matrix of single precision; its byte offset."""
    dataset = _make_room(parent, name, shape, _FLOAT32)
    dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return int(dataset.id.get_offset() or 0)


def _scatter(file: int, block: sp.csr_matrix, place: npt.NDArray[np.int64], layout: _Layout) -> None:
    """Write a block's kept rows to their places, neighbours at once."""
    rows = np.argsort(place, kind="stable")[int((place < 0).sum()) :]
    if not rows.size:
        return
    block, place = block[rows], place[rows]
    data, indices = block.data.astype(_INT32, copy=False), block.indices.astype(_INT32, copy=False)
    for first, last in row_ranges(np.arange(place.size), breaks=np.diff(place) != 1):
        part = slice(int(block.indptr[first]), int(block.indptr[last]))
        at = int(layout.indptr[place[first]]) * _INT32.itemsize
        _write_at(file, data[part], layout.data + at)
        _write_at(file, indices[part], layout.indices + at)


def _write_at(file: int, values: npt.NDArray[Any], offset: int) -> None:
    """Write an array at a place of a file."""
    view = memoryview(values.data).cast("B") if values.size else memoryview(b"")
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _group_sums(
    cells: Path, n_cells: npt.NDArray[np.int64], n_genes: int
) -> Iterator[tuple[int, npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Group, sum and sum of squares of its log1p counts per 10,000, in the order of the groups.

    Blocks are worked on in several threads, a few ahead of the one that is taken.
    """
    layout = _read_layout(cells)
    ends = np.cumsum(n_cells)
    group, sums, squares = -1, np.zeros(n_genes), np.zeros(n_genes)
    with cells.open("rb", buffering=0) as file:

        def sum_block(rows: tuple[int, int]) -> list[tuple[int, Any, Any]]:
            return _block_sums(file.fileno(), layout, ends, n_genes, rows)

        with closing(prefetch(sum_block, _blocks(layout.indptr, ends), THREADS)) as blocks:
            for found, its_sums, its_squares in itertools.chain.from_iterable(blocks):
                if found == group:
                    sums, squares = sums + its_sums, squares + its_squares
                    continue
                if group >= 0:
                    yield group, sums, squares
                group, sums, squares = found, its_sums, its_squares
    if group >= 0:
        yield group, sums, squares


def _block_sums(
    file: int, layout: _Layout, ends: npt.NDArray[np.int64], n_genes: int, block: tuple[int, int]
) -> list[tuple[int, Any, Any]]:
    """Sums and sums of squares of the groups of a block.

    The logarithms are taken in single precision (their error is that of the stored means), the sums in double.
    """
    start, stop = block
    first, last = (int(np.searchsorted(ends, row, side="right")) for row in (start, stop - 1))
    found = []
    for group in range(first, last + 1):
        low, high = max(int(ends[group - 1]) if group else 0, start), min(int(ends[group]), stop)
        indptr = layout.indptr[low : high + 1]
        counts, indices = (_read_at(file, offset, indptr) for offset in (layout.data, layout.indices))
        indptr = indptr - indptr[0]
        totals = _totals(counts, indptr)
        factors = np.divide(TARGET_SUM, totals, out=np.zeros(totals.size), where=totals > 0).astype(np.float32)
        scaled = np.repeat(factors, np.diff(indptr))
        # all counts are exact in single precision where their sums are
        scaled *= counts.astype(_FLOAT32) if totals.max(initial=0) <= _EXACT else counts
        scaled += np.float32(1)
        logged = np.log(scaled, out=scaled).astype(np.float64)
        matrix = sp.csr_matrix((logged, indices, indptr), shape=(high - low, n_genes)).T
        ones = np.ones(high - low)
        sums = matrix @ ones
        matrix.data **= 2
        found.append((group, sums, matrix @ ones))
    return found


def _totals(counts: npt.NDArray[np.int32], indptr: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Total counts of a few cells, which are copied to 64 bits."""
    totals = np.zeros(indptr.size - 1, dtype=np.int64)
    filled = np.diff(indptr) > 0
    totals[filled] = np.add.reduceat(counts, indptr[:-1][filled], dtype=np.int64) if counts.size else 0
    return totals


def _read_at(file: int, offset: int, indptr: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """The values of some rows, by their place in the file."""
    found = np.empty(int(indptr[-1] - indptr[0]), dtype=_INT32)
    view, at = found.view(np.uint8).data, offset + int(indptr[0]) * _INT32.itemsize
    while view:
        done = os.preadv(file, [view], at)
        if not done:
            raise DataValidationError("the cells file ends early; ingest again")
        view, at = view[done:], at + done
    return found


def _blocks(indptr: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Row ranges of at most so many rows, values and groups, and of one row at least."""
    start, n_rows = 0, indptr.size - 1
    while start < n_rows:
        stop = min(start + BLOCK_ROWS, n_rows)
        stop = min(stop, int(np.searchsorted(indptr, indptr[start] + BLOCK_VALUES, side="right")) - 1)
        group = int(np.searchsorted(ends, start, side="right"))
        stop = max(min(stop, int(ends[min(group + _BLOCK_GROUPS, ends.size) - 1])), start + 1)
        yield start, stop
        start = stop
