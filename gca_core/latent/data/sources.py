"""Where cells come from: files of several kinds, as chunks of checked counts."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import psutil
import scipy.sparse as sp

from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.io import as_path, is_local, local_copy
from gca_core.latent.config import LatentConfig
from gca_core.matrix.anndata_io import read_elem, sparse_dataset
from gca_core.matrix.hostile import refuse_foreign_data
from gca_core.matrix.kinds import MatrixKind, classify_matrix, matrix_kinds, require_counts, to_csr
from gca_core.matrix.normalise import recover_counts

log = logging.getLogger(__name__)

GIB = 2**30
# reading a file whole takes its values, a checked copy and float64 temporaries
COPIES = 4
CHUNK_BYTES = 32 * 2**20
MAX_CHUNK_CELLS = 8192
SAMPLE_CELLS = 500


class CellSource(Protocol):
    """Cells of a file."""

    @property
    def obs(self) -> pd.DataFrame:
        """Annotation of the cells."""
        ...

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the columns."""
        ...

    @property
    def place(self) -> str:
        """``X``, ``raw`` or the layer that the counts come from."""
        ...

    def chunks(self) -> Iterator[sp.csr_matrix]:
        """The counts, float32 CSR without stored zeros, some cells at a time in file order."""
        ...


class MemorySource:
    """Cells that are in memory.

    Args:
        adata: the cells.
        config: which matrix to take.
    """

    def __init__(self, adata: ad.AnnData, config: LatentConfig) -> None:
        counts, self.genes, self.place = counts_of(adata, config)
        self._counts = clean(counts)
        self.obs: pd.DataFrame = adata.obs

    def chunks(self) -> Iterator[sp.csr_matrix]:
        """All cells at once."""
        yield self._counts


class BackedSource:
    """Cells that stay in an h5ad or zarr store.

    Args:
        group: the open store.
        config: which matrix to take.
    """

    def __init__(self, group: Any, config: LatentConfig) -> None:
        self._config = config
        self.obs: pd.DataFrame = read_elem(group["obs"])
        sample = _sample(group, self.obs)
        _, self.genes, self.place = counts_of(sample, config)
        keys = {"X": "X", "raw": "raw/X"}
        self._matrix = _rows_reader(group[keys.get(self.place, f"layers/{self.place}")], self.place)

    def chunks(self) -> Iterator[sp.csr_matrix]:
        """Some thousand cells at a time."""
        matrix, n_cells = self._matrix, len(self.obs)
        step = _chunk_cells(matrix, n_cells)
        for start in range(0, n_cells, step):
            rows = to_csr(matrix[start : min(start + step, n_cells)])
            yield clean(self._checked(rows, start))

    def _checked(self, rows: sp.csr_matrix, start: int) -> sp.csr_matrix:
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
def open_cells(config: LatentConfig) -> Iterator[CellSource]:
    """The cells that ``config.input_uri`` names, in memory if they fit there and else backed by the file.

    Raises:
        DataValidationError: there is no such input, it can't be read, or it holds no counts.
        ConfigurationError: the memory allowed is taken before anything is read.
    """
    uri = config.input_uri
    if memory_left(config) <= 0:
        raise ConfigurationError(
            f"max_ram_usage_gb is {config.max_ram_usage_gb}, but the process takes "
            f"{psutil.Process().memory_info().rss / GIB:.1f} GiB before any cell is read; raise it"
        )
    with ExitStack() as stack:
        path = _local_path(uri, stack)
        refuse_foreign_data(path, uri)
        kind = _kind_of(path, uri)
        try:
            source = _open(path, kind, config, stack)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DataValidationError(f"the input {uri!r} can't be read as {kind}: {error}") from None
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


def _local_path(uri: str, stack: ExitStack) -> Path:
    path = as_path(uri)
    if is_local(path) and path.is_dir():
        return Path(str(path))
    return stack.enter_context(local_copy(uri, what="input"))


def _kind_of(path: Path, uri: str) -> str:
    if path.is_dir():
        if any((path / name).exists() for name in (".zgroup", "zarr.json", ".zattrs")):
            return "zarr"
        if any(path.glob("*matrix.mtx*")):
            return "10x mtx"
        raise DataValidationError(
            f"the folder {uri!r} is neither a zarr store nor does it hold a matrix.mtx of 10x; name a file or such "
            "a folder"
        )
    if path.suffix == ".h5" or (path.suffix != ".h5ad" and _is_10x(path)):
        return "10x h5"
    return "h5ad"


def _is_10x(path: Path) -> bool:
    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path) as file:
        return "matrix" in file and "X" not in file


def _open(path: Path, kind: str, config: LatentConfig, stack: ExitStack) -> CellSource:
    if kind.startswith("10x"):
        return MemorySource(_read_10x(path, kind, config), config)
    group = _open_group(path, kind, stack)
    if COPIES * _stored_bytes(group) > memory_left(config):
        log.info("%s doesn't fit in %s GiB of memory; it is read in parts", path.name, config.max_ram_usage_gb)
        return BackedSource(group, config)
    with warnings.catch_warnings():
        # old files keep their neighbour graphs elsewhere; they aren't used here
        warnings.simplefilter("ignore", FutureWarning)
        return MemorySource(ad.read_h5ad(path) if kind == "h5ad" else ad.read_zarr(path), config)


