"""From rankings and expression to evidence: how much each marker gene marks each cluster, -1 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gca_core.annotation.markers.gene_programs import gene_program_genes
from gca_core.annotation.models import ClusterMarkers, RankedGene
from gca_core.annotation.scoring.marker_model import Array, MarkerModel
from gca_core.annotation.scoring.parameters import ABSENT, EXPRESSED, FLAT_TRUST, FULL_FRACTION, RANK_DECAY, UNRANKED
from gca_core.matrix.stats import GroupStatistics, GroupSums

if TYPE_CHECKING:
    from gca_core.annotation.adata.expression import Expression


def rank_weights(clusters: Sequence[ClusterMarkers], model: MarkerModel) -> Array:
    """(n, g): 1 / (1 + 0.03 rank) for the genes that a cluster's ranking holds, else 0; ranks from 0.

    Only genes that :func:`informative_genes` names take a rank.
    """
    column = {gene: j for j, gene in enumerate(model.genes)}
    weights = np.zeros((len(clusters), len(column)))
    for i, cluster in enumerate(clusters):
        for rank, ranked in enumerate(informative_genes(cluster, model)):
            j = column.get(ranked.gene)
            if j is not None and weights[i, j] == 0:
                weights[i, j] = 1.0 / (1.0 + RANK_DECAY * rank)
    return weights


def informative_genes(cluster: ClusterMarkers, model: MarkerModel) -> tuple[RankedGene, ...]:
    """The cluster's genes without those of gene programs that any cell can run, unless they mark a type.

    A cell that answers to interferon, or divides, still shows its type further down its ranking.
    """
    listed = frozenset(model.genes)
    return tuple(g for g in cluster.genes if g.gene in listed or g.gene.upper() not in gene_program_genes())


def first_informative(cluster: ClusterMarkers, model: MarkerModel, n: int) -> ClusterMarkers:
    """The cluster's ranking down to the ``n``-th gene that :func:`informative_genes` names.

    So a cluster whose top genes all answer to interferon is judged by as many genes as any other.
    """
    informative = informative_genes(cluster, model)
    if len(informative) <= n:
        return cluster
    return cluster.model_copy(update={"genes": cluster.genes[: cluster.genes.index(informative[n])]})


def expression_evidence(
    expression: Expression,
    codes: Sequence[int],
    clusters: Sequence[ClusterMarkers],
    model: MarkerModel,
    *,
    sums: GroupSums | None = None,
) -> Array:
    """(n, g) evidence from each cluster's mean expression, in relation to the cluster that expresses a gene most.

    Half of that cluster's mean counts as fully expressed (1), so that several clusters of one type don't
    outshine each other; a fifth is neutral, and below it a gene counts as absent, down to -1. Both shrink with
    how few cells express the gene where it is highest, and with how alike all clusters express it. Genes outside the
    cluster's ranking count a tenth, and inside it more the higher they rank. A single cluster
    has nothing to be compared with: there the share of expressing cells decides.

    ``sums`` are those of the clusters over all genes of ``expression``, where they are known already.
    """
    known = expression.sums(codes, len(clusters)) if sums is None else sums
    found = marker_statistics(expression, known, model)
    if len(clusters) == 1:
        return np.clip(found.fraction / FULL_FRACTION, 0.0, 1.0)
    return ranked_evidence(contrast(found), rank_weights(clusters, model))


def marker_statistics(expression: Expression, sums: GroupSums, model: MarkerModel) -> GroupStatistics:
    """Statistics of each cluster over the genes of the model."""
    column = {gene: j for j, gene in enumerate(expression.genes)}
    return sums.inside().of_genes([column[gene] for gene in model.genes])


def ranked_evidence(level: Array, weights: Array) -> Array:
    """The level of expression, -1 to 1, by the weight of the rank."""
    return np.where(level > 0, level * np.maximum(weights, UNRANKED), level * UNRANKED)


def contrast(found: GroupStatistics) -> Array:
    """(n, g) how clearly each cluster expresses each gene, -1 to 1, before its rank is looked at."""
    detection = np.clip(found.fraction.max(axis=0) / FULL_FRACTION, 0.0, 1.0)
    highest, lowest = found.mean.max(axis=0), found.mean.min(axis=0)
    ceiling = np.where(highest > 0, highest, 1.0)
    trust = detection * (FLAT_TRUST + (1.0 - FLAT_TRUST) * (highest - lowest) / ceiling)
    relative = found.mean / ceiling
    present = np.minimum((relative - ABSENT) / (EXPRESSED - ABSENT), 1.0)
    level: Array = np.where(relative >= ABSENT, present, relative / ABSENT - 1.0) * trust
    return level
