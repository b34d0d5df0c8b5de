"""``gca atlas``: what HAYSTACK takes its prompts from."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.callback()
def group() -> None:
    """Keep the atlas that HAYSTACK takes its prompts from.

    It lives in the PostgreSQL server of GCA_ATLAS_DSN, or in the embedded one under GCA_HOME.
    """


@app.command()
def init() -> None:
    """Make the atlas' tables, or bring them up to date."""
    from gca_core.config import load_settings
    from gca_core.store.migrations import migrate
    from gca_core.store.redact import describe
    from gca_core.store.resolve import resolve_dsn

    dsn = resolve_dsn(load_settings(), "admin")
    typer.echo(f"schema version {migrate(dsn)}: {describe(dsn)}")


@app.command()
def ingest(
    file: Annotated[str, typer.Argument(help="An h5ad file with raw counts, path or URI.")],
    dataset: Annotated[str, typer.Option(help="Name of the dataset; other content under it is replaced.")],
    perturbation_column: Annotated[str, typer.Option(help="obs column of the perturbation.")],
    control_value: Annotated[str, typer.Option(help="Its value for cells that were not perturbed.")],
    cell_type_column: Annotated[str, typer.Option(help="obs column of the cell type; cells without one are left out.")],
    cell_type_id_column: Annotated[
        str | None, typer.Option(help="obs column of Cell Ontology ids, used where it has one.")
    ] = None,
    donor_column: Annotated[str | None, typer.Option(help="obs column of the donor.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer that holds the counts. [default: X]")] = None,
    perturbation_name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VALUE=NAME", help='A name for a value of the column: stim="interferon beta". Repeatable.'
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take an h5ad file into the atlas.

    The same file again changes nothing. Example:

    gca atlas ingest pbmc.h5ad --dataset kang --perturbation-column condition --control-value ctrl
    --perturbation-name stim="interferon beta" --cell-type-column cell_type --donor-column donor
    """
    names = _names(perturbation_name or [])

    from gca_core import io
    from gca_core.atlas import IngestConfig, open_atlas
    from gca_core.atlas.ingest import ingest as take_in
    from gca_core.knowledge.ontology import load_ontology
    from gca_core.llm.embeddings import HashedTextEmbeddings

    io.require_file(file, what="h5ad file")
    config = IngestConfig(
        input_uri=file,
        dataset=dataset,
        perturbation_column=perturbation_column,
        control_value=control_value,
        perturbation_names=names,
        cell_type_column=cell_type_column,
        cell_type_id_column=cell_type_id_column,
        donor_column=donor_column,
        layer=layer,
    )
    ontology, embeddings = load_ontology(), HashedTextEmbeddings()
    report = take_in(
        config,
        open_atlas(role="admin"),
        embed=embeddings.embed_documents,
        resolve_cell_type=ontology.resolve,
        label_of=ontology.label,
        embedding_model=embeddings.model,
    )
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
        return
    done = "already in the atlas" if report.unchanged else "ingested"
    typer.echo(f"{done}: {report.n_cells} of {report.n_cells_read} cells, {report.n_groups} groups, {dataset}")
    if report.n_unlabelled:
        typer.echo(f"left out: {report.n_unlabelled} cells without a cell type")
    if report.n_without_perturbation:
        typer.echo(f"left out: {report.n_without_perturbation} cells without a value in {perturbation_column}")
    for label, count in report.unmapped_cell_types.items():
        typer.echo(f"left out: {count} cells labelled {label!r}, which is not a known cell type")
    if report.n_groups_without_control:
        typer.echo(f"note: {report.n_groups_without_control} perturbed groups have no control of their cell type")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show where the atlas is and what it holds."""
    from gca_core.atlas import open_atlas
    from gca_core.store.redact import describe

    atlas = open_atlas()
    datasets = atlas.datasets()
    if as_json:
        value = {"database": describe(atlas.dsn), "datasets": [info.model_dump(mode="json") for info in datasets]}
        typer.echo(json.dumps(value, indent=2))
        return
    typer.echo(f"database: {describe(atlas.dsn)}")
    if not datasets:
        typer.echo("no datasets yet; 'gca atlas ingest --help' says how to add one")
        return
    table = Table("dataset", "cells", "groups", "genes", "perturbations", "cell types", box=None, pad_edge=False)
    for info in datasets:
        perturbations, types = atlas.perturbations(info.dataset), atlas.cell_types(info.dataset)
        figures = (info.n_cells, info.n_groups, info.n_genes)
        table.add_row(info.dataset, *map(str, figures), _few(perturbations), _few([label for _, label in types]))
    Console().print(table)


def _names(pairs: list[str]) -> dict[str, str]:
    names = {}
    for pair in pairs:
        value, found, name = pair.partition("=")
        if not (value and found and name):
            raise typer.BadParameter(f"{pair!r} is not VALUE=NAME, like stim='interferon beta'")
        names[value] = name
    return names


def _few(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
