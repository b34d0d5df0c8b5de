"""Annotate a file: AnnData in; annotated AnnData, JSON, CSV, HTML and pictures out."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from gca_core.annotation.adata.files import UMAP, OpenData, open_data
from gca_core.annotation.config import AnnotationConfig
from gca_core.annotation.inputs import Inputs, read_inputs
from gca_core.annotation.labels.corrections import CORRECTIONS_FILE, Corrections, load_corrections
from gca_core.annotation.labels.from_model import LlmAnnotator, ModelInput
from gca_core.annotation.llm.models import LlmOptions
from gca_core.annotation.models import Agreement, DatasetReport, ModelStats, RunStats
from gca_core.annotation.observed import observed
from gca_core.annotation.pipeline import Outcome, annotate
from gca_core.annotation.report.dot_plot import MarkerExpression, marker_expression
from gca_core.annotation.report.drawn_cells import DrawnCells, drawn_cells
from gca_core.annotation.report.page import render_csv, render_html
from gca_core.annotation.report.umap_figure import report_figures
from gca_core.annotation.report.uns_record import keep_record
from gca_core.annotation.timing import Stopwatch
from gca_core.io import as_path, as_uri, join_uri, json_text, reaching, staged
from gca_core.locks import check_earlier, sole_writer
from gca_core.matrix.cells import check_name

log = logging.getLogger(__name__)

# the data of the result is in the format of the input: one of the first two
FILES = {
    "h5ad": "annotated.h5ad",
    "zarr": "annotated.zarr",
    "json": "report.json",
    "csv": "clusters.csv",
    "html": "report.html",
    "figure": "umap.png",
}


class AnnotationResult(BaseModel, frozen=True):
    """What an annotation left behind: small enough for XCom.

    Attributes:
        uris: of the results, by h5ad (or zarr, where the input is zarr), json, csv, html and figure; no figure
            where there is no matrix to draw cells by.
        seconds: wall time.
        stats: of the run, with the writing.
    """

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

    The results are written under temporary names and renamed when all of them are there. Nobody else may write to a
    local folder meanwhile; corrections of an earlier review in it are kept. The matrices of a large file stay in it and
    are read in parts; the result is then a copy of the file with the columns added.
    ``model`` and ``llm_options`` are apart from ``config``, since a model may come with its key.

    Raises:
        DataValidationError: missing or unreadable file, missing column, or unusable data; or another process is at
            the folder.
        ConfigurationError, MarkerDatabaseError: as :func:`gca_core.annotation.annotate_anndata`.
    """
    with opened(config, corrected=True, model=model, llm_options=llm_options) as (data, inputs):
        outcome = annotate(data.adata, config, inputs)
        return write_results(config, data, outcome, inputs.clock)


@contextmanager
def opened(config: AnnotationConfig, *, corrected: bool = False, **models: Any) -> Iterator[tuple[OpenData, Inputs]]:
    """All that comes in: the cells of the file, open for the time of the block, and what is read beside them.

    Nobody else may write to the folder of results meanwhile.
    """
    check_name(config.input_uri)
    config.check_input()
    with sole_writer(config.output_uri), ExitStack() as stack:
        check_earlier(config.output_uri, FILES["json"], overwrite=config.overwrite)
        inputs = read_inputs(
            config,
            marker_db=config.marker_db,
            vocabulary=config.vocabulary,
            reference=config.reference if corrected else None,
            corrections=_corrections(config) if corrected else None,
            ranking_key=None if config.recompute_markers else "rank_genes_groups",
            **models,
        )
        with inputs.clock.stage("read"):
            data = stack.enter_context(open_data(config.input_uri, backed=config.backed))
        yield data, inputs


def write_results(config: AnnotationConfig, data: OpenData, outcome: Outcome, clock: Stopwatch) -> AnnotationResult:
    """Draw what an annotation or a validation found, and write it where ``config`` says."""
    with clock.stage("draw"):
        drawn = drawn_cells(
            data.adata, outcome.groups, outcome.expression, config.seed, graph=outcome.graph, umap=config.umap
        )
        markers = _marker_expression(outcome)
    copies = {"json": config.json_report, "csv": config.summary_csv, "html": config.html_report}
    uris = write_folder(
        config.output_uri,
        outcome.report,
        data,
        source=as_path(config.input_uri).name,
        drawn=drawn,
        markers=markers,
        copies=copies,
        clock=clock,
    )
    return _result(_with_stats(outcome.report, clock), uris)


