"""How the ``gca`` command ends: exit codes, one line for what can be expected, tracebacks on demand."""

import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence

import typer
from typer.core import TyperGroup, TyperOption
from typer.main import get_command

from gca_core.errors import (
    CellRetrievalError,
    ConfigurationError,
    DataValidationError,
    GcaError,
    MarkerDatabaseError,
    QueryParsingError,
)

EXIT_FAILURE = 1
EXIT_BAD_INPUT = 2
EXIT_FLAGGED = 3
# what the user can settle: the input, an option, a setting
_BAD_INPUT = (ConfigurationError, DataValidationError, MarkerDatabaseError, QueryParsingError, CellRetrievalError)
_KEPT = {
    "annotate": "answers of a model so far are kept, and the same command goes on from them",
    "scanpy": "answers of a model so far are kept, and the same command goes on from them",
    "vae": "of a training that had begun, the best weights so far are in model/ in the output folder",
    "haystack": "a run that had begun is closed as cancelled; its states and predictions so far are in work/ below its "
    "results, and the same command begins it anew",
    "atlas": "the atlas holds the datasets that were complete, and the same command goes on with this one",
}
_shown = {"traceback": False}


def debug(*, wanted: bool) -> None:
    """What ``--debug`` does: log everything, and have :func:`report` print tracebacks."""
    _shown["traceback"] = wanted
    if wanted:
        logging.getLogger("gca_core").setLevel(logging.DEBUG)


def report(error: GcaError | OSError, app: typer.Typer, arguments: Sequence[str]) -> int:
    """Write an expected failure to stderr as one line, and return the exit code that goes with it."""
    if _shown["traceback"] or os.environ.get("GCA_LOG_LEVEL", "").upper() == "DEBUG":
        traceback.print_exception(error, file=sys.stderr)
    sys.stderr.write(f"error: {_in_options(_words(error), app, arguments)}\n")
    return EXIT_BAD_INPUT if isinstance(error, _BAD_INPUT) else EXIT_FAILURE


def report_interrupt(command: str | None) -> None:
    """Say on stderr what Ctrl-C left of a command."""
    words = ["files that are there are whole", *([_KEPT[command]] if command in _KEPT else [])]
    sys.stderr.write(f"\ninterrupted: {'; '.join(words)}\n")


def _in_options(message: str, app: typer.Typer, arguments: Sequence[str]) -> str:
    """The message with the options of the command that was run in the place of their Python names.

    Names of one word are read as such only where a complaint begins with them, as in ``seed: expected ...``.
    """
    command = get_command(app)
    for word in arguments:
        if isinstance(command, TyperGroup) and word in command.commands:
            command = command.resolve_command(typer.Context(command), [word])[1] or command
    options = {p.name: max(p.opts, key=len) for p in command.params if isinstance(p, TyperOption)}
    return re.sub(
        r"(?<![\w'\"/.-])[a-z]+(?:_[a-z0-9]+)+(?![\w'\"/.-])|(?:^|(?<=[;:] ))[a-z]+(?=: )",
        lambda found: options.get(found[0], found[0]),
        message,
    )


def _words(error: GcaError | OSError) -> str:
    if isinstance(error, GcaError):
        return str(error)
    where = f": {error.filename}" if error.filename is not None else ""
    return f"{error.strerror or type(error).__name__}{where}"
