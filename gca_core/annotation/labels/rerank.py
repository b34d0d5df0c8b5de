"""Clusters that nothing sets apart from their neighbours, ranked against the clusters that they are unlike.

Where cells are clustered finely, a type lies in several clusters, and none of them ranks the type's markers high
against all other cells. Such a cluster would stay unknown; it is ranked again without the clusters nearest to it, and
labelled no more finely than these are.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gca_core.annotation.adata.expression import Expression
from gca_core.annotation.labels.labelling import Knowledge
from gca_core.annotation.labels.offline import annotate_clusters, has_known_level
from gca_core.annotation.models import Annotation, ClusterMarkers, FlagReason
from gca_core.annotation.scoring.evidence import (
    contrast,
    first_informative,
    marker_statistics,
    rank_weights,
    ranked_evidence,
)
from gca_core.annotation.scoring.marker_model import Array
from gca_core.annotation.scoring.parameters import DEPTH, NEIGHBOR_DISTANCE, WHOLE
from gca_core.annotation.scoring.ranking import ranked_genes
from gca_core.matrix.ranking import rank_against
from gca_core.matrix.stats import GroupSums

log = logging.getLogger(__name__)

_DOUBT = {FlagReason.AMBIGUOUS_EVIDENCE, FlagReason.CONTRADICTORY_MARKERS}


@dataclass(frozen=True)
class _Clusters:
    """All clusters, as they were labelled first.

    Attributes:
        level: (n, g) of :func:`gca_core.annotation.scoring.evidence.contrast`.
        mean: (n, g) over the genes of the model.
        distance: (n, n), see :func:`squared_distances`.
    """

    labels: list[Annotation]
    level: Array
    mean: Array
    distance: Array


def rank_unknown_again(
    expression: Expression,
    sums: GroupSums,
    clusters: list[ClusterMarkers],
    evidence: Array,
    knowledge: Knowledge,
    *,
    top_n_markers: int,
    min_overlap: int,
) -> tuple[list[ClusterMarkers], Array]:
    """The clusters and their evidence (n, g), with new rankings for those that the old ones leave unknown.

    The nearest cluster is left out, the two nearest and so on, until the others show a label that the markers' mean
    bears out. A cluster for which there is none keeps its ranking, as do all where none has a label.

    Args:
        sums: of the clusters, over the genes of ``expression``.
        top_n_markers: genes that are looked at.
        min_overlap: fewest supporting markers of a label.
    """
    model, ontology = knowledge.model, knowledge.ontology
    labels = annotate_clusters(clusters, evidence, model, ontology, min_overlap=min_overlap)
    unknown = [i for i, label in enumerate(labels) if label.ontology_id is None and sums.n_cells[i]]
    if not 0 < len(unknown) < np.count_nonzero(sums.n_cells[:-1]):
        return clusters, evidence
    log.info("%d clusters have no label yet; they are ranked without the clusters most like them", len(unknown))
    found = marker_statistics(expression, sums, model)
    known = _Clusters(labels, contrast(found), found.mean, squared_distances(sums))
    clusters, evidence = list(clusters), evidence.copy()
    for i in unknown:
        for excluded in _nearest(i, known.distance, sums.n_cells):
            table = rank_against(
                sums,
                expression.genes,
                i,
                [j for j in range(len(clusters)) if j != i and j not in excluded],
                n_top=DEPTH * top_n_markers,
            )
            ranked = clusters[i].model_copy(update={"genes": ranked_genes(table)})
            ranked = first_informative(ranked, model, top_n_markers)
            row = ranked_evidence(known.level[[i]], rank_weights([ranked], model))
            if (terms := _borne_out(i, excluded, ranked, row, known, knowledge, min_overlap)) is not None:
                names = tuple(clusters[j].cluster for j in excluded)
                clusters[i] = ranked.model_copy(update={"excluded_neighbors": names, "excluded_neighbor_terms": terms})
                evidence[i] = row[0]
                log.info("cluster %s is ranked without its neighbors: %s", ranked.cluster, ", ".join(names))
                break
    return clusters, evidence


def squared_distances(sums: GroupSums) -> Array:
    """(n, n) squared distance between the mean expression of the groups, less what chance adds to it."""
    found = sums.inside()
    chance = (found.variance / np.maximum(found.n_cells, 1)[:, None]).sum(axis=1)
    norm = (found.mean**2).sum(axis=1) - chance
    distance = norm[:, None] + norm[None, :] - 2.0 * found.mean @ found.mean.T
    np.fill_diagonal(distance, 0.0)
    clipped: Array = np.maximum(distance, 0.0)
    return clipped


def _nearest(i: int, distance: Array, n_cells: npt.NDArray[np.int64]) -> Iterator[list[int]]:
    """The nearest cluster, the two nearest and so on in growing steps, as long as they are close and others remain."""
    others = [int(j) for j in np.argsort(distance[i], kind="stable") if j != i and n_cells[j]]
    close = [j for j in others if distance[i, j] < NEIGHBOR_DISTANCE * distance[i, others].max()]
    most, n = min(len(close), len(others) - 1), 1
    while n < most:
        yield close[:n]
        n += max(1, n // 2)
    if most > 0:
        yield close[:most]


def _borne_out(
    i: int,
    excluded: list[int],
    ranked: ClusterMarkers,
    evidence: Array,
    known: _Clusters,
    knowledge: Knowledge,
    min_overlap: int,
) -> tuple[str, ...] | None:
    """The terms of the clusters left out, if the ranking without them gives a label that can stand."""
    model, ontology = knowledge.model, knowledge.ontology
    label = annotate_clusters([ranked], evidence, model, ontology, min_overlap=min_overlap)[0]
    if label.ontology_id is None or _DOUBT & set(label.flag_reasons):
        return None
    column = {gene: j for j, gene in enumerate(model.genes)}
    genes = [column[found.gene] for found in label.evidence.supporting]
    highest = np.maximum(known.mean[:, genes].max(axis=0), np.finfo(float).tiny)
    if np.median(known.mean[i, genes] / highest) < WHOLE:
        return None
    terms = tuple(sorted({term for j in excluded if (term := known.labels[j].ontology_id) is not None}))
    return terms if has_known_level([label.ontology_id, *terms], model, ontology) else None
