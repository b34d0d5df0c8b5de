"""The Wilcoxon rank-sum test of every gene and group, on sparse matrices.

Values are sorted with their column and group in one integer each, so that ranks, ties and rank sums of all genes
follow from one sort and a few sums.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gca_core.errors import DataValidationError
from gca_core.matrix.chunks import ChunkedMatrix

Floats = npt.NDArray[np.float64]
# bits of a key for the group, and for the group and the value
_GROUP_BITS = np.uint64(16)
_COLUMN_SHIFT = np.uint64(48)
_GROUP_MASK = np.uint64((1 << 16) - 1)
MAX_GROUPS = (1 << 16) - 1
# sorting and counting leave the interpreter's lock to others
_THREADS = max(1, min(4, os.cpu_count() or 1))


def wilcoxon_scores(
    matrix: ChunkedMatrix, codes: npt.ArrayLike, n_groups: int, *, correct_ties: bool = False
) -> Floats:
    """(g, n) z of the rank sum of each group against all other cells; ties share ranks.

    The normal approximation without correction for continuity, and by default for ties, as scanpy's default has it.
    Values are compared in single precision. O(v log v) for v stored values.

    Args:
        matrix: cells x genes, no negative values.
        codes: (n_cells,) group of each cell; -1 is a cell that is in no group and in every group's others.
        n_groups: number of groups, 65,535 at most.
        correct_ties: lessen the variance of the rank sums by what cells of equal values take from it.

    Raises:
        DataValidationError: negative values or too many groups.
    """
    if n_groups > MAX_GROUPS:
        raise DataValidationError(f"{n_groups} groups; the Wilcoxon test takes {MAX_GROUPS} at most")
    groups = np.asarray(codes, dtype=np.int64)
    groups = np.where(groups < 0, n_groups, groups)
    sizes = np.bincount(groups, minlength=n_groups + 1).astype(np.float64)
    sums = np.zeros((n_groups + 2, matrix.shape[1]))
    for start, found in _by_block(matrix, lambda block: _rank_sums(block, groups, sizes)):
        sums[:, start : start + found.shape[1]] = found
    own, n = sizes[:-1, None], float(groups.size)
    ties = sums[-1] / (n * (n - 1)) if correct_ties and n > 1 else 0.0
    # ranks that are all the same leave a variance of rounding errors
    spread = np.sqrt(own * (n - own) * np.where(n + 1 - ties > 1e-6, n + 1 - ties, 0.0) / 12.0)
    centred: Floats = sums[:-2] - own * (n + 1) / 2.0
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)


def _by_block(matrix: ChunkedMatrix, work: Callable[[sp.csc_matrix], Floats]) -> Iterator[tuple[int, Floats]]:
    """The first column of each block and what the work gives for it; blocks from a file, being large, one by one."""
    threads = _THREADS if matrix.in_memory else 1
    with ThreadPoolExecutor(threads, thread_name_prefix="gca-rank") as pool:
        waiting: deque[tuple[int, Future[Floats]]] = deque()
        for start, block in matrix.column_blocks():
            waiting.append((start, pool.submit(work, block)))
            if len(waiting) >= threads:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _rank_sums(block: sp.csc_matrix, groups: npt.NDArray[np.int64], sizes: Floats) -> Floats:
    """(g + 1, w) sums of the ranks of each group in each column, and in a last row of t^3 - t over runs of t ties.

    Zeros rank first and share their rank.
    """
    block.eliminate_zeros()
    stored = np.diff(block.indptr).astype(np.int64)
    n_zero = groups.size - stored
    keys = _sorted_keys(block, groups, stored)
    width, n_groups = block.shape[1], len(sizes)
    # a run is one value of one column; its cells share the mean of their ranks
    runs = keys >> _GROUP_BITS
    starts = np.concatenate([[0], np.flatnonzero(runs[1:] != runs[:-1]) + 1]) if keys.size else np.zeros(0, np.int64)
    lengths = np.diff(np.append(starts, keys.size))
    column_of_run = (keys[starts] >> _COLUMN_SHIFT).astype(np.int64)
    first = starts - block.indptr[column_of_run] + n_zero[column_of_run]
    ranks = np.repeat(first + (lengths + 1) / 2.0, lengths)
    cells = np.repeat(np.arange(width), stored) * n_groups + (keys & _GROUP_MASK).astype(np.int64)
    sums = np.bincount(cells, weights=ranks, minlength=width * n_groups).reshape(width, n_groups)
    zeros = sizes - np.bincount(cells, minlength=width * n_groups).reshape(width, n_groups)
    tied = np.bincount(column_of_run, weights=_cubic(lengths), minlength=width) + _cubic(n_zero)
    return np.vstack([(sums + zeros * ((n_zero + 1) / 2.0)[:, None]).T, tied])


def _cubic(lengths: npt.NDArray[np.int64]) -> Floats:
    t = lengths.astype(np.float64)
    return np.asarray(t**3 - t)


def _sorted_keys(
    block: sp.csc_matrix, groups: npt.NDArray[np.int64], stored: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    """Column, value and group of each stored value in one integer, sorted; positive floats sort as their bits do."""
    values: npt.NDArray[Any] = block.data.astype(np.float32)
    if values.size and values.min() < 0:
        raise DataValidationError("the Wilcoxon ranking needs values of zero or more; found negative ones")
    keys = np.repeat(np.arange(block.shape[1], dtype=np.uint64), stored) << _COLUMN_SHIFT
    keys |= values.view(np.uint32).astype(np.uint64) << _GROUP_BITS
    keys |= groups[block.indices].astype(np.uint64)
    keys.sort()
    return keys
