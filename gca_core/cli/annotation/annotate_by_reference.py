"""``gca annotate-by-reference``: label cells by labelled cells of the user's."""

from __future__ import annotations

from typing import Annotated

import typer

from gca_core.cli import failures
from gca_core.cli.annotation import options
from gca_core.cli.terminal import progress_shown


def annotate_by_reference(
    input_uri: Annotated[str, typer.Argument(metavar="INPUT", help="The cells to label, by path or URI.")],
    *,
    reference: Annotated[str, typer.Option(help="The file of labelled cells.")],
    reference_labels: Annotated[str, typer.Option(help="Column of its obs with the labels.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the results.")] = "by-reference",
    species: Annotated[str, typer.Option(help="Of all cells: human or mouse.")] = "human",
    prefix: Annotated[str, typer.Option(help="Prefix of the columns written to obs.")] = "reference_",
    debug: options.Debug = False,
) -> None:
    """Label each cell by labelled cells of your own; what is near none of them stays without a label.

    Example: gca annotate-by-reference cells.h5ad --reference atlas.h5ad --reference-labels cell_type
    """
    failures.debug(wanted=debug)
    from rich.console import Console
    from rich.table import Table

    from gca_core.annotation.opinions.by_reference import annotate_file_by_reference

    with progress_shown():
        found, uris = annotate_file_by_reference(
            input_uri, reference, reference_labels, output, species=species, prefix=prefix
        )
    table = Table("label", "cells")
    for name, n in found["label"].value_counts().items():
        table.add_row(str(name), f"{n:,}")
    Console().print(table)
    bare = int(found["label"].isna().sum())
    typer.echo(f"{bare:,} of {len(found):,} cells have no label: they are near none of these")
    for what, uri in uris.items():
        typer.echo(f"{what}: {uri}")
