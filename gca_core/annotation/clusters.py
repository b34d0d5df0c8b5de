"""Labels for the clusters of an AnnData."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from gca_core.annotation.agreement import measure_agreement
from gca_core.annotation.embedding import leiden_clusters, principal_components
from gca_core.annotation.evidence import expression_evidence
from gca_core.annotation.inputs import Expression, read_expression
from gca_core.annotation.llm_labels import LlmAnnotator, ModelInput, as_annotator
from gca_core.annotation.llm_models import LlmOptions
from gca_core.annotation.markers import MarkerDatabase, load_marker_database
from gca_core.annotation.models import (
    Agreement,
    Annotation,
    ClusterMarkers,
    DatasetReport,
    MarkerDatabaseInfo,
    RankedGene,
)
from gca_core.annotation.offline import MIN_OVERLAP, annotate_clusters
from gca_core.annotation.scoring import build_model
from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.knowledge.ontology import load_ontology
from gca_core.matrix.ranking import RankingMethod, rank_genes

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger(__name__)

TOP_N_MARKERS = 30
PREFIX = "gptca_"


def annotate_anndata(
    adata: AnnData,
    cluster_key: str | None,
    *,
    species: str = "human",
    tissue: str | None = None,
    marker_db: str | os.PathLike[str] | MarkerDatabase | None = None,
    top_n_markers: int = TOP_N_MARKERS,
    prefix: str = PREFIX,
    label_key: str | None = None,
    layer: str | None = None,
    ranking: RankingMethod = "t-test_overestim_var",
    resolution: float = 1.0,
    min_overlap: int = MIN_OVERLAP,
    seed: int = 0,
    model: ModelInput | LlmAnnotator | None = None,
    llm_options: LlmOptions | None = None,
) -> DatasetReport:
    """Label every cluster of ``adata`` by its markers and write the labels to its ``obs``.

    Columns written, each with ``prefix``: label, ontology_id, confidence, status, proposed_label, rationale,
    canonical_markers, mapping_notes; and ``cluster`` where the clusters were computed here.

    Args:
        adata: log-normalised values or counts in X, raw or ``layer``; changed in its ``obs`` only.
        cluster_key: column of ``obs`` with the clusters, of any kind; cells without one stay without a label.
            None computes Leiden clusters.
        species: ``human``, or ``mouse``, whose symbols are matched with human ones by their letters.
        tissue: where the cells are from; cell types that aren't known there need more evidence.
        marker_db: a marker database or the file of one; None means the bundled one.
        top_n_markers: genes ranked per cluster, 5 or more.
        prefix: of the columns written.
        label_key: column of ``obs`` with known labels, to measure agreement.
        layer: the layer to read; None means to look.
        ranking: the test, as scanpy names it.
        resolution: of the Leiden clusters.
        min_overlap: fewest supporting markers of a label.
        seed: of everything random.
        model: a chat model as ``provider:model``, or several that have to agree; their labels are judged by the
            same evidence. None works offline and calls nothing, whatever keys the environment holds.
        llm_options: how the model is asked, its budget and the cache of its answers.

    Raises:
        DataValidationError: no such column, no clusters, or no usable matrix or genes; nothing was written.
        ConfigurationError: an option is out of range, or the tissue or species isn't known.
        MarkerDatabaseError: the marker database can't be read.
    """
    _check_options(adata, cluster_key, label_key, top_n_markers, resolution)
    annotator = as_annotator(model, llm_options)
    ontology = load_ontology()
    database = marker_db if isinstance(marker_db, MarkerDatabase) else load_marker_database(marker_db, species="human")
    expression = read_expression(adata, database, layer=layer, species=species)
    marker_model = build_model(database, expression.genes, ontology, tissue=tissue)
    groups = _groups(adata, cluster_key, expression, resolution, seed)
    names = [str(name) for name in groups.cat.categories]
    log.info("ranking genes of %d clusters over %d cells", len(names), adata.n_obs)
    clusters = _rank(expression, groups, top_n_markers, ranking)
    evidence = expression_evidence(expression, groups.cat.codes.tolist(), clusters, marker_model)
    stats = None
    if annotator is None:
        annotations = annotate_clusters(clusters, evidence, marker_model, ontology, min_overlap=min_overlap)
    else:
        annotations, stats = annotator.annotate(
            clusters,
            evidence,
            marker_model,
            ontology,
            species=species,
            tissue=tissue,
            marker_database=database.content_hash,
            min_overlap=min_overlap,
        )
    agreement = None
    if label_key is not None:
        predicted = _per_cell(groups, [a.ontology_id for a in annotations])
        agreement = measure_agreement(predicted, adata.obs[label_key], ontology, clusters=groups)
    _write_obs(adata, groups, annotations, prefix, computed=cluster_key is None)
    report = DatasetReport(
        annotations=tuple(annotations),
        n_cells=adata.n_obs,
        n_genes=len(expression.genes),
        cluster_key=cluster_key or f"{prefix}cluster",
        clusters_computed=cluster_key is None,
        species=species,
        tissue=tissue,
        prefix=prefix,
        matrix=expression.source,
        annotator="offline" if annotator is None else "llm",
        model=None if annotator is None else annotator.name,
        model_stats=stats,
        ranking=ranking,
        top_n_markers=top_n_markers,
        seed=seed,
        marker_database=MarkerDatabaseInfo(
            name=database.name, sha256=database.content_hash, n_types=len(database.types), n_markers=database.n_markers
        ),
        ontology_version=ontology.version,
        agreement=agreement,
        versions=package_versions(),
    )
    _log_outcome(report, agreement)
    return report


def package_versions(names: Iterable[str] = ("airflow-provider-gca", "anndata", "numpy", "scanpy")) -> dict[str, str]:
    """Versions of the installed packages among ``names``."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _check_options(
    adata: AnnData, cluster_key: str | None, label_key: str | None, top_n_markers: int, resolution: float
) -> None:
    for what, key in (("cluster", cluster_key), ("label", label_key)):
        if key is not None and key not in adata.obs:
            found = ", ".join(map(repr, adata.obs.columns)) or "no columns"
            advice = "; leave it out to have clusters computed" if what == "cluster" else ""
            raise DataValidationError(f"there is no {what} column {key!r} in obs; found {found}{advice}")
    if top_n_markers < 5:
        raise ConfigurationError(f"top_n_markers is {top_n_markers}; expected 5 or more")
    if not resolution > 0:
        raise ConfigurationError(f"the resolution is {resolution}; expected a positive number")


