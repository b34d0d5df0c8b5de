"""The parts of the grounding score, each from 0 (as by chance, or worse) to 1.

All parts look at ranks of the predicted change as well as at its size: a rank alone would call a
faint response perfect, and a size alone would call any loud one so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from gca_core.grounding.knowledge import GroundingKnowledge
from gca_core.grounding.models import Expectation, GroundingComponent, GroundingConfig
from gca_core.matrix.compare import pearson

Array = npt.NDArray[np.float64]
HALF_EFFECT = 1.0


@dataclass(frozen=True)
class Response:
    """A predicted response: the changes, their mid-ranks, and where each gene stands.

    Attributes:
        lfc: (n_genes,) predicted change of mean log1p(CP10k).
        ranks: (n_genes,) mid-ranks of ``lfc`` from 0 to 1.
        index: gene to position.
        scale: standard deviation of ``lfc``.
    """

    lfc: Array
    ranks: Array
    index: Mapping[str, int]
    scale: float

    @classmethod
    def of(cls, lfc: Array, genes: Iterable[str]) -> Response:
        """The response with its ranks."""
        ranks = (rankdata(lfc) - 0.5) / len(lfc)
        return cls(lfc, ranks, {gene: i for i, gene in enumerate(genes)}, float(np.std(lfc)))

    def positions(self, genes: Iterable[str]) -> npt.NDArray[np.int64]:
        """Positions of those genes that are there, in order."""
        return np.array(sorted({self.index[gene] for gene in genes if gene in self.index}), dtype=np.int64)


def auc(scores: Array, members: npt.NDArray[np.int64]) -> float:
    """Area under the ROC curve of members against all other genes: the Mann-Whitney U over n1 n2."""
    n, k = len(scores), len(members)
    if k == 0 or k == n:
        return 0.5
    ranks = rankdata(scores)
    return float((ranks[members].sum() - k * (k + 1) / 2) / (k * (n - k)))


def enrichment(scores: Array, members: npt.NDArray[np.int64], scale: float) -> float:
    """How far the members' scores lie above the rest, 0..1.

    The geometric mean of the rank part, 2 AUC - 1, and the size part, d / (d + 1) with d the
    difference of means in standard deviations; 0 where either is not positive.
    """
    if scale <= 0 or not 0 < len(members) < len(scores):
        return 0.0
    rank_part = max(0.0, 2.0 * auc(scores, members) - 1.0)
    inside = float(scores[members].mean())
    outside = float((scores.sum() - scores[members].sum()) / (len(scores) - len(members)))
    effect = max(0.0, (inside - outside) / scale)
    return float(np.sqrt(rank_part * effect / (effect + HALF_EFFECT)))


def pathway_component(
    response: Response, expectation: Expectation, knowledge: GroundingKnowledge, config: GroundingConfig
) -> GroundingComponent:
    """Enrichment of the expected gene sets in their direction, times how specific to them it is.

    Specificity is the share of the reference sets that are not expected and less enriched, in the same
    direction, than the expected one; a response that lifts everything alike has little of it.
    """
    expected = {p.name for p in expectation.pathways}
    figures: dict[str, float] = {}
    values = []
    for pathway in expectation.pathways:
        members = response.positions(knowledge.gene_sets.get(pathway.name, frozenset()))
        if len(members) < config.min_set_genes:
            continue
        sign = _sign(pathway.direction)
        strength = enrichment(sign * response.lfc, members, response.scale)
        others = _reference_strengths(response, sign, expected, knowledge, config)
        specific = float(np.mean(others < strength)) if len(others) else 1.0
        figures[pathway.name] = round(strength * specific, 4)
        values.append(strength * specific)
    return _component("pathway", values, config.pathway_weight, figures, "no expected gene set has enough genes here")


def target_component(
    response: Response, expectation: Expectation, knowledge: GroundingKnowledge, config: GroundingConfig
) -> GroundingComponent:
    """Expected genes going their way, and footprint weights matching the changes.

    Expected genes: mean of 2 r - 1 with r the rank, in the expected direction. Footprints: Pearson
    correlation of weight and change over the footprint genes. Both count from 0.
    """
    figures: dict[str, float] = {}
    values = []
    places = [(response.index[g.gene], _sign(g.direction)) for g in expectation.response if g.gene in response.index]
    if len(places) >= config.min_response_genes:
        signed = [2.0 * (response.ranks[i] if sign > 0 else 1.0 - response.ranks[i]) - 1.0 for i, sign in places]
        figures["expected genes"] = round(max(0.0, float(np.mean(signed))), 4)
        values.append(max(0.0, float(np.mean(signed))))
    for footprint in expectation.footprints:
        weights = knowledge.footprints.get(footprint.name, {})
        genes = sorted(gene for gene in weights if gene in response.index)
        if len(genes) < config.min_set_genes:
            continue
        signed_weights = np.array([weights[gene] for gene in genes]) * _sign(footprint.direction)
        match = np.nan_to_num(pearson(signed_weights, response.lfc[[response.index[gene] for gene in genes]]))
        values.append(max(0.0, float(match)))
        figures[f"footprint {footprint.name}"] = round(values[-1], 4)
    return _component("target", values, config.target_weight, figures, "no expected gene or footprint is measured here")


def network_component(
    response: Response, expectation: Expectation, knowledge: GroundingKnowledge, config: GroundingConfig
) -> GroundingComponent:
    """Whether the genes that change most are functional neighbours of the targets.

    The enrichment of the neighbours in the absolute change. Neighbours share a small Reactome set
    with the targets.
    """
    targets = [target.gene for target in expectation.targets]
    neighbours = response.positions(knowledge.neighbours(targets, config.max_network_set))
    if len(neighbours) < config.min_set_genes:
        return _component("network", [], config.network_weight, {}, "the targets have no functional neighbours here")
    size = np.abs(response.lfc)
    value = enrichment(size, neighbours, float(np.std(size)))
    top = set(np.argsort(-size, kind="stable")[: config.top_genes].tolist())
    figures = {"neighbours": float(len(neighbours)), "among the top": float(len(top & set(neighbours.tolist())))}
    return _component("network", [value], config.network_weight, figures, "")


def literature_component(config: GroundingConfig) -> GroundingComponent:
    """Unknown: no literature source is connected, and that is neither good nor bad."""
    return _component("literature", [], config.literature_weight, {}, "no literature source is switched on")


def _reference_strengths(
    response: Response, sign: float, expected: set[str], knowledge: GroundingKnowledge, config: GroundingConfig
) -> Array:
    strengths = []
    for name in knowledge.reference:
        members = response.positions(knowledge.gene_sets[name])
        if name not in expected and len(members) >= config.min_set_genes:
            strengths.append(enrichment(sign * response.lfc, members, response.scale))
    return np.array(strengths)


def _component(
    name: str, values: list[float], weight: float, figures: dict[str, float], unknown: str
) -> GroundingComponent:
    if not values:
        return GroundingComponent(name=name, value=None, weight=weight, detail=unknown)
    value = float(np.clip(np.mean(values), 0.0, 1.0))
    return GroundingComponent(name=name, value=value, weight=weight, figures=figures)


def _sign(direction: str) -> float:
    return 1.0 if direction == "up" else -1.0
