"""What several sources say of the clusters, set beside the markers' labels or joined with them by majority."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from gca_core.annotation.adata.expression import Expression
from gca_core.annotation.adata.obs import as_groups
from gca_core.annotation.config import AnnotationOptions
from gca_core.annotation.labels.labelling import Knowledge
from gca_core.annotation.labels.names import common_name
from gca_core.annotation.llm.consensus import Vote, find_consensus
from gca_core.annotation.models import UNKNOWN, Annotation, Confidence, FlagReason, Opinion, Status
from gca_core.annotation.opinions.reference import Reference, label_by_reference
from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.ontology import CellOntology
from gca_core.matrix.ranking import rank_genes
from gca_core.matrix.stats import univariate_model

if TYPE_CHECKING:
    from anndata import AnnData

MARKERS, ULM, REFERENCE = "markers", "ULM", "reference"
# fewest measured markers of a type, as decoupler has it
MIN_TARGETS = 5


def sources(options: AnnotationOptions, reference: Reference | None, *, by_model: bool) -> tuple[str, ...]:
    """What is heard beside the markers or the model, for the report."""
    heard = [MARKERS] if options.consensus and by_model else []
    heard += [f"{ULM} on cells"] if options.consensus else []
    heard += [] if reference is None else [reference.name]
    heard += [] if options.opinion_column is None else [f"column {options.opinion_column}"]
    joined = "joined by majority" if options.consensus else "beside the label"
    return (*heard, joined) if heard else ()


def hear(
    adata: AnnData,
    groups: pd.Series,
    expression: Expression | None,
    knowledge: Knowledge,
    options: AnnotationOptions,
    reference: Reference | None,
    by_markers: Sequence[Annotation] | None = None,
) -> list[list[Opinion]]:
    """What each source says, all but the one whose labels are there already, of each cluster.

    Args:
        by_markers: the markers' labels, where those that are there are a model's; None hears no markers.

    Raises:
        DataValidationError: there is no expression to compare cells by, or too few genes are shared.
    """
    if expression is None and (reference is not None or options.consensus):
        raise DataValidationError("a reference and ULM compare cells: store log-normalised values or counts, too")
    heard = [] if by_markers is None else [[_opinion(MARKERS, a) for a in by_markers]]
    if options.consensus and expression is not None:
        heard.append(_by_ulm(expression, groups, knowledge))
    if reference is not None and expression is not None:
        found = label_by_reference(expression, reference, knowledge.ontology)
        heard.append(_of_clusters(REFERENCE, found["label"], groups, knowledge.ontology))
    if options.opinion_column is not None:
        labels = adata.obs[options.opinion_column]
        heard.append(_of_clusters(options.opinion_column, labels, groups, knowledge.ontology))
    return [list(opinions) for opinions in zip(*heard, strict=True)]


def join(
    annotations: Sequence[Annotation],
    others: Sequence[Sequence[Opinion]],
    ontology: CellOntology,
    *,
    consensus: bool,
) -> list[Annotation]:
    """The annotations with all opinions; where they are joined, with what more than half of them agree on.

    A label stays where there is no majority. Flagged are clusters without one, and without ``consensus`` those of which
    a source says something that is neither above nor below the label on the ontology.
    """
    return [_joined(a, opinions, ontology, consensus) for a, opinions in zip(annotations, others, strict=True)]


def _joined(own: Annotation, others: Sequence[Opinion], ontology: CellOntology, consensus: bool) -> Annotation:
    named = MARKERS if own.annotator == "offline" else "model"
    opinions = (_opinion(named, own), *others)
    known = own.model_copy(update={"opinions": opinions})
    if not consensus:
        term = own.ontology_id
        against = [o for o in others if o.ontology_id and term and not _on_one_line(o.ontology_id, term, ontology)]
        return _disagreeing(known) if against else known
    votes = [Vote(o.source, o.label or UNKNOWN, o.ontology_id) for o in opinions]
    found = find_consensus(votes, ontology, lambda term: sum(o.ontology_id == term for o in opinions))
    if not found.agreed or found.term is None:
        return _disagreeing(known)
    if found.term == own.ontology_id:
        return known
    told = f"{found.support} of {len(votes)} opinions agree on this label; that of the {named} is {own.primary_label}"
    return known.model_copy(
        update={
            "primary_label": ontology.label(found.term),
            "ontology_id": found.term,
            "common_name": common_name(found.term),
            "confidence": Confidence.MEDIUM if found.support == len(votes) else Confidence.LOW,
            "proposed_label": None,
            "caveats": (told, *own.caveats),
        }
    )


def _opinion(source: str, annotation: Annotation) -> Opinion:
    label = None if annotation.ontology_id is None else annotation.primary_label
    return Opinion(source=source, label=label, ontology_id=annotation.ontology_id)


def _disagreeing(annotation: Annotation) -> Annotation:
    return annotation.model_copy(
        update={
            "confidence": Confidence.LOW,
            "status": Status.FLAGGED,
            "flag_reasons": (*annotation.flag_reasons, FlagReason.OPINIONS_DISAGREE),
        }
    )


def _on_one_line(a: str, b: str, ontology: CellOntology) -> bool:
    return ontology.is_a(a, b) or ontology.is_a(b, a)


def _of_clusters(source: str, labels: pd.Series, groups: pd.Series, ontology: CellOntology) -> list[Opinion]:
    """The commonest label of each cluster's cells; none where most of its cells have none."""
    cells = as_groups(labels)
    names, codes, of = list(cells.cat.categories), cells.cat.codes.to_numpy(), groups.cat.codes.to_numpy()
    found = []
    for i in range(len(groups.cat.categories)):
        mine = codes[of == i]
        counts = np.bincount(mine[mine >= 0], minlength=1)
        if 2 * counts.sum() <= len(mine):
            found.append(Opinion(source=source, label=None, ontology_id=None))
            continue
        label, share = str(names[counts.argmax()]), round(float(counts.max() / len(mine)), 4)
        found.append(Opinion(source=source, label=label, ontology_id=ontology.resolve(label), share=share))
    return found


def _by_ulm(expression: Expression, groups: pd.Series, knowledge: Knowledge) -> list[Opinion]:
    """The type whose univariate linear model stands out most in each cluster's cells, as decoupler has it."""
    types = [t for t, near in zip(knowledge.model.types, knowledge.model.near, strict=True) if near]
    at = {gene: j for j, gene in enumerate(expression.genes)}
    listed = [[at[gene] for gene in t.positive if gene in at] for t in types]
    measured = [i for i, genes in enumerate(listed) if len(genes) >= MIN_TARGETS]
    columns = [j for i in measured for j in listed[i]]
    rows = [k for k, i in enumerate(measured) for _ in listed[i]]
    shape = (len(measured), len(expression.genes))
    weights = sp.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)
    scores = np.vstack([univariate_model(weights, chunk).astype(np.float32) for chunk in expression.values.chunks()])
    names = [types[i].ontology_id for i in measured]
    ranked = rank_genes(scores, names, groups, n_top=1, method="t-test_overestim_var")
    best = [term if score > 0 else None for term, score in zip(ranked["gene"], ranked["score"], strict=True)]
    labels = [None if term is None else knowledge.ontology.label(term) for term in best]
    return [Opinion(source=ULM, label=a, ontology_id=b) for a, b in zip(labels, best, strict=True)]
