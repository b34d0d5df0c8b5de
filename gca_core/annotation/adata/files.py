"""AnnData files of several formats: read whole or left on disk, and written again with what was found."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gca_core.annotation.models import STORED
from gca_core.errors import ConfigurationError
from gca_core.matrix.cells import Format, open_cells, open_root, write_cells

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger(__name__)

# matrices of more bytes than this stay in their file
LARGE = 1 << 29
UMAP = "X_umap"


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
    def output_format(self) -> Literal["h5ad", "zarr"]:
        """The format of the result: zarr for zarr, else h5ad."""
        return "zarr" if self.format == "zarr" else "h5ad"

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
            write_cells(self.adata, path, self.output_format)
            return
        copy = shutil.copyfile if self.format == "h5ad" else shutil.copytree
        copy(self.path, path)
        with open_root(path, self.format, mode="r+") as root:
            _add_columns(root, self.adata, columns)
            _add_entries(root, "uns", {STORED: dict(self.adata.uns[STORED])} if STORED in self.adata.uns else {})
            _add_entries(root, "obsm", obsm)


@contextmanager
def open_data(uri: str, *, backed: bool | None = None) -> Iterator[OpenData]:
    """An AnnData from a file of cells, open for the time of the block; see :func:`gca_core.matrix.cells.open_cells`.

    Args:
        backed: whether matrices are left in the file; None does so where they take more than half a GiB. Loom and 10x
            files are always read whole.

    Raises:
        DataValidationError: missing, unreadable, or of no known format.
        ConfigurationError: a file that is always read whole is to be backed.
    """
    with open_cells(uri, what="AnnData file") as cells:
        if backed and not cells.stays_on_disk:
            raise ConfigurationError(
                f"a {cells.format} file can't be left on disk; leave backed out, or convert it to h5ad"
            )
        if backed is None:
            backed = cells.stays_on_disk and cells.matrix_bytes > LARGE
        adata = cells.read(backed=backed, extras=not backed)
        if backed:
            log.info("the matrices of %s stay in the file", uri)
            adata.uns = cells.entries("uns", lambda name, stored: name == STORED or _is_ranking(stored))
            adata.obsm = cells.entries("obsm", lambda name, _: name == UMAP)
        yield OpenData(adata, cells.path, cells.format, backed)


def _is_ranking(stored: Any) -> bool:
    return hasattr(stored, "keys") and {"names", "params"} <= set(stored.keys())


def _add_columns(root: Any, adata: AnnData, columns: list[str]) -> None:
    """Write columns of ``obs`` into a file, and take out those that ``adata`` lacks; the others are left alone."""
    from gca_core.matrix.files.anndata_io import write_elem

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
        write_elem(obs, name, adata.obs[name].values)
    obs.attrs["column-order"] = [*order, *(name for name in columns if name not in order)]


def _add_entries(root: Any, group: str, values: Mapping[str, Any]) -> None:
    from gca_core.matrix.files.anndata_io import write_elem

    if not values:
        return
    if group not in root:
        write_elem(root, group, dict(values))
        return
    for name, value in values.items():
        if name in root[group]:
            del root[group][name]
        write_elem(root[group], name, value)
