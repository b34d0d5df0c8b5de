"""Where the marks of a report's pictures lie; the template draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gca_core.grounding.components import Link
from gca_core.haystack.models import CandidateEvaluation, HaystackRun
from gca_core.matrix.differential import DifferentialExpression

Array = npt.NDArray[np.float64]

# points of the volcano, and the -log10 p beyond which all are drawn alike
MAX_CHANGED, MAX_OTHERS, MAX_HEIGHT = 300, 500, 50.0
MAX_NODES, MAX_LINKS, ROUNDS = 40, 120, 300


class VolcanoPoint(NamedTuple):
    """A gene: ``x`` from -1 to 1 by log2 fold change, ``y`` from 0 to 1 by -log10 p; ``way`` is up, down or none."""

    x: float
    y: float
    gene: str
    lfc: float
    p: float
    way: str


def volcano_points(found: DifferentialExpression) -> list[VolcanoPoint]:
    """Some of the genes that do not change, evenly by effect, then the strongest of those that do."""
    heights = np.minimum(-np.log10(np.maximum(found.pvalue, 1e-300)), MAX_HEIGHT)
    order = np.argsort(np.abs(found.lfc), kind="stable")
    changed, others = order[found.is_de[order]][-MAX_CHANGED:], order[~found.is_de[order]]
    others = others[:: max(1, len(others) // MAX_OTHERS)]
    scale = float(np.abs(found.lfc).max()) or 1.0
    return [
        VolcanoPoint(
            x=round(float(found.lfc[i]) / scale, 4),
            y=round(float(heights[i]) / MAX_HEIGHT, 4),
            gene=found.genes[i],
            lfc=round(float(found.lfc[i]), 3),
            p=float(f"{found.pvalue[i]:.1e}"),
            way="none" if not found.is_de[i] else "up" if found.lfc[i] > 0 else "down",
        )
        for i in (*others, *changed)
    ]


class Dot(NamedTuple):
    """A candidate in a panel, both from 0 to 1."""

    x: float
    y: float
    words: str
    chosen: bool


class Panel(NamedTuple):
    """A score by iteration: every candidate, and the best of each iteration as a line."""

    name: str
    dots: tuple[Dot, ...]
    line: tuple[tuple[float, float], ...]


def score_panels(run: HaystackRun, best: CandidateEvaluation) -> list[Panel]:
    """The score and each of its parts; one that is known of no candidate has no dots."""
    names = ["score", *(part.name for part in best.grounding.components)] if best.grounding else []
    return [_panel(name, run, best) for name in names]


def _panel(name: str, run: HaystackRun, best: CandidateEvaluation) -> Panel:
    dots, line, n = [], [], len(run.iterations)
    for place, record in enumerate(run.iterations):
        middle, known = (place + 0.5) / n, []
        for i, e in enumerate(record.evaluations):
            parts = {part.name: part.score for part in e.grounding.components} if e.grounding else {}
            score = e.score if name == "score" else parts.get(name)
            if score is None:
                continue
            x = middle + 0.5 / n * ((i + 0.5) / len(record.evaluations) - 0.5)
            chosen = e.candidate.candidate_id == best.candidate.candidate_id
            words = f"{score:.1f} in iteration {record.iteration}: {e.candidate.rationale or e.candidate.candidate_id}"
            known.append(Dot(round(x, 4), round((score - 1) / 9, 4), words, chosen))
        dots += known
        if known:
            line.append((round(middle, 4), max(dot.y for dot in known)))
    return Panel(name, tuple(dots), tuple(line))


class GeneRow(NamedTuple):
    """A gene's change in each answer, with where it lies from 0 to 1."""

    gene: str
    values: dict[str, tuple[float, float]]


