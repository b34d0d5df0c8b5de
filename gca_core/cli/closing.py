"""How commands reach the run records, and end a run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gca_core.runs.store import RunStore


def close(run_id: Annotated[str, typer.Argument(help="The run's id, as 'gca runs list' shows it.")]) -> None:
    """Cancel a run, or close the record of one that is dead.

    Its process, or its task in Airflow, ends what it does within seconds, and its jobs with it, on Google Batch too;
    what the run had found by then is kept.
    """
    from gca_core.runs.models import RunStatus

    store = run_store()
    if store.close(run_id, RunStatus.CANCELLED, "closed by hand"):
        typer.echo(f"closed: {run_id}")
        return
    row = store.get(run_id)
    sys.stderr.write(f"there is no run {run_id}\n" if row is None else f"{run_id} has ended as {row.status.value}\n")
    raise typer.Exit(2 if row is None else 0)


def run_store() -> RunStore:
    """The run records of the settings."""
    from gca_core.config import load_settings
    from gca_core.runs.store import RunStore
    from gca_core.store.resolve import resolve_dsn

    return RunStore(resolve_dsn(load_settings()))
