"""Scores of cell types from evidence on their marker genes, summed along the ontology."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gca_core.annotation.markers import ANY_TISSUE, CellTypeMarkers, MarkerDatabase
from gca_core.errors import ConfigurationError
from gca_core.knowledge.ontology import CellOntology

Array = npt.NDArray[np.float64]

LEVEL_PENALTY = 0.25
FOREIGN_TISSUE = 0.5
_TISSUES = {
    "pbmc": "blood",
    "peripheral blood": "blood",
    "whole blood": "blood",
    "bone marrow": "lymphoid",
    "spleen": "lymphoid",
    "lymph node": "lymphoid",
    "tonsil": "lymphoid",
    "thymus": "lymphoid",
    "islet": "pancreas",
    "pancreatic islet": "pancreas",
    "colon": "intestine",
    "small intestine": "intestine",
    "gut": "intestine",
    "cortex": "brain",
}


@dataclass(frozen=True)
class MarkerModel:
    """The marker database as matrices over the genes that were measured.

    Attributes:
        types: t cell types.
        genes: the g genes of the database that were measured.
        positive, negative: (t, g) weights of each type's own markers: evidence score times specificity. A gene
            that an ancestor lists has no weight here: it doesn't tell which of the ancestor's subtypes this is.
        chain: (t, t), 1 where the column's type is the row's type or one of its ancestors.
        factor: (t,) 1, or below for types that the tissue isn't known to hold.
    """

    types: tuple[CellTypeMarkers, ...]
    genes: tuple[str, ...]
    positive: Array
    negative: Array
    chain: Array
    factor: Array


def build_model(
    database: MarkerDatabase, genes: Sequence[str] | None, ontology: CellOntology, *, tissue: str | None = None
) -> MarkerModel:
    """Matrices of ``database`` over the measured ``genes``; None means that all were."""
    measured = tuple(sorted(database.genes if genes is None else database.genes & set(genes)))
    column = {gene: j for j, gene in enumerate(measured)}
    types = database.types
    positive, negative = np.zeros((len(types), len(column))), np.zeros((len(types), len(column)))
    for i, cell_type in enumerate(types):
        for weights, source in ((positive, cell_type.positive), (negative, cell_type.negative)):
            for gene, score in source.items():
                if gene in column:
                    weights[i, column[gene]] = score * database.specificity(gene)
    chain = np.array(
        [[float(ontology.is_a(a.ontology_id, b.ontology_id)) for b in types] for a in types], dtype=np.float64
    )
    above = chain - np.eye(len(types))
    positive[above @ (positive > 0) > 0] = 0.0
    negative[above @ (negative > 0) > 0] = 0.0
    return MarkerModel(types, measured, positive, negative, chain, _tissue_factor(types, tissue))


def own_scores(model: MarkerModel, evidence: Array) -> tuple[Array, Array]:
    """Support and contradiction of each type by its own markers.

    Support is the weighted sum of the evidence divided by the root of the summed squared weights, so that types
    with many and with few markers compare; contradiction the same over negative markers with positive evidence.

    Args:
        evidence: (n, g), -1 (expected here but absent) to 1 (marks this cluster or cell).

    Returns:
        Two arrays (n, t).
    """
    support = evidence @ model.positive.T / _norm(model.positive)
    contradiction = np.maximum(evidence, 0.0) @ model.negative.T / _norm(model.negative)
    return support, contradiction


def total_scores(model: MarkerModel, support: Array, contradiction: Array) -> Array:
    """(n, t): own scores summed over each type and its ancestors, less a penalty for each level.

    The penalty makes a subtype earn its place: without evidence of its own, its parent scores higher.
    """
    totals: Array = (support - contradiction - LEVEL_PENALTY) @ model.chain.T + LEVEL_PENALTY
    return np.where(totals > 0, totals * model.factor, totals)


def tissue_name(tissue: str | None) -> str | None:
    """The name under which the marker database files a tissue."""
    if tissue is None:
        return None
    folded = " ".join(tissue.casefold().replace("_", " ").split())
    return _TISSUES.get(folded, folded)


def _tissue_factor(types: Sequence[CellTypeMarkers], tissue: str | None) -> Array:
    name = tissue_name(tissue)
    known = {t for cell_type in types for t in cell_type.tissues}
    if name is None:
        return np.ones(len(types))
    if name not in known:
        raise ConfigurationError(
            f"the tissue {tissue!r} is not in the marker database; it knows {', '.join(sorted(known - {ANY_TISSUE}))}. "
            "leave the tissue out to consider every cell type"
        )
    return np.array([1.0 if {name, ANY_TISSUE} & t.tissues else FOREIGN_TISSUE for t in types])


def _norm(weights: Array) -> Any:
    return np.maximum(np.sqrt((weights**2).sum(axis=1)), 1e-12)
