"""The small file at the end of an example DAG: what ran, its numbers, and where the results lie."""

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger(__name__)


def results_folder(dag_id: str, dag_run_id: str) -> str:
    """The URI of the folder for one run's results, under the results root of the settings."""
    from gca_core.config import load_settings
    from gca_core.io import join_uri, safe_name

    return join_uri(load_settings().results_root(), safe_name(dag_id), safe_name(dag_run_id))


def seconds_since(starts: Iterable[datetime | None], now: datetime) -> float:
    """Seconds since the last of the times that a run may have started at.

    ``airflow dags test`` with a date puts it in ``start_date`` and now in ``run_after``; in scheduled runs
    ``start_date`` is the later one.
    """
    started = max((start for start in starts if start and start <= now), default=now)
    return round((now - started).total_seconds(), 1)


def write_summary(
    *, system: str, ran_on: str, metrics: Mapping[str, float | int | str], files: Mapping[str, str | None]
) -> dict[str, Any]:
    """Write ``<results root>/<dag id>/summary.json`` for the DAG run that calls it, and log it.

    Args:
        system: name of the system that ran.
        ran_on: data, backend and knowledge that it ran on.
        metrics: the numbers that matter, in the order to show them.
        files: URIs of the results by name; empty ones are left out.

    Returns:
        The summary, with the seconds that the run has taken.
    """
    from airflow.sdk import get_current_context

    from gca_core.config import load_settings
    from gca_core.io import join_uri, safe_name, write_json

    dag_run = get_current_context()["dag_run"]
    summary: dict[str, Any] = {
        "system": system,
        "ran_on": ran_on,
        "metrics": dict(metrics),
        "seconds": seconds_since((dag_run.start_date, dag_run.run_after), datetime.now(UTC)),
        "files": {name: uri for name, uri in files.items() if uri},
    }
    uri = write_json(join_uri(load_settings().results_root(), safe_name(dag_run.dag_id), "summary.json"), summary)
    log.info("%s on %s", system, ran_on)
    for name, value in summary["metrics"].items():
        log.info("  %s: %s", name, f"{value:.3f}" if isinstance(value, float) else value)
    log.info("summary in %s", uri)
    return summary
