"""``gca markers``: build, list and check marker databases."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Build, list and check marker databases.")

Database = Annotated[
    str | None,
    typer.Argument(
        metavar="[FILE]",
        envvar="GCA_MARKER_DB_PATH",
        help="A marker table of any known format. Left out: the bundled one.",
    ),
]
Species = Annotated[str, typer.Option(help="human or mouse.")]


@app.command()
def build(
    output: Annotated[str, typer.Option("--output", "-o", help="The CSV file to write.")],
    source: Annotated[
        Path | None, typer.Option(help="A source table, one cell type a line. Left out: the bundled one.")
    ] = None,
) -> None:
    """Build a marker table from a source table, after checking terms, symbols and consistency.

    Example: gca markers build --output markers.csv
    """
    from gca_core.annotation.markers.build import build_marker_table
    from gca_core.io import read_text, write_text

    text = build_marker_table(None if source is None else read_text(source, what="source table"))
    typer.echo(f"{write_text(output, text)}: {text.count(chr(10)) - 1:,} rows")


@app.command(name="list")
def list_types(
    database: Database = None,
    species: Species = "human",
    tissue: Annotated[str | None, typer.Option(help="Only types of this tissue.")] = None,
) -> None:
    """List cell types with their Cell Ontology id, parent, tissues and markers, parted by tabs."""
    from gca_core.annotation.markers.load import load_marker_database
    from gca_core.annotation.markers.tissues import tissue_name

    wanted = tissue_name(tissue)
    for t in load_marker_database(database, species=species).types:
        if wanted is None or wanted in t.tissues:
            fields = (t.ontology_id, t.label, t.parent_id, ";".join(sorted(t.tissues)), " ".join(t.positive))
            typer.echo("\t".join(fields))


@app.command()
def validate(database: Database = None, species: Species = "human") -> None:
    """Read a marker table and say what can be used; exits with 2 where nothing can."""
    from gca_core.annotation.markers.load import load_marker_database

    found = load_marker_database(database, species=species)
    few = [t.label for t in found.types if len(t.positive) < 2]
    typer.echo(f"{found.name}: {len(found.types)} {species} cell types, {found.n_markers:,} markers")
    if few:
        typer.echo(f"{len(few)} types have fewer than two markers and can't be named: {', '.join(few[:10])}")


@app.command()
def info(database: Database = None, species: Species = "human") -> None:
    """Print version, size, tissues and content hash as JSON; tables of one's own have the hash's start as version."""
    from importlib.metadata import version

    from gca_core.annotation.markers.load import load_marker_database

    found = load_marker_database(database, species=species)
    facts = {
        "name": found.name,
        "version": found.content_hash[:12] if database else version("airflow-provider-gca"),
        "species": species,
        "sha256": found.content_hash,
        "from_cache": found.from_cache,
        "cell_types": len(found.types),
        "markers": found.n_markers,
        "genes": len(found.genes),
        "tissues": sorted({tissue for t in found.types for tissue in t.tissues}),
    }
    typer.echo(json.dumps(facts, indent=2))
