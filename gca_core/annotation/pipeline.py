"""The stages of an annotation: read, cluster, rank, weigh the evidence, label, correct, write."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import pandas as pd

from gca_core.annotation.adata.embedding import cell_graph
from gca_core.annotation.adata.expression import Expression, choose_matrix, prepare_expression
from gca_core.annotation.adata.obs import (
    broadcast_to_cells,
    check_columns,
    read_groups,
    write_columns,
)
from gca_core.annotation.adata.ranking import StoredRanking, rank_clusters, stored_markers, stored_ranking
from gca_core.annotation.config import AnnotationOptions
from gca_core.annotation.inputs import Inputs
from gca_core.annotation.labels.agreement import measure_agreement
from gca_core.annotation.labels.corrections import apply_corrections, keep_corrections, kept_corrections
from gca_core.annotation.labels.labelling import (
    Knowledge,
    SpeciesMarkers,
    gather_knowledge,
    label_clusters,
)
from gca_core.annotation.labels.vocabulary import in_vocabulary, tell_unnamed
from gca_core.annotation.models import Agreement, Annotation, ClusterMarkers, DatasetReport, ModelStats
from gca_core.annotation.observed import observed, request_id
from gca_core.annotation.opinions.join import hear, join, sources
from gca_core.annotation.scoring.evidence import first_informative, weigh_expression, weigh_lists
from gca_core.annotation.scoring.marker_model import Weighed
from gca_core.annotation.scoring.parameters import DEPTH
from gca_core.errors import DataValidationError
from gca_core.matrix.neighbours import NeighbourGraph

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anndata import AnnData

log = logging.getLogger(__name__)

# of which packages a report tells the version: those that its figures depend on
VERSIONS = ("airflow-provider-gca", "anndata", "igraph", "numpy", "scanpy", "scikit-learn")
# cells of a file that are clustered
MAX_EMBEDDED = 200_000


@dataclass(frozen=True)
class Outcome:
    """What an annotation found, beside the columns that it wrote.

    Attributes:
        groups: the cluster of each cell, categories in the order of the report's annotations.
        expression: that was used; None where only a stored ranking was.
        graph: of the cells, where they were clustered here.
    """

    report: DatasetReport
    groups: pd.Series
    expression: Expression | None
    graph: NeighbourGraph | None = None


@dataclass(frozen=True)
class Ranked:
    """Clusters with their genes, the evidence and what they are judged by."""

    groups: pd.Series
    clusters: list[ClusterMarkers]
    weighed: Weighed
    knowledge: Knowledge
    expression: Expression | None
    source: str
    method: str
    graph: NeighbourGraph | None = None


@observed
def annotate(adata: AnnData, options: AnnotationOptions, inputs: Inputs) -> Outcome:
    """Annotate ``adata``; see :func:`gca_core.annotation.annotate_anndata`."""
    _check(adata, options)
    watch, vocabulary = inputs.clock, inputs.vocabulary
    corrections = kept_corrections(adata).with_later(inputs.corrections.corrections)
    ranked = rank_and_weigh(adata, options, inputs)
    with watch.stage("annotate"):
        annotations, models = label_clusters(
            ranked.clusters,
            ranked.weighed,
            ranked.knowledge,
            inputs.annotator,
            min_overlap=options.min_overlap,
            force_unknown=options.force_unknown,
        )
    if inputs.reference is not None or options.opinion_column is not None or options.consensus:
        with watch.stage("opinions"):
            by_markers = None
            if options.consensus and inputs.annotator is not None:
                least = options.min_overlap
                by_markers, _ = label_clusters(
                    ranked.clusters, ranked.weighed, ranked.knowledge, None, min_overlap=least
                )
            others = hear(
                adata, ranked.groups, ranked.expression, ranked.knowledge, options, inputs.reference, by_markers
            )
            annotations = join(annotations, others, ranked.knowledge.ontology, consensus=options.consensus)
    annotations, overrides = apply_corrections(annotations, corrections)
    if vocabulary is not None:
        annotations = in_vocabulary(annotations, vocabulary)
        tell_unnamed(annotations, vocabulary)
    agreement = _agreement(adata, ranked, annotations, options.ontology_column or options.labels_key)
    report = make_report(adata, options, inputs, ranked, annotations, agreement, models)
    with watch.stage("write"):
        computed, named = report.clusters_computed, vocabulary is not None
        write_columns(adata, ranked.groups, annotations, options.prefix, computed=computed, vocabulary=named)
        keep_corrections(adata, corrections)
    report = report.model_copy(update={"stats": watch.run_stats(request_id(), models, overrides)})
    _log_outcome(report)
    return Outcome(report, ranked.groups, ranked.expression, ranked.graph)


def rank_and_weigh(adata: AnnData, options: AnnotationOptions, inputs: Inputs) -> Ranked:
    """The clusters with their ranked genes, computed or stored, and the evidence; nothing is written."""
    if inputs.ranking_key is None:
        return _computed(adata, options, inputs)
    return _stored(adata, options, inputs, inputs.ranking_key)


def package_versions(names: Iterable[str] = VERSIONS) -> dict[str, str]:
    """Versions of the installed packages among ``names``."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _check(adata: AnnData, options: AnnotationOptions) -> None:
    if adata.isbacked and adata.is_view:
        raise DataValidationError(
            "this is a part of a backed AnnData, which takes no new columns; use the whole, or the part's to_memory()"
        )
    check_columns(adata, options.cluster_key, options.ontology_column or options.labels_key)
    check_columns(adata, None, options.opinion_column)


