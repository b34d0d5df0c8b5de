"""Scores of cell types from evidence on their marker genes, their own and those of the types above them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from gca_core.annotation.markers.database import ANY_TISSUE, CellTypeMarkers, MarkerDatabase
from gca_core.annotation.markers.gene_programs import division_genes
from gca_core.annotation.scoring.parameters import (
    CONTRADICTION_WEIGHT,
    DIVISION_WEIGHT,
    FOREIGN_TISSUE,
    INHERITED,
    SAME_LINEAGE,
    SIZE_EXPONENT,
)
from gca_core.errors import ConfigurationError
from gca_core.knowledge.bundled.ontology import CellOntology

Array = npt.NDArray[np.float64]

_TISSUES = {
    "pbmc": "blood",
    "peripheral blood": "blood",
    "whole blood": "blood",
    "lymph node": "lymphoid",
    "tonsil": "lymphoid",
    "islet": "pancreas",
    "pancreatic islet": "pancreas",
    "gut": "intestine",
    "cortex": "brain",
    "motor cortex": "brain",
    "cerebellum": "brain",
    "hippocampus": "brain",
    "skeletal muscle": "muscle",
    "adipose tissue": "adipose",
    "fat": "adipose",
    "retina": "eye",
    "cornea": "eye",
    "trachea": "airway",
    "bronchus": "airway",
    "endometrium": "uterus",
    "adrenal": "adrenal gland",
    "artery": "blood vessel",
    "aorta": "blood vessel",
}
# tissues that hold the cell types of others too
_WITHIN = {
    "blood": ("lymphoid",),
    "bone marrow": ("blood", "lymphoid"),
    "spleen": ("blood", "lymphoid"),
    "thymus": ("lymphoid",),
    "lymphoid": ("blood",),
    "lung": ("airway",),
    "airway": ("lung",),
    "nose": ("airway",),
    "colon": ("intestine",),
    "small intestine": ("intestine",),
    "intestine": ("colon", "small intestine"),
    "heart": ("blood vessel",),
    "muscle": ("tendon",),
    "bone": ("cartilage", "bone marrow"),
    "joint": ("cartilage", "bone", "tendon"),
    "spinal cord": ("brain", "nerve"),
    "tongue": ("oral mucosa",),
}


@dataclass(frozen=True)
class MarkerModel:
    """The marker database as matrices over the genes that were measured.

    Attributes:
        types: t cell types.
        genes: the g genes of the database that were measured.
        positive: (t, g) weights: evidence score times how few types list the gene, of a type's own markers, and
            0.3 of that of its ancestors' markers.
        negative: (t, g) the same of the genes that speak against a type or its ancestors.
        listed: (t, g) whether the type lists the gene itself, as positive.
        same_lineage: (t, t) whether the column's type is of the row's lineage: above it, or sharing more than 0.55 of
            its ancestors.
        factor: (t,) 1, or below for types that the tissue isn't known to hold.
    """

    types: tuple[CellTypeMarkers, ...]
    genes: tuple[str, ...]
    positive: Array
    negative: Array
    listed: npt.NDArray[np.bool_]
    same_lineage: npt.NDArray[np.bool_]
    factor: Array

    @cached_property
    def size(self) -> Array:
        """(t,) a low power of each type's summed squared weights; computed once."""
        return np.asarray(np.maximum((self.positive**2).sum(axis=1) ** SIZE_EXPONENT, 1e-12))


def build_model(
    database: MarkerDatabase, genes: Sequence[str] | None, ontology: CellOntology, *, tissue: str | None = None
) -> MarkerModel:
    """Matrices of ``database`` over the measured ``genes``; None means that all were. O(t^2 + t g).

    The last two are kept, since the clusters of a file, and often those of the next one, need the same; don't change
    their arrays.
    """
    measured = database.genes if genes is None else database.genes & frozenset(genes)
    return _model(database, measured, ontology, tissue)


@lru_cache(maxsize=2)
def _model(database: MarkerDatabase, genes: frozenset[str], ontology: CellOntology, tissue: str | None) -> MarkerModel:
    measured = tuple(sorted(genes))
    column = {gene: j for j, gene in enumerate(measured)}
    types = database.types
    positive, negative = np.zeros((len(types), len(column))), np.zeros((len(types), len(column)))
    for i, cell_type in enumerate(types):
        for weights, source in ((positive, cell_type.positive), (negative, cell_type.negative)):
            for gene, score in source.items():
                if gene in column:
                    weights[i, column[gene]] = score
    above = _above(types, ontology)
    listed = positive > 0
    # log of (1 + t) over the number of lines that list a gene: a type below another one isn't counted again
    lines = (listed & ~((above.astype(float) @ listed) > 0)).sum(axis=0)
    specificity = np.asarray(np.log((1 + len(listed)) / np.maximum(lines, 1)))
    specificity[[gene.upper() in division_genes() for gene in measured]] *= DIVISION_WEIGHT
    return MarkerModel(
        types=types,
        genes=measured,
        positive=_inherit(positive, above) * specificity,
        negative=_inherit(negative, above) * np.where(listed.any(axis=0), specificity, 1.0),
        listed=listed,
        same_lineage=above | (_likeness(types, ontology) > SAME_LINEAGE),
        factor=_tissue_factor(types, tissue),
    )


