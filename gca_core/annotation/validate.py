"""Check the labels of an AnnData, or of a file of one, against the marker evidence."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

import pandas as pd

from gca_core.annotation.adata.obs import broadcast_to_cells
from gca_core.annotation.config import AnnotationConfig, AnnotationOptions
from gca_core.annotation.inputs import Inputs, LabelKeywords, resolve, takes
from gca_core.annotation.labels.given import LabelValidator, given_labels
from gca_core.annotation.labels.labelling import MarkerInput, label_clusters
from gca_core.annotation.markers.database import MarkerDatabase
from gca_core.annotation.markers.load import load_marker_database
from gca_core.annotation.models import Annotation, DatasetReport
from gca_core.annotation.observed import observed, request_id
from gca_core.annotation.pipeline import Outcome, make_report, rank_and_weigh
from gca_core.annotation.run import AnnotationResult, opened, write_results
from gca_core.errors import ConfigurationError, DataValidationError, MarkerDatabaseError
from gca_core.matrix.peek import require_columns

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger(__name__)

WRITTEN = (
    "status",
    "flag_reasons",
    "confidence",
    "ontology_id",
    "proposed_label",
    "rationale",
    "canonical_markers",
    "mapping_notes",
)
_OTHER_SPECIES = {"human": "mouse", "mouse": "human"}


@observed
@takes(LabelKeywords)
def validate_anndata(adata: AnnData, labels_key: str, **keywords: Unpack[LabelKeywords]) -> DatasetReport:
    """Judge the labels in a column of ``obs`` by the markers of their cells; no label is changed.

    Each group gets its label back with a status, flags, the evidence, and what the evidence would rather have as the
    first alternative. Flagged are labels that the Cell Ontology or the marker database doesn't know, ids that belong
    to another type, and labels that the markers speak against, or not for. A label that can't be told from its
    siblings stands where the evidence supports their common parent, with a caveat.

    Columns written, each with ``prefix``: status, flag_reasons, confidence, ontology_id (of the label),
    proposed_label (what the evidence would rather have, where the label is flagged), rationale, canonical_markers,
    mapping_notes.

    Args:
        adata: log-normalised values or counts in X, raw or ``layer``; changed in its ``obs`` only.
        labels_key: column of ``obs`` with names or Cell Ontology ids of cell types.
        keywords: as for :func:`gca_core.annotation.annotate_anndata`, those that no label is made with, and:

            - cluster_key: column of ``obs`` with the groups that are judged by their commonest label. None takes the
              labels as the groups.
            - ontology_column: of ``obs``, with the Cell Ontology ids of the labels, which are checked against them.
            - ranking_key: of a ranking in ``uns`` to use, of the groups that are judged; None ranks here.
            - prefix: of the columns written; none of them may be one of the columns named here.

    Raises:
        DataValidationError: no such column, no labels, or no usable matrix or genes; nothing was written.
        ConfigurationError: an option is out of range, or the tissue or species isn't known.
        MarkerDatabaseError: the marker database can't be read.
    """
    return judge_labels(adata, labels_key, *resolve(**keywords)).report


@observed
def validate_file(config: AnnotationConfig) -> AnnotationResult:
    """Judge the labels of the file that ``config`` names and write the results beside each other.

    They are those of :func:`gca_core.annotation.annotate_file`; the labels of the file stay as they are. No model is
    called, and corrections have no part in it.

    Raises:
        DataValidationError: missing or unreadable file, missing column, or unusable data.
        ConfigurationError, MarkerDatabaseError: as :func:`validate_anndata`, or no column of labels is named.
    """
    if config.labels_key is None:
        raise ConfigurationError("no column of labels to judge is named; name it as labels_key")
    if config.vocabulary is not None:
        raise ConfigurationError("labels that are judged stay as they are written; leave the vocabulary out")
    with opened(config) as (data, inputs):
        outcome = judge_labels(data.adata, config.labels_key, config, inputs)
        return write_results(config, data, outcome, inputs.clock)


@observed
def judge_labels(adata: AnnData, labels_key: str, options: AnnotationOptions, inputs: Inputs) -> Outcome:
    """Judge the labels of ``adata``; see :func:`validate_anndata`."""
    options = options.model_copy(update={"cluster_key": options.cluster_key or labels_key})
    ontology_column, watch = options.ontology_column, inputs.clock
    _check(adata, labels_key, options)
    ranked = rank_and_weigh(adata, options, inputs)
    identifiers = None if ontology_column is None else adata.obs[ontology_column]
    with watch.stage("judge"):
        given = given_labels(ranked.groups, adata.obs[labels_key], identifiers)
        alone, _ = label_clusters(
            ranked.clusters, ranked.weighed, ranked.knowledge, None, min_overlap=options.min_overlap
        )
        judge = LabelValidator(
            ranked.knowledge.model,
            ranked.knowledge.ontology,
            ranked.weighed,
            alone,
            min_overlap=options.min_overlap,
            ids_given=ontology_column is not None,
            elsewhere=_known_elsewhere(inputs.marker_db, options.species),
            borrowed=inputs.markers.borrowed,
        )
        annotations = [judge.judge(i, *pair) for i, pair in enumerate(zip(ranked.clusters, given, strict=True))]
    with watch.stage("write"):
        _write_obs(adata, ranked.groups, annotations, options.prefix, keep=ontology_column)
    stats = watch.run_stats(request_id())
    report = make_report(adata, options, inputs, ranked, annotations)
    report = report.model_copy(update={"judged_column": labels_key, "stats": stats})
    log.info("%d labels judged, %d flagged", len(annotations), report.n_flagged)
    return Outcome(report, ranked.groups, ranked.expression)


def _check(adata: AnnData, labels_key: str, options: AnnotationOptions) -> None:
    wanted = {"label": labels_key, "cluster": options.cluster_key, "ontology": options.ontology_column}
    require_columns(adata.obs.columns, wanted)
    if adata.obs[labels_key].isna().all():
        raise DataValidationError(f"the label column {labels_key!r} is empty: every cell's label is missing")
    taken = {f"{options.prefix}{name}" for name in WRITTEN} - {options.ontology_column}
    if clash := sorted(taken & {labels_key, options.cluster_key}):
        raise ConfigurationError(
            f"the column {clash[0]!r} would be overwritten; choose another prefix than {options.prefix!r}"
        )


def _known_elsewhere(marker_db: MarkerInput, species: str) -> frozenset[str]:
    """The terms that the same marker table has for the other species, where it has any."""
    if isinstance(marker_db, MarkerDatabase):
        return frozenset()
    try:
        other = load_marker_database(marker_db, species=_OTHER_SPECIES[species])
    except MarkerDatabaseError:
        return frozenset()
    return frozenset(t.ontology_id for t in other.types)


def _write_obs(
    adata: AnnData, groups: pd.Series, annotations: Sequence[Annotation], prefix: str, *, keep: str | None
) -> None:
    columns: dict[str, list[str | None]] = {
        "status": [a.status.value for a in annotations],
        "flag_reasons": ["; ".join(a.flag_reasons) for a in annotations],
        "confidence": [a.confidence.value for a in annotations],
        "ontology_id": [a.ontology_id for a in annotations],
        "proposed_label": [a.proposed_label for a in annotations],
        "rationale": [a.rationale for a in annotations],
        "canonical_markers": [", ".join(g.gene for g in a.evidence.supporting) for a in annotations],
        "mapping_notes": ["; ".join(a.caveats) for a in annotations],
    }
    for name, values in columns.items():
        if f"{prefix}{name}" != keep:
            adata.obs[f"{prefix}{name}"] = broadcast_to_cells(groups, values)