def _computed(adata: AnnData, options: AnnotationOptions, inputs: Inputs) -> Ranked:
    """Clusters as they are or computed, ranked here."""
    watch, markers = inputs.clock, inputs.markers
    with watch.stage("read"):
        expression = _expression(adata, options, markers)
        knowledge = gather_knowledge(markers, expression.genes, species=options.species, tissue=options.tissue)
    with watch.stage("cluster"):
        groups, graph = _groups(adata, options, expression)
    n, codes = len(groups.cat.categories), groups.cat.codes.to_numpy()
    log.info("ranking genes of %d clusters over %d cells", n, adata.n_obs)
    with watch.stage("rank"):
        sums = expression.sums(codes, n)
        clusters = rank_clusters(expression, groups, sums, DEPTH * options.top_n_markers, options.ranking)
        clusters = [first_informative(cluster, knowledge.model, options.top_n_markers) for cluster in clusters]
    with watch.stage("weigh"):
        weighed = weigh_expression(expression, sums, knowledge.model)
    return Ranked(groups, clusters, weighed, knowledge, expression, expression.source, options.ranking, graph)


def _stored(adata: AnnData, options: AnnotationOptions, inputs: Inputs, key: str) -> Ranked:
    """Clusters with the ranking that the data brings; the expression weighs, too, where a matrix is usable."""
    watch, markers = inputs.clock, inputs.markers
    with watch.stage("rank"):
        ranking = stored_ranking(adata, key, cluster_key=options.cluster_key)
        check_columns(adata, ranking.cluster_key, None)
        groups = read_groups(adata, ranking.cluster_key)
        clusters = stored_markers(
            ranking,
            adata,
            groups,
            markers.database,
            species=options.species,
            gene_symbols=options.gene_symbols,
            n_top=DEPTH * options.top_n_markers,
        )
    with watch.stage("read"):
        expression, reason = _expression_if_usable(adata, options, markers)
        genes = None if expression is None else expression.genes
        knowledge = gather_knowledge(markers, genes, species=options.species, tissue=options.tissue)
    clusters = [first_informative(cluster, knowledge.model, options.top_n_markers) for cluster in clusters]
    if expression is None:
        log.info("the ranking alone is the evidence: %s", reason)
        weighed = weigh_lists(clusters, knowledge.model)
        return Ranked(groups, clusters, weighed, knowledge, None, _source(ranking, None), ranking.method)
    with watch.stage("weigh"):
        sums = expression.sums(groups.cat.codes.to_numpy(), len(groups.cat.categories))
        weighed = weigh_expression(expression, sums, knowledge.model, clusters)
    return Ranked(groups, clusters, weighed, knowledge, expression, _source(ranking, expression), ranking.method)


