"""``gca scanpy``: label the clusters of an AnnData file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gca_core.annotation.run import AnnotationResult

app = typer.Typer(no_args_is_help=True)


@app.callback()
def scanpy() -> None:
    """Label the clusters of an AnnData file."""


@app.command()
def annotate(
    input_uri: Annotated[str, typer.Argument(metavar="INPUT", help="An h5ad file: a path, or a file:// or gs:// URI.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the results.")] = "annotation",
    cluster_key: Annotated[
        str | None, typer.Option(help="Column of obs with the clusters. Left out: Leiden clusters are computed.")
    ] = None,
    species: Annotated[str, typer.Option(help="human or mouse.")] = "human",
    tissue: Annotated[
        str | None, typer.Option(help="Where the cells are from, such as blood, lung or PBMC. Left out: anywhere.")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column of obs with known labels, to measure agreement with.")
    ] = None,
    marker_db: Annotated[
        str | None,
        typer.Option(envvar="GCA_MARKER_DB_PATH", help="A CSV or TSV of markers instead of the bundled ones."),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Layer with log-normalised values or counts. Left out: found by looking.")
    ] = None,
    top_n_markers: Annotated[int, typer.Option(min=5, help="Genes ranked per cluster.")] = 30,
    prefix: Annotated[str, typer.Option(help="Prefix of the columns written to obs.")] = "gptca_",
    resolution: Annotated[
        float, typer.Option(min=0.001, help="Resolution of Leiden clusters, where they are computed.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(envvar="GCA_SEED", min=0, help="Seed of everything random.")] = 0,
    offline: Annotated[
        bool, typer.Option("--offline", help="Call no model. This is what happens anyway: none is configured here.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of a table.")] = False,
) -> None:
    """Label clusters by their marker genes and write h5ad, JSON, CSV, an HTML report and a UMAP.

    Example: gca scanpy annotate pbmc.h5ad --cluster-key leiden --tissue blood --output results
    """
    from gca_core.annotation.run import AnnotationConfig, annotate_file

    del offline
    config = AnnotationConfig(
        input_uri=input_uri,
        output_uri=output,
        cluster_key=cluster_key,
        species=species,
        tissue=tissue,
        label_column=label_column,
        marker_db=marker_db,
        prefix=prefix,
        top_n_markers=top_n_markers,
        layer=layer,
        resolution=resolution,
        seed=seed,
    )
    result = annotate_file(config)
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
    else:
        _print(result)


def _print(result: AnnotationResult) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table("label", "cells")
    for label, cells in result.labels.items():
        table.add_row(Text(label), f"{cells:,}")
    console.print(table)
    lines = [
        f"{result.n_clusters} clusters, {result.n_flagged} flagged; {result.n_cells:,} cells; {result.seconds:.1f} s"
    ]
    if result.agreement is not None:
        a = result.agreement
        lines.append(
            f"agreement with {a.column} on the Cell Ontology: {100 * a.related:.1f} % of cells "
            f"({100 * a.exact:.1f} % exactly, {100 * a.close:.1f} % within two steps), "
            f"{100 * a.clusters_related:.1f} % of clusters"
        )
    lines += [f"{what}: {uri}" for what, uri in result.uris.items()]
    for line in lines:
        console.print(Text(line), soft_wrap=True)
