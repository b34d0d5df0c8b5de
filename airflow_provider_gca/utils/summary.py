"""The small file at the end of an example DAG: what ran, its figures, and where the results lie."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger(__name__)


def results_folder(dag_id: str, dag_run_id: str) -> str:
    """The URI of the folder for one run's results, under the results root of the settings."""
    from gca_core.config import load_settings
    from gca_core.io import join_uri, safe_name

    return join_uri(load_settings().results_root(), safe_name(dag_id), safe_name(dag_run_id))


def write_summary(
    *, system: str, ran_on: str, figures: Mapping[str, float | int | str], files: Mapping[str, str | None]
) -> dict[str, Any]:
    """Write ``<results root>/<dag id>/summary.json`` for the DAG run that calls it, and log it.

    Args:
        system: name of the system that ran.
        ran_on: data, backend and knowledge that it ran on.
        figures: the figures that matter, in the order to show them.
        files: URIs of the results by name; empty ones are left out.

    Returns:
        The summary, with the seconds since the run started.
    """
    from airflow.sdk import get_current_context

    from gca_core.config import load_settings
    from gca_core.io import join_uri, safe_name, write_json

    dag_run, now = get_current_context()["dag_run"], datetime.now(UTC)
    summary: dict[str, Any] = {
        "system": system,
        "ran_on": ran_on,
        "figures": dict(figures),
        "seconds": round((now - (dag_run.start_date or now)).total_seconds(), 1),
        "files": {name: uri for name, uri in files.items() if uri},
    }
    uri = write_json(join_uri(load_settings().results_root(), safe_name(dag_run.dag_id), "summary.json"), summary)
    log.info("%s on %s", system, ran_on)
    for name, value in summary["figures"].items():
        log.info("  %s: %s", name, f"{value:.3f}" if isinstance(value, float) else value)
    log.info("summary in %s", uri)
    return summary