def own_scores(model: MarkerModel, evidence: Array) -> tuple[Array, Array]:
    """Support and contradiction of each type.

    Support is the weighted sum of the evidence, divided by a low power of the summed squared weights;
    contradiction the same over negative markers with positive evidence.

    Args:
        evidence: (n, g), -1 (expected here but absent) to 1 (marks this cluster or cell).

    Returns:
        Two arrays (n, t).
    """
    # a list of genes says something about a few columns alone
    told = np.flatnonzero(evidence.any(axis=0))
    positive, negative = model.positive, model.negative
    if len(told) < len(model.genes) // 4:
        evidence, positive, negative = evidence[:, told], positive[:, told], negative[:, told]
    support = evidence @ positive.T / model.size
    contradiction = np.maximum(evidence, 0.0) @ negative.T / model.size
    return support, contradiction


def total_scores(model: MarkerModel, support: Array, contradiction: Array) -> Array:
    """(n, t): support less half the contradiction; positive scores count less for types of other tissues."""
    totals: Array = support - CONTRADICTION_WEIGHT * contradiction
    return np.where(totals > 0, totals * model.factor, totals)


def tissue_name(tissue: str | None) -> str | None:
    """The name under which the marker database files a tissue."""
    if tissue is None:
        return None
    folded = " ".join(tissue.casefold().replace("_", " ").split())
    return _TISSUES.get(folded, folded)


def near_tissues(tissue: str | None) -> frozenset[str]:
    """The tissue, and those that it holds the cell types of."""
    name = tissue_name(tissue)
    return frozenset() if name is None else frozenset({name, *_WITHIN.get(name, ())})


def _tissue_factor(types: Sequence[CellTypeMarkers], tissue: str | None) -> Array:
    name = tissue_name(tissue)
    known = {t for cell_type in types for t in cell_type.tissues}
    if name is None:
        return np.ones(len(types))
    named = ", ".join(sorted(known - {ANY_TISSUE}))
    if name not in known:
        close = get_close_matches(name, sorted({*known, *_TISSUES} - {ANY_TISSUE}), n=1)
        meant = f". did you mean {close[0]!r}?" if close else ";"
        raise ConfigurationError(
            f"the tissue {tissue!r} is not in the marker database{meant} it knows {named or 'no tissues'}. "
            "leave the tissue out to consider every cell type"
        )
    near = near_tissues(tissue) | {ANY_TISSUE}
    return np.array([1.0 if near & t.tissues else FOREIGN_TISSUE for t in types])


def _above(types: Sequence[CellTypeMarkers], ontology: CellOntology) -> npt.NDArray[np.bool_]:
    """(t, t), whether the column's type is an ancestor of the row's."""
    row = {t.ontology_id: i for i, t in enumerate(types)}
    found = np.zeros((len(types), len(types)), dtype=bool)
    for i, cell_type in enumerate(types):
        found[i, [row[a] for a in ontology.ancestors(cell_type.ontology_id) if a in row]] = True
    return found


def _inherit(weights: Array, above: npt.NDArray[np.bool_]) -> Array:
    """Own weights, or a share of the largest one among the ancestors."""
    found = weights.copy()
    for i in np.flatnonzero(above.any(axis=1)):
        found[i] = np.maximum(weights[i], INHERITED * weights[above[i]].max(axis=0))
    return found


def _likeness(types: Sequence[CellTypeMarkers], ontology: CellOntology) -> Array:
    """(t, t) Jaccard index of two types' ancestors, themselves counted in."""
    column: dict[str, int] = {}
    lines = [{t.ontology_id, *ontology.ancestors(t.ontology_id)} for t in types]
    for line in lines:
        for term in line:
            column.setdefault(term, len(column))
    member = np.zeros((len(types), len(column)))
    for i, line in enumerate(lines):
        member[i, [column[term] for term in line]] = 1.0
    shared = member @ member.T
    size = member.sum(axis=1)
    return np.asarray(shared / (size[:, None] + size[None, :] - shared))
