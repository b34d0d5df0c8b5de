"""The marker database as matrices, and what evidence on its genes makes of each cell type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from gca_core.annotation.markers.database import CellTypeMarkers, MarkerDatabase
from gca_core.annotation.markers.gene_programs import genes_that_go_together
from gca_core.annotation.markers.tissues import found_in
from gca_core.annotation.scoring.parameters import FOREIGN_TISSUE, INHERITED, NEAR, ON_ONE_LINE
from gca_core.knowledge.bundled.ontology import CellOntology

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MarkerModel:
    """The marker database as matrices over the genes that were measured.

    Attributes:
        types: t cell types.
        genes: the g genes of the database that were measured.
        listed: (t, g) whether the gene is a marker of the type.
        weights: (t, g) evidence score times log((1 + t) / number of types that list the gene), of a type's markers, and
            a share of it of those of the types above.
        against: (t, g) the same of the genes that speak against it, alone.
        defining: (t, g) whether the gene is among the type's strongest markers: in the upper half of its scores.
        needed: of each type the genes of which one has to be seen, measured or not: those that define it and a type
            above, as CD8A and CD8B do any CD8 T cell, or else all that define it.
        agreement: (t, t) of two types on the ontology, 0 to 1.
        parents: of each type the nearest one above it, if there is any.
        near: (t,) whether the tissue is known to hold the type.
        together: genes that are on or off as one, by their positions.
    """

    types: tuple[CellTypeMarkers, ...]
    genes: tuple[str, ...]
    listed: Flags
    weights: Array
    against: Array
    defining: Flags
    needed: tuple[frozenset[str], ...]
    agreement: Array
    parents: tuple[int | None, ...]
    near: Flags
    together: tuple[tuple[int, ...], ...]

    def scores(self, evidence: Array) -> Array:
        """(n, t): the weights of each type's markers, summed over the evidence (n, g).

        Of genes that go together the strongest one counts. A positive score is lower for types of other tissues.
        """
        grouped = [j for group in self.together for j in group]
        alone = evidence.copy()
        alone[:, grouped] = 0.0
        told = np.flatnonzero(alone.any(axis=0))
        found: Array = alone[:, told] @ self.weights[:, told].T
        for group in self.together:
            best = np.full_like(found, -np.inf)
            for j in group:
                rows = np.flatnonzero(self.weights[:, j])
                best[:, rows] = np.maximum(best[:, rows], evidence[:, [j]] * self.weights[rows, j])
            found += np.where(np.isfinite(best), best, 0.0)
        return np.where((found > 0) & ~self.near, found * FOREIGN_TISSUE, found)

    def weigh(self, evidence: Array, seen: Flags | None = None) -> Weighed:
        """What evidence (n, g) makes of each type; ``seen`` is None where nothing is known to be absent."""
        scores = self.scores(evidence)
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        known = np.ones(evidence.shape, dtype=bool) if seen is None else seen
        return Weighed(evidence, known, scores, odds, odds @ self.agreement, by_expression=seen is not None)

    def line(self, index: int) -> list[int]:
        """The type and those above it, nearest first."""
        line, parent = [index], self.parents[index]
        while parent is not None:
            line.append(parent)
            parent = self.parents[parent]
        return line


@dataclass(frozen=True)
class Weighed:
    """The evidence of n clusters and what it makes of t types.

    Attributes:
        evidence: (n, g), 0 to 1.
        seen: (n, g), whether the gene is expressed; also where nothing is known of its absence.
        scores: (n, t).
        odds: (n, t) softmax of the scores: each marker multiplies a type's odds by how few types list it.
        expected: (n, t) agreement to expect with each type as the answer.
        by_expression: whether the evidence is expression, or else lists of genes.
    """

    evidence: Array
    seen: Flags
    scores: Array
    odds: Array
    expected: Array
    by_expression: bool


def build_model(
    database: MarkerDatabase, genes: Sequence[str] | None, ontology: CellOntology, *, tissue: str | None = None
) -> MarkerModel:
    """Matrices of ``database`` over the measured ``genes``; None means that all were. O(t^2 a + t g) for a ancestors.

    The last two are kept, since the clusters of a file, and often those of the next one, need the same; don't change
    their arrays.
    """
    measured = database.genes if genes is None else database.genes & frozenset(genes)
    return _model(database, measured, ontology, tissue)


@lru_cache(maxsize=2)
def _model(database: MarkerDatabase, genes: frozenset[str], ontology: CellOntology, tissue: str | None) -> MarkerModel:
    measured, types = tuple(sorted(genes)), database.types
    column = {gene: j for j, gene in enumerate(measured)}
    positive, negative = np.zeros((2, len(types), len(measured)))
    for i, cell_type in enumerate(types):
        for scores, source in ((positive, cell_type.positive), (negative, cell_type.negative)):
            for gene, score in source.items():
                if gene in column:
                    scores[i, column[gene]] = score
    n_listing = (positive > 0).sum(axis=0)
    rarity = np.log((1 + len(types)) / np.maximum(n_listing, 1))
    agreement, parents = _related(database, ontology)
    weights = positive * rarity
    inherited = weights.copy()
    for i, parent in enumerate(parents):
        while parent is not None:
            inherited[i] = np.maximum(inherited[i], INHERITED * weights[parent])
            parent = parents[parent]
    defining = [_strongest(cell_type.positive) for cell_type in types]
    needed = defining.copy()
    for i, parent in enumerate(parents):
        while parent is not None:
            needed[i] = defining[i] & defining[parent] or needed[i]
            parent = parents[parent]
    groups = (tuple(column[g] for g in measured if g in group) for group in genes_that_go_together(database.genes))
    return MarkerModel(
        types=types,
        genes=measured,
        listed=positive > 0,
        weights=inherited,
        against=negative * np.where(n_listing > 0, rarity, 1.0),
        defining=np.array([[g in of_type for g in measured] for of_type in defining]).reshape(positive.shape),
        needed=tuple(needed),
        agreement=agreement,
        parents=parents,
        near=np.array(found_in(types, tissue)),
        together=tuple(group for group in groups if len(group) > 1),
    )


def _strongest(markers: dict[str, float]) -> frozenset[str]:
    least = (min(markers.values(), default=0.0) + max(markers.values(), default=0.0)) / 2
    return frozenset(gene for gene, score in markers.items() if score >= least)


@lru_cache(maxsize=2)
def _related(database: MarkerDatabase, ontology: CellOntology) -> tuple[Array, tuple[int | None, ...]]:
    """Agreement (t, t) of the types, and the nearest type above each."""
    lines = [{t.ontology_id: 0} | dict(ontology.ancestors(t.ontology_id)) for t in database.types]
    column = {term: j for j, term in enumerate(dict.fromkeys(term for line in lines for term in line))}
    steps = np.full((len(lines), len(column)), np.iinfo(np.int16).max, dtype=np.int16)
    for i, line in enumerate(lines):
        steps[i, [column[term] for term in line]] = list(line.values())
    up = steps[:, [column[t.ontology_id] for t in database.types]]
    agreement = np.zeros(up.shape)
    within = [(steps <= k).astype(np.float32) for k in range(max(n for n, _ in NEAR) + 1)]
    for n, value in NEAR:
        agreement[sum(within[k] @ within[n - k].T for k in range(n + 1)) > 0] = value
    above = (up > 0) & (up < np.iinfo(np.int16).max)
    agreement[above | above.T] = ON_ONE_LINE
    np.fill_diagonal(agreement, 1.0)
    nearest = [
        min(((up[i, j], int(j)) for j in np.flatnonzero(row)), default=(0, None))[1] for i, row in enumerate(above)
    ]
    return agreement, tuple(nearest)
