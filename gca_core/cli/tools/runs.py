"""``gca runs``: what the run records say, closing the record of a run that is dead, and forgetting who asked what."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gca_core.runs.store import RunStore

app = typer.Typer(
    no_args_is_help=True, help="List the runs of the database, close the record of one, or purge old ones."
)


@app.command(name="list")
def list_runs(
    limit: Annotated[int, typer.Option(min=1, help="Runs shown at most, newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Show the latest runs. ``stale`` is a run whose process gave no sign of life for too long."""
    found = _store().list_runs(limit)
    if as_json:
        typer.echo(json.dumps([row.model_dump(mode="json") for row in found], indent=2))
        return
    for row in found:
        score = "-" if row.best_score is None else f"{row.best_score:.2f}"
        began = f"{row.started_at:%Y-%m-%d %H:%M}" if row.started_at else "-"
        typer.echo(f"{began}  {row.status.value:<10}{score:>6}  {row.run_id}  {row.results_uri}")
    if not found:
        typer.echo("there are no runs")


@app.command()
def close(run_id: Annotated[str, typer.Argument(help="The run's id, as 'gca runs list' shows it.")]) -> None:
    """Close the record of a run as cancelled; a process that still works on it stops at its next iteration."""
    from gca_core.runs.models import RunStatus

    store = _store()
    if store.close(run_id, RunStatus.CANCELLED, "closed by hand"):
        typer.echo(f"closed: {run_id}")
        return
    row = store.get(run_id)
    sys.stderr.write(f"there is no run {run_id}\n" if row is None else f"{run_id} has ended as {row.status.value}\n")
    raise typer.Exit(2 if row is None else 0)


@app.command()
def purge(
    older_than: Annotated[
        int | None,
        typer.Option(min=0, help="Days since the run ended. [default: GCA_RUNS_RETENTION_DAYS]", show_default=False),
    ] = None,
) -> None:
    """Remove questions, users and errors from the records of old runs that have ended.

    Scores and places of results stay. Results on disk, and Airflow's own records of its DAG runs, are not touched.
    """
    from gca_core.config import load_settings

    days = load_settings().runs_retention_days if older_than is None else older_than
    if days is None:
        raise typer.BadParameter("say after how many days: --older-than 90, or set GCA_RUNS_RETENTION_DAYS")
    typer.echo(f"purged: {_store().purge(days)} runs that ended {days} or more days ago")


def _store() -> RunStore:
    from gca_core.config import load_settings
    from gca_core.runs.store import RunStore
    from gca_core.store.resolve import resolve_dsn

    return RunStore(resolve_dsn(load_settings()))
