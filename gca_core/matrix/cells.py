"""Cells in files: h5ad, zarr (a folder, or a zip of one), loom and 10x are opened in one way, here."""

from __future__ import annotations

import logging
import tempfile
import zipfile
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gca_core.config import require
from gca_core.errors import DataValidationError, GcaError
from gca_core.io import PathInput, as_path, local_copy
from gca_core.matrix.files.hostile import refuse_foreign_data

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

log = logging.getLogger(__name__)

Format = Literal["h5ad", "zarr", "loom", "10x h5", "10x mtx"]
SUFFIXES = (".h5ad", ".h5", ".hdf5", ".zarr", ".zip", ".loom")
RAW = "raw"
_ZARR_ROOTS = (".zgroup", "zarr.json", ".zattrs")


class CellFile:
    """An open file of cells.

    Args:
        name: what to call it in messages.
        path: of the file or folder, or of its local copy.
        format: by what it holds, not by its name.
        root: the open group of h5ad and zarr; None of other formats, which are always read whole.
    """

    def __init__(self, name: str, path: Path, format: Format, root: Any) -> None:  # noqa: A002
        self.name, self.path, self.format, self._root = name, path, format, root

    @property
    def stays_on_disk(self) -> bool:
        """Whether its matrices can be left in the file."""
        return self._root is not None

    @property
    def matrix_bytes(self) -> int:
        """What X, raw and the layers take in memory; of formats that are read whole, what the file takes."""
        if self._root is None:
            files = self.path.iterdir() if self.path.is_dir() else [self.path]
            return sum(file.stat().st_size for file in files)
        found = (_raw(self._root)[0], self._root.get("X"), *(layer for _, layer in _leaves(self._root.get("layers"))))
        parts = [part for X in found for part in ([X["data"], X["indices"]] if _is_sparse(X) else [X])]
        return sum(int(part.dtype.itemsize) * int(part.size or 0) for part in parts if hasattr(part, "dtype"))

    def columns(self, table: Literal["obs", "var", "raw/var"]) -> list[str]:
        """The columns of a table."""
        if self._root is None:
            return [] if table == "raw/var" else [str(name) for name in getattr(self._whole, table)]
        element = _raw(self._root)[1] if table == "raw/var" else self._root[table]
        return column_names(element)

    def layers(self) -> list[str]:
        """The names of the layers, ``raw`` among them where there is one."""
        if self._root is None:
            return list(self._whole.layers)
        raw = [RAW] if _raw(self._root)[0] is not None else []
        return [name for name, _ in _leaves(self._root.get("layers"))] + raw

    def obs(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The table of the cells, or those of its columns that are named and there."""
        if self._root is None:
            whole: pd.DataFrame = self._whole.obs
            return whole if columns is None else whole[[name for name in columns if name in whole]]
        found: pd.DataFrame = self._told(lambda: _table(self._root["obs"], self._root.get("uns"), columns))
        return found

    def entries(self, group: Literal["obsm", "uns"], wanted: Callable[[str, Any], bool]) -> dict[str, Any]:
        """The entries of a group whose name and stored element are wanted."""
        from gca_core.matrix.files.anndata_io import read_elem

        stored = self._root.get(group)
        return {key: read_elem(stored[key]) for key in _keys(stored) if wanted(key, stored[key])}

    def read(self, *, backed: bool = False, columns: Sequence[str] | None = None, extras: bool = False) -> AnnData:
        """The cells with X, raw and the layers.

        Args:
            backed: matrices stay in the file.
            columns: of ``obs`` to read; None reads all.
            extras: ``uns`` and the matrices of cells and of genes, too; what can't be read of them is left out, and
                named in the log.

        Raises:
            DataValidationError: a part that is needed can't be read.
        """
        if self._root is None:
            return self._whole
        found: AnnData = self._told(lambda: self._assembled(backed, columns, extras))
        return found

    @cached_property
    def _whole(self) -> AnnData:
        from gca_core.matrix.files.loom import read_loom

        if self.format == "loom":
            return self._told(lambda: read_loom(self.path, self.name))
        return self._told(lambda: _read_10x(self.path, self.format))

    def _told(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except GcaError:
            raise
        except Exception as error:
            # the exceptions of anndata, h5py and zarr have nothing in common
            raise DataValidationError(f"{self.name!r} can't be read as {self.format}: {error}") from None

    def _assembled(self, backed: bool, columns: Sequence[str] | None, extras: bool) -> AnnData:
        import anndata

        root, uns = self._root, self._root.get("uns")
        raw, raw_var = _raw(root)
        parts: dict[str, Any] = {"obs": self.obs(columns), "var": _table(root["var"], uns)}
        if extras:
            for group in ("obsm", "varm", "obsp", "varp"):
                parts[group] = self._readable(group, _leaves(root.get(group)))
            legacy = {f"{name}_categories" for table in ("obs", "var") for name in parts[table]}
            kept = [(key, uns[key]) for key in _keys(uns) if _keys(root["obs"]) or key not in legacy]
            parts["uns"] = self._readable("uns", kept)
        layers = self._readable("layers", _leaves(root.get("layers")), lambda stored: _matrix(stored, backed))
        return anndata.AnnData(
            X=_named("X", lambda: _matrix(root.get("X"), backed)),
            layers={name: X for name, X in layers.items() if X is not None},
            raw=None if raw is None else {"X": _named(RAW, lambda: _matrix(raw, backed)), "var": _table(raw_var, uns)},
            **parts,
        )

    def _readable(self, group: str, elements: Any, read: Callable[[Any], Any] | None = None) -> dict[str, Any]:
        import numpy as np

        from gca_core.matrix.files.anndata_io import read_elem

        found = {}
        for key, element in elements:
            try:
                found[key] = element if isinstance(element, np.ndarray) else (read or read_elem)(element)
            except Exception as error:
                log.warning("%s[%r] of %s can't be read and is left out: %s", group, key, self.name, error)
        return found


@contextmanager
def open_cells(uri: str, *, what: str = "file of cells") -> Iterator[CellFile]:
    """A file of cells, open for the time of the block.

    Raises:
        DataValidationError: missing, of no known format, damaged, or it would read other files.
    """
    with local_copy(uri, what=what) as path, ExitStack() as stack:
        refuse_foreign_data(path, uri)
        log.info("reading %s", uri)
        if path.is_file() and zipfile.is_zipfile(path):
            path = _unzipped(path, uri, stack)
        kind = _format(path, uri)
        root = None
        if kind in {"h5ad", "zarr"}:
            try:
                root = stack.enter_context(open_root(path, kind))
            except Exception as error:
                raise DataValidationError(f"{uri!r} can't be read as {kind}: {error}") from None
            if lacking := [part for part in ("obs", "var") if part not in root]:
                raise DataValidationError(f"{uri!r} can't be read as {kind}: it has no {', '.join(lacking)}")
        yield CellFile(uri, path, kind, root)


@contextmanager
def open_root(path: Path, kind: str, *, mode: str = "r") -> Iterator[Any]:
    """The root group of an h5ad file or a zarr folder."""
    if kind == "h5ad":
        import h5py

        with h5py.File(path, mode) as file:
            yield file
        return
    zarr = require("zarr", "scanpy")
    options = {} if zarr.__version__.startswith("2.") or mode == "r" else {"use_consolidated": False}
    yield zarr.open_group(str(path), mode=mode, **options)
    if mode != "r":
        zarr.consolidate_metadata(str(path))


def read_h5ad(uri: PathInput, *, what: str = "file") -> AnnData:
    """The whole of an h5ad file that this package wrote, or one like it.

    Raises:
        DataValidationError: there is no such file, it reads others, or it can't be read.
    """
    import anndata

    with local_copy(uri, what=what) as path:
        refuse_foreign_data(path, str(uri))
        try:
            found: AnnData = anndata.read_h5ad(path)
        except Exception as error:
            raise DataValidationError(f"the {what} {path.name!r} can't be read as h5ad: {error}") from None
        return found


def write_cells(adata: AnnData, path: Path, kind: str = "h5ad", compression: str | None = "gzip") -> None:
    """Write cells as h5ad or zarr, nullable strings among them.

    Columns called ``_index``, which anndata keeps for itself, become ``index_``; a slash in the key of a matrix, which
    anndata would read as a folder, becomes an underscore.
    """
    import anndata

    for table in (adata.obs, adata.var, *([] if adata.raw is None else [adata.raw.var])):
        table.rename(columns={"_index": _free("index_", table)}, inplace=True)
    for group in (adata.layers, adata.obsm, adata.varm, adata.obsp, adata.varp):
        for key in [key for key in group if key is not None and "/" in key]:
            name = _free(key.replace("/", "_"), group)
            log.warning("%r is written as %r", key, name)
            group[name] = group.pop(key)
    # versions that can't write them can't read them, either
    allowed = (
        {"allow_write_nullable_strings": True} if hasattr(anndata.settings, "allow_write_nullable_strings") else {}
    )
    with anndata.settings.override(**allowed):
        if kind == "h5ad":
            adata.write_h5ad(path, compression=compression)
        else:
            adata.write_zarr(path)


def _free(name: str, taken: Container[str]) -> str:
    return _free(f"{name}_", taken) if name in taken else name


def check_name(uri: str) -> None:
    """Refuse a name that no file of cells has, before anything is opened.

    Raises:
        DataValidationError: says which ones are known.
    """
    name = as_path(uri).name.rstrip("/").lower()
    if "." in name and not name.endswith(SUFFIXES):
        raise DataValidationError(
            f"{uri!r} is no file of cells by its name; expected {', '.join(SUFFIXES)} or a folder: write the data with "
            "AnnData.write_h5ad first"
        )


def _format(path: Path, uri: str) -> Format:
    if path.is_dir():
        if any((path / name).exists() for name in _ZARR_ROOTS):
            return "zarr"
        if any(path.glob("*matrix.mtx*")):
            return "10x mtx"
        raise DataValidationError(
            f"the folder {uri!r} is neither a zarr store nor does it hold a matrix.mtx of 10x; name a file or such "
            "a folder"
        )
    import h5py

    claimed = "loom" if path.suffix.lower() == ".loom" else "h5ad"
    if not h5py.is_hdf5(path):
        raise DataValidationError(f"{uri!r} can't be read as {claimed}: it is no HDF5 file, or a damaged one")
    with h5py.File(path, "r") as file:
        matrix = file.get("matrix")
        if "mod" in file and "X" not in file:
            raise DataValidationError(
                f"{uri!r} is a MuData file of {', '.join(file['mod'])}; write the one with the genes as h5ad"
            )
        if "obs" in file and "var" in file:
            return "h5ad"
        if isinstance(matrix, h5py.Dataset) and "row_attrs" in file and "col_attrs" in file:
            return "loom"
        if any(
            isinstance(group, h5py.Group) and {"barcodes", "data", "indptr"} <= set(group) for group in file.values()
        ):
            return "10x h5"
        expected = ("matrix", "row_attrs", "col_attrs") if claimed == "loom" or matrix is not None else ("obs", "var")
        claimed = "loom" if matrix is not None else claimed
        lacking = ", ".join(part for part in expected if part not in file)
    raise DataValidationError(f"{uri!r} can't be read as {claimed}: it has no {lacking}")


def _unzipped(path: Path, uri: str, stack: ExitStack) -> Path:
    """The zarr folder of a zip, which holds it on top or in a single folder."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gca-zarr-")))
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    for found in (folder, *(entry for entry in folder.iterdir() if entry.is_dir())):
        if any((found / name).exists() for name in _ZARR_ROOTS):
            return found
    raise DataValidationError(f"the archive {uri!r} holds no zarr store; expected one on top or in a folder")


