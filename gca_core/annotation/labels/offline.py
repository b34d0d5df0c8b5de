"""The offline annotator: the label that the weighed evidence supports, at the level it supports."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

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
from gca_core.annotation.scoring.confidence import CALIBRATION, Metrics, measure
from gca_core.annotation.scoring.marker_model import Array, MarkerModel, own_scores, total_scores
from gca_core.annotation.scoring.parameters import (
    CONTRADICTION_SHARE,
    FEW_MARKERS,
    LACKING,
    MIN_OVERLAP,
    MIN_SCORE,
    MIXTURE_SHARE,
    N_ALTERNATIVES,
    N_NEIGHBORS_NAMED,
    NOTABLE,
    OWN_GAIN,
    STRONG,
    SUBTYPE_GAIN,
    SUBTYPE_SHARE,
    TIE,
)
from gca_core.errors import ConfigurationError
from gca_core.knowledge.bundled.ontology import CellOntology

_TIED = "the evidence can't tell these apart, so their common parent is given"


@dataclass(frozen=True)
class _Scored:
    """One cluster's evidence (g,) and the scores of all types (t,)."""

    evidence: Array
    support: Array
    contradiction: Array
    total: Array


@dataclass(frozen=True)
class _Answer:
    """The chosen term, the type of the model that stands for it, and what it couldn't be told apart from.

    ``tied`` types have the term as their common parent; ``rivals`` are unrelated types that score as well.
    """

    term: str
    index: int
    tied: tuple[int, ...] = ()
    rivals: tuple[int, ...] = ()


def annotate_clusters(
    clusters: Sequence[ClusterMarkers],
    evidence: Array,
    model: MarkerModel,
    ontology: CellOntology,
    *,
    min_overlap: int = MIN_OVERLAP,
) -> list[Annotation]:
    """Label each cluster by weighed marker evidence.

    Scores add up along the ontology; the best one is the label. Where others come within a tenth of it, the
    answer is their common parent, if the marker database knows that or something above it; where a type above comes
    as close and the best one has no marker of its own to show, it is the one above. Fewer than
    ``min_overlap`` supporting markers, or a score below 1, make the label ``Unknown or Novel``. A cluster whose
    ranking leaves out others alike is called what they have in common, at Medium confidence at most.

    Args:
        clusters: n clusters.
        evidence: (n, g), -1 to 1, over the genes of ``model``.
        model: the marker database over the measured genes.
        ontology: the Cell Ontology.
        min_overlap: fewest supporting markers.

    Raises:
        ConfigurationError: ``min_overlap`` below one.
    """
    if min_overlap < 1:
        raise ConfigurationError(f"min_overlap is {min_overlap}; expected at least one marker")
    return [
        _finish(c, _shared(c, _answer(scored, model, ontology), model, ontology), scored, model, ontology, min_overlap)
        for c, scored in zip(clusters, _scores(evidence, model), strict=True)
    ]


def has_known_level(terms: Sequence[str], model: MarkerModel, ontology: CellOntology) -> bool:
    """Whether the marker database knows the common parent of the terms, or something above it."""
    parent = ontology.common_parent(terms)
    return any(ontology.is_a(parent, t.ontology_id) for t in model.types)


def guess_clusters(
    clusters: Sequence[ClusterMarkers], evidence: Array, model: MarkerModel, ontology: CellOntology
) -> list[tuple[str, Metrics]]:
    """The term that the evidence points to, however little it is, and the metrics of the confidence.

    The calibration is fitted to these; see :func:`annotate_clusters`.
    """
    answers = [_answer(scored, model, ontology) for scored in _scores(evidence, model)]
    return [
        (answer.term, measure(cluster, answer.index, model, row))
        for cluster, answer, row in zip(clusters, answers, evidence, strict=True)
    ]


