"""Where cells come from: files of several kinds, as chunks of checked counts."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anndata as ad
import numpy as np
import psutil
import scipy.sparse as sp

from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.latent.config import LatentConfig
from gca_core.matrix.cells import open_cells
from gca_core.matrix.genes import gene_rows, unique_symbols
from gca_core.matrix.kinds import MatrixKind, classify_matrix, in_memory, to_csr
from gca_core.matrix.normalise import recover_counts
from gca_core.matrix.places import Place, counts_place, head, matrix_kinds, named_place, places

log = logging.getLogger(__name__)

GIB = 2**30
# reading a file whole takes its values, a checked copy and float64 temporaries
COPIES = 4
CHUNK_BYTES = 32 * 2**20
MAX_CHUNK_CELLS = 8192
SAMPLE_CELLS = 500


class CellSource:
    """Cells of a file as chunks of counts.

    Args:
        adata: the cells, with their matrices in memory or in the file.
        config: which matrix to take.
    """

    def __init__(self, adata: ad.AnnData, config: LatentConfig) -> None:
        self._config, self.obs = config, adata.obs
        asked = places(adata).get(config.counts_layer or "X") or places(adata).get(f"layers/{config.counts_layer}")
        if asked is not None and not in_memory(asked.X) and getattr(asked.X, "format", None) == "csc":
            raise DataValidationError(
                f"{asked.name} is stored as csc_matrix, which can't be read by cells; store it as csr, or raise "
                "max_ram_usage_gb"
            )
        place = find_counts(adata, config)
        self.place = place.key.removeprefix("layers/")
        self._rows = gene_rows(place.var, place.name, place.fallback, tell=True)
        var = place.var if self._rows is None else place.var.iloc[self._rows]
        self.genes = tuple(unique_symbols(var, place.name, fallback=place.fallback, keep_ensembl=True))
        self._X = clean(self._checked(place.X, 0)) if in_memory(place.X) else place.X

    def chunks(self) -> Iterator[sp.csr_matrix]:
        """The counts, float32 CSR without stored zeros, some thousand cells at a time in file order.

        Cells in memory come all at once.
        """
        n_cells = len(self.obs)
        if in_memory(self._X):
            yield self._X
            return
        step = _chunk_cells(self._X, n_cells)
        for start in range(0, n_cells, step):
            yield clean(self._checked(self._X[start : min(start + step, n_cells)], start))

    def _checked(self, X: Any, start: int) -> sp.csr_matrix:
        rows = to_csr(X) if self._rows is None else sp.csr_matrix(to_csr(X)[:, self._rows])
        if self._config.recover_counts:
            return recover_counts(rows)
        kind = classify_matrix(rows)
        if kind not in {MatrixKind.COUNTS, MatrixKind.EMPTY}:
            raise DataValidationError(
                f"{self.place} is {kind.value} from cell {start} on, but raw counts are needed; "
                "start from the file with raw counts"
            )
        return rows


@contextmanager
def open_source(config: LatentConfig) -> Iterator[CellSource]:
    """The cells that ``config.input_uri`` names, in memory if they fit there and else backed by the file.

    Raises:
        DataValidationError: there is no such input, it can't be read, or it holds no counts.
        ConfigurationError: the memory allowed is taken before anything is read.
    """
    if memory_left(config) <= 0:
        raise ConfigurationError(
            f"max_ram_usage_gb is {config.max_ram_usage_gb}, but the process takes "
            f"{psutil.Process().memory_info().rss / GIB:.1f} GiB before any cell is read; raise it"
        )
    with open_cells(config.input_uri, what="input") as cells:
        backed = COPIES * cells.matrix_bytes > memory_left(config)
        if backed and not cells.stays_on_disk:
            raise DataValidationError(
                f"the {cells.format} input {cells.path.name!r} takes more than max_ram_usage_gb "
                f"({config.max_ram_usage_gb}); convert it to h5ad, which can be read in parts"
            )
        if backed:
            log.info("%s doesn't fit in %s GiB of memory; it is read in parts", cells.name, config.max_ram_usage_gb)
        try:
            source = CellSource(cells.read(backed=backed), config)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DataValidationError(
                f"the input {config.input_uri!r} can't be read as {cells.format}: {error}"
            ) from None
        yield source


def memory_left(config: LatentConfig) -> float:
    """Bytes that the process may still take; infinite without a limit."""
    if config.max_ram_usage_gb is None:
        return float("inf")
    return config.max_ram_usage_gb * GIB - psutil.Process().memory_info().rss


def clean(counts: Any) -> sp.csr_matrix:
    """Float32 CSR without stored zeros."""
    found = sp.csr_matrix(counts)
    # built anew, since files may hold rows and columns in integers of unlike sizes, which scipy can't clean
    result = sp.csr_matrix((found.data.astype(np.float32, copy=False), found.indices, found.indptr), shape=found.shape)
    result.eliminate_zeros()
    return result


def _chunk_cells(matrix: Any, n_cells: int) -> int:
    if hasattr(matrix, "group"):
        stored = matrix.group["data"].shape[0] * 8
    else:
        stored = matrix.shape[0] * matrix.shape[1] * max(matrix.dtype.itemsize, 4)
    return int(np.clip(CHUNK_BYTES * n_cells // max(stored, 1), 1, MAX_CHUNK_CELLS))


def find_counts(adata: ad.AnnData, config: LatentConfig) -> Place:
    """The matrix with the counts; of matrices in a file, the first cells are looked at.

    Raises:
        DataValidationError: there are no counts, and where they might be.
    """
    backed = any(not in_memory(place.X) for place in places(adata).values())
    sample = head(adata, SAMPLE_CELLS, config.counts_layer) if backed else adata
    source = config.counts_layer or (_log_normalised_place(sample) if config.recover_counts else "X")
    try:
        place = named_place(sample, source)
        if not config.recover_counts:
            counts_place(sample, source)
        elif place.examined.kind is not MatrixKind.LOG_NORMALISED:
            raise DataValidationError(
                f"recover_counts on {source}: counts are recovered from log-normalised values, but the matrix is "
                f"{place.examined.kind.value}"
            )
    except DataValidationError as error:
        raise DataValidationError(f"{error}. {_advice(sample)}") from None
    if config.recover_counts:
        log.info("counts are recovered from the log-normalised %s; found %s", source, _places(sample))
    return named_place(adata, source)


def _log_normalised_place(adata: ad.AnnData) -> str:
    kinds = matrix_kinds(adata)
    for place in ("X", "raw"):
        if kinds.get(place) is MatrixKind.LOG_NORMALISED:
            return place
    raise DataValidationError(
        f"recover_counts needs log-normalised values in X or raw; found {_places(adata)}. {_advice(adata)}"
    )


def _places(adata: ad.AnnData) -> str:
    return ", ".join(f"{place} ({kind.value})" for place, kind in matrix_kinds(adata).items()) or "no matrix"


def _advice(adata: ad.AnnData) -> str:
    kinds = {place.removeprefix("layers/"): kind for place, kind in matrix_kinds(adata).items()}
    counts = [place for place, kind in kinds.items() if kind is MatrixKind.COUNTS]
    if counts:
        return f"set counts_layer to {' or '.join(map(repr, counts))} and leave recover_counts off"
    logged = [place for place, kind in kinds.items() if kind is MatrixKind.LOG_NORMALISED]
    if logged:
        return f"set counts_layer to {' or '.join(map(repr, logged))} and recover_counts to true to recover the counts"
    return "take a file that holds counts"
