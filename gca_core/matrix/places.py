"""The matrices of an AnnData, by their names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gca_core.errors import DataValidationError
from gca_core.matrix.genes import gene_rows
from gca_core.matrix.kinds import Examined, MatrixKind, examine, to_csr

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame


@dataclass(frozen=True)
class Place:
    """A matrix and its genes.

    Attributes:
        key: ``X``, ``raw`` or ``layers/...``.
        var: the table of its genes.
        fallback: another gene table that may know more of the genes in ``var``.
    """

    key: str
    X: Any
    var: DataFrame
    fallback: DataFrame | None = None

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"layer {self.key[7:]!r}" if self.key.startswith("layers/") else self.key

    @cached_property
    def rows(self) -> npt.NDArray[np.int64] | None:
        """Positions of the genes among its columns; None where all are."""
        return gene_rows(self.var, self.name, self.fallback)

    @cached_property
    def examined(self) -> Examined:
        """What its values are, as far as they are of genes."""
        return examine(self.X, self.rows)


def places(adata: AnnData) -> dict[str, Place]:
    """``X``, ``raw`` and each layer (``layers/<name>``), as far as they are there."""
    found = [] if adata.X is None else [Place("X", adata.X, adata.var)]
    if adata.raw is not None:
        found.append(Place("raw", adata.raw.X, adata.raw.var, adata.var))
    found += [Place(f"layers/{name}", adata.layers[name], adata.var) for name in layer_names(adata)]
    return {place.key: place for place in found}


def layer_names(adata: AnnData) -> list[str]:
    """The names of the layers; anndata 0.13 lists ``X`` among them, under None."""
    return [name for name in adata.layers if name is not None]


def named_place(adata: AnnData, name: str | None) -> Place:
    """The matrix that is asked for: ``X`` (or None), ``raw`` or the name of a layer; a layer called ``raw`` goes first.

    Raises:
        DataValidationError: it isn't there.
    """
    found = places(adata)
    place = found.get(f"layers/{name}") or found.get(name or "X")
    if place is None:
        what = name or "X" if name in {None, "X", "raw"} else f"layer {name!r}"
        listed = ", ".join(p.name for p in found.values()) or "no matrix"
        raise DataValidationError(f"there is no {what}; found {listed}")
    return place


def only_genes(adata: AnnData) -> AnnData:
    """The cells without the rows of X that are no genes, such as antibodies."""
    rows = gene_rows(adata.var, "X", tell=True)
    return adata if rows is None else adata[:, rows].copy()


def matrix_kinds(adata: AnnData) -> dict[str, MatrixKind]:
    """The kind of each matrix, by its key."""
    return {key: _kind(place) for key, place in places(adata).items()}


def listed_kinds(adata: AnnData) -> str:
    """The kind of each matrix, for messages."""
    return "; ".join(f"{place.name} is {_kind(place).value}" for place in places(adata).values())


def counts_place(adata: AnnData, layer: str | None = None) -> Place:
    """The matrix of counts that is asked for; see :func:`named_place`.

    Raises:
        DataValidationError: it isn't there, or its values aren't counts; says where counts were seen.
    """
    try:
        place = named_place(adata, layer)
    except DataValidationError as error:
        raise DataValidationError(f"{error}; {_advice(adata, '')}") from None
    if place.examined.kind is not MatrixKind.COUNTS:
        raise DataValidationError(
            f"{place.name} is {place.examined.kind.value}, but raw counts are needed; {_advice(adata, place.key)}"
        )
    return place


def require_counts(adata: AnnData, layer: str | None = None) -> sp.csr_matrix:
    """The raw counts of ``adata`` as float32 or integer CSR, cells x genes; see :func:`counts_place`."""
    return to_csr(counts_place(adata, layer).X)


def head(adata: AnnData, n_cells: int, asked: str | None = None) -> AnnData:
    """The first cells in memory, with every matrix that can be read by cells, and the one that is asked for.

    Others that are stored by columns are left out, since each takes a pass over the file.
    """
    import anndata

    some = slice(0, min(n_cells, adata.n_obs))

    needed = (asked or "X", f"layers/{asked}")
    readable = {
        key: place.X[some]
        for key, place in places(adata).items()
        if getattr(place.X, "format", None) != "csc" or key in needed
    }
    found = anndata.AnnData(
        X=readable.get("X"),
        obs=adata.obs.iloc[some],
        var=adata.var,
        layers={key.removeprefix("layers/"): X for key, X in readable.items() if key.startswith("layers/")},
    )
    if "raw" in readable:
        found.raw = anndata.AnnData(X=readable["raw"], obs=found.obs[[]], var=adata.raw.var)
    return found


def _kind(place: Place) -> MatrixKind:
    try:
        return place.examined.kind
    except DataValidationError:
        return MatrixKind.AMBIGUOUS


def _advice(adata: AnnData, current: str) -> str:
    kinds = matrix_kinds(adata)
    counts = [key for key, kind in kinds.items() if kind is MatrixKind.COUNTS and key != current]
    if counts:
        return f"counts were found in {', '.join(counts)}: name that instead"
    logged = [key for key, kind in kinds.items() if kind is MatrixKind.LOG_NORMALISED]
    if logged:
        return f"no layer holds counts; they may be recoverable from the log-normalised {', '.join(logged)}"
    return f"no layer holds counts ({listed_kinds(adata)}): start from the file with raw counts"
