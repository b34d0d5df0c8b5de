"""``gca db``: the embedded PostgreSQL."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from gca_core.store.models import ServerStatus

app = typer.Typer(no_args_is_help=True)

PIPE_WIDTH = 1000

Home = Annotated[
    Path | None,
    typer.Option("--home", help="The GCA_HOME whose server is meant. [default: GCA_HOME]", show_default=False),
]


@app.callback()
def group() -> None:
    """Start, stop and look at the embedded PostgreSQL.

    It starts by itself when something needs it, and runs until it is stopped here. With GCA_ATLAS_DSN
    set, that server is used and this one isn't needed.
    """


@app.command()
def start(home: Home = None) -> None:
    """Start the server of GCA_HOME, or say that it runs; the first time sets it up."""
    from gca_core.store import embedded

    info = embedded.start(_home(home))
    typer.echo(f"running: pid {info.pid}, data in {info.data_dir}, socket in {info.socket_dir}")


@app.command()
def stop(
    home: Home = None,
    every: Annotated[
        bool, typer.Option("--all", help="Stop every embedded server that 'gca db status' names.")
    ] = False,
) -> None:
    """Stop the server and wait until it is gone; its data stays."""
    from gca_core.store import embedded

    homes = [found.home for found in embedded.status()] if every else [_home(home)]
    for each in homes:
        typer.echo(f"{'stopped' if embedded.stop(each) else 'not running'}: {each}")
    if not homes:
        typer.echo("no embedded server is running")


@app.command()
def status(
    home: Home = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False
) -> None:
    """Show every embedded server of this user on this machine, and that of GCA_HOME if it doesn't run."""
    from gca_core.store import embedded

    mine = _home(home).expanduser().resolve()
    found = embedded.status()
    if all(server.home != mine for server in found):
        found += embedded.status(mine)
    found += [server for server in embedded.left_behind() if server.home != mine]
    if as_json:
        typer.echo(json.dumps([server.model_dump(mode="json") for server in found], indent=2))
        return
    # in a pipe, whole paths on one line
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(_table(found))


@app.command()
def remove(home: Home = None, yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False) -> None:
    """Stop the server of GCA_HOME and delete its database: the atlas' tables and the run records."""
    from gca_core.store import embedded

    target = _home(home)
    if not yes:
        typer.confirm(f"delete the embedded database of {target}?", abort=True)
    typer.echo(f"{'removed' if embedded.remove(target) else 'there is no embedded database'}: {target}")


def _home(given: Path | None) -> Path:
    from gca_core.config import load_settings

    return load_settings(home=given).home


def _table(servers: list[ServerStatus]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("GCA_HOME", "state", "pid", "up", "size", "data folder"):
        table.add_column(name, overflow="fold")
    for server in servers:
        table.add_row(
            str(server.home),
            _state(server),
            "-" if server.pid is None else str(server.pid),
            "-" if server.uptime_seconds is None else _duration(server.uptime_seconds),
            "-" if server.size_bytes is None else f"{server.size_bytes / 1e6:.0f} MB",
            "-" if server.data_dir is None else str(server.data_dir),
        )
    return table


def _state(server: ServerStatus) -> str:
    if server.data_dir is None:
        return "not set up"
    state = "running" if server.running else "stopped"
    return state if server.home_exists else f"{state}, GCA_HOME was deleted"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
