"""``gca annotate``: label the clusters of a table of marker genes."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gca_core.annotation.config import AnnotationConfig
from gca_core.cli import failures
from gca_core.cli.annotation import options
from gca_core.cli.fields import with_fields
from gca_core.errors import DataValidationError

if TYPE_CHECKING:
    from gca_core.annotation.markers.gene_lists import GeneListTable
    from gca_core.annotation.models import DatasetReport

log = logging.getLogger(__name__)

STDIO = "-"
# of files of cells, by their endings
CELLS = (".h5ad", ".zarr", ".loom", ".h5")
FIELDS = (
    "species",
    "tissue",
    "marker_db",
    "vocabulary",
    "top_n_markers",
    "min_overlap",
    "force_unknown",
    "request_id",
)


@with_fields(AnnotationConfig, FIELDS, options.models_of, spelling=options.SPELLING, defaults=options.DEFAULTS)
def annotate(
    table: Annotated[
        str,
        typer.Argument(metavar="CSV", help="A CSV or TSV with a row per cluster, by path or URI; - reads stdin."),
    ],
    *,
    cluster_column: Annotated[
        str | None,
        typer.Option(rich_help_panel="Input", help="Column with the clusters' names. Left out: found by looking."),
    ] = None,
    markers_column: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="Input",
            help="Column with the genes, best first, joined by commas. Left out: found by looking.",
        ),
    ] = None,
    out_csv: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="Output", help="The table with the labels; ends in .tsv for tabs.", show_default="stdout"
        ),
    ] = None,
    out_json: Annotated[
        str | None,
        typer.Option(rich_help_panel="Output", help="The whole report, as 'gca schema' describes it."),
    ] = None,
    assets_home: options.AssetsHome = None,
    fail_on_flagged: options.FailOnFlagged = False,
    debug: options.Debug = False,
    **given: Any,
) -> None:
    """Label clusters by plain lists of marker genes; one row out for each row in, in the same order.

    The columns label, ontology_id, confidence, status, proposed_label, alternatives and flag_reasons are added behind
    those of the table, and with --vocabulary vocabulary_label. A row without genes is Unknown or Novel.

    Example: gca annotate clusters.csv --cluster-column cluster --markers-column markers --tissue blood
    """
    failures.debug(wanted=debug)
    found = options.settings(assets_home=assets_home, **given)
    models = options.models_of(found, **given)
    values = {name: given[name] for name in FIELDS if given[name] is not None}
    lists = _read(table, cluster_column, markers_column)

    from gca_core.annotation.lists import annotate_from_markers

    values |= {"marker_db": found.marker_db_path, "request_id": found.request_id}
    with options.at_work(found):
        report = annotate_from_markers(list(zip(lists.clusters, lists.genes, strict=True)), **values, **models)
    _write(lists, report, out_csv, out_json)
    options.end(report.n_flagged, fail_on_flagged=fail_on_flagged)


def _read(table: str, cluster_column: str | None, markers_column: str | None) -> GeneListTable:
    from gca_core.annotation.markers.delimited import decode_table
    from gca_core.annotation.markers.gene_lists import parse_gene_lists
    from gca_core.io import read_bytes

    name = "stdin" if table == STDIO else table
    if name.rstrip("/").endswith(CELLS):
        raise DataValidationError(
            f"{name} looks like a file of cells, and this command labels tables of marker genes; "
            f"use: gca scanpy annotate {name}"
        )
    data = sys.stdin.buffer.read() if table == STDIO else read_bytes(table, what="table")
    try:
        lists = parse_gene_lists(
            decode_table(data, name=name), cluster_column=cluster_column, markers_column=markers_column
        )
    except DataValidationError as error:
        raise DataValidationError(f"{name}: {error}") from None
    if lists.looks_long:
        log.warning(
            "every row of %s holds one gene, and clusters repeat; each row is labelled by itself. if it is a row a "
            "gene, join the genes of each cluster first",
            name,
        )
    return lists


def _write(lists: GeneListTable, report: DatasetReport, out_csv: str | None, out_json: str | None) -> None:
    from gca_core.annotation.markers.gene_lists import render_gene_lists
    from gca_core.cli.annotation.tables import annotator_line
    from gca_core.io import write_json, write_text

    delimiter = "\t" if out_csv is not None and out_csv.endswith(".tsv") else ","
    named = report.vocabulary is not None
    text = render_gene_lists(lists, report.annotations, delimiter=delimiter, vocabulary=named)
    if out_json is not None:
        log.info("report: %s", write_json(out_json, report))
    if out_csv is None or out_csv == STDIO:
        sys.stdout.write(text)
    else:
        log.info("table: %s", write_text(out_csv, text))
    log.info(
        "%d clusters, %d flagged; %s",
        len(report.annotations),
        report.n_flagged,
        annotator_line(report.model, report.model_stats),
    )
