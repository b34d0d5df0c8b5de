"""The routes of the page inside Airflow's real API server: who may what, and what strangers may try."""

import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gca_core.runs.store import RunStore
from tests.helpers.atlas_cells import ingest_config, make_cells
from tests.helpers.page_api import DAG, QUESTION, ROLES, Ask, api, ask, mine, page_home, server, store

__all__ = ["api", "ask", "mine", "page_home", "server", "store"]
ASKED = {"question": QUESTION, "max_iterations": 1}

ROUTES = [
    # method, path, body, then status for anonymous, viewer, editor, other, admin
    ("GET", "/api/health", None, 401, 200, 200, 200, 200),
    ("GET", "/api/metadata", None, 401, 200, 200, 200, 200),
    ("GET", "/api/cells?perturbation=tnf", None, 401, 200, 200, 200, 200),
    ("GET", "/api/cells/prompts?question=What+is+the+meaning+of+it", None, 401, 400, 400, 400, 400),
    ("GET", "/api/openapi.json", None, 401, 200, 200, 200, 200),
    ("GET", "/api/docs", None, 401, 404, 404, 404, 404),
    ("GET", "/nothing", None, 401, 404, 404, 404, 404),
    ("GET", "/", None, 401, 200, 200, 200, 200),
    ("GET", "/runs", None, 401, 200, 200, 200, 200),
    ("GET", "/runs/{run}", None, 401, 404, 200, 404, 200),
    ("GET", "/runs/{run}/live", None, 401, 404, 200, 404, 200),
    ("GET", "/runs/{run}/results", None, 401, 404, 200, 404, 200),
    ("GET", "/atlas", None, 401, 200, 200, 200, 200),
    ("GET", "/static/page.css", None, 401, 200, 200, 200, 200),
    ("GET", "/static/..%2Fpage.py", None, 401, 404, 404, 404, 404),
    ("GET", "/dag-run?dag_id=gca_haystack_ask&dag_run_id=none", None, 401, 404, 200, 404, 200),
    ("GET", "/api/runs", None, 401, 200, 200, 200, 200),
    ("POST", "/api/runs", {}, 401, 422, 422, 422, 422),
    ("POST", "/api/runs", {"question": "too short"}, 401, 422, 422, 422, 422),
    ("GET", "/api/runs/{run}", None, 401, 404, 200, 404, 200),
    ("GET", "/api/runs/{run}/result", None, 401, 404, 200, 404, 200),
    ("GET", "/api/runs/{run}/events", None, 401, 404, 200, 404, 200),
    ("GET", "/api/runs/{run}/files/html", None, 401, 404, 200, 404, 200),
    ("GET", "/api/runs/{run}/files/h5ad", None, 401, 404, 404, 404, 404),
    ("GET", "/api/runs/..%2F..%2Fetc%2Fpasswd", None, 401, 404, 404, 404, 404),
    ("GET", "/api/runs/%00", None, 401, 422, 422, 422, 422),
    ("POST", "/api/runs/{run}/cancel", None, 401, 404, 409, 404, 409),
    ("GET", "/results?dag_id=gca_haystack_ask&dag_run_id=x&task_id=y", None, 401, 404, 404, 404, 404),
]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route[0]} {route[1]}")
def test_who_may_what(ask: Ask, mine: str, route: tuple[Any, ...]) -> None:
    method, path, body, *expected = route
    place = path.format(run=mine)
    found = {who: ask(who, method, place, json=body) for who in ROLES}
    assert [answer.status_code for answer in found.values()] == expected, found["editor"].text
    for answer in found.values():
        assert answer.headers["x-content-type-options"] == "nosniff" and "content-security-policy" in answer.headers
        assert "<script>alert" not in answer.text or "html" not in answer.headers["content-type"]
        if answer.status_code >= 400:
            assert {"error", "error_type", "message", "details", "run_id"} == set(answer.json())


def test_every_route_is_in_the_table(api: Any) -> None:
    from airflow_provider_gca.plugin.plugin import GcaPlugin

    app = GcaPlugin().app
    there = {(m, r.path) for r in app.routes for m in r.methods if m != "HEAD"}
    tried = {(route[0], route[1].split("?")[0]) for route in ROUTES}
    names = {"{run_id}": "{run}", "{kind}": "html", "{name}": "page.css"}
    for long, short in names.items():
        there = {(method, path.replace(long, short)) for method, path in there}
    assert there - tried == set()


