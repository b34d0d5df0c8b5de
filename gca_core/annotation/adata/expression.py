"""Which matrix and which gene names of an AnnData the annotator works on, found by looking."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gca_core.annotation.markers.database import MarkerDatabase
from gca_core.annotation.markers.symbols import current_symbols, find_symbols
from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.matrix.chunks import ChunkedMatrix, readable_by_rows
from gca_core.matrix.genes import gene_rows
from gca_core.matrix.kinds import MatrixKind
from gca_core.matrix.normalise import log_normalise
from gca_core.matrix.places import Place, listed_kinds, named_place, places
from gca_core.matrix.stats import GroupSums, group_sums

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger(__name__)

SPECIES = ("human", "mouse")
MIN_KNOWN_GENES = 20
_USABLE = (MatrixKind.LOG_NORMALISED, MatrixKind.COUNTS)


@dataclass(frozen=True)
class Expression:
    """Log-normalised expression with gene names as the marker database writes them.

    Attributes:
        values: cells x genes, in memory or in a file, normalised as it is read.
        genes: current symbols, unique; of genes that share one, the first is kept.
        source: which matrix was used and what was done to it, for reports.
    """

    values: ChunkedMatrix
    genes: tuple[str, ...]
    source: str

    @property
    def n_cells(self) -> int:
        """How many cells."""
        return self.values.shape[0]

    @property
    def in_memory(self) -> bool:
        """Whether the values lie in memory, not in a file."""
        return self.values.in_memory

    @cached_property
    def matrix(self) -> sp.csr_matrix:
        """All of it in memory, cells x genes."""
        return self.values.to_csr()

    def of_genes(self, genes: Sequence[str]) -> sp.csr_matrix:
        """(n_cells, n) of some genes, in memory; the file is read in parts."""
        column = {gene: j for j, gene in enumerate(self.genes)}
        positions = [column[gene] for gene in genes]
        return sp.csr_matrix(sp.vstack([chunk[:, positions] for chunk in self.values.chunks()], format="csr"))

    def of_cells(self, positions: npt.NDArray[np.int64]) -> Expression:
        """The expression of the cells at ascending ``positions``, in memory."""
        return Expression(ChunkedMatrix(self.values.rows(positions)), self.genes, self.source)

    def sums(self, codes: npt.ArrayLike, n_groups: int) -> GroupSums:
        """Sums over groups of cells, in one pass; see :func:`gca_core.matrix.stats.group_sums`."""
        return group_sums(self.values.chunks(), codes, n_groups)


@dataclass(frozen=True)
class ChosenMatrix:
    """The matrix to use, of which kind it is, and to which base its logarithms are."""

    place: Place
    kind: MatrixKind
    base: float = float(np.e)


def read_expression(
    adata: AnnData,
    markers: MarkerDatabase,
    *,
    layer: str | None = None,
    species: str = "human",
    gene_symbols: str | None = None,
) -> Expression:
    """The log-normalised matrix of ``adata``, from ``layer`` or from where it is found.

    Without ``layer``: ``raw`` where it is usable and holds more genes than ``X``, else ``X`` where it is
    log-normalised or counts (which are then normalised), else ``raw``, else a layer if exactly one is usable.
    A matrix in a file stays there and is read in parts. Rows that are no genes, such as antibodies, have no part.

    Args:
        layer: ``X``, ``raw`` or the name of a layer; where it is named, values that may be logarithms or not are taken
            for logarithms.
        gene_symbols: column of ``var`` with the symbols; None means the names, or a column that is found where the
            names are Ensembl ids.

    Raises:
        DataValidationError: no cells, nothing usable, gene names that are no symbols of the species, or fewer
            than 20 genes known to the marker database.
        ConfigurationError: unknown species.
    """
    return prepare_expression(choose_matrix(adata, layer), markers, species=species, gene_symbols=gene_symbols)


def prepare_expression(
    chosen: ChosenMatrix, markers: MarkerDatabase, *, species: str = "human", gene_symbols: str | None = None
) -> Expression:
    """The log-normalised values of a chosen matrix; see :func:`read_expression`."""
    if species not in SPECIES:
        raise ConfigurationError(f"the species {species!r} is not supported; use one of {', '.join(SPECIES)}")
    place = chosen.place
    rows = gene_rows(place.var, place.name, place.fallback, tell=True)
    var = place.var if rows is None else place.var.iloc[rows]
    symbols = find_symbols(var, place.name, species=species, column=gene_symbols, fallback=place.fallback)
    columns, genes = _unique(current_symbols(symbols, markers))
    known = len(set(genes) & markers.genes)
    if known < MIN_KNOWN_GENES:
        raise DataValidationError(
            f"only {known} of {len(genes)} genes are known to the marker database {markers.name!r}, at least "
            f"{MIN_KNOWN_GENES} are needed; gene names look like {', '.join(symbols[:3])}: expected {species} symbols, "
            "as names or in the column that gene_symbols names"
        )
    logged = chosen.kind is not MatrixKind.COUNTS
    done = "" if logged else ", normalised to 10,000 per cell and log1p taken"
    other_base = logged and chosen.base != np.e
    done = f", base {chosen.base:g} turned into e" if other_base else done
    source = f"{place.name} ({chosen.kind.value}{done})"
    log.info("expression is read from %s%s", source, "; logarithms to base e" if logged and not other_base else "")

    def normalised(cells: sp.csr_matrix) -> sp.csr_matrix:
        of_genes = cells if rows is None else sp.csr_matrix(cells[:, rows])
        if not logged:
            return log_normalise(of_genes)
        return sp.csr_matrix(of_genes * np.log(chosen.base)) if other_base else of_genes

    values = ChunkedMatrix(
        readable_by_rows(place.X),
        columns=None if rows is None and len(columns) == len(symbols) else columns,
        transform=None if logged and rows is None and not other_base else normalised,
    )
    return Expression(values, genes, source)


def choose_matrix(adata: AnnData, layer: str | None = None) -> ChosenMatrix:
    """The matrix to annotate on; see :func:`read_expression`.

    Raises:
        DataValidationError: no cells, or nothing usable, or several that are.
    """
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise DataValidationError(f"the data is {adata.n_obs} cells x {adata.n_vars} genes; expected some of both")
    if layer is not None:
        return _named(adata, named_place(adata, layer))
    found = places(adata)
    raw, X = found.get("raw"), found.get("X")
    if _usable(raw) and (raw.X.shape[1] > adata.n_vars or not _usable(X)):
        return _chosen(adata, raw)
    if _usable(X):
        return _chosen(adata, X)
    layers = [place for key, place in found.items() if key.startswith("layers/") and _usable(place)]
    if len(layers) == 1:
        return _chosen(adata, layers[0])
    advice = (
        "name the layer to use"
        if layers or any(p.examined.kind is MatrixKind.AMBIGUOUS for p in found.values())
        else ("store raw counts or log-normalised values in X, raw or a layer")
    )
    raise DataValidationError(
        f"no matrix to annotate on: {listed_kinds(adata) or 'the data has none'}; markers need log-normalised values "
        f"or counts: {advice}"
    )


def _usable(place: Place | None) -> TypeGuard[Place]:
    if place is not None and place.examined.kind is MatrixKind.NOT_FINITE:
        log.warning("%s is %s; it is passed over", place.name, place.examined.kind.value)
    return place is not None and place.examined.kind in _USABLE


def _named(adata: AnnData, place: Place) -> ChosenMatrix:
    kind = place.examined.kind
    if kind not in {*_USABLE, MatrixKind.AMBIGUOUS}:
        raise DataValidationError(f"{place.name} is {kind.value}; expected log-normalised values or raw counts")
    return _chosen(adata, place)


def _chosen(adata: AnnData, place: Place) -> ChosenMatrix:
    kind = MatrixKind.COUNTS if place.examined.kind is MatrixKind.COUNTS else MatrixKind.LOG_NORMALISED
    told = adata.uns.get("log1p")
    base = told.get("base") if isinstance(told, Mapping) else None
    return ChosenMatrix(place, kind, float(place.examined.base or base or np.e))


def _unique(names: list[str]) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    seen: dict[str, int] = {}
    for position, name in enumerate(names):
        seen.setdefault(name, position)
    return np.fromiter(seen.values(), dtype=np.int64), tuple(seen)