def judge_label(
    cluster: ClusterMarkers,
    term: str,
    evidence: Array,
    own: tuple[Array, Array],
    model: MarkerModel,
    ontology: CellOntology,
    *,
    min_overlap: int = MIN_OVERLAP,
) -> Annotation | None:
    """The evidence for a label that somebody else gave, by the rules of :func:`annotate_clusters`.

    A term without markers of its own is judged by its nearest ancestor that has some, or else by the best type
    below it; a caveat says so, and the confidence is Medium at most.

    Args:
        cluster: the cluster.
        term: a Cell Ontology id.
        evidence: (g,) of this cluster.
        own: its rows (t,) of :func:`gca_core.annotation.scoring.marker_model.own_scores`, computed once for all.
        model, ontology, min_overlap: as there.

    Returns:
        None if the marker database has no type on the term's line.
    """
    support, contradiction = own
    scored = _Scored(evidence, support, contradiction, total_scores(model, support[None], contradiction[None])[0])
    stand_in = _stand_in(term, scored.total, model, ontology)
    if stand_in is None:
        return None
    judging = model.types[stand_in].ontology_id
    level = judging if ontology.is_a(term, judging) else term
    rivals = tuple(
        int(i)
        for i in np.argsort(-scored.total, kind="stable")
        if scored.total[i] > 0
        and scored.total[i] >= (1.0 - TIE) * scored.total[stand_in]
        and not _on_one_line(model.types[int(i)].ontology_id, level, ontology)
    )
    # siblings that score alike limit the confidence by their margin alone
    notable = tuple(i for i in rivals if not _siblings(level, i, stand_in, scored.total, model, ontology))
    answer = _Answer(level, stand_in, tied=() if judging == term else (stand_in,), rivals=notable[:N_ALTERNATIVES])
    judged = _finish(cluster, answer, scored, model, ontology, min_overlap)
    if judging == term:
        return judged
    label = ontology.label(term)
    unknown = judged.ontology_id is None
    return judged.model_copy(
        update={
            "primary_label": judged.primary_label if unknown else label,
            "ontology_id": None if unknown else term,
            "common_name": None if unknown else common_name(term),
            "proposed_label": label if unknown else None,
            "caveats": (
                f"the marker database has no markers for {label}; judged by {model.types[stand_in].label}",
                *(c for c in judged.caveats if not c.startswith(_TIED)),
            ),
        }
    )


def _stand_in(term: str, total: Array, model: MarkerModel, ontology: CellOntology) -> int | None:
    """The type of the model that a term is judged by: its own, the nearest above, the best below, or none."""
    above = {term: 0} | dict(ontology.ancestors(term))
    known = [(above[t.ontology_id], i) for i, t in enumerate(model.types) if t.ontology_id in above]
    if known:
        return min(known)[1]
    below = [i for i, t in enumerate(model.types) if ontology.is_a(t.ontology_id, term)]
    return max(below, key=lambda i: float(total[i]), default=None)


def _siblings(level: str, rival: int, index: int, total: Array, model: MarkerModel, ontology: CellOntology) -> bool:
    """Whether a rival that scores about alike shares a parent that the marker database knows about."""
    if total[rival] * (1.0 - TIE) > total[index]:
        return False
    return has_known_level([level, model.types[rival].ontology_id], model, ontology)


def _scores(evidence: Array, model: MarkerModel) -> list[_Scored]:
    """One for each row of the evidence."""
    support, contradiction = own_scores(model, evidence)
    return [
        _Scored(*row)
        for row in zip(evidence, support, contradiction, total_scores(model, support, contradiction), strict=True)
    ]


def _answer(scored: _Scored, model: MarkerModel, ontology: CellOntology) -> _Answer:
    answer = _raised(_choose(scored.total, model, ontology), scored, model, ontology)
    if answer.tied:
        return answer
    answer = replace(answer, **_refined(answer, scored, model, ontology))
    return replace(answer, rivals=answer.rivals or _mixed_in(answer, scored, model))


