"""How fast the page's API answers, in Airflow's real API server: 10,000 runs in the table, 100,000 groups in the atlas.

Run with ``python benchmarks/bench_page.py``; about a minute. Times are of the whole call, sign-in and permissions
included, without the network.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HOME = Path(tempfile.mkdtemp(prefix="gca-"))
os.environ |= {
    "AIRFLOW_HOME": str(HOME / "airflow"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
    "AIRFLOW__API_AUTH__JWT_SECRET": "of this benchmark" * 5,
    "GCA_HOME": str(HOME / "gca"),
    "GCA_ENV_FILE": str(HOME / "none"),
}

CALLS = 100
RUNS, GROUPS = 10_000, 100_000
STATUS_MS, SEARCH_MS = 50.0, 150.0
# ruff: noqa: S608 - made of constants
FILL = (
    f"""insert into runs (run_id, question, status, phase, results_uri, user_name, dag_id, dag_run_id, created_at)
    select 'hay_20261129_' || n, 'How would cells of type ' || n % 97 || ' respond to compound ' || n || '?',
        (array['completed', 'completed', 'failed', 'cancelled'])[n % 4 + 1], 'output_generation', 'file:///nowhere',
        'user ' || n % 50, 'gca_haystack_ask', 'manual ' || n, now() - n * interval '1 minute'
    from generate_series(1, {RUNS}) n""",
    """insert into run_iterations (run_id, iteration, score, expected, record)
    select run_id, i, 5 + i, 0.5, '{"candidates": [{}, {}, {}, {}]}' from runs, generate_series(0, 2) i""",
    f"insert into datasets values ('made up', 'file:///nowhere', 'x', {GROUPS} * 50, {GROUPS}, 20000, 'none', '{{}}')",
    """insert into perturbations (name, embedding, embedding_model)
    select 'compound ' || n, array_fill(0.1, array[1536])::vector, 'none' from generate_series(0, 999) n""",
    """insert into cell_types (cell_type_id, label, embedding, embedding_model)
    select 'CL:' || n, 'cell of type ' || n, array_fill(0.1, array[1536])::vector, 'none'
    from generate_series(0, 99) n""",
    "insert into synonyms (kind, synonym, target) select 'perturbation', name, name from perturbations",
    "insert into synonyms (kind, synonym, target) select 'cell_type', label, cell_type_id from cell_types",
    f"""insert into cell_groups
        (group_id, dataset, perturbation, is_control, cell_type_id, n_cells, row_start, row_stop)
    select 'g-' || n, 'made up', 'compound ' || n % 1000, false, 'CL:' || n / 1000, 50, n * 50, n * 50 + 50
    from generate_series(0, {GROUPS} - 1) n""",
    "analyze",
)
PATHS = {
    "a run's status": (f"/api/runs/hay_20261129_{RUNS // 2}", STATUS_MS),
    "the list of runs": ("/api/runs", STATUS_MS),
    "runs by text and user": ("/api/runs?text=compound+77&by=user+7", STATUS_MS),
    "all groups, counted": ("/api/cells", SEARCH_MS),
    "groups of a cell type": ("/api/cells?cell_type=type+42", SEARCH_MS),
    "groups by three words": ("/api/cells?cell_type=type&perturbation=compound&dataset=made", SEARCH_MS),
    "a page far behind": ("/api/cells?cell_type=type&offset=10000&limit=50", SEARCH_MS),
}


def main() -> None:
    """Fill a server of its own, ask it, and print a table."""
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, stdout=subprocess.DEVNULL)
    from airflow.api_fastapi.app import create_app, get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi.testclient import TestClient

    from airflow_provider_gca.plugin import door
    from gca_core.config import load_settings
    from gca_core.store.connect import connect
    from gca_core.store.resolve import resolve_dsn

    door.BURST = door.REQUESTS_PER_SECOND = 1e9
    with connect(resolve_dsn(load_settings(), "admin"), autocommit=True) as connection:
        for statement in FILL:
            connection.execute(statement.encode())
    slow = []
    with TestClient(create_app(apps="core")) as client:
        token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="admin", role="ADMIN"))
        client.headers["Authorization"] = f"Bearer {token}"
        print(f"{RUNS:,} runs, {GROUPS:,} groups, {CALLS} calls each\n{'':<24}{'median':>10}{'95 %':>10}{'bound':>10}")
        for name, (path, bound) in PATHS.items():
            times = sorted(call(client, path) for _ in range(CALLS))
            median, late = statistics.median(times), times[int(0.95 * CALLS)]
            print(f"{name:<24}{median:>7.1f} ms{late:>7.1f} ms{bound:>7.0f} ms")
            slow += [name] if late > bound else []
    sys.exit(f"slower than the bound: {', '.join(slow)}" if slow else 0)


def call(client: Any, path: str) -> float:
    """Milliseconds of one call."""
    begun = time.perf_counter()
    answer = client.get(f"/gca{path}")
    assert answer.status_code == 200, answer.text
    return (time.perf_counter() - begun) * 1000


if __name__ == "__main__":
    try:
        main()
    finally:
        from gca_core.store import embedded

        embedded.remove(HOME / "gca")
        shutil.rmtree(HOME, ignore_errors=True)