def _read_10x(path: Path, kind: str) -> AnnData:
    from gca_core.matrix.places import only_genes

    scanpy = require("scanpy", "scanpy")
    if kind == "10x h5":
        adata: AnnData = scanpy.read_10x_h5(path, gex_only=False)
    else:
        prefix = next(path.glob("*matrix.mtx*")).name.partition("matrix.mtx")[0]
        # a gene keeps its name, where an antibody has the same
        adata = scanpy.read_10x_mtx(path, gex_only=False, prefix=prefix or None, make_unique=False)
    adata = only_genes(adata)
    adata.var_names_make_unique()
    return adata


def _keys(element: Any) -> list[str]:
    return list(element.keys()) if hasattr(element, "keys") else []


def _is_sparse(element: Any) -> bool:
    return {"data", "indices", "indptr"} <= set(_keys(element))


def _raw(root: Any) -> tuple[Any, Any]:
    """The matrix and the gene table of raw, where there are; before anndata 0.7 their names had a dot."""
    raw = root.get(RAW)
    X, var = (raw.get("X"), raw.get("var")) if _keys(raw) else (root.get("raw.X"), root.get("raw.var"))
    if X is None or getattr(X, "shape", 0) is None:
        return None, None
    return X, root["var"] if var is None else var


def _leaves(group: Any) -> Iterator[tuple[str, Any]]:
    """The elements of a group and of the plain groups in it, which are keys with a slash; of a table, its columns."""
    names = getattr(getattr(group, "dtype", None), "names", None)
    if names:
        values = group[()]
        yield from ((name, values[name]) for name in names)
    for key in _keys(group):
        element = group[key]
        kind = element.attrs.get("encoding-type", "dict")
        if _keys(element) and kind == "dict" and not _is_sparse(element):
            yield from ((f"{key}/{name}", found) for name, found in _leaves(element))
        else:
            yield key, element


