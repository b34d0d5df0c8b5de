"""Which matrix and which gene names of an AnnData the annotator works on, found by looking."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gca_core.annotation.markers.database import MarkerDatabase
from gca_core.annotation.markers.symbols import current_symbols, find_symbols
from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.matrix.chunks import ChunkedMatrix, readable_by_rows
from gca_core.matrix.kinds import MatrixKind, classify_matrix, layer_names
from gca_core.matrix.normalise import log_normalise
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
    """The matrix to use, what it is called and of which kind, and its genes.

    Attributes:
        var: the table of its genes.
        fallback: another gene table that may know the symbols of the genes in ``var``.
    """

    name: str
    X: Any
    kind: MatrixKind
    var: Any
    fallback: Any = None


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
    A matrix in a file stays there and is read in parts.

    Args:
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
    symbols = find_symbols(chosen.var, chosen.name, species=species, column=gene_symbols, fallback=chosen.fallback)
    columns, genes = _unique(current_symbols(symbols, markers))
    known = len(set(genes) & markers.genes)
    if known < MIN_KNOWN_GENES:
        raise DataValidationError(
            f"only {known} of {len(genes)} genes are known to the marker database {markers.name!r}, at least "
            f"{MIN_KNOWN_GENES} are needed; gene names look like {', '.join(symbols[:3])}: expected {species} symbols, "
            "as names or in the column that gene_symbols names"
        )
    logged = chosen.kind is MatrixKind.LOG_NORMALISED
    done = "" if logged else ", normalised to 10,000 per cell and log1p taken"
    source = f"{chosen.name} ({chosen.kind.value}{done})"
    log.info("expression is read from %s", source)
    values = ChunkedMatrix(
        readable_by_rows(chosen.X),
        columns=None if len(columns) == len(symbols) else columns,
        transform=None if logged else log_normalise,
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
        return _named_layer(adata, layer)
    kinds: dict[str, MatrixKind] = {}
    if adata.X is not None:
        kinds["X"] = classify_matrix(adata.X)
    if adata.raw is not None:
        kinds["raw"] = classify_matrix(adata.raw.X)
        if kinds["raw"] in _USABLE and (adata.raw.n_vars > adata.n_vars or kinds.get("X") not in _USABLE):
            return ChosenMatrix("raw", adata.raw.X, kinds["raw"], adata.raw.var, adata.var)
    if kinds.get("X") in _USABLE:
        return ChosenMatrix("X", adata.X, kinds["X"], adata.var)
    layers = {name: classify_matrix(adata.layers[name]) for name in layer_names(adata)}
    usable = [name for name, kind in layers.items() if kind in _USABLE]
    if len(usable) == 1:
        return ChosenMatrix(f"layer {usable[0]!r}", adata.layers[usable[0]], layers[usable[0]], adata.var)
    seen = "; ".join(f"{n} is {k.value}" for n, k in (kinds | {f"layer {n!r}": k for n, k in layers.items()}).items())
    advice = "name the layer to use" if usable else "store raw counts or log-normalised values in X, raw or a layer"
    raise DataValidationError(
        f"no matrix to annotate on: {seen or 'the data has none'}; markers need log-normalised values "
        f"or counts: {advice}"
    )


def _named_layer(adata: AnnData, layer: str) -> ChosenMatrix:
    if layer not in layer_names(adata):
        raise DataValidationError(
            f"there is no layer {layer!r}; found {', '.join(map(repr, layer_names(adata))) or 'no layers'}"
        )
    kind = classify_matrix(adata.layers[layer])
    if kind not in _USABLE:
        raise DataValidationError(f"layer {layer!r} is {kind.value}; expected log-normalised values or raw counts")
    return ChosenMatrix(f"layer {layer!r}", adata.layers[layer], kind, adata.var)


def _unique(names: list[str]) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    seen: dict[str, int] = {}
    for position, name in enumerate(names):
        seen.setdefault(name, position)
    return np.fromiter(seen.values(), dtype=np.int64), tuple(seen)
