"""The pages, rendered on the server; owner of what they show: ``templates`` and ``static``."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, Response

from airflow_provider_gca.plugin.access import CurrentUser, may_dag, require_dag, require_run, sees_all
from airflow_provider_gca.plugin.models import MAX_NAME, MAX_QUESTION
from airflow_provider_gca.plugin.records import explorer, page_dag_id, run_store
from airflow_provider_gca.plugin.routes.cells import prompts
from airflow_provider_gca.plugin.routes.metadata import metadata
from airflow_provider_gca.plugin.views import FIELDS, fill, view_result, view_run
from gca_core.errors import GcaError
from gca_core.runs.models import RunStatus

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.models.base_user import BaseUser

    from airflow_provider_gca.plugin.models import Fault, Prompts
    from gca_core.runs.models import RunRow

PAGE = 50
Word = Annotated[str, Query(max_length=MAX_NAME)]
router = APIRouter(include_in_schema=False)
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".png": "image/png"}
# one source for the look of pages and reports
_SHARED = {"report.css": "page.css"}


def render(
    request: Request, template: str, user: BaseUser | None = None, place: str = "", status: int = 200, **values: Any
) -> HTMLResponse:
    """Fill a template.

    It gets ``root``, the address of ``/gca`` without a slash at its end, who looks, the ``place`` in the navigation,
    and its values.
    """
    shared = {"root": _root(request), "user": user.get_name() if user else "", "place": place}
    return HTMLResponse(fill(template, **shared, **values), status)


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")


def _airflow(request: Request) -> str:
    return _root(request).removesuffix("/gca")


def wants_page(request: Request) -> bool:
    """Whether a person looks, rather than a program."""
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    return not path.startswith("/api/") and "text/html" in request.headers.get("accept", "")


def error_page(request: Request, status: int, fault: Fault, headers: dict[str, str] | None = None) -> Response:
    """A fault for a person."""
    answer = render(request, "error.html.j2", status=status, fault=fault)
    answer.headers.update(headers or {})
    return answer


@router.get("/")
async def index(
    request: Request, user: CurrentUser, question: Annotated[str, Query(max_length=MAX_QUESTION)] = ""
) -> HTMLResponse:
    """A question, and the latest runs."""
    facts = await metadata(request, user)
    rows = await run_in_threadpool(_latest, user)
    ideas = await run_in_threadpool(_ideas)
    return render(
        request,
        "index.html.j2",
        user,
        "ask",
        question=question,
        facts=facts,
        dag_href=f"{_airflow(request)}/dags/{quote(facts.dag_id)}",
        atlas=facts.atlas,
        ideas=ideas,
        fields=FIELDS,
        runs=[view_run(row, ()) for row in rows],
    )


def _latest(user: BaseUser) -> list[RunRow]:
    if not may_dag(user, "GET", page_dag_id()):
        return []
    return run_store().list_runs(5, user_name=None if sees_all(user) else user.get_name())


def _ideas() -> list[str]:
    return [f"How would {cell_type}s respond to {name}?" for cell_type, name in explorer().open_pairs()]


@router.get("/runs")
def history(
    request: Request,
    user: CurrentUser,
    text: Word = "",
    status: Word = "",
    asked_by: Word = "",
    page: Annotated[int, Query(ge=1, le=1000)] = 1,
) -> HTMLResponse:
    """What was asked, newest first."""
    require_dag(user, "GET", page_dag_id())
    everybody = sees_all(user)
    words = {"text": text.strip(), "status": status, "asked_by": asked_by.strip() if everybody else ""}
    wanted: dict[str, Any] = {
        "user_name": words["asked_by"] or None if everybody else user.get_name(),
        "status": RunStatus(status) if status in list(RunStatus) else None,
        "text": words["text"] or None,
    }
    rows = run_store().list_runs(PAGE, (page - 1) * PAGE, **wanted)
    total = run_store().count_runs(**wanted)
    return render(
        request,
        "runs.html.j2",
        user,
        "runs",
        runs=[view_run(row, ()) for row in rows],
        total=total,
        statuses=list(RunStatus),
        asked=words,
        filtered=any(words.values()),
        sees_all=everybody,
        **_pages(words, page, total),
    )


@router.get("/runs/{run_id}")
def run_page(request: Request, user: CurrentUser, run_id: str) -> HTMLResponse:
    """A run: live while it goes on, then what came out."""
    return render(request, "run.html.j2", user, "runs", **_run(request, user, run_id))


@router.get("/runs/{run_id}/live")
def run_live(request: Request, user: CurrentUser, run_id: str) -> HTMLResponse:
    """The part of a run's page that changes as it goes on."""
    return render(request, "live.html.j2", user, "runs", **_run(request, user, run_id))