def _named(name: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:
        raise ValueError(f"{name}: {error}") from None


def _matrix(stored: Any, backed: bool) -> Any:
    """A matrix of numbers; those of half precision, which scipy doesn't take, become float32."""
    import numpy as np
    import scipy.sparse as sp

    from gca_core.matrix.files.anndata_io import read_elem, sparse_dataset

    if stored is None or getattr(stored, "shape", 0) is None or stored.attrs.get("encoding-type") == "null":
        return None
    if not _is_sparse(stored):
        if backed and hasattr(stored, "shape"):
            return stored
        values = read_elem(stored)
        return values.astype(np.float32) if getattr(values, "dtype", None) == np.float16 else values
    matrix = sparse_dataset(stored)
    if stored["data"].dtype == np.float16:
        make = sp.csr_matrix if matrix.format == "csr" else sp.csc_matrix
        parts = (stored["data"][:].astype(np.float32), stored["indices"][:], stored["indptr"][:])
        return make(parts, shape=matrix.shape)
    return matrix if backed else matrix.to_memory()


def column_names(element: Any) -> list[str]:
    """The columns of a stored table, without its index."""
    if element is None:
        return []
    if not hasattr(element, "keys"):
        return [str(name) for name in element.dtype.names or ()][1:]
    order = element.attrs.get("column-order")
    if order is None:
        order = [key for key in element if key not in {_index_name(element), "__categories"}]
    return [_text(name) for name in order]


def _index_name(element: Any) -> str:
    return _text(element.attrs.get("_index", "_index" if "_index" in element else "index"))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _table(element: Any, uns: Any, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A table, whichever version of anndata wrote it: codes of categories are looked up, below zero they are missing.

    The categories of a column lie with it, from anndata 0.7 to 0.7.8 and in files of SeuratDisk in a group beside it,
    and before, where the whole table is one dataset, in ``uns``.
    """
    import pandas as pd

    from gca_core.matrix.files.anndata_io import read_elem

    names = [name for name in column_names(element) if columns is None or name in columns]
    found: dict[str, Any] = {}
    if hasattr(element, "keys"):
        beside = element.get("__categories")
        for name in names:
            if name not in element:
                raise ValueError(f"the column {name!r} is listed in {element.name} and isn't there")
            lookup = beside[name] if beside is not None and name in beside else None
            found[name] = _categorical(read_elem(element[name]), lookup)
        index_name = _index_name(element)
        index = read_elem(element[index_name])
    else:
        records = element[()]
        index_name = str(element.dtype.names[0])
        index = records[index_name]
        for name in names:
            key = f"{name}_categories"
            integers = records[name].dtype.kind in "iu"
            lookup = uns[key] if integers and key in _keys(uns) else None
            found[name] = _categorical(_decoded(records[name]), lookup)
    labels = _decoded(index)
    frame = pd.DataFrame(found, index=pd.Index(labels).astype(str) if labels.dtype.kind in "iuf" else pd.Index(labels))
    frame.index.name = None if index_name in {"_index", "index"} else index_name
    return frame


def _decoded(values: Any) -> Any:
    """Bytes as text."""
    import numpy as np

    dtype = getattr(values, "dtype", np.dtype(object))
    if dtype.kind == "S" or (dtype.kind == "O" and len(values) and isinstance(values[0], bytes)):
        return np.array([_text(value) for value in values], dtype=object)
    return values


def _categorical(codes: Any, stored: Any) -> Any:
    import numpy as np
    import pandas as pd

    from gca_core.matrix.files.anndata_io import read_elem

    if stored is None:
        return codes
    categories = np.atleast_1d(_decoded(np.atleast_1d(read_elem(stored))))
    if codes.max(initial=-1) >= len(categories):
        # uns may hold categories of a column of the other table with this name
        return codes
    ordered = bool(stored.attrs.get("ordered", False))
    return pd.Categorical.from_codes(
        np.where(codes < 0, -1, codes).astype(np.int64), pd.Index(categories), ordered=ordered
    )
