"""The page inside Airflow's real API server, asked in this process, with a run that has ended."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gca_core.runs.models import IterationRow, RunRow, RunStatus
from gca_core.runs.store import RunStore
from tests.conftest import REPOSITORY

DAG = "gca_haystack_ask"
QUESTION = "How would B cells respond to <script>alert(1)</script> TNF?"
ROLES = {"anonymous": None, "viewer": "VIEWER", "editor": "USER", "other": "USER", "admin": "ADMIN"}
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def page_home(gca_home: Path, airflow_home: Path) -> Iterator[Path]:
    """The environment of the API server."""
    kept = dict(os.environ)
    os.environ |= {"GCA_HOME": str(gca_home), "GCA_RESULTS_URI": (gca_home / "results").as_uri()}
    yield gca_home
    os.environ.clear()
    os.environ.update(kept)


@pytest.fixture(scope="module")
def server(page_home: Path) -> Any:
    """Airflow's API server as an ASGI app, with the DAG that the page starts."""
    from airflow.api_fastapi.app import create_app
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.models.dag import DagModel
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.session import create_session
    from sqlalchemy import update

    from airflow_provider_gca.plugin import records

    with create_session() as session:
        session.merge(DagBundleModel(name="page"))
        session.commit()
        bag = DagBag(dag_folder=REPOSITORY / "dags" / f"{DAG}.py", bundle_name="page")
        sync_bag_to_db(bag, "page", None, session=session)
        session.execute(update(DagModel).where(DagModel.dag_id == DAG).values(is_paused=False))
    for cached in (records.run_store, records.atlas, records.explorer):
        cached.cache_clear()
    return create_app(apps="core")


@pytest.fixture(scope="module")
def api(server: Any) -> Iterator[Any]:
    """A client of the API server."""
    from fastapi.testclient import TestClient

    with TestClient(server, raise_server_exceptions=False) as client:
        yield client


def credentials(name: str, role: str | None) -> dict[str, str]:
    """The headers of somebody who is signed in; none for no role."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    user = SimpleAuthManagerUser(username=name, role=role)
    return {"Authorization": f"Bearer {get_auth_manager().generate_jwt(user)}"} if role else {}


@pytest.fixture
def ask(api: Any) -> Ask:
    """Ask as somebody."""

    def send(who: str, method: str, path: str, **more: Any) -> Any:
        headers = credentials(who, ROLES[who]) | more.pop("headers", {})
        return api.request(method, f"/gca{path}", headers=headers, **more)

    return send


@pytest.fixture(scope="module")
def store(embedded_dsn: str) -> RunStore:
    return RunStore(embedded_dsn)


@pytest.fixture(scope="module")
def mine(store: RunStore, page_home: Path) -> str:
    """A run of the editor that has ended, with its files."""
    folder = page_home / "results" / "haystack" / "hay_20261129_mine00"
    folder.mkdir(parents=True)
    evaluation = {
        "candidate": {"candidate_id": "c", "strategy": "direct"}
        | {f"{kind}_group_ids": ["g"] for kind in ("cell", "control", "query")},
        "status": "scored",
        "grounding": {"status": "scored", "score": 7.5, "n_de_up": 3, "n_de_down": 1},
        "top_genes": [{"gene": "ISG15", "change": 2.0}, {"gene": "IL8", "change": -1.0}],
    }
    outputs = {
        "verdict": "grounded",
        "verdict_detail": "it is",
        "best_score": 7.5,
        "termination_reason": "threshold",
        "best_candidate_id": "c",
        "expected": None,
        "measured": None,
    }
    run = {"iterations": [{"evaluations": [evaluation]}], "query": {"perturbation": "TNF"}}
    log = {"canonical": {"outputs": outputs, "run": run, "transcription_factors": []}}
    (folder / "log.json").write_text(json.dumps(log))
    (folder / "report.html").write_text("<h1>Report</h1>")
    row = RunRow(
        run_id="hay_20261129_mine00",
        question=QUESTION,
        results_uri=folder.as_uri(),
        status=RunStatus.COMPLETED,
        best_score=7.5,
        user_name="editor",
        dag_id=DAG,
        dag_run_id="none",
        outputs={"json": (folder / "log.json").as_uri(), "html": (folder / "report.html").as_uri()},
    )
    store.upsert_run(row)
    store.upsert_iteration(row.run_id, 0, IterationRow(score=7.5, expected=0.8, record={"candidates": [{}, {}]}))
    return row.run_id