def test_a_run_is_started_and_cancelled_through_airflow(
    ask: Ask, store: RunStore, take_in: Any, tmp_path: Path
) -> None:
    assert ask("viewer", "POST", "/api/runs", json=ASKED).status_code == 403
    empty = ask("editor", "POST", "/api/runs", json=ASKED)
    assert empty.status_code == 409 and "ingest first" in empty.json()["message"]
    make_cells().write_h5ad(tmp_path / "cells.h5ad")
    take_in(ingest_config(tmp_path / "cells.h5ad", "mine"))

    answer = ask("editor", "POST", "/api/runs", json=ASKED | {"seed": 3})
    run = answer.json()
    assert answer.status_code == 201, run
    assert (run["status"], run["phase"], run["user_name"], run["seed"]) == ("pending", "query_analysis", "editor", 3)
    assert run["run_id"].startswith(f"hay_{datetime.now(UTC):%Y%m%d}_") and run["question"] == QUESTION
    assert [r["run_id"] for r in ask("editor", "GET", "/api/runs?status=pending").json()["runs"]] == [run["run_id"]]
    assert ask("other", "GET", "/api/runs").json()["total"] == 0
    assert ask("admin", "GET", "/api/runs?by=editor&text=tnf").json()["total"] >= 1
    assert ask("other", "POST", f"/api/runs/{run['run_id']}/cancel").status_code == 404

    cancelled = ask("editor", "POST", f"/api/runs/{run['run_id']}/cancel")
    assert cancelled.status_code == 200 and cancelled.json()["status"] == "cancelled"
    again = ask("editor", "POST", f"/api/runs/{run['run_id']}/cancel")
    assert again.status_code == 409 and again.json()["run_id"] == run["run_id"]
    events = ask("editor", "GET", f"/api/runs/{run['run_id']}/events").text
    assert events.startswith("event: run\ndata: {") and events.endswith('event: end\ndata: {"status": "cancelled"}\n\n')

    from airflow.models.dagrun import DagRun
    from airflow.models.log import Log
    from airflow.utils.session import create_session

    with create_session() as session:
        kept = session.query(DagRun).filter_by(dag_id=DAG, run_id=run["dag_run_id"]).one()
        assert (kept.conf["question"], kept.triggering_user_name) == (QUESTION, "editor")
        # nothing is left to run but the teardown
        left = {task.task_id for task in kept.get_task_instances(session=session) if task.state != "skipped"}
        assert left == {"haystack.cancel_leftovers"}
        owners = {log.owner for log in session.query(Log).filter_by(dag_id=DAG)}
    assert "editor" in owners


def test_the_link_of_an_operator_opens_what_its_task_recorded(ask: Ask, mine: str, page_home: Path) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    from airflow_provider_gca.utils.place import result_url, uri_key

    run_id = next(r["dag_run_id"] for r in ask("admin", "GET", "/api/runs?status=cancelled").json()["runs"])
    task_id = "haystack.start"
    link = result_url(DAG, run_id, task_id, -1, "report").removeprefix("/gca")
    report = page_home / "results" / "haystack" / mine / "report.html"
    for uri, status in ((report.as_uri(), 200), ("file:///etc/passwd", 404), (f"{report.as_uri()}x", 404)):
        with create_session() as session:
            assert session.query(DagRun).filter_by(dag_id=DAG, run_id=run_id).count() == 1
            XComModel.set(uri_key("report"), uri, dag_id=DAG, run_id=run_id, task_id=task_id, session=session)
        # who may see the DAG, a viewer too
        assert [ask(who, "GET", link).status_code for who in ("anonymous", "viewer")] == [401, status]
    assert ask("viewer", "GET", link.replace("report", "figure")).status_code == 404


def test_a_result_is_what_the_log_of_the_run_says(ask: Ask, mine: str) -> None:
    result = ask("editor", "GET", f"/api/runs/{mine}/result").json()
    assert (result["grounding_score"], result["verdict"], result["termination_reason"]) == (
        7.5,
        "grounded",
        "threshold",
    )
    assert (result["n_de_genes"], result["top_up"], result["top_down"][0]["gene"]) == (
        4,
        [{"gene": "ISG15", "change": 2.0}],
        "IL8",
    )
    report = ask("editor", "GET", result["downloads"]["html"].removeprefix("/gca"))
    assert report.text == "<h1>Report</h1>"
    assert report.headers["content-security-policy"].startswith("sandbox allow-scripts")
    kept = ask("editor", "GET", result["downloads"]["json"].removeprefix("/gca"))
    assert kept.headers["content-disposition"].startswith("attachment")
    scores = ask("editor", "GET", f"/api/runs/{mine}").json()["scores"]
    assert scores == [{"iteration": 0, "score": 7.5, "expected": 0.8, "n_candidates": 2}]


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"content": b"x" * 10_000_000, "headers": {"content-type": "application/json"}}, 413),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422),
        ({"content": b'{"question": "How would B cells respond?"}', "headers": {"content-type": "text/plain"}}, 422),
        ({"json": ASKED, "headers": {"sec-fetch-site": "cross-site"}}, 403),
        ({"json": ASKED | {"dag_id": "other"}}, 422),
        ({"json": ASKED | {"max_iterations": 99}}, 422),
        ({"json": ASKED | {"question": "q" * 3000}}, 422),
    ],
    ids=["10 MB", "half", "a form", "another site", "unknown field", "too many", "too long"],
)
def test_what_does_not_fit_is_refused(ask: Ask, more: dict[str, Any], status: int) -> None:
    assert ask("anonymous", "POST", "/api/runs", **more).status_code in (401, 403)
    answer = ask("editor", "POST", "/api/runs", **more)
    assert answer.status_code == status and "qqqq" not in answer.text


def test_two_hundred_requests_in_a_second_are_too_many(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_provider_gca.plugin import door

    now = time.monotonic() + 3600
    monkeypatch.setattr(door, "time", SimpleNamespace(monotonic=lambda: now))
    statuses = [ask("other", "GET", "/static/icon.svg").status_code for _ in range(200)]
    assert statuses == [200] * 100 + [429] * 100
    assert ask("admin", "GET", "/static/icon.svg").status_code == 200