def _finish(
    cluster: ClusterMarkers,
    answer: _Answer,
    scored: _Scored,
    model: MarkerModel,
    ontology: CellOntology,
    min_overlap: int,
) -> Annotation:
    found = _gather(answer, scored, model, ontology)
    label = ontology.label(answer.term)
    metrics = measure(cluster, answer.index, model, scored.evidence)
    flags = _flags(answer, found, model.factor[answer.index], cluster, min_overlap, metrics)
    unknown = FlagReason.LOW_MARKER_OVERLAP in flags or FlagReason.NO_MARKERS_SUPPLIED in flags
    return Annotation(
        cluster=cluster.cluster,
        n_cells=cluster.n_cells,
        primary_label=UNKNOWN if unknown else label,
        ontology_id=None if unknown else answer.term,
        confidence=_confidence(found, flags, answer, cluster, metrics),
        status=Status.FLAGGED if flags else Status.SUPPORTED,
        flag_reasons=flags,
        rationale=_rationale(label, found, unknown),
        caveats=_caveats(answer, cluster, model),
        alternatives=_alternatives(answer, scored.total, model, ontology),
        markers=tuple(g.gene for g in cluster.genes),
        proposed_label=label if unknown and found.supporting else None,
        evidence=found,
        common_name=None if unknown else common_name(answer.term),
        confidence_score=round(CALIBRATION.right.at(metrics), 4),
    )


def _choose(total: Array, model: MarkerModel, ontology: CellOntology) -> _Answer:
    """The best type, or the common parent of those that come too close to it."""
    best = int(np.argmax(total))
    term = model.types[best].ontology_id
    if total[best] <= 0:
        return _Answer(term, best)
    close = (int(i) for i in np.flatnonzero(total >= (1.0 - TIE) * total[best]))
    rivals = tuple(i for i in close if not _on_one_line(term, model.types[i].ontology_id, ontology))
    if not rivals:
        return _Answer(term, best)
    terms = [term, *(model.types[i].ontology_id for i in rivals)]
    if has_known_level(terms, model, ontology):
        return _Answer(ontology.common_parent(terms), best, tied=(best, *rivals))
    return _Answer(term, best, rivals=rivals)


def _shared(cluster: ClusterMarkers, answer: _Answer, model: MarkerModel, ontology: CellOntology) -> _Answer:
    """The answer, at the level that it has in common with the clusters that the ranking leaves out."""
    parent = ontology.common_parent([answer.term, *cluster.excluded_neighbor_terms])
    if parent == answer.term:
        return answer
    others = (
        i for i, t in enumerate(model.types) if t.ontology_id in cluster.excluded_neighbor_terms and i != answer.index
    )
    return replace(answer, term=parent, tied=(answer.index, *others))


def _raised(answer: _Answer, scored: _Scored, model: MarkerModel, ontology: CellOntology) -> _Answer:
    """The nearest type above that scores about as well, where the answer has no marker of its own to show."""
    if answer.tied or answer.rivals:
        return answer
    above = dict(ontology.ancestors(answer.term))
    alike = [
        (above[t.ontology_id], i)
        for i, t in enumerate(model.types)
        if t.ontology_id in above
        and scored.total[i] >= (1.0 - TIE) * scored.total[answer.index]
        and _gain(answer.index, i, scored.evidence, model) < OWN_GAIN
    ]
    if not alike:
        return answer
    _, index = min(alike)
    return _Answer(model.types[index].ontology_id, index)


def _mixed_in(answer: _Answer, scored: _Scored, model: MarkerModel) -> tuple[int, ...]:
    """The strongest type of another lineage that genes foreign to the answer support, as in doublets."""
    score = float(scored.total[answer.index])
    if score <= 0:
        return ()
    foreign = np.where(model.positive[answer.index] > 0, 0.0, np.maximum(scored.evidence, 0.0))
    support, _ = own_scores(model, foreign[None, :])
    other = np.where(model.same_lineage[answer.index], 0.0, support[0] * model.factor)
    strongest = int(np.argmax(other))
    return (strongest,) if other[strongest] >= MIXTURE_SHARE * score else ()


