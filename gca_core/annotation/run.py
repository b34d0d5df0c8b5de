"""Annotate a file: AnnData in; annotated AnnData, JSON, CSV, HTML and pictures out."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import ExitStack
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from gca_core.annotation.adata.files import UMAP, OpenData, file_format, open_data
from gca_core.annotation.adata.obs import kept_corrections
from gca_core.annotation.adata.uns_record import keep_record
from gca_core.annotation.config import AnnotationConfig
from gca_core.annotation.labels.corrections import CORRECTIONS_FILE, Corrections, load_corrections
from gca_core.annotation.labels.from_model import LlmAnnotator, ModelInput, as_annotator
from gca_core.annotation.labels.labelling import species_markers
from gca_core.annotation.labels.vocabulary import Vocabulary, as_vocabulary
from gca_core.annotation.llm.models import LlmOptions
from gca_core.annotation.models import Agreement, DatasetReport, ModelStats, RunStats
from gca_core.annotation.observed import observed
from gca_core.annotation.pipeline import Options, Outcome, annotate
from gca_core.annotation.report.dot_plot import MarkerExpression, marker_expression
from gca_core.annotation.report.drawn_cells import drawn_cells
from gca_core.annotation.report.page import render_csv, render_html
from gca_core.annotation.report.umap_figure import report_figures
from gca_core.annotation.review.apply import apply_to_run
from gca_core.annotation.review.lock import ANNOTATION, ANNOTATION_SECONDS, reviewing
from gca_core.annotation.review.queue import HERE, Run
from gca_core.annotation.timing import Stopwatch
from gca_core.io import as_path, as_uri, join_uri, json_text, reaching, read_text, staged, write_text

log = logging.getLogger(__name__)

__all__ = ["FILES", "AnnotationConfig", "AnnotationResult", "annotate_file"]

# the data of the result is in the format of the input: one of the first two
FILES = {
    "h5ad": "annotated.h5ad",
    "zarr": "annotated.zarr",
    "json": "report.json",
    "csv": "clusters.csv",
    "html": "report.html",
    "figure": "umap.png",
}


class AnnotationResult(BaseModel):
    """What an annotation left behind: small enough for XCom.

    Attributes:
        uris: of the results, by h5ad (or zarr, where the input is zarr), json, csv, html and figure; no figure
            where there is no matrix to draw cells by.
        seconds: wall time.
        stats: of the run, with the writing.
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
    stats: RunStats = Field(default_factory=RunStats)


@observed
def annotate_file(
    config: AnnotationConfig,
    *,
    model: ModelInput | LlmAnnotator | None = None,
    llm_options: LlmOptions | None = None,
) -> AnnotationResult:
    """Annotate the file that ``config`` names and write the results beside each other.

    The results are written under temporary names and renamed when all of them are there, while nobody else may write
    to the folder; corrections that were applied there in the meantime are kept. The matrices of a large file stay in
    it and are read in parts; the result is then a copy of the file with the columns added.
    ``model`` and ``llm_options`` are apart from ``config``, since a model may come with its key.

    Raises:
        DataValidationError: missing or unreadable file, missing column, or unusable data; or somebody else was
            writing to the folder for 15 minutes.
        ConfigurationError, MarkerDatabaseError: as :func:`gca_core.annotation.annotate_anndata`.
    """
    clock = Stopwatch()
    annotator = as_annotator(model, llm_options)
    file_format(config.input_uri)
    own = _own_corrections(config)
    corrections = _corrections(config, own)
    with clock.stage("read"):
        vocabulary = as_vocabulary(config.vocabulary)
        markers = species_markers(config.marker_db, config.species)
    with ExitStack() as stack:
        with clock.stage("read"):
            data = stack.enter_context(open_data(config.input_uri, backed=config.backed))
        options = options_of(config, corrections, annotator, vocabulary)
        outcome = annotate(data.adata, options, clock, markers=markers)
        title = f"Cell types of {as_path(config.input_uri).name}"
        return write_results(config, data, outcome, clock, title=title, known=own)


def write_results(
    config: AnnotationConfig,
    data: OpenData,
    outcome: Outcome,
    clock: Stopwatch,
    *,
    title: str,
    known: Corrections | None = None,
) -> AnnotationResult:
    """Draw what an annotation or a validation found, and write it where ``config`` says.

    Args:
        known: the corrections in that folder that are in ``outcome``; later ones are applied. None applies none.
    """
    with clock.stage("draw"):
        drawn = drawn_cells(data.adata, outcome, config.seed)
        report = outcome.report
        expression = _marker_expression(outcome)
        figures: dict[str, bytes] = {}
        if drawn is not None:
            figures = report_figures(drawn.of(data.adata), report, drawn.coordinates, expression)
            title = f"{title}{drawn.note}"
    report = _with_stats(report, clock)
    page = render_html(report, figures, title=title)
    with clock.stage("write"), ExitStack() as locked:
        obsm = {UMAP: drawn.coordinates} if drawn is not None and drawn.computed_for_all else {}
        keep_record(data.adata, report, source=as_path(config.input_uri).name, markers=expression, drawn=drawn)
        uris = _write(config, data, report, page, figures.get("label"), obsm, locked)
        if known is not None:
            report = _with_later_corrections(config, data, report, uris, known)
    return _result(_with_stats(report, clock), uris)