def write_folder(
    folder: str,
    report: DatasetReport,
    data: OpenData | None,
    *,
    source: str,
    drawn: DrawnCells | None = None,
    markers: MarkerExpression | None = None,
    copies: Mapping[str, str | None] | None = None,
    corrections: Corrections | None = None,
    clock: Stopwatch | None = None,
) -> dict[str, str]:
    """Write all results of a report: each under a temporary name, then renamed, the report last.

    Args:
        folder: path or URI.
        data: the cells with their labels; None where the report is of lists of markers.
        source: the name of what was annotated.
        drawn, markers: what the pictures show, which the data keeps for a review.
        copies: further places for json, csv and html.
        corrections: to write beside the results; None leaves what is there.
        clock: of the run, whose times go into the report; None leaves the report's.

    Returns:
        The URIs of the results by their names in ``FILES``.
    """
    figures: dict[str, bytes] = {}
    if data is not None:
        cells, at = (data.adata, None) if drawn is None else (drawn.of(data.adata), drawn.coordinates)
        with clock.stage("draw") if clock else nullcontext():
            figures = report_figures(cells, report, at, markers)
    if clock:
        report = _with_stats(report, clock)
    title = f"Cell types of {source}"
    if report.judged_column is not None:
        title = f"Labels in {report.judged_column} of {source}, judged by their markers"
    page = render_html(report, figures, title=f"{title}{drawn.note if drawn is not None else ''}")
    texts = {"json": json_text(report), "csv": render_csv(report), "html": page}
    stored = [] if data is None else [data.output_format]
    uris = {
        what: join_uri(folder, FILES[what]) for what in (*stored, *texts, *(["figure"] if "label" in figures else []))
    }
    # every name is given when the block ends, the last one first, and none if something fails in it: the cells, which
    # take longest to send, come before what is told about them
    with clock.stage("write") if clock else nullcontext(), ExitStack() as stack:
        for what, text in texts.items():
            for uri in (uris[what], (copies or {}).get(what)):
                if uri is not None:
                    stack.enter_context(staged(uri)).write_text(text, encoding="utf-8")
        if corrections is not None:
            kept = stack.enter_context(staged(join_uri(folder, CORRECTIONS_FILE)))
            kept.write_text(json_text(corrections), encoding="utf-8")
        if "label" in figures:
            stack.enter_context(staged(uris["figure"])).write_bytes(figures["label"])
        if data is not None:
            keep_record(data.adata, report, source=source, markers=markers, drawn=drawn)
            columns = [name for name in data.adata.obs if str(name).startswith(report.prefix)]
            obsm = {UMAP: drawn.coordinates} if drawn is not None and drawn.computed_for_all else {}
            data.write(stack.enter_context(staged(uris[data.output_format])), columns, obsm)
    log.info("results are in %s", as_uri(folder))
    return uris


def _corrections(config: AnnotationConfig) -> Corrections:
    """The corrections for this run: of a cohort's, those whose run is the output folder; and the folder's own."""
    found = Corrections()
    if config.corrections is not None:
        loaded = load_corrections(config.corrections)
        folder = str(as_path(config.output_uri)).rstrip("/")
        mine = {c.run for c in loaded.corrections if c.run and folder.endswith(f"/{c.run}")}
        for run in ("", *sorted(mine, key=len)):
            found = found.with_later(loaded.of_run(run).corrections)
    own = as_path(config.output_uri) / CORRECTIONS_FILE
    with reaching(config.output_uri):
        there = own.exists()
    if there:
        log.info("the corrections of an earlier review in %s are kept", as_uri(config.output_uri))
        found = found.with_later(load_corrections(own).of_run("").corrections)
    return found


def _marker_expression(outcome: Outcome) -> MarkerExpression | None:
    if outcome.expression is None:
        return None
    codes = np.asarray(outcome.groups.cat.codes, dtype=np.int64)
    return marker_expression(outcome.expression, codes, outcome.report)


def _with_stats(report: DatasetReport, clock: Stopwatch) -> DatasetReport:
    """The report with the times up to now."""
    stats = report.stats.model_copy(update={"seconds": clock.seconds, "stage_seconds": clock.stages})
    return report.model_copy(update={"stats": stats})


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