def _refined(answer: _Answer, scored: _Scored, model: MarkerModel, ontology: CellOntology) -> dict[str, Any]:
    """The subtype of the answer that markers of its own tell apart from it, or nothing.

    Where several subtypes do so about equally well, the answer stays where it is.
    """
    below = [
        i
        for i, t in enumerate(model.types)
        if i != answer.index
        and ontology.is_a(t.ontology_id, answer.term)
        and scored.total[i] >= SUBTYPE_SHARE * scored.total[answer.index]
    ]
    gains = {i: _gain(i, answer.index, scored.evidence, model) for i in below}
    best = max(gains, key=lambda i: (gains[i], -i), default=answer.index)
    if gains.get(best, 0.0) < SUBTYPE_GAIN:
        return {}
    name = model.types[best].ontology_id
    close = [i for i in below if gains[i] >= (1.0 - TIE) * gains[best]]
    if any(not _on_one_line(model.types[i].ontology_id, name, ontology) for i in close):
        return {}
    return {"term": name, "index": best}


def _gain(subtype: int, above: int, evidence: Array, model: MarkerModel) -> float:
    """The evidence for a subtype by markers that the type above it doesn't list, in units of their joint size."""
    weights = model.positive[subtype] * (model.listed[subtype] & ~model.listed[above])
    against = model.negative[subtype] * (model.negative[above] == 0)
    size = max(float(np.sqrt((weights**2).sum())), 1e-12)
    return float(evidence @ weights - np.maximum(evidence, 0.0) @ against) / size


def _on_one_line(a: str, b: str, ontology: CellOntology) -> bool:
    return ontology.is_a(a, b) or ontology.is_a(b, a)


def _gather(answer: _Answer, scored: _Scored, model: MarkerModel, ontology: CellOntology) -> Evidence:
    """The genes behind the answer: those of its type and, where types are tied, of them all."""
    used = list(answer.tied) or [answer.index]
    unrelated = [
        scored.total[i] for i, t in enumerate(model.types) if not _on_one_line(t.ontology_id, answer.term, ontology)
    ]
    score = float(scored.total[answer.index])
    return Evidence(
        supporting=_genes(model.positive, scored.evidence, used, model, sign=1.0),
        contradicting=_genes(model.negative, scored.evidence, used, model, sign=-1.0),
        missing=_missing(used, scored.evidence, model),
        support=round(float(scored.support[answer.index]), 4),
        contradiction=round(float(scored.contradiction[answer.index]), 4),
        score=round(score, 4),
        margin=round(score - float(max(unrelated, default=0.0)), 4),
    )


def _genes(
    weights: Array, evidence: Array, used: Sequence[int], model: MarkerModel, *, sign: float
) -> tuple[GeneEvidence, ...]:
    rows = {
        gene: GeneEvidence(
            gene=gene, weight=round(float(sign * weights[i, j] * evidence[j]), 4), marks=model.types[i].label
        )
        for i in used
        for j, gene in enumerate(model.genes)
        if weights[i, j] > 0 and evidence[j] >= NOTABLE
    }
    return tuple(sorted(rows.values(), key=lambda row: (-abs(row.weight), row.gene)))


def _missing(used: Sequence[int], evidence: Array, model: MarkerModel) -> tuple[str, ...]:
    absent = [model.genes[j] for j in np.flatnonzero(evidence <= LACKING)]
    return tuple(g for g in absent if any(model.types[i].positive.get(g, 0.0) >= STRONG for i in used))


