"""The parts of the grounding score, each from 0 (as by chance, or worse) to 1.

All parts look at ranks of the predicted change as well as at its size: a rank alone would call a
faint response perfect, and a size alone would call any loud one so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.stats import rankdata

from gca_core.grounding.enrichment import Mask, SetMatrix, rank_sums, weight_matrix
from gca_core.grounding.knowledge import GroundingKnowledge
from gca_core.grounding.models import (
    ActionKind,
    Expectation,
    GroundingComponent,
    GroundingConfig,
    Literature,
    Suggestion,
)
from gca_core.knowledge.bundled.catalogue import Direction
from gca_core.matrix.stats import univariate_model

Array = npt.NDArray[np.float64]
HALF_EFFECT = 1.0
# median t of the expected footprints in the measured responses to 22 cytokines, from 4 to 70 where the pathway answers
# at all; within 2 where genes are permuted
HALF_T = 20.0
# one-sided 5 %: below it an expected set counts as missing
MISSING_Z = 1.645
RANDOM_SETS, NETWORK_SEED, MAX_P = 500, 0, 0.05
MAX_SHARPEN = 3


@dataclass(frozen=True)
class Response:
    """A predicted response: the changes, their mid-ranks, and where each gene stands.

    Attributes:
        lfc: (n_genes,) predicted log2 fold change.
        ranks: (n_genes,) mid-ranks of ``lfc`` from 0 to 1.
        is_de: (n_genes,) the differentially expressed genes.
        index: gene to position.
        scale: standard deviation of ``lfc``.
    """

    lfc: Array
    ranks: Array
    is_de: Mask
    index: Mapping[str, int]
    scale: float

    @classmethod
    def of(cls, lfc: Array, genes: Iterable[str], is_de: Mask) -> Response:
        """The response with its ranks."""
        ranks = (rankdata(lfc) - 0.5) / len(lfc)
        return cls(lfc, ranks, is_de, {gene: i for i, gene in enumerate(genes)}, float(np.std(lfc)))


def set_strengths(response: Response, sets: SetMatrix) -> Array:
    """How far the genes of each set lie above (to 1) or below (to -1) the others, (n_sets,).

    The geometric mean of the rank part, 2 AUC - 1, and the size part, d / (d + 1) with d the
    difference of means in standard deviations; 0 where the two don't agree in sign.
    """
    n, size = len(response.lfc), sets.size.astype(np.float64)
    if response.scale <= 0:
        return np.zeros(len(size))
    others = np.maximum(n - size, 1.0)
    inside_rank = (sets.member @ (response.ranks * n + 0.5)) - size * (size + 1) / 2
    rank_part = 2.0 * inside_rank / np.maximum(size * (n - size), 1.0) - 1.0
    total = sets.member @ response.lfc
    effect = (total / np.maximum(size, 1.0) - (response.lfc.sum() - total) / others) / response.scale
    agree = (np.sign(rank_part) == np.sign(effect)) & (size > 0) & (size < n)
    strength = np.sqrt(np.abs(rank_part) * np.abs(effect) / (np.abs(effect) + HALF_EFFECT))
    return np.asarray(np.where(agree, np.sign(effect) * strength, 0.0))


Part = tuple[GroundingComponent, list[Suggestion]]


def pathway_component(
    response: Response, expectation: Expectation, knowledge: GroundingKnowledge, config: GroundingConfig
) -> Part:
    """Enrichment of the expected gene sets in their direction, times how specific to them it is.

    Specificity is the share of the reference sets that are not expected and less enriched, in the same
    direction, than the expected one; a response that lifts everything alike has little of it.
    """
    expected = {p.name: sign_of(p.direction) for p in expectation.pathways if p.name in knowledge.gene_sets}
    names = dict.fromkeys([*expected, *knowledge.reference]) if expected else {}
    # large sets of Reactome are expected of some perturbations
    sets = SetMatrix.of(
        {"": {name: knowledge.gene_sets[name] for name in names}},
        list(response.index),
        min_genes=config.min_set_genes,
        max_genes=len(response.index),
    )
    strengths, z = set_strengths(response, sets), rank_sums(sets, response.lfc)[0]
    place = {name: i for i, name in enumerate(sets.names)}
    reference = [place[name] for name in knowledge.reference if name in place and name not in expected]
    figures: dict[str, float] = {}
    actions, values = [], []
    for name in (name for name in expected if name in place):
        sign, at = expected[name], place[name]
        strength = max(0.0, sign * float(strengths[at]))
        others = np.maximum(0.0, sign * strengths[reference])
        specific = float(np.mean(others < strength)) if len(others) else 1.0
        values.append(strength * specific)
        figures[name] = round(values[-1], 4)
        actions += _missing("pathway", name, sign, float(sign * z[at]))
        if sign * z[at] >= MISSING_Z:
            louder = [i for i in np.argsort(-others, kind="stable")[:MAX_SHARPEN] if others[i] > strength]
            actions += [
                Suggestion(
                    action=ActionKind.SHARPEN,
                    component="pathway",
                    subject=sets.names[reference[i]],
                    direction=direction_of(sign),
                    detail=f"not expected, and moves more than {name}",
                )
                for i in louder
            ]
    part = _component("pathway", values, config.pathway_weight, figures, "no expected gene set has enough genes here")
    return part, list(dict.fromkeys(actions))


def target_component(
    response: Response, expectation: Expectation, knowledge: GroundingKnowledge, config: GroundingConfig
) -> Part:
    """Expected genes going their way, and the activity of expected footprints in their direction.

    Expected genes: mean of 2 r - 1 with r the rank, in the expected direction. Footprints: the t of the changes of
    all genes over the footprint's signed weights, as decoupler's ``ulm``, t / (t + 20). Both count from 0.
    """
    figures: dict[str, float] = {}
    actions, values = [], []
    places = [
        (g, response.index[g.gene], sign_of(g.direction)) for g in expectation.response if g.gene in response.index
    ]
    if len(places) >= config.min_response_genes:
        signed = [2.0 * (response.ranks[i] if sign > 0 else 1.0 - response.ranks[i]) - 1.0 for _, i, sign in places]
        values.append(max(0.0, float(np.mean(signed))))
        figures["expected genes"] = round(values[-1], 4)
        actions += [
            Suggestion(
                action=ActionKind.REVERSE,
                component="target",
                subject=gene.gene,
                direction=gene.direction,
                detail="goes the other way",
            )
            for gene, i, sign in places
            if sign * response.lfc[i] < 0 and response.is_de[i]
        ]
    wanted = {f.name: sign_of(f.direction) for f in expectation.footprints if f.name in knowledge.footprints}
    weights = weight_matrix({name: knowledge.footprints[name] for name in wanted}, list(response.index))
    (activity,) = univariate_model(weights, response.lfc)
    for (name, sign), t, n_genes in zip(wanted.items(), activity, np.diff(weights.indptr), strict=True):
        if n_genes < config.min_set_genes:
            continue
        values.append(saturated(sign * t, HALF_T))
        figures[f"footprint {name}: t"] = round(float(t), 2)
        actions += _missing("target", name, sign, float(sign * t))
    part = _component("target", values, config.target_weight, figures, "no expected gene or footprint is measured here")
    return part, actions


def network_component(
    response: Response, expectation: Expectation, knowledge: GroundingKnowledge, config: GroundingConfig
) -> Part:
    """Whether the genes that change most, the expected way, are linked to each other and to the targets beyond chance.

    Genes are linked by each small set of Reactome that they share, with weight 1/(n - 1) for n members. The sum of
    weights among the ``top_genes`` differentially expressed genes, and that between them and the targets, are
    compared with 500 sets of as many genes that lie in as many small sets each; with p the share of these that are
    linked as well, the part goes from 0 at 0.5 to 1 at 0.05, since how far p lies below that is chance.
    """
    network = _Network.of(response, expectation, knowledge, config)
    top, member, share = network.top, network.sets.member, network.share
    if network.unknown:
        return _component("network", [], config.network_weight, {}, network.unknown), []
    drawn = np.vstack([top, _matched(top, network.pool, network.degree)])
    picked = (drawn.ravel(), np.repeat(np.arange(len(drawn)), len(top)))
    counts = (member @ sp.csr_matrix((np.ones(drawn.size), picked), shape=(member.shape[1], len(drawn)))).toarray()
    held = np.asarray(network.held.sum(axis=1)).ravel()
    links = {"among them": share @ (counts * (counts - 1) / 2), "with the targets": (share * held) @ counts}
    figures, values = {"genes": float(len(top))}, []
    for what, found in links.items():
        p = float(1 + (found[1:] >= found[0]).sum()) / len(found)
        values.append(float(np.clip((0.5 - p) / (0.5 - MAX_P), 0.0, 1.0)))
        figures[f"{what}: p"] = round(p, 4)
    # both have to hold, hence the geometric mean
    return _component("network", [float(np.sqrt(np.prod(values)))], config.network_weight, figures, ""), []


@lru_cache(maxsize=4)
def _small_sets(
    knowledge: GroundingKnowledge, genes: tuple[str, ...], most: int
) -> tuple[SetMatrix, Mapping[str, frozenset[str]]]:
    """The sets of the network with at most so many members, over the measured genes, and their members."""
    small = {s: members for s in knowledge.network if len(members := knowledge.gene_sets[s]) <= most}
    return SetMatrix.of({"": small}, genes, min_genes=2), small


@dataclass(frozen=True)
class _Network:
    """What small sets of Reactome link.

    Attributes:
        sets: the small sets over the measured genes.
        share: (n_sets,) weight of the link between any two genes of a set, 1/(n - 1).
        targets, held: names, and (n_sets, n_targets) 1 where the set holds the target.
        degree: (n_genes,) sets of each gene.
        pool: positions of the genes in sets that are no targets.
        top: of these, the differentially expressed ones that change most, the expected way.
        unknown: why nothing can be said; empty where something can.
    """

    sets: SetMatrix
    share: Array
    targets: tuple[str, ...]
    held: Array
    degree: Array
    pool: npt.NDArray[np.int64]
    top: npt.NDArray[np.int64]
    unknown: str

    @classmethod
    def of(
        cls, response: Response, expectation: Expectation, knowledge: GroundingKnowledge, config: GroundingConfig
    ) -> _Network:
        sets, small = _small_sets(knowledge, tuple(response.index), config.max_network_set)
        targets = tuple(dict.fromkeys(target.gene for target in expectation.targets))
        held = np.array([[gene in small[s] for gene in targets] for s in sets.names], dtype=np.float64)
        held = held.reshape(len(sets.names), len(targets))
        degree = np.asarray(sets.member.sum(axis=0), dtype=np.float64).ravel()
        pool = np.flatnonzero((degree > 0) & ~np.isin(list(response.index), targets))
        ways = {gene.direction for gene in expectation.response}
        ways |= {pathway.direction for pathway in (*expectation.pathways, *expectation.footprints)}
        signs = [sign_of(way) for way in ways or {target.direction for target in expectation.targets}]
        order = pool[np.argsort(-np.abs(response.lfc[pool]), kind="stable")]
        top = order[response.is_de[order] & np.isin(np.sign(response.lfc[order]), signs)][: config.top_genes]
        share = 1.0 / np.maximum(np.array([len(small[s]) for s in sets.names]) - 1.0, 1.0)
        unknown = "" if held.any() else "no target lies in a small set of Reactome"
        if not unknown and len(top) < config.min_set_genes:
            unknown = f"{len(top)} genes of small sets of Reactome are differentially expressed the expected way"
        return cls(sets, share, targets, held, degree, pool, top, unknown)


class Link(NamedTuple):
    """Two genes that small sets of Reactome link: the weight of all of these, and the smallest one."""

    gene: str
    other: str
    weight: float
    set_name: str


def network_links(
    response: Response, expectation: Expectation, knowledge: GroundingKnowledge, config: GroundingConfig
) -> list[Link]:
    """The links that :func:`network_component` counts, among its genes and with the targets, strongest first."""
    network = _Network.of(response, expectation, knowledge, config)
    if network.unknown:
        return []
    names = np.array(list(response.index), dtype=object)
    nodes = [*names[network.top], *network.targets]
    inside = np.hstack([network.sets.member[:, network.top].toarray(), network.held])
    weights = inside.T @ (network.share[:, None] * inside)
    first, second = np.triu_indices(len(nodes), 1)
    kept = (weights[first, second] > 0) & (first < len(network.top))
    found = []
    for i, j in zip(first[kept].tolist(), second[kept].tolist(), strict=True):
        smallest = int(np.argmax(inside[:, i] * inside[:, j] * network.share))
        found.append(Link(nodes[i], nodes[j], round(float(weights[i, j]), 6), network.sets.names[smallest]))
    return sorted(found, key=lambda link: (-link.weight, link.gene, link.other))


def literature_component(found: Literature, config: GroundingConfig) -> Part:
    """Whether publications name the strongest genes with the perturbation, and in the direction predicted.

    A gene counts m / (m + 5) for m publications; where more say the opposite than the same, twice that share is
    taken off. Silence about a gene counts 0, silence about all leaves the part unknown.
    """
    values = [evidence.value for evidence in found.evidence]
    figures = {
        f"{e.gene} {e.direction}": float(e.publications) for e in found.evidence if e.publications or e.contradicting
    }
    known = [float(np.mean(values))] if figures else []
    actions = [
        Suggestion(
            action=ActionKind.REVERSE,
            component="literature",
            subject=e.gene,
            direction="down" if e.direction == "up" else "up",
            detail=f"{e.contradicting} publications against {e.supporting} say the opposite",
        )
        for e in found.evidence
        if e.contradicting > e.supporting
    ]
    return _component("literature", known, config.literature_weight, figures, found.reason), actions


def saturated(value: float, half: float) -> float:
    """From 0 to 1, a half at ``half``; 0 below zero."""
    return float(max(0.0, value) / (max(0.0, value) + half))


def sign_of(direction: Direction) -> float:
    """1 for up, -1 for down."""
    return 1.0 if direction == "up" else -1.0


def direction_of(sign: float) -> Direction:
    """The direction of a sign."""
    return "up" if sign > 0 else "down"


def _matched(top: npt.NDArray[np.int64], pool: npt.NDArray[np.int64], degree: Array) -> npt.NDArray[np.int64]:
    """(RANDOM_SETS, n_top) genes of the pool, in each set as many of a degree, to a power of two, as in ``top``."""
    rng = np.random.default_rng(NETWORK_SEED)
    classes = np.floor(np.log2(np.maximum(degree, 1.0)))
    parts = []
    for own in np.unique(classes[top]):
        like = pool[classes[pool] == own]
        n = int((classes[top] == own).sum())
        parts.append(like[np.argpartition(rng.random((RANDOM_SETS, len(like))), n - 1, axis=1)[:, :n]])
    return np.hstack(parts)


def _missing(component: str, subject: str, sign: float, z: float) -> list[Suggestion]:
    """What to do about an expected set or footprint whose z or t in its direction is not significant."""
    if z >= MISSING_Z:
        return []
    kind = ActionKind.REVERSE if z <= -MISSING_Z else ActionKind.STRENGTHEN
    detail = f"z {z:.1f} in the expected direction"
    return [Suggestion(action=kind, component=component, subject=subject, direction=direction_of(sign), detail=detail)]


def _component(
    name: str, values: list[float], weight: float, figures: dict[str, float], unknown: str
) -> GroundingComponent:
    if not values:
        return GroundingComponent(name=name, value=None, weight=weight, detail=unknown)
    value = float(np.clip(np.mean(values), 0.0, 1.0))
    return GroundingComponent(name=name, value=value, weight=weight, figures=figures)