def gene_rows(answers: Mapping[str, Mapping[str, float]], k: int = 20) -> tuple[list[GeneRow], float]:
    """The ``k`` genes with the largest change in the first answer, and where no change lies."""
    first = next(iter(answers.values()), {})
    genes = sorted(first, key=lambda gene: -abs(first[gene]))[:k]
    values = [own[gene] for own in answers.values() for gene in genes if gene in own]
    low, high = min([0.0, *values]), max([0.0, *values])
    span = (high - low) or 1.0
    rows = [
        GeneRow(gene, {name: (own[gene], (own[gene] - low) / span) for name, own in answers.items() if gene in own})
        for gene in genes
    ]
    return rows, -low / span


class Node(NamedTuple):
    """A gene of the network, both from 0 to 1."""

    gene: str
    x: float
    y: float
    kind: str
    words: str


class Edge(NamedTuple):
    """A link of the network, between places from 0 to 1; ``strength`` from 0 to 1."""

    x1: float
    y1: float
    x2: float
    y2: float
    strength: float
    words: str


def network_picture(
    links: Sequence[Link], lfc: Mapping[str, float], targets: Sequence[str]
) -> tuple[list[Node], list[Edge]]:
    """The genes with most links and the targets that have any, laid out by their links; the same each time.

    Args:
        links: strongest first.
        lfc: log2 fold change of each gene.
        targets: of the perturbation.
    """
    total: dict[str, float] = {}
    for link in links:
        for gene in (link.gene, link.other):
            total[gene] = total.get(gene, 0.0) + link.weight
    ranked = sorted(total, key=lambda gene: (gene not in targets, -total[gene], gene))
    names = ranked[:MAX_NODES]
    place = {gene: i for i, gene in enumerate(names)}
    kept = [link for link in links if link.gene in place and link.other in place][:MAX_LINKS]
    alone = set(names) - {gene for link in kept for gene in (link.gene, link.other)}
    names = [gene for gene in names if gene not in alone]
    place = {gene: i for i, gene in enumerate(names)}
    if not names:
        return [], []
    weights = np.zeros((len(names), len(names)))
    for link in kept:
        i, j = place[link.gene], place[link.other]
        weights[i, j] = weights[j, i] = link.weight
    at = _layout(weights)
    nodes = [
        Node(gene, *at[i], _kind(gene, lfc, targets), f"{gene} {lfc[gene]:+.2f}" if gene in lfc else gene)
        for i, gene in enumerate(names)
    ]
    edges = [
        Edge(
            *at[place[link.gene]],
            *at[place[link.other]],
            round(link.weight / kept[0].weight, 3),
            f"{link.gene} and {link.other}: {link.set_name}",
        )
        for link in kept
    ]
    return nodes, edges


def _kind(gene: str, lfc: Mapping[str, float], targets: Sequence[str]) -> str:
    if gene in targets:
        return "target"
    return "up" if lfc.get(gene, 0.0) > 0 else "down"


def _layout(weights: Array) -> list[tuple[float, float]]:
    """Places from 0 to 1 by springs and repulsion (Fruchterman and Reingold), begun on a spiral."""
    n = len(weights)
    angle = np.arange(n) * np.pi * (3 - np.sqrt(5))
    at = np.sqrt(np.arange(n) + 0.5)[:, None] * np.column_stack([np.cos(angle), np.sin(angle)]) / np.sqrt(n)
    pull, far = np.sqrt(weights / max(weights.max(), 1e-12)), 1.6 / np.sqrt(n)
    for step in np.linspace(0.1, 0.002, ROUNDS):
        apart = at[:, None] - at[None]
        distance = np.maximum(np.linalg.norm(apart, axis=2), 1e-3)
        force = far**2 / distance**2 - pull * distance / far
        np.fill_diagonal(force, 0.0)
        # a weak pull to the middle keeps parts without links in sight
        move = (apart * force[:, :, None]).sum(axis=1) - at * far
        length = np.maximum(np.linalg.norm(move, axis=1, keepdims=True), 1e-9)
        at = at + move / length * np.minimum(length, step)
    low, span = at.min(axis=0), np.maximum(np.ptp(at, axis=0), 1e-9)
    return [(round(float(x), 4), round(float(y), 4)) for x, y in (at - low) / span]