def _flags(
    answer: _Answer, found: Evidence, factor: float, cluster: ClusterMarkers, min_overlap: int, metrics: Metrics
) -> tuple[FlagReason, ...]:
    flags = []
    if not cluster.genes:
        flags.append(FlagReason.NO_MARKERS_SUPPLIED)
    recognised = metrics.kinship > 0 and CALIBRATION.recognised.at(metrics) >= CALIBRATION.unknown
    if len(found.supporting) < min_overlap or found.score < MIN_SCORE or not recognised:
        flags.append(FlagReason.LOW_MARKER_OVERLAP)
    if found.contradiction > CONTRADICTION_SHARE * max(found.support, 0.0) and found.contradicting:
        flags.append(FlagReason.CONTRADICTORY_MARKERS)
    # a type that no marker speaks for stands for nothing, so its tissue says nothing
    if factor < 1.0 and found.supporting:
        flags.append(FlagReason.TISSUE_MISMATCH)
    if answer.rivals:
        flags.append(FlagReason.AMBIGUOUS_EVIDENCE)
    return tuple(flags)


def _confidence(
    found: Evidence, flags: Sequence[FlagReason], answer: _Answer, cluster: ClusterMarkers, metrics: Metrics
) -> Confidence:
    """The calibrated level; Low where evidence is thin, contradicted or ambiguous; other doubts allow Medium."""
    thin = {
        FlagReason.LOW_MARKER_OVERLAP,
        FlagReason.NO_MARKERS_SUPPLIED,
        FlagReason.CONTRADICTORY_MARKERS,
        FlagReason.AMBIGUOUS_EVIDENCE,
    }
    probability = CALIBRATION.right.at(metrics)
    if thin & set(flags) or found.score <= 0 or probability < CALIBRATION.medium:
        return Confidence.LOW
    if flags or answer.tied or cluster.excluded_neighbors or len(found.supporting) < FEW_MARKERS:
        return Confidence.MEDIUM
    return Confidence.HIGH if probability >= CALIBRATION.high else Confidence.MEDIUM


def _rationale(label: str, found: Evidence, unknown: bool) -> str:
    names = ", ".join(g.gene for g in found.supporting[:6]) or "no markers"
    text = f"{label}: {len(found.supporting)} markers found ({names})"
    if found.contradicting:
        text += f"; against it {', '.join(g.gene for g in found.contradicting[:4])}"
    if found.missing:
        text += f"; absent {', '.join(found.missing[:4])}"
    return f"too little evidence for a label; nearest is {text}" if unknown else text


def _caveats(answer: _Answer, cluster: ClusterMarkers, model: MarkerModel) -> tuple[str, ...]:
    caveats = []
    if cluster.excluded_neighbors:
        more = len(cluster.excluded_neighbors) - N_NEIGHBORS_NAMED
        names = ", ".join(cluster.excluded_neighbors[:N_NEIGHBORS_NAMED]) + (f" and {more} more" if more > 0 else "")
        caveats.append(
            f"its markers don't stand out beside the clusters most like it, so it was ranked without {names}"
        )
    if answer.tied:
        names = ", ".join(sorted(model.types[i].label for i in answer.tied))
        caveats.append(f"{_TIED}: {names}")
    if answer.rivals:
        names = ", ".join(model.types[i].label for i in answer.rivals)
        caveats.append(f"unrelated types score almost as well, as in a mixture or doublets: {names}")
    return tuple(caveats)


def _alternatives(answer: _Answer, total: Array, model: MarkerModel, ontology: CellOntology) -> tuple[Alternative, ...]:
    """The next best types, without those above the answer."""
    found: list[Alternative] = []
    best = float(total[answer.index])
    for i in np.argsort(-total, kind="stable"):
        cell_type = model.types[int(i)]
        if total[i] <= 0 or len(found) == N_ALTERNATIVES:
            break
        if ontology.is_a(answer.term, cell_type.ontology_id):
            continue
        behind = f"scores {total[i]:.2f} against {best:.2f}"
        reason = f"a subtype; {behind}" if ontology.is_a(cell_type.ontology_id, answer.term) else behind
        found.append(
            Alternative(
                label=cell_type.label, ontology_id=cell_type.ontology_id, score=round(float(total[i]), 4), reason=reason
            )
        )
    return tuple(found)