def options_of(
    config: AnnotationConfig,
    corrections: Corrections | None,
    annotator: LlmAnnotator | None,
    vocabulary: Vocabulary | None = None,
) -> Options:
    """The options of the core that a configuration stands for, with what was read of it already."""
    return Options(
        cluster_key=config.cluster_key,
        stored=None if config.recompute_markers else "rank_genes_groups",
        species=config.species,
        tissue=config.tissue,
        vocabulary=vocabulary,
        top_n_markers=config.top_n_markers,
        prefix=config.prefix,
        label_key=config.ontology_column or config.label_column,
        layer=config.layer,
        gene_symbols=config.gene_symbols,
        ranking=config.ranking,
        resolution=config.resolution,
        min_overlap=config.min_overlap,
        force_unknown=config.force_unknown,
        seed=config.seed,
        corrections=corrections,
        request_id=config.request_id,
        model=annotator,
    )


def _corrections(config: AnnotationConfig, own: Corrections) -> Corrections:
    """The corrections for this run: of a cohort's, those whose run is the output folder; and the folder's own."""
    found = Corrections()
    if config.corrections is not None:
        loaded = load_corrections(config.corrections)
        folder = str(as_path(config.output_uri)).rstrip("/")
        mine = {c.run for c in loaded.corrections if c.run and folder.endswith(f"/{c.run}")}
        for run in ("", *sorted(mine, key=len)):
            found = found.with_later(loaded.of_run(run).corrections)
    if own.corrections:
        log.info("the corrections of an earlier review in %s are kept", as_uri(config.output_uri))
    return found.with_later(own.corrections)


def _own_corrections(config: AnnotationConfig) -> Corrections:
    path = as_path(config.output_uri) / CORRECTIONS_FILE
    with reaching(config.output_uri):
        there = path.exists()
    return load_corrections(path).of_run("") if there else Corrections()


def _with_later_corrections(
    config: AnnotationConfig, data: OpenData, report: DatasetReport, uris: dict[str, str], known: Corrections
) -> DatasetReport:
    """The report with corrections that came to the folder since ``known`` ones, which go into the results, too."""
    later = [c for c in _own_corrections(config).corrections if c not in known.corrections]
    if not later:
        return report
    log.info("%d corrections were applied in %s during the annotation", len(later), as_uri(config.output_uri))
    folder = str(as_path(config.output_uri)).rstrip("/")
    report = apply_to_run(Run(HERE, folder, report, True), kept_corrections(data.adata).with_later(later))
    copies = {"json": config.json_report, "csv": config.summary_csv, "html": config.html_report}
    for what, uri in copies.items():
        if uri is not None:
            write_text(uri, read_text(uris[what]))
    return report


def _marker_expression(outcome: Outcome) -> MarkerExpression | None:
    if outcome.expression is None:
        return None
    codes = np.asarray(outcome.groups.cat.codes, dtype=np.int64)
    return marker_expression(outcome.expression, codes, outcome.report)


def _with_stats(report: DatasetReport, clock: Stopwatch) -> DatasetReport:
    """The report with the times up to now."""
    stats = report.stats.model_copy(update={"seconds": clock.seconds, "stage_seconds": clock.stages})
    return report.model_copy(update={"stats": stats})


def _write(
    config: AnnotationConfig,
    data: OpenData,
    report: DatasetReport,
    page: str,
    picture: bytes | None,
    obsm: dict[str, Any],
    locked: ExitStack,
) -> dict[str, str]:
    """Write the results; from when they get their names, ``locked`` keeps others from writing to the folder."""
    kind = data.output_format
    wanted = [kind, "json", "csv", "html", *(["figure"] if picture is not None else [])]
    uris = {what: join_uri(config.output_uri, FILES[what]) for what in wanted}
    columns = [name for name in data.adata.obs if str(name).startswith(config.prefix)]
    table, told = render_csv(report), json_text(report)
    texts = [
        (uris["json"], told),
        (config.json_report, told),
        (uris["csv"], table),
        (config.summary_csv, table),
        (uris["html"], page),
        (config.html_report, page),
    ]
    # every name is given when the block ends, the last one first, and none if something fails in it: the cells, which
    # take longest to send, come before what is told about them
    with ExitStack() as stack:
        for uri, text in texts:
            if uri is not None:
                stack.enter_context(staged(uri)).write_text(text, encoding="utf-8")
        if picture is not None:
            stack.enter_context(staged(uris["figure"])).write_bytes(picture)
        data.write(stack.enter_context(staged(uris[kind])), columns, obsm)
        locked.enter_context(reviewing(config.output_uri, ANNOTATION, timeout=ANNOTATION_SECONDS))
    log.info("results are in %s", as_uri(config.output_uri))
    return uris


def _result(report: DatasetReport, uris: dict[str, str]) -> AnnotationResult:
    labels: Counter[str] = Counter()
    for annotation in report.annotations:
        labels[annotation.primary_label] += annotation.n_cells or 0
    return AnnotationResult(
        uris=uris,
        n_clusters=len(report.annotations),
        n_flagged=report.n_flagged,
        n_cells=report.n_cells,
        n_genes=report.n_genes,
        labels=dict(labels.most_common()),
        agreement=report.agreement,
        annotator=report.annotator,
        model=report.model,
        model_stats=report.model_stats,
        marker_database_sha256=report.marker_database.sha256,
        ontology_version=report.ontology_version,
        seed=report.seed,
        seconds=report.stats.seconds,
        versions=report.versions,
        stats=report.stats,
    )