def _source(ranking: StoredRanking, expression: Expression | None) -> str:
    known = "no usable matrix" if expression is None else expression.source
    return f"{known}; ranking of uns[{ranking.key!r}]"


def _expression(adata: AnnData, options: AnnotationOptions, markers: SpeciesMarkers) -> Expression:
    return prepare_expression(
        choose_matrix(adata, options.layer),
        markers.database,
        species=options.species,
        gene_symbols=options.gene_symbols,
    )


def _expression_if_usable(
    adata: AnnData, options: AnnotationOptions, markers: SpeciesMarkers
) -> tuple[Expression | None, str | None]:
    """The expression, or why no matrix is usable; a layer that was named has to be."""
    try:
        choose_matrix(adata, options.layer)
    except DataValidationError as error:
        if options.layer is not None:
            raise
        return None, str(error)
    return _expression(adata, options, markers), None


def _groups(
    adata: AnnData, options: AnnotationOptions, expression: Expression
) -> tuple[pd.Series, NeighbourGraph | None]:
    """The clusters, and the graph of the cells where they are computed."""
    if options.cluster_key is not None:
        return read_groups(adata, options.cluster_key), None
    if not expression.in_memory and expression.n_cells > MAX_EMBEDDED:
        raise DataValidationError(
            f"no cluster column is named, and the {expression.n_cells:,} cells lie in a file: clusters are computed of "
            f"{MAX_EMBEDDED:,} cells at most there. name the column with the clusters as cluster_key, cluster the "
            "cells first, with scanpy.tl.leiden, or read the file into memory (backed=False)"
        )
    graph = cell_graph(expression, options.seed)
    found = graph.leiden(resolution=options.resolution, seed=options.seed)
    names = pd.Index([str(i) for i in range(found.max() + 1)], dtype=object)
    log.info("%d clusters found at resolution %g", len(names), options.resolution)
    return pd.Series(pd.Categorical.from_codes(found, categories=names), index=adata.obs_names), graph


def _agreement(
    adata: AnnData, ranked: Ranked, annotations: list[Annotation], labels_key: str | None
) -> Agreement | None:
    if labels_key is None:
        return None
    predicted = broadcast_to_cells(ranked.groups, [a.ontology_id for a in annotations])
    return measure_agreement(predicted, adata.obs[labels_key], ranked.knowledge.ontology, clusters=ranked.groups)


def make_report(
    adata: AnnData,
    options: AnnotationOptions,
    inputs: Inputs,
    ranked: Ranked,
    annotations: Sequence[Annotation],
    agreement: Agreement | None = None,
    models: ModelStats | None = None,
) -> DatasetReport:
    """The report of annotations, without statistics of the run."""
    annotator, vocabulary = inputs.annotator, inputs.vocabulary
    computed = options.cluster_key is None and inputs.ranking_key is None
    named = str(ranked.groups.name) if inputs.ranking_key else options.cluster_key
    return DatasetReport(
        annotations=tuple(annotations),
        n_cells=adata.n_obs,
        n_genes=adata.n_vars if ranked.expression is None else len(ranked.expression.genes),
        cluster_key=f"{options.prefix}cluster" if computed or named is None else named,
        clusters_computed=computed,
        species=options.species,
        tissue=options.tissue,
        prefix=options.prefix,
        matrix=ranked.source,
        annotator="offline" if annotator is None else "llm",
        model=None if annotator is None else annotator.name,
        model_stats=models,
        ranking=ranked.method,
        top_n_markers=options.top_n_markers,
        seed=options.seed,
        marker_database=inputs.markers.info,
        vocabulary=None if vocabulary is None else vocabulary.info,
        opinions=sources(options, inputs.reference, by_model=annotator is not None),
        ontology_version=ranked.knowledge.ontology.version,
        agreement=agreement,
        versions=package_versions(),
    )


def _log_outcome(report: DatasetReport) -> None:
    log.info("%d clusters annotated, %d flagged", len(report.annotations), report.n_flagged)
    if report.agreement is not None:
        log.info(
            "agreement with %s: %.1f %% of cells the same or related, %.1f %% the same",
            report.agreement.column,
            100 * report.agreement.related,
            100 * report.agreement.exact,
        )
