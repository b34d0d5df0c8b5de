"""The offline annotator: the label with the highest agreement to expect, at the level that the genes allow."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gca_core.annotation.labels.names import common_name
from gca_core.annotation.models import (
    UNKNOWN,
    Alternative,
    Annotation,
    ClusterMarkers,
    Confidence,
    Evidence,
    FlagReason,
    GeneEvidence,
    Status,
)
from gca_core.annotation.scoring.marker_model import Array, Flags, MarkerModel, Weighed
from gca_core.annotation.scoring.parameters import (
    DOUBT,
    FEW_CELLS,
    HIGH,
    MIN_OVERLAP,
    N_ALTERNATIVES,
    NOTABLE,
    ON_ONE_LINE,
    RECOGNISED,
    RECOGNISED_LIST,
    SUBTYPE,
    TOP_N_MARKERS,
)
from gca_core.errors import ConfigurationError
from gca_core.knowledge.bundled.ontology import CellOntology


@dataclass(frozen=True)
class _Answer:
    """The type of the model that stands for a label, and the agreement to expect with it.

    Attributes:
        by: the type that the evidence points to: the same, or a subtype none of whose defining genes was seen.
    """

    index: int
    expected: float
    by: int


def annotate_clusters(
    clusters: Sequence[ClusterMarkers],
    weighed: Weighed,
    model: MarkerModel,
    ontology: CellOntology,
    *,
    min_overlap: int = MIN_OVERLAP,
) -> list[Annotation]:
    """Label each cluster with the type of the highest agreement to expect.

    A subtype none of whose defining genes was measured and seen gives way to the nearest type above it that has one.
    Fewer than ``min_overlap`` supporting markers, or too little agreement and coherence, make the label ``Unknown or
    Novel``.

    Args:
        clusters: n clusters.
        weighed: their evidence.
        model: the marker database over the measured genes.
        ontology: the Cell Ontology.
        min_overlap: fewest supporting markers.

    Raises:
        ConfigurationError: ``min_overlap`` below one.
    """
    if min_overlap < 1:
        raise ConfigurationError(f"min_overlap is {min_overlap}; expected at least one marker")
    return [
        annotate_cluster(cluster, row, weighed, model, ontology, min_overlap=min_overlap)
        for row, cluster in enumerate(clusters)
    ]


def annotate_cluster(
    cluster: ClusterMarkers,
    row: int,
    weighed: Weighed,
    model: MarkerModel,
    ontology: CellOntology,
    *,
    min_overlap: int = MIN_OVERLAP,
) -> Annotation:
    """The label of the cluster in one row of ``weighed``; see :func:`annotate_clusters`."""
    return _finish(cluster, row, _choose(row, weighed, model), weighed, model, ontology, min_overlap)


def judge_label(
    cluster: ClusterMarkers,
    term: str,
    row: int,
    weighed: Weighed,
    model: MarkerModel,
    ontology: CellOntology,
    *,
    min_overlap: int = MIN_OVERLAP,
) -> Annotation | None:
    """The evidence for a label that somebody else gave, by the rules of :func:`annotate_clusters`.

    A type below the label agrees with it in full. A term without markers of its own is judged by its nearest ancestor
    that has some, or else by the best type below it; a caveat says so, and the confidence is Medium at most.

    Args:
        cluster: the cluster in this ``row`` of ``weighed``.
        term: a Cell Ontology id.
        weighed, model, ontology, min_overlap: as there.

    Returns:
        None if the marker database has no type on the term's line.
    """
    index = _stand_in(term, weighed.odds[row], model, ontology)
    if index is None:
        return None
    judging = model.types[index].ontology_id
    below = np.array([ontology.is_a(t.ontology_id, judging) for t in model.types])
    expected = float(weighed.odds[row] @ np.where(below, 1.0, model.agreement[index]))
    judged = _finish(cluster, row, _Answer(index, expected, index), weighed, model, ontology, min_overlap)
    if judging == term:
        return judged
    label, unknown = ontology.label(term), judged.ontology_id is None
    caveat = f"the marker database has no markers for {label}; judged by {model.types[index].label}"
    return judged.model_copy(
        update={
            "primary_label": judged.primary_label if unknown else label,
            "ontology_id": None if unknown else term,
            "common_name": None if unknown else common_name(term),
            "proposed_label": label if unknown else None,
            "confidence": Confidence.MEDIUM if judged.confidence is Confidence.HIGH else judged.confidence,
            "caveats": (caveat, *judged.caveats),
        }
    )


def _stand_in(term: str, odds: Array, model: MarkerModel, ontology: CellOntology) -> int | None:
    """The type of the model that a term is judged by: its own, the nearest above, the best below, or none."""
    above = {term: 0} | dict(ontology.ancestors(term))
    known = [(above[t.ontology_id], i) for i, t in enumerate(model.types) if t.ontology_id in above]
    if known:
        return min(known)[1]
    below = [i for i, t in enumerate(model.types) if ontology.is_a(t.ontology_id, term)]
    return max(below, key=lambda i: float(odds[i]), default=None)


def _choose(row: int, weighed: Weighed, model: MarkerModel) -> _Answer:
    best = int(np.argmax(weighed.expected[row]))
    if weighed.by_expression:
        best = _subtype(best, weighed.evidence[row], model)
    index = best
    while (parent := model.parents[index]) is not None and not _defined(index, weighed.seen[row], model):
        index = parent
    # what a subtype adds to its type doesn't make the type less sure
    return _Answer(index, float(weighed.expected[row, model.line(best)].max()), best)


def _subtype(index: int, evidence: Array, model: MarkerModel) -> int:
    """The subtype that its defining genes tell from the type and from all other subtypes, or the type itself."""
    below = [i for i in range(len(model.types)) if i != index and index in model.line(i) and model.near[i]]
    gains = dict(zip(below, (model.weights[below] * model.defining[below]) @ evidence, strict=True))
    best = max(below, key=lambda i: gains[i], default=index)
    others = [gains[i] for i in below if best not in model.line(i) and i not in model.line(best)]
    if best == index or gains[best] < SUBTYPE or max(others, default=0.0) > DOUBT * gains[best]:
        return index
    return best


def _defined(index: int, found: Flags, model: MarkerModel) -> bool:
    """Whether a gene that the type needs is among those found."""
    return any(found[j] for j, gene in enumerate(model.genes) if gene in model.needed[index])


def _finish(
    cluster: ClusterMarkers,
    row: int,
    answer: _Answer,
    weighed: Weighed,
    model: MarkerModel,
    ontology: CellOntology,
    min_overlap: int,
) -> Annotation:
    term = model.types[answer.index].ontology_id
    label, found = ontology.label(term), _gather(answer.by, row, weighed, model)
    recognised = answer.expected * _coherence(answer.by, row, weighed, model) >= (
        RECOGNISED if weighed.by_expression else RECOGNISED_LIST
    )
    rival = _foreign(answer.by, row, weighed, model)
    doubts = {
        FlagReason.NO_MARKERS_SUPPLIED: not cluster.genes,
        FlagReason.LOW_MARKER_OVERLAP: len(found.supporting) < min_overlap or not recognised,
        FlagReason.CONTRADICTORY_MARKERS: found.contradiction > DOUBT * found.support,
        # a type that no marker speaks for stands for nothing, so its tissue says nothing
        FlagReason.TISSUE_MISMATCH: bool(found.supporting) and not model.near[answer.index],
        FlagReason.AMBIGUOUS_EVIDENCE: rival is not None,
        FlagReason.FEW_CELLS: cluster.n_cells is not None and cluster.n_cells < FEW_CELLS,
    }
    flags = tuple(flag for flag, holds in doubts.items() if holds)
    unknown = not {FlagReason.LOW_MARKER_OVERLAP, FlagReason.NO_MARKERS_SUPPLIED}.isdisjoint(flags)
    defined = _defined(answer.index, weighed.evidence[row] > 0, model)
    return Annotation(
        cluster=cluster.cluster,
        n_cells=cluster.n_cells,
        primary_label=UNKNOWN if unknown else label,
        ontology_id=None if unknown else term,
        parent_label=_parent_label(answer.index, model),
        confidence=_confidence(answer, flags, defined=defined),
        status=Status.FLAGGED if flags else Status.SUPPORTED,
        flag_reasons=flags,
        rationale=_rationale(label, found, unknown),
        caveats=_caveats(answer, rival, row, weighed, model, defined=defined),
        alternatives=_alternatives(answer.by, row, weighed, model, ontology),
        markers=tuple(g.gene for g in cluster.genes),
        proposed_label=label if unknown and weighed.scores[row].max() > 0 else None,
        evidence=found,
        common_name=None if unknown else common_name(term),
        confidence_score=round(answer.expected, 4),
    )


def _confidence(answer: _Answer, flags: Sequence[FlagReason], *, defined: bool) -> Confidence:
    """By the agreement to expect; Low where evidence is thin, contradicted or ambiguous; other doubts allow Medium."""
    mild = {FlagReason.TISSUE_MISMATCH, FlagReason.FEW_CELLS}
    if set(flags) - mild or answer.expected < ON_ONE_LINE:
        return Confidence.LOW
    sure = not flags and defined and answer.by == answer.index and answer.expected >= HIGH
    return Confidence.HIGH if sure else Confidence.MEDIUM


def _coherence(index: int, row: int, weighed: Weighed, model: MarkerModel) -> float:
    """The share of the strongest genes, twenty at most, that mark the answer or its best subtype, or a type above."""
    evidence, scores = weighed.evidence[row], weighed.scores[row]
    below = [i for i in range(len(model.types)) if i != index and index in model.line(i)]
    line = model.line(max(below, key=lambda i: float(scores[i]), default=index))
    strongest = [j for j in np.argsort(-evidence, kind="stable")[: TOP_N_MARKERS // 2] if evidence[j] > 0]
    return float(model.listed[line][:, strongest].any(axis=0).mean()) if strongest else 0.0


def _foreign(index: int, row: int, weighed: Weighed, model: MarkerModel) -> int | None:
    """The strongest unrelated type that genes which the label lacks support, as in doublets."""
    foreign = np.where(model.listed[model.line(index)].any(axis=0), 0.0, weighed.evidence[row])
    support = np.where(model.agreement[index] > 0, 0.0, model.scores(foreign[None, :])[0])
    strongest = int(np.argmax(support))
    return strongest if support[strongest] > DOUBT * max(weighed.scores[row, index], 0.0) else None


def _gather(index: int, row: int, weighed: Weighed, model: MarkerModel) -> Evidence:
    """The genes behind a type, and how it stands against others that are neither above nor below it."""
    evidence, scores = weighed.evidence[row], weighed.scores[row]
    against = np.maximum(evidence, 0.0) * model.against[index]
    rest = scores[model.agreement[index] < ON_ONE_LINE]
    missing = model.defining[index] & ~weighed.seen[row]
    return Evidence(
        supporting=_genes(model.weights, evidence, model.line(index), model),
        contradicting=_genes(model.against, evidence, [index], model, sign=-1.0),
        missing=tuple(model.genes[j] for j in np.flatnonzero(missing)),
        support=round(float(model.weights[index] @ evidence), 4),
        contradiction=round(float(against.sum()), 4),
        score=round(float(scores[index]), 4),
        margin=round(float(scores[index] - rest.max(initial=0.0)), 4),
    )


def _genes(
    weights: Array, evidence: Array, line: Sequence[int], model: MarkerModel, *, sign: float = 1.0
) -> tuple[GeneEvidence, ...]:
    """The genes with a part in the score of the first type of the line that lists them."""
    rows: dict[str, GeneEvidence] = {}
    for i in line:
        parts = sign * weights[i] * evidence
        for j in np.flatnonzero((parts != 0) & (evidence >= NOTABLE) & (model.listed[i] | (parts < 0))):
            gene, weight = model.genes[j], round(float(parts[j]), 4)
            rows.setdefault(gene, GeneEvidence(gene=gene, weight=weight, marks=model.types[i].label))
    return tuple(sorted(rows.values(), key=lambda r: (-abs(r.weight), r.gene)))


def _rationale(label: str, found: Evidence, unknown: bool) -> str:
    names = ", ".join(g.gene for g in found.supporting[:6]) or "no markers"
    text = f"{label}: {len(found.supporting)} markers found ({names})"
    if found.contradicting:
        text += f"; against it {', '.join(g.gene for g in found.contradicting[:4])}"
    if found.missing:
        text += f"; absent {', '.join(found.missing[:4])}"
    return f"too little evidence for a label; nearest is {text}" if unknown else text


def _caveats(
    answer: _Answer, rival: int | None, row: int, weighed: Weighed, model: MarkerModel, *, defined: bool
) -> tuple[str, ...]:
    caveats = []
    if answer.by != answer.index:
        caveats.append(f"{_undefined(answer.by, model)}, so {model.types[answer.by].label} can't be told")
    elif not defined:
        caveats.append(_undefined(answer.index, model, "among its markers"))
    odds = weighed.odds[row]
    alike = [i for i in np.argsort(-odds, kind="stable")[:N_ALTERNATIVES] if i != answer.index and odds[i] >= 0.25]
    if alike and answer.by == answer.index:
        caveats.append(f"hard to tell from {', '.join(model.types[i].label for i in alike)}")
    if rival is not None:
        name = model.types[rival].label
        caveats.append(f"an unrelated type scores almost as well, as in a mixture or doublets: {name}")
    return tuple(caveats)


def _undefined(index: int, model: MarkerModel, where: str = "seen") -> str:
    """That none of the genes which a type needs was measured, or seen."""
    genes = [gene for gene in model.types[index].positive if gene in model.needed[index]]
    unmeasured = [g for g in genes if g not in model.genes]
    if len(unmeasured) == len(genes):
        return f"{', '.join(genes)} {'is' if len(genes) == 1 else 'are'} not measured"
    return f"none of {', '.join(g for g in genes if g not in unmeasured)} is {where}"


def _parent_label(index: int, model: MarkerModel) -> str | None:
    parent = model.parents[index]
    return None if parent is None else model.types[parent].label


def _alternatives(
    index: int, row: int, weighed: Weighed, model: MarkerModel, ontology: CellOntology
) -> tuple[Alternative, ...]:
    """The next best types, without those above the answer."""
    scores, term = weighed.scores[row], model.types[index].ontology_id
    found: list[Alternative] = []
    for i in np.argsort(-scores, kind="stable"):
        cell_type = model.types[int(i)]
        if scores[i] <= 0 or len(found) == N_ALTERNATIVES:
            break
        if ontology.is_a(term, cell_type.ontology_id):
            continue
        behind = f"scores {scores[i]:.2f} against {scores[index]:.2f}"
        reason = f"a subtype; {behind}" if ontology.is_a(cell_type.ontology_id, term) else behind
        score = round(float(scores[i]), 4)
        found.append(Alternative(label=cell_type.label, ontology_id=cell_type.ontology_id, score=score, reason=reason))
    return tuple(found)
