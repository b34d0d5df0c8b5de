"""Annotate a file: h5ad in; annotated h5ad, JSON, CSV, HTML and a picture out."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from gca_core.annotation.clusters import PREFIX, TOP_N_MARKERS, annotate_anndata
from gca_core.annotation.embedding import principal_components, umap_coordinates
from gca_core.annotation.figure import umap_png
from gca_core.annotation.inputs import read_expression
from gca_core.annotation.llm_labels import LlmAnnotator, ModelInput, as_annotator
from gca_core.annotation.llm_models import LlmOptions
from gca_core.annotation.markers import MarkerDatabase, load_marker_database
from gca_core.annotation.models import Agreement, DatasetReport, ModelStats
from gca_core.annotation.report import render_csv, render_html
from gca_core.annotation.scoring import Array
from gca_core.errors import DataValidationError
from gca_core.io import as_path, as_uri, join_uri, local_copy, staged, write_json, write_text
from gca_core.matrix.ranking import RankingMethod

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger(__name__)

FILES = {
    "h5ad": "annotated.h5ad",
    "json": "report.json",
    "csv": "clusters.csv",
    "html": "report.html",
    "figure": "umap.png",
}


class AnnotationConfig(BaseModel):
    """One annotation of one file; see :func:`gca_core.annotation.annotate_anndata` for the options.

    Attributes:
        input_uri: an h5ad file.
        output_uri: the folder for the results.
        label_column: column of obs with known labels, to measure agreement.
        marker_db: a marker table instead of the bundled one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_uri: str = Field(min_length=1)
    output_uri: str = Field(min_length=1)
    cluster_key: str | None = None
    species: str = "human"
    tissue: str | None = None
    label_column: str | None = None
    marker_db: str | None = None
    prefix: str = PREFIX
    top_n_markers: int = Field(default=TOP_N_MARKERS, ge=5)
    layer: str | None = None
    ranking: RankingMethod = "t-test_overestim_var"
    resolution: float = Field(default=1.0, gt=0)
    seed: int = Field(default=0, ge=0)


class AnnotationResult(BaseModel):
    """What an annotation left behind: small enough for XCom.

    Attributes:
        uris: of the results, by h5ad, json, csv, html and figure.
        seconds: wall time.
    """

    model_config = ConfigDict(frozen=True)

    uris: dict[str, str]
    n_clusters: int
    n_flagged: int
    n_cells: int
    n_genes: int
    labels: dict[str, int]
    agreement: Agreement | None
    annotator: str
    model: str | None
    model_stats: ModelStats | None = None
    marker_database_sha256: str
    ontology_version: str
    seed: int
    seconds: float
    versions: dict[str, str]


def annotate_file(
    config: AnnotationConfig,
    *,
    model: ModelInput | LlmAnnotator | None = None,
    llm_options: LlmOptions | None = None,
) -> AnnotationResult:
    """Annotate the file that ``config`` names and write the results beside each other.

    Each result is written under a temporary name and renamed; none is touched before all are made. ``model`` and
    ``llm_options`` are apart from ``config``, since a model may come with its key.

    Raises:
        DataValidationError: missing or unreadable file, missing column, or unusable data.
        ConfigurationError, MarkerDatabaseError: as :func:`annotate_anndata`.
    """
    started = time.perf_counter()
    annotator = as_annotator(model, llm_options)
    database = load_marker_database(config.marker_db, species="human")
    adata = _read(config.input_uri)
    report = annotate_anndata(
        adata,
        config.cluster_key,
        species=config.species,
        tissue=config.tissue,
        marker_db=database,
        top_n_markers=config.top_n_markers,
        prefix=config.prefix,
        label_key=config.label_column,
        layer=config.layer,
        ranking=config.ranking,
        resolution=config.resolution,
        seed=config.seed,
        model=annotator,
    )
    name = as_path(config.input_uri).name
    picture = umap_png(
        _coordinates(adata, database, config), adata.obs[f"{config.prefix}label"], title=f"Cell types of {name}"
    )
    page = render_html(report, picture, title=f"Cell types of {name}")
    uris = _write(config.output_uri, adata, report, page, picture)
    labels = adata.obs[f"{config.prefix}label"].value_counts()
    return AnnotationResult(
        uris=uris,
        n_clusters=len(report.annotations),
        n_flagged=report.n_flagged,
        n_cells=report.n_cells,
        n_genes=report.n_genes,
        labels={str(label): int(n) for label, n in labels.items()},
        agreement=report.agreement,
        annotator=report.annotator,
        model=report.model,
        model_stats=report.model_stats,
        marker_database_sha256=report.marker_database.sha256,
        ontology_version=report.ontology_version,
        seed=report.seed,
        seconds=round(time.perf_counter() - started, 3),
        versions=report.versions,
    )


def _read(uri: str) -> AnnData:
    import anndata

    if not as_path(uri).name.endswith(".h5ad"):
        raise DataValidationError(f"{uri!r} is not an h5ad file; write the data with AnnData.write_h5ad first")
    with local_copy(uri, what="AnnData file") as path:
        log.info("reading %s", uri)
        try:
            adata: AnnData = anndata.read_h5ad(path)
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise DataValidationError(f"{uri!r} can't be read as h5ad: {error}") from None
    return adata


def _coordinates(adata: AnnData, database: MarkerDatabase, config: AnnotationConfig) -> Array:
    """The UMAP that the data brings, or one computed and kept in ``obsm``."""
    if "X_umap" not in adata.obsm:
        log.info("computing a UMAP")
        expression = read_expression(adata, database, layer=config.layer, species=config.species)
        adata.obsm["X_umap"] = umap_coordinates(principal_components(expression, config.seed), config.seed)
    return np.asarray(adata.obsm["X_umap"], dtype=np.float64)[:, :2]


def _write(folder: str, adata: AnnData, report: DatasetReport, page: str, picture: bytes) -> dict[str, str]:
    uris = {what: join_uri(folder, name) for what, name in FILES.items()}
    adata.uns["gca_annotation"] = {"report": report.model_dump_json(exclude={"annotations"})}
    with staged(uris["h5ad"]) as path:
        adata.write_h5ad(path, compression="gzip")
    with staged(uris["figure"]) as path:
        path.write_bytes(picture)
    write_json(uris["json"], report)
    write_text(uris["csv"], render_csv(report))
    write_text(uris["html"], page)
    log.info("results are in %s", as_uri(folder))
    return uris
