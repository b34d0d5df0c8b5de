"""From rankings and expression to evidence: how much each marker gene marks each cluster, 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gca_core.annotation.markers.gene_programs import gene_program_genes
from gca_core.annotation.models import ClusterMarkers, RankedGene
from gca_core.annotation.scoring.marker_model import Array, MarkerModel, Weighed
from gca_core.annotation.scoring.parameters import SEEN
from gca_core.matrix.stats import GroupSums

if TYPE_CHECKING:
    from gca_core.annotation.adata.expression import Expression


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


def weigh_lists(clusters: Sequence[ClusterMarkers], model: MarkerModel) -> Weighed:
    """Lists of genes: each one speaks for a type in full, whatever its rank, and none is known to be absent."""
    return model.weigh(in_lists(clusters, model))


def in_lists(clusters: Sequence[ClusterMarkers], model: MarkerModel) -> Array:
    """(n, g): 1 for the genes that a cluster's list holds, else 0."""
    named = [frozenset(ranked.gene for ranked in cluster.genes) for cluster in clusters]
    return np.array([[gene in genes for gene in model.genes] for genes in named], dtype=float)


def weigh_expression(
    expression: Expression, sums: GroupSums, model: MarkerModel, ranked: Sequence[ClusterMarkers] | None = None
) -> Weighed:
    """The share of a cluster's cells that express a gene, times how far its mean exceeds that of all other cells.

    The latter is the difference of the two means by their sum. A single cluster has nothing to be compared with.

    Args:
        sums: of the clusters, over the genes of ``expression``.
        ranked: whose genes alone count; None counts all.
    """
    column = {gene: j for j, gene in enumerate(expression.genes)}
    places = [column[gene] for gene in model.genes]
    inside, outside = sums.inside().of_genes(places), sums.outside().of_genes(places)
    both = inside.mean + outside.mean
    excess = np.divide(inside.mean - outside.mean, both, out=np.zeros_like(both), where=both > 0)
    evidence = inside.fraction * np.maximum(excess, 0.0)
    if ranked is not None:
        evidence *= in_lists(ranked, model)
    return model.weigh(evidence, inside.fraction >= SEEN)