def _groups(adata: AnnData, cluster_key: str | None, expression: Expression, resolution: float, seed: int) -> pd.Series:
    """The cluster of each cell as a categorical without unused categories, in category order."""
    if cluster_key is None:
        components = principal_components(expression, seed)
        found = pd.Series(leiden_clusters(components, resolution=resolution, seed=seed), index=adata.obs_names)
    else:
        found = adata.obs[cluster_key].astype("category").cat.remove_unused_categories()
    n = len(found.cat.categories)
    if n == 0:
        raise DataValidationError(f"the cluster column {cluster_key!r} is empty: every cell's cluster is missing")
    if n > max(200, adata.n_obs // 2) or (n == adata.n_obs and n > 1):
        raise DataValidationError(
            f"the cluster column {cluster_key!r} has {n} values for {adata.n_obs} cells; that looks like a "
            "measurement or a name, not clusters"
        )
    return found


def _rank(expression: Expression, groups: pd.Series, n_top: int, method: RankingMethod) -> list[ClusterMarkers]:
    # codes instead of names, so that clusters that read alike, such as 1 and "1", stay apart
    codes = pd.Series(pd.Categorical(groups.cat.codes.where(groups.cat.codes >= 0)))
    ranked = rank_genes(expression.matrix, expression.genes, codes, n_top=n_top, method=method)
    sizes = np.bincount(groups.cat.codes[groups.cat.codes >= 0], minlength=len(groups.cat.categories))
    tables = dict(iter(ranked.groupby("group", sort=False)))
    return [
        ClusterMarkers(cluster=str(name), n_cells=int(sizes[i]), genes=_ranked_genes(tables[i]))
        for i, name in enumerate(groups.cat.categories)
    ]


def _ranked_genes(table: pd.DataFrame) -> tuple[RankedGene, ...]:
    columns = ("score", "log_fold_change", "fraction_in", "fraction_out")
    rounded = table.assign(**{c: table[c].astype(float).round(4) for c in columns})
    return tuple(
        RankedGene(gene=row["gene"], **{c: row[c] for c in columns})
        for row in rounded.to_dict("records")
        if row["log_fold_change"] > 0
    )


def _per_cell(groups: pd.Series, values: list[str | None]) -> pd.Series:
    codes = groups.cat.codes.to_numpy()
    return pd.Series([values[code] if code >= 0 else None for code in codes], index=groups.index, dtype=object)


def _write_obs(
    adata: AnnData, groups: pd.Series, annotations: list[Annotation], prefix: str, *, computed: bool
) -> None:
    columns: dict[str, list[str | None]] = {
        "label": [a.primary_label for a in annotations],
        "ontology_id": [a.ontology_id for a in annotations],
        "confidence": [a.confidence.value for a in annotations],
        "status": [a.status.value for a in annotations],
        "proposed_label": [a.proposed_label for a in annotations],
        "rationale": [a.rationale for a in annotations],
        "canonical_markers": [", ".join(g.gene for g in a.evidence.supporting) for a in annotations],
        "mapping_notes": ["; ".join(a.caveats) for a in annotations],
    }
    if computed:
        adata.obs[f"{prefix}cluster"] = pd.Categorical(groups)
    for name, values in columns.items():
        adata.obs[f"{prefix}{name}"] = pd.Categorical(_per_cell(groups, values))


def _log_outcome(report: DatasetReport, agreement: Agreement | None) -> None:
    log.info("%d clusters annotated, %d flagged", len(report.annotations), report.n_flagged)
    if agreement is not None:
        log.info(
            "agreement with %s: %.1f %% of cells the same or related, %.1f %% the same",
            agreement.column,
            100 * agreement.related,
            100 * agreement.exact,
        )
