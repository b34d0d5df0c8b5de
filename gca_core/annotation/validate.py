"""Check the labels of an AnnData, or of a file of one, against the marker evidence."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from gca_core.annotation.adata.files import open_data
from gca_core.annotation.adata.obs import broadcast_to_cells
from gca_core.annotation.config import PREFIX, TOP_N_MARKERS, AnnotationConfig
from gca_core.annotation.labels.given import LabelValidator, given_labels
from gca_core.annotation.labels.labelling import label_clusters, run_stats, species_markers
from gca_core.annotation.labels.offline import MIN_OVERLAP
from gca_core.annotation.markers.database import MarkerDatabase
from gca_core.annotation.markers.load import load_marker_database
from gca_core.annotation.models import Annotation, DatasetReport
from gca_core.annotation.observed import observed, request_id
from gca_core.annotation.pipeline import Options, Outcome, make_report, rank_and_weigh
from gca_core.annotation.run import AnnotationResult, options_of, replacing, write_results
from gca_core.annotation.timing import Stopwatch
from gca_core.errors import ConfigurationError, DataValidationError, MarkerDatabaseError
from gca_core.matrix.cells import check_name
from gca_core.matrix.methods import RankingMethod
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


def validate_anndata(
    adata: AnnData,
    label_column: str,
    *,
    cluster_key: str | None = None,
    ontology_column: str | None = None,
    species: str = "human",
    tissue: str | None = None,
    marker_db: str | os.PathLike[str] | MarkerDatabase | None = None,
    top_n_markers: int = TOP_N_MARKERS,
    prefix: str = PREFIX,
    layer: str | None = None,
    gene_symbols: str | None = None,
    ranking: RankingMethod = "t-test_overestim_var",
    ranking_key: str | None = None,
    min_overlap: int = MIN_OVERLAP,
    request_id: str | None = None,
) -> DatasetReport:
    """Judge the labels in a column of ``obs`` by the markers of their cells; no label is changed.

    Each group gets its label back with a status, flags, the evidence, and what the evidence would rather have as the
    first alternative. Flagged are labels that the Cell Ontology or the marker database doesn't know, ids that belong
    to another type, and labels that the markers speak against, or not for. A label that can't be told from its
    siblings stands where the evidence supports their common parent, with a caveat.

    Columns written, each with ``prefix``: status, flag_reasons, confidence, ontology_id (of the label),
    proposed_label (what the evidence would rather have, where the label is flagged), rationale, canonical_markers,
    mapping_notes. Options that are not explained here are those of :func:`gca_core.annotation.annotate_anndata`.

    Args:
        adata: log-normalised values or counts in X, raw or ``layer``; changed in its ``obs`` only.
        label_column: of ``obs``, with names or Cell Ontology ids of cell types.
        cluster_key: column of ``obs`` with the groups that are judged by their commonest label. None takes the labels
            as the groups.
        ontology_column: of ``obs``, with the Cell Ontology ids of the labels, which are checked against them.
        ranking_key: of a ranking in ``uns`` to use, of the groups that are judged; None ranks here.
        prefix: of the columns written; none of them may be one of the columns named here.

    Raises:
        DataValidationError: no such column, no labels, or no usable matrix or genes; nothing was written.
        ConfigurationError: an option is out of range, or the tissue or species isn't known.
        MarkerDatabaseError: the marker database can't be read.
    """
    options = Options(
        cluster_key=cluster_key or label_column,
        stored=ranking_key,
        species=species,
        tissue=tissue,
        marker_db=marker_db,
        top_n_markers=top_n_markers,
        prefix=prefix,
        layer=layer,
        gene_symbols=gene_symbols,
        ranking=ranking,
        min_overlap=min_overlap,
        request_id=request_id,
    )
    return judge_labels(adata, label_column, ontology_column, options).report


@observed
def validate_file(config: AnnotationConfig) -> AnnotationResult:
    """Judge the labels of the file that ``config`` names and write the results beside each other.

    They are those of :func:`gca_core.annotation.annotate_file`; the labels of the file stay as they are. No model is
    called, and corrections have no part in it.

    Raises:
        DataValidationError: missing or unreadable file, missing column, or unusable data.
        ConfigurationError, MarkerDatabaseError: as :func:`validate_anndata`, or no column of labels is named.
    """
    if config.label_column is None:
        raise ConfigurationError("no column of labels to judge is named; name it as label_column")
    if config.vocabulary is not None:
        raise ConfigurationError("labels that are judged stay as they are written; leave the vocabulary out")
    clock = Stopwatch()
    check_name(config.input_uri)
    config.check_input()
    options = replace(
        options_of(config, None, None),
        marker_db=config.marker_db,
        cluster_key=config.cluster_key or config.label_column,
        label_key=None,
    )
    with ExitStack() as stack:
        stack.enter_context(replacing(config.output_uri))
        with clock.stage("read"):
            data = stack.enter_context(open_data(config.input_uri, backed=config.backed))
        outcome = judge_labels(data.adata, config.label_column, config.ontology_column, options, clock)
        return write_results(config, data, outcome, clock)


@observed
def judge_labels(
    adata: AnnData, label_column: str, ontology_column: str | None, options: Options, clock: Stopwatch | None = None
) -> Outcome:
    """Judge the labels of ``adata``; see :func:`validate_anndata`. ``options`` name the groups as ``cluster_key``."""
    watch = clock or Stopwatch()
    _check(adata, label_column, ontology_column, options)
    with watch.stage("read"):
        markers = species_markers(options.marker_db, options.species)
    ranked = rank_and_weigh(adata, options, markers, watch)
    identifiers = None if ontology_column is None else adata.obs[ontology_column]
    with watch.stage("judge"):
        given = given_labels(ranked.groups, adata.obs[label_column], identifiers)
        alone, _ = label_clusters(
            ranked.clusters, ranked.evidence, ranked.knowledge, None, min_overlap=options.min_overlap
        )
        judge = LabelValidator.of(
            ranked.knowledge.model,
            ranked.knowledge.ontology,
            ranked.evidence,
            alone,
            min_overlap=options.min_overlap,
            ids_given=ontology_column is not None,
            elsewhere=_known_elsewhere(options.marker_db, options.species),
            borrowed=markers.borrowed,
        )
        annotations = [judge.judge(i, *pair) for i, pair in enumerate(zip(ranked.clusters, given, strict=True))]
    with watch.stage("write"):
        _write_obs(adata, ranked.groups, annotations, options.prefix, keep=ontology_column)
    stats = run_stats(watch, request_id(), None, 0)
    report = make_report(adata, options, ranked, markers, annotations, None, None, None)
    report = report.model_copy(update={"judged_column": label_column, "stats": stats})
    log.info("%d labels judged, %d flagged", len(annotations), report.n_flagged)
    return Outcome(report, ranked.groups, ranked.expression)


def _check(adata: AnnData, label_column: str, ontology_column: str | None, options: Options) -> None:
    wanted = {"label": label_column, "cluster": options.cluster_key, "ontology": ontology_column}
    require_columns(adata.obs.columns, wanted)
    if adata.obs[label_column].isna().all():
        raise DataValidationError(f"the label column {label_column!r} is empty: every cell's label is missing")
    taken = {f"{options.prefix}{name}" for name in WRITTEN} - {ontology_column}
    if clash := sorted(taken & {label_column, options.cluster_key}):
        raise ConfigurationError(
            f"the column {clash[0]!r} would be overwritten; choose another prefix than {options.prefix!r}"
        )
    if options.top_n_markers < 5:
        raise ConfigurationError(f"top_n_markers is {options.top_n_markers}; expected 5 or more")


def _known_elsewhere(marker_db: str | os.PathLike[str] | MarkerDatabase | None, species: str) -> frozenset[str]:
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
