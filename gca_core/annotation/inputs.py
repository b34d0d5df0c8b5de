"""Which matrix and which gene names of an AnnData the annotator works on, found by looking."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from gca_core.annotation.markers import MarkerDatabase, symbol_aliases
from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.matrix.kinds import MatrixKind, classify_matrix, layer_names, to_csr
from gca_core.matrix.normalise import log_normalise

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger(__name__)

SPECIES = ("human", "mouse")
MIN_KNOWN_GENES = 20
_ENSEMBL = re.compile(r"ENS[A-Z]*G\d{6,}")
_SYMBOL_COLUMNS = ("gene_symbols", "gene_symbol", "feature_name", "gene_name", "gene_names", "symbol", "SYMBOL")
_USABLE = (MatrixKind.LOG_NORMALISED, MatrixKind.COUNTS)


@dataclass(frozen=True)
class Expression:
    """Log-normalised expression with gene names as the marker database writes them.

    Attributes:
        matrix: cells x genes, CSR.
        genes: current symbols, unique; of genes that share one, the first is kept.
        source: which matrix was used and what was done to it, for reports.
    """

    matrix: sp.csr_matrix
    genes: tuple[str, ...]
    source: str


def read_expression(
    adata: AnnData, markers: MarkerDatabase, *, layer: str | None = None, species: str = "human"
) -> Expression:
    """The log-normalised matrix of ``adata``, from ``layer`` or from where it is found.

    Without ``layer``: ``raw`` where it is usable and holds more genes than ``X``, else ``X`` where it is
    log-normalised or counts (which are then normalised), else ``raw``, else a layer if exactly one is usable.

    Raises:
        DataValidationError: no cells, nothing usable, gene names that are no symbols of the species, or fewer
            than 20 genes known to the marker database.
        ConfigurationError: unknown species.
    """
    if species not in SPECIES:
        raise ConfigurationError(f"the species {species!r} is not supported; use one of {', '.join(SPECIES)}")
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise DataValidationError(f"the data is {adata.n_obs} cells x {adata.n_vars} genes; expected some of both")
    name, X, var = _choose(adata, layer)
    names = _symbols(var, name, species)
    kind = classify_matrix(X)
    matrix = to_csr(X) if kind is MatrixKind.LOG_NORMALISED else log_normalise(to_csr(X))
    done = "" if kind is MatrixKind.LOG_NORMALISED else ", normalised to 10,000 per cell and log1p taken"
    source = f"{name} ({kind.value}{done})"
    log.info("expression is read from %s", source)
    columns, genes = _unique(names)
    known = len(set(genes) & markers.genes)
    if known < MIN_KNOWN_GENES:
        raise DataValidationError(
            f"only {known} of {len(genes)} genes are known to the marker database {markers.name!r}, at least "
            f"{MIN_KNOWN_GENES} are needed; gene names look like {', '.join(names[:3])}: expected {species} symbols"
        )
    return Expression(matrix if len(columns) == matrix.shape[1] else matrix[:, columns], genes, source)


def _choose(adata: AnnData, layer: str | None) -> tuple[str, Any, Any]:
    """Name, matrix and gene table of what to use."""
    if layer is not None:
        if layer not in layer_names(adata):
            raise DataValidationError(
                f"there is no layer {layer!r}; found {', '.join(map(repr, layer_names(adata))) or 'no layers'}"
            )
        kind = classify_matrix(adata.layers[layer])
        if kind not in _USABLE:
            raise DataValidationError(f"layer {layer!r} is {kind.value}; expected log-normalised values or raw counts")
        return f"layer {layer!r}", adata.layers[layer], adata.var
    kinds: dict[str, MatrixKind] = {}
    if adata.X is not None:
        kinds["X"] = classify_matrix(adata.X)
    if adata.raw is not None:
        kinds["raw"] = classify_matrix(adata.raw.X)
        if kinds["raw"] in _USABLE and (adata.raw.n_vars > adata.n_vars or kinds.get("X") not in _USABLE):
            return "raw", adata.raw.X, adata.raw.var
    if kinds.get("X") in _USABLE:
        return "X", adata.X, adata.var
    layers = {name: classify_matrix(adata.layers[name]) for name in layer_names(adata)}
    usable = [name for name, kind in layers.items() if kind in _USABLE]
    if len(usable) == 1:
        return f"layer {usable[0]!r}", adata.layers[usable[0]], adata.var
    seen = "; ".join(f"{n} is {k.value}" for n, k in (kinds | {f"layer {n!r}": k for n, k in layers.items()}).items())
    advice = "name the layer to use" if usable else "store raw counts or log-normalised values in X, raw or a layer"
    raise DataValidationError(
        f"no matrix to annotate on: {seen or 'the data has none'}; markers need log-normalised values "
        f"or counts: {advice}"
    )


def _symbols(var: Any, where: str, species: str) -> list[str]:
    names = [str(name) for name in var.index]
    if _share(names, _ENSEMBL.match) > 0.5:
        column = next((c for c in _SYMBOL_COLUMNS if c in var), None)
        if column is None:
            raise DataValidationError(
                f"the genes of {where} are Ensembl ids ({names[0]}, ...) and no column of var holds their symbols; "
                f"expected symbols as names, or in one of the columns {', '.join(_SYMBOL_COLUMNS)}"
            )
        names = [str(name) for name in var[column]]
    mouse_like = _share(names, re.compile(r"[A-Z][a-z]+[a-z0-9]*\d*$").match)
    if species == "human" and mouse_like > 0.5:
        raise DataValidationError(
            f"the gene names of {where} are written as mouse symbols ({', '.join(names[:3])}), but the species is "
            "human; set the species to mouse"
        )
    aliases = symbol_aliases()
    folded = [name.upper() for name in names] if species == "mouse" else names
    return [aliases.get(name, name) for name in folded]


def _share(names: list[str], test: Any) -> float:
    return sum(test(name) is not None for name in names) / max(len(names), 1)


def _unique(names: list[str]) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
    seen: dict[str, int] = {}
    for position, name in enumerate(names):
        seen.setdefault(name, position)
    return np.fromiter(seen.values(), dtype=np.int64), tuple(seen)
