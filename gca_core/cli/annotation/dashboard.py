"""``gca dashboard``: an annotated file in the browser."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import typer

from gca_core.cli import failures
from gca_core.cli.annotation.options import reviewer

# what is given here wins over any configuration of Streamlit's
_SETTINGS = {
    "server.address": "127.0.0.1",
    "server.headless": "true",
    "server.enableCORS": "true",
    "server.enableXsrfProtection": "true",
    "server.fileWatcherType": "none",
    "server.runOnSave": "false",
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
}


def dashboard(
    where: Annotated[
        str,
        typer.Argument(
            metavar="FILE|FOLDER", help="An annotated file with its report beside it, or the folder of both."
        ),
    ],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of this machine to listen on.")] = 8501,
    who: Annotated[
        str | None,
        typer.Option(envvar="GCA_REVIEWER", help="The reviewer's name in the form. Left out: the user of this system."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Log everything, and show tracebacks.")] = False,
) -> None:
    """Serve a page with the UMAP, labels and evidence of an annotated file, and a form that changes labels.

    What is decided there goes into the results as with 'gca review --apply'. The page is for this machine alone, and
    Ctrl-C ends it.

    Example: gca dashboard results/annotated.h5ad
    """
    failures.debug(wanted=debug)
    from gca_core.annotation.review.queue import REPORT, real_folder, single_run

    report = f"{real_folder(single_run(where).folder)}/{REPORT}"
    raise typer.Exit(serve(report, who=reviewer(who), port=port))


def serve(report: str, *, who: str, port: int) -> int:
    """Run Streamlit until it ends, and return its exit code.

    Raises:
        ConfigurationError: it isn't installed.
    """
    from gca_core.annotation import dashboard as pages
    from gca_core.config import child_environment, require
    from gca_core.inference.local import FOR_GCS

    require("streamlit", "ui")
    options = [f"--{name}={value}" for name, value in {**_SETTINGS, "server.port": port}.items()]
    app = f"{pages.__path__[0]}/app.py"
    # from a folder where nobody else put a configuration
    done = subprocess.run(
        [sys.executable, "-m", "streamlit", "run", *options, app, "--", report, who],
        cwd="/",
        env=child_environment(*FOR_GCS),
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode
