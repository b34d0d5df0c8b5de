"""``gca datasets``: the data files that ship with the package."""

import json
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def datasets() -> None:
    """List the data files that ship with the package."""


@app.command(name="list")
def list_files(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show every bundled file with its size, licence, source and checksum; --json adds description and citation.

    Exits with 1 if a file isn't what its manifest says.
    """
    from gca_core.datasets import list_data_files
    from gca_core.io import ChecksumState

    files = list_data_files()
    if as_json:
        rows = [f.model_dump(mode="json", exclude={"path"}) | {"state": f.checksum_state.value} for f in files]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table("file", "bytes", "licence", "source", "checksum")
        table.columns[0].overflow = "fold"
        for f in files:
            state = f.checksum_state
            colour = "green" if state is ChecksumState.OK else "red"
            table.add_row(f.file, f"{f.bytes:,}", Text(f.licence), Text(f.source), Text(state.value, style=colour))
        Console().print(table)
    if any(f.checksum_state is not ChecksumState.OK for f in files):
        raise typer.Exit(1)
