"""``gca runs``: what the run records say, closing the record of a run that is dead, and forgetting who asked what."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from gca_core.cli.closing import close, run_store

app = typer.Typer(
    no_args_is_help=True, help="List the runs of the database, close the record of one, or purge old ones."
)
app.command()(close)


@app.command(name="list")
def list_runs(
    limit: Annotated[int, typer.Option(min=1, help="Runs shown at most, newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Show the latest runs. ``stale`` is a run whose process gave no sign of life for too long."""
    found = run_store().list_runs(limit)
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
    typer.echo(f"purged: {run_store().purge(days)} runs that ended {days} or more days ago")
