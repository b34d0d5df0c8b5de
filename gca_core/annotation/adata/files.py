"""AnnData files of several formats: read whole or left on disk, and written again with what was found."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gca_core.annotation.adata.loom import read_loom
from gca_core.annotation.adata.obs import STORED
from gca_core.config import require
from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.io import as_path, local_copy
from gca_core.matrix.hostile import refuse_foreign_data

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger(__name__)

Format = Literal["h5ad", "zarr", "loom"]
FORMATS: tuple[Format, ...] = ("h5ad", "zarr", "loom")
# matrices of more bytes than this stay in their file
LARGE = 1 << 29
UMAP = "X_umap"
_UNREADABLE = (OSError, KeyError, ValueError, TypeError, AttributeError)


@dataclass(frozen=True)
class OpenData:
    """An AnnData that was opened from a file.

    Attributes:
        adata: whole; or, where it is ``backed``, with its matrices in the file, and of ``obsm`` and ``uns`` only
            what annotation uses.
        path: of the file, or of its local copy.
    """

    adata: AnnData
    path: Path
    format: Format
    backed: bool

    @property
    def output_format(self) -> Format:
        """The format of the result: that of the input, but h5ad for loom."""
        return "h5ad" if self.format == "loom" else self.format

    def write(self, path: Path, columns: list[str], obsm: Mapping[str, Any]) -> None:
        """Write the data with what was found to ``path``; the record of it is taken from ``uns``.

        What is backed is copied as a file, and only what is named here is written into the copy.

        Args:
            columns: of ``obs`` that are new or changed.
            obsm: new arrays.
        """
        if not self.backed:
            for name, values in obsm.items():
                self.adata.obsm[name] = values
            if self.output_format == "h5ad":
                self.adata.write_h5ad(path, compression="gzip")
            else:
                self.adata.write_zarr(path)
            return
        copy = shutil.copyfile if self.format == "h5ad" else shutil.copytree
        copy(self.path, path)
        with _editable(path, self.format) as root:
            _add_columns(root, self.adata, columns)
            _add_entries(root, "uns", {STORED: dict(self.adata.uns[STORED])} if STORED in self.adata.uns else {})
            _add_entries(root, "obsm", obsm)


def file_format(uri: str) -> Format:
    """The format that a name says.

    Raises:
        DataValidationError: none of them.
    """
    name = as_path(uri).name.rstrip("/").lower()
    found = next((known for known in FORMATS if name.endswith(f".{known}")), None)
    if found is None:
        raise DataValidationError(
            f"{uri!r} is not an h5ad file, a zarr folder or a loom file by its name; write the data with "
            "AnnData.write_h5ad first"
        )
    return found


@contextmanager
def open_data(uri: str, *, backed: bool | None = None) -> Iterator[OpenData]:
    """An AnnData from an h5ad file, a zarr folder or a loom file, open for the time of the block.

    Args:
        backed: whether matrices are left in the file; None does so where they take more than half a GiB. Loom files are
            always read whole.

    Raises:
        DataValidationError: missing, unreadable, or of another format.
        ConfigurationError: a loom file is to be backed.
    """
    kind = file_format(uri)
    if kind == "loom" and backed:
        raise ConfigurationError("a loom file can't be left on disk; leave backed out, or convert it to h5ad")
    with local_copy(uri, what="AnnData file") as path:
        refuse_foreign_data(path, uri)
        log.info("reading %s", uri)
        if kind == "loom":
            yield OpenData(read_loom(path), path, kind, backed=False)
            return
        with _opened(uri, path, kind) as root:
            if backed is None:
                backed = _matrix_bytes(root) > LARGE
            adata = _attempt(uri, kind, lambda: _open_backed(root) if backed else _read_whole(path, kind))
            if backed:
                log.info("the matrices of %s stay in the file", uri)
            yield OpenData(adata, path, kind, backed)


def _attempt(uri: str, kind: Format, read: Callable[[], AnnData]) -> AnnData:
    try:
        return read()
    except _UNREADABLE as error:
        raise DataValidationError(f"{uri!r} can't be read as {kind}: {error}") from None


def _read_whole(path: Path, kind: Format) -> AnnData:
    import anndata

    found: AnnData = anndata.read_h5ad(path) if kind == "h5ad" else anndata.read_zarr(path)
    return found


@contextmanager
def _opened(uri: str, path: Path, kind: Format) -> Iterator[Any]:
    """The root group of a file, to read."""
    try:
        root = _root(path, kind, mode="r")
    except _UNREADABLE as error:
        raise DataValidationError(f"{uri!r} can't be read as {kind}: {error}") from None
    try:
        lacking = [part for part in ("obs", "var") if part not in root]
        if lacking:
            raise DataValidationError(f"{uri!r} can't be read as {kind}: it has no {', '.join(lacking)}")
        yield root
    finally:
        if kind == "h5ad":
            root.close()


@contextmanager
def _editable(path: Path, kind: Format) -> Iterator[Any]:
    """The root group of a file, to change."""
    root = _root(path, kind, mode="r+")
    try:
        yield root
    finally:
        if kind == "h5ad":
            root.close()
    if kind == "zarr":
        require("zarr", "scanpy").consolidate_metadata(str(path))


def _root(path: Path, kind: Format, *, mode: str) -> Any:
    if kind == "h5ad":
        import h5py

        return h5py.File(path, mode)
    zarr = require("zarr", "scanpy")
    options = {} if zarr.__version__.startswith("2.") or mode == "r" else {"use_consolidated": False}
    return zarr.open_group(str(path), mode=mode, **options)


def _matrices(root: Any) -> dict[str, Any]:
    """The matrices of a file: ``X``, ``raw/X`` and each layer."""
    layers = {f"layers/{name}": root["layers"][name] for name in root["layers"]} if "layers" in root else {}
    found = {"X": root["X"]} if "X" in root else {}
    if "raw" in root and "X" in root["raw"]:
        found["raw"] = root["raw"]["X"]
    return found | layers


def _matrix_bytes(root: Any) -> int:
    """What the matrices take in memory."""
    total = 0
    for stored in _matrices(root).values():
        parts = [stored[name] for name in ("data", "indices")] if "data" in _keys(stored) else [stored]
        total += sum(
            int(part.dtype.itemsize) * int(part.size)
            for part in parts
            if hasattr(part, "dtype") and hasattr(part, "size")
        )
    return total


def _keys(stored: Any) -> set[str]:
    return set(stored.keys()) if hasattr(stored, "keys") else set()


def _open_backed(root: Any) -> AnnData:
    """An AnnData with the matrices in the file, and of ``obsm`` and ``uns`` only what annotation uses."""
    import anndata

    from gca_core.matrix.anndata_io import read_elem, sparse_dataset

    matrices = {
        name: sparse_dataset(stored) if "data" in _keys(stored) else stored for name, stored in _matrices(root).items()
    }
    uns = root.get("uns") or {}
    wanted = [name for name in uns if name == STORED or _is_ranking(uns[name])]
    obsm = {UMAP: read_elem(root["obsm"][UMAP])} if UMAP in root.get("obsm", {}) else {}
    return anndata.AnnData(
        X=matrices.get("X"),
        obs=read_elem(root["obs"]),
        var=read_elem(root["var"]),
        obsm=obsm,
        uns={name: read_elem(uns[name]) for name in wanted},
        layers={name.removeprefix("layers/"): X for name, X in matrices.items() if name.startswith("layers/")},
        raw={"X": matrices["raw"], "var": read_elem(root["raw"]["var"])} if "raw" in matrices else None,
    )


def _is_ranking(stored: Any) -> bool:
    return {"names", "params"} <= _keys(stored)


def _add_columns(root: Any, adata: AnnData, columns: list[str]) -> None:
    """Write columns of ``obs`` into a file, and take out those that ``adata`` lacks; the others are left alone."""
    from gca_core.matrix.anndata_io import write_elem

    if "column-order" not in dict(root["obs"].attrs):
        # an older form, which is written anew
        del root["obs"]
        write_elem(root, "obs", adata.obs)
        return
    obs = root["obs"]
    kept = {str(name) for name in adata.obs}
    gone = [str(name) for name in obs.attrs["column-order"] if str(name) not in kept]
    order = [str(name) for name in obs.attrs["column-order"] if str(name) in kept]
    for name in gone:
        del obs[name]
    for name in columns:
        if name in obs:
            del obs[name]
        write_elem(obs, name, adata.obs[name].array)
    obs.attrs["column-order"] = [*order, *(name for name in columns if name not in order)]


def _add_entries(root: Any, group: str, values: Mapping[str, Any]) -> None:
    from gca_core.matrix.anndata_io import write_elem

    if not values:
        return
    if group not in root:
        write_elem(root, group, dict(values))
        return
    for name, value in values.items():
        if name in root[group]:
            del root[group][name]
        write_elem(root[group], name, value)