def _open_group(path: Path, kind: str, stack: ExitStack) -> Any:
    if kind == "h5ad":
        return stack.enter_context(h5py.File(path, "r"))
    import zarr

    return zarr.open_group(str(path), mode="r")


def _read_10x(path: Path, kind: str, config: LatentConfig) -> ad.AnnData:
    import scanpy as sc

    size = sum(f.stat().st_size for f in path.iterdir()) if path.is_dir() else path.stat().st_size
    if COPIES * size > memory_left(config):
        raise DataValidationError(
            f"the {kind} input {path.name!r} takes more than max_ram_usage_gb ({config.max_ram_usage_gb}); "
            "convert it to h5ad, which can be read in parts"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        adata = sc.read_10x_h5(path) if kind == "10x h5" else sc.read_10x_mtx(path)
        adata.var_names_make_unique()
    return adata


def _stored_bytes(group: Any) -> int:
    if hasattr(group, "members"):
        return sum(getattr(member, "nbytes", 0) for _, member in group.members(max_depth=None))
    # HDF5, and zarr before 3
    sizes: list[int] = []
    group.visititems(lambda _, item: sizes.append(getattr(item, "nbytes", 0)))
    return sum(sizes)


def _rows_reader(element: Any, place: str) -> Any:
    encoding = element.attrs.get("encoding-type", "array")
    if encoding == "csr_matrix":
        return sparse_dataset(element)
    if encoding == "array":
        return element
    raise DataValidationError(
        f"{place} is stored as {encoding}, which can't be read by cells; store it as csr, or raise max_ram_usage_gb"
    )


def _chunk_cells(matrix: Any, n_cells: int) -> int:
    if hasattr(matrix, "group"):
        stored = matrix.group["data"].shape[0] * 8
    else:
        stored = matrix.shape[0] * matrix.shape[1] * max(matrix.dtype.itemsize, 4)
    return int(np.clip(CHUNK_BYTES * n_cells // max(stored, 1), 1, MAX_CHUNK_CELLS))


def _sample(group: Any, obs: pd.DataFrame) -> ad.AnnData:
    """The first cells with all their matrices that can be read by cells."""
    some = slice(0, min(SAMPLE_CELLS, len(obs)))
    sample = ad.AnnData(obs=obs.iloc[some], var=read_elem(group["var"])[[]])
    readable = {"csr_matrix", "array"}
    if "X" in group:
        sample.X = _rows_reader(group["X"], "X")[some]
    for name in group.get("layers", ()):
        if group["layers"][name].attrs.get("encoding-type", "array") in readable:
            sample.layers[name] = _rows_reader(group["layers"][name], name)[some]
    if "raw" in group and "X" in group["raw"]:
        raw = _rows_reader(group["raw"]["X"], "raw")[some]
        sample.raw = ad.AnnData(X=raw, obs=sample.obs[[]], var=read_elem(group["raw"]["var"])[[]])
    return sample


def counts_of(adata: ad.AnnData, config: LatentConfig) -> tuple[sp.csr_matrix, tuple[str, ...], str]:
    """The counts, their genes and the place where they are.

    Raises:
        DataValidationError: there are no counts, and where they might be.
    """
    source = config.counts_layer or (_log_normalised_place(adata) if config.recover_counts else "X")
    if source == "raw" and adata.raw is None:
        raise DataValidationError(f"counts_layer is 'raw', but the input has no raw; found {_places(adata)}")
    genes = tuple(map(str, adata.raw.var_names if source == "raw" else adata.var_names))
    if config.recover_counts:
        return _recovered(adata, source), genes, source
    try:
        if source == "raw":
            return _raw_counts(adata), genes, source
        return require_counts(adata, None if source == "X" else source), genes, source
    except DataValidationError as error:
        raise DataValidationError(f"{error}. {_advice(adata)}") from None


def _recovered(adata: ad.AnnData, source: str) -> sp.csr_matrix:
    if source not in {"X", "raw"} and source not in adata.layers:
        raise DataValidationError(f"there is no layer {source!r}; found {_places(adata)}")
    values = {"X": adata.X, "raw": adata.raw.X if adata.raw is not None else None}.get(source)
    values = adata.layers[source] if source not in {"X", "raw"} else values
    if values is None:
        raise DataValidationError(f"{source} is empty; found {_places(adata)}")
    try:
        counts = recover_counts(values)
    except DataValidationError as error:
        raise DataValidationError(f"recover_counts on {source}: {error}. {_advice(adata)}") from None
    log.info("counts recovered from the log-normalised %s", source)
    return counts


def _raw_counts(adata: ad.AnnData) -> sp.csr_matrix:
    kind = classify_matrix(adata.raw.X)
    if kind is not MatrixKind.COUNTS:
        raise DataValidationError(f"raw is {kind.value}, but raw counts are needed")
    return to_csr(adata.raw.X)


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
