"""``gca datasets``: the data files that ship with the package."""

from __future__ import annotations

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
    """Show every bundled file with its size, licence, source and checksum; exits with 1 if one isn't intact."""
    from gca_core.datasets import ChecksumState, list_data_files

    files = list_data_files()
    if as_json:
        rows = [f.model_dump(mode="json", exclude={"path"}) | {"state": f.checksum_state.value} for f in files]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table("file", "bytes", "licence", "source", "checksum", show_lines=True)
        for f in files:
            source = f"{f.description}. {f.source}." + (f" {f.citation}" if f.citation else "")
            state = f.checksum_state
            colour = "green" if state is ChecksumState.OK else "red"
            table.add_row(f.file, f"{f.bytes:,}", Text(f.licence), Text(source), Text(state.value, style=colour))
        Console().print(table)
    if any(f.checksum_state is not ChecksumState.OK for f in files):
        raise typer.Exit(1)
