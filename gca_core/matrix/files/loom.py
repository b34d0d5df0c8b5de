"""Loom files, read with h5py: genes x cells in HDF5, with attributes of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from gca_core.errors import DataValidationError
from gca_core.matrix.chunks import CHUNK_SIZE
from gca_core.matrix.kinds import to_csr

if TYPE_CHECKING:
    from anndata import AnnData

GENE_NAMES = ("Gene", "var_names", "gene_names", "GeneName", "Accession")
CELL_NAMES = ("CellID", "obs_names", "cell_names")


def read_loom(path: Path, name: str) -> AnnData:
    """The cells of a loom file; the matrix and its layers become sparse, attributes with several columns ``obsm``.

    Raises:
        DataValidationError: it has no gene names.
    """
    import anndata
    import h5py

    with h5py.File(path, "r") as file:
        n_genes, n_cells = file["matrix"].shape
        genes, cells = _attributes(file["row_attrs"], n_genes), _attributes(file["col_attrs"], n_cells)
        gene_names = next((genes.pop(key) for key in GENE_NAMES if key in genes), None)
        if gene_names is None:
            raise DataValidationError(
                f"{name!r} has no gene names; found {', '.join(genes) or 'no row attributes'}, expected one of "
                f"{', '.join(GENE_NAMES)}"
            )
        cell_names = next((cells.pop(key) for key in CELL_NAMES if key in cells), np.arange(n_cells))
        return anndata.AnnData(
            X=_cells_by_genes(file["matrix"]),
            obs=_table(cells, cell_names),
            var=_table(genes, gene_names),
            obsm={key: values for key, values in cells.items() if values.ndim == 2 and values.shape[1] > 0},
            layers={key: _cells_by_genes(layer) for key, layer in file.get("layers", {}).items()},
        )


def _attributes(group: Any, n: int) -> dict[str, np.ndarray[Any, Any]]:
    """The attributes that have a value, or a row, for each of ``n`` genes or cells."""
    found = {}
    for key, stored in group.items():
        if getattr(stored, "shape", None) and stored.shape[0] == n and stored.ndim <= 2:
            values = stored[()]
            # some writers give each value a row of its own
            values = values.ravel() if values.ndim == 2 and values.shape[1] == 1 else values
            found[str(key)] = _as_text(values) if values.dtype.kind in "SO" else values
    return found


def _as_text(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    plain = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values.ravel()]
    return np.array(plain, dtype=object).reshape(values.shape)


def _table(attributes: dict[str, np.ndarray[Any, Any]], names: Sequence[Any] | np.ndarray[Any, Any]) -> pd.DataFrame:
    columns = {key: values for key, values in attributes.items() if values.ndim == 1}
    return pd.DataFrame(columns, index=pd.Index([str(name) for name in names], dtype=object))


def _cells_by_genes(stored: Any) -> sp.csr_matrix:
    """The matrix turned to cells x genes, read in parts of cells."""
    n_genes, n_cells = stored.shape
    step = max(1, CHUNK_SIZE // max(n_genes, 1))
    parts = [to_csr(stored[:, start : start + step].T) for start in range(0, n_cells, step)]
    if not parts:
        return sp.csr_matrix(np.zeros((0, n_genes), dtype=np.float32))
    whole = sp.csr_matrix(sp.vstack(parts, format="csr"))
    return whole.astype(np.float32) if whole.dtype == np.float64 else whole