@router.get("/runs/{run_id}/results")
def run_results(request: Request, user: CurrentUser, run_id: str) -> HTMLResponse:
    """The part of a run's page that is there when it has ended."""
    return render(request, "results.html.j2", user, "runs", **_run(request, user, run_id))


@router.get("/atlas")
def atlas_page(
    request: Request,
    user: CurrentUser,
    cell_type: Word = "",
    perturbation: Word = "",
    tissue: Word = "",
    dataset: Word = "",
    question: Annotated[str, Query(max_length=MAX_QUESTION)] = "",
    page: Annotated[int, Query(ge=1, le=1000)] = 1,
) -> HTMLResponse:
    """What the atlas holds, and which prompts it gives."""
    words = {"cell_type": cell_type, "perturbation": perturbation, "tissue": tissue, "dataset": dataset}
    found = explorer().browse(**words, limit=PAGE, offset=(page - 1) * PAGE)
    return render(
        request,
        "atlas.html.j2",
        user,
        "atlas",
        atlas=explorer().overview(),
        asked={**words, "question": question},
        known=explorer().names(),
        found=found,
        ideas=_ideas(),
        proposal=_prompts(question) if question.strip() else None,
        **_pages(words, page, found.n_groups),
    )


def _prompts(question: str) -> Prompts | str:
    """The prompts that a question would begin with, or why there are none."""
    try:
        return prompts(question)
    except GcaError as error:
        return str(error)


def _pages(words: dict[str, str], page: int, total: int) -> dict[str, Any]:
    """Where the pages before and after are, empty where there is none."""

    def address(there: bool, number: int) -> str:
        asked = {**{name: word for name, word in words.items() if word}, "page": number}
        return f"?{urlencode(asked)}" if there else ""

    return {"earlier": address(page > 1, page - 1), "later": address(page * PAGE < total, page + 1)}


@router.get("/dag-run")
def dag_run_page(request: Request, user: CurrentUser, dag_id: Word, dag_run_id: Word) -> HTMLResponse:
    """The run that a DAG run works on, for its tab."""
    require_dag(user, "GET", dag_id)
    rows = run_store().list_runs(1, dag_run=(dag_id, dag_run_id))
    if not rows:
        return render(request, "no_run.html.j2", user, "runs")
    return render(request, "run.html.j2", user, "runs", **_run(request, user, rows[0].run_id))


def _run(request: Request, user: BaseUser, run_id: str) -> dict[str, Any]:
    row = require_run(user, run_id)
    where, may_cancel = "", False
    if row.dag_id and row.dag_run_id:
        may_cancel = may_dag(user, "PUT", row.dag_id)
        where = f"{_airflow(request)}/dags/{quote(row.dag_id)}/runs/{quote(row.dag_run_id)}"
    return {
        "run": view_run(row, run_store().iterations(run_id), where),
        "may_cancel": may_cancel,
        "result": view_result(row, f"{_root(request)}/api/runs/{quote(run_id)}/files"),
    }


@router.get("/static/{name}")
def static(name: str) -> Response:
    """A file of the pages; behind the same door as they."""
    ours = resources.files("airflow_provider_gca.plugin") / "static"
    found = next((file for file in ours.iterdir() if file.name == name), None)
    if name in _SHARED:
        found = resources.files("gca_core") / "templates" / _SHARED[name]
    kind = next((kind for ending, kind in _TYPES.items() if name.endswith(ending)), None)
    if found is None or kind is None:
        raise HTTPException(404, "there is no such file")
    return Response(found.read_bytes(), media_type=kind, headers={"Cache-Control": "private, max-age=300"})
