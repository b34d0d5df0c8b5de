"""How likely a label is right: metrics of a cluster's top genes, and logistic curves fitted to published clusters.

Both curves are fitted by ``scripts/fit_calibration.py`` to one half of the development clusters of the GPTCelltype
benchmark (Hou and Ji, Nature Methods 2024), the half that ``benchmarks/published_clusters.py`` doesn't report
on. ``recognised`` tells its lists of genes from lists shuffled between the clusters; ``right`` tells labels that agree
with the authors', or are related, from those that don't. The script chooses the thresholds on the same half.
"""

import math

import numpy as np
from pydantic import BaseModel

from gca_core.annotation.models import ClusterMarkers, RankedGene
from gca_core.annotation.scoring.evidence import informative_genes, rank_weights
from gca_core.annotation.scoring.marker_model import Array, MarkerModel, own_scores, total_scores
from gca_core.annotation.scoring.parameters import TOP_GENES


class Metrics(BaseModel, frozen=True):
    """What the confidence is made of; the lineage is all types of the label's, see ``MarkerModel.same_lineage``.

    Attributes:
        coherence: share of the known top genes, ten at most, that mark the label's type or one above it.
        kinship: share of them that mark any type of the lineage.
        score: logarithm of one and the score of the best type in the lineage, over the ten top genes.
        margin: the same of its lead over the best type outside.
    """

    coherence: float = 0.0
    kinship: float = 0.0
    score: float = 0.0
    margin: float = 0.0


class Curve(BaseModel, frozen=True):
    """A logistic curve: an intercept and a weight for each of :class:`Metrics`."""

    intercept: float = 0.0
    weights: Metrics = Metrics()

    def at(self, metrics: Metrics) -> float:
        """Its value, 0 to 1."""
        given, weights = metrics.model_dump(), self.weights.model_dump()
        return 1.0 / (1.0 + math.exp(-self.intercept - sum(weights[name] * given[name] for name in weights)))


class Calibration(BaseModel, frozen=True):
    """What decides confidence.

    Attributes:
        recognised: that the genes are those of some cell type, and no chance list.
        right: that the label is the authors' or related to it.
        unknown: below this value of ``recognised`` a label doesn't stand.
        high, medium: least value of ``right`` for these levels.
    """

    recognised: Curve = Curve(intercept=-7.52, weights=Metrics(coherence=5.13, kinship=4.46, score=1.54))
    right: Curve = Curve(intercept=-1.96, weights=Metrics(coherence=-1.03, kinship=2.06, margin=1.51))
    unknown: float = 0.25
    high: float = 0.8
    medium: float = 0.6


CALIBRATION = Calibration()


def measure(cluster: ClusterMarkers, index: int, model: MarkerModel, evidence: Array) -> Metrics:
    """The metrics of a cluster whose label stands on the type ``index`` of the model; all 0 without known genes.

    Where the ranking holds no known gene, as for a single cluster, those with most evidence stand in.
    """
    known_genes = frozenset(model.genes[j] for j in np.flatnonzero(model.listed.any(axis=0)))
    genes = tuple(ranked for ranked in informative_genes(cluster, model) if ranked.gene in known_genes)[:TOP_GENES]
    if not genes:
        strongest = np.argsort(-evidence, kind="stable")[:TOP_GENES]
        genes = tuple(RankedGene(gene=model.genes[j]) for j in strongest if evidence[j] > 0)
    ranked = rank_weights([cluster.model_copy(update={"genes": genes})], model)
    listed = model.listed.any(axis=0)
    known = (ranked[0] > 0) & listed
    if not known.any():
        return Metrics()
    scores = np.maximum(total_scores(model, *own_scores(model, ranked))[0], 0.0)
    lineage = model.same_lineage[index]
    best, other = _highest(scores[lineage]), _highest(scores[~lineage])
    if best <= 0:
        return Metrics()
    of_lineage = (model.positive[lineage] > 0).any(axis=0)
    return Metrics(
        coherence=float((model.positive[index, known] > 0).mean()),
        kinship=float(of_lineage[known].mean()),
        score=math.log1p(best),
        margin=math.log1p(max(best - other, 0.0)),
    )


def _highest(values: Array) -> float:
    return float(values.max(initial=0.0))
