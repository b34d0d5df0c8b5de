"""The pages, rendered on the server; owner of what they show: ``templates`` and ``static``."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

import jinja2
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, Response

from airflow_provider_gca.plugin.access import CurrentUser, may_dag, sees_all
from airflow_provider_gca.plugin.records import page_dag_id

if TYPE_CHECKING:
    from airflow_provider_gca.plugin.routes.models import Fault

router = APIRouter(include_in_schema=False)
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".png": "image/png"}
# one source for the look of pages and reports
_SHARED = {"report.css": "page.css"}
_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("airflow_provider_gca.plugin"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Fill a template. It gets ``root``, the address of ``/gca`` without a slash at its end, and its values."""
    shared = {"root": request.scope.get("root_path", "").rstrip("/")}
    return HTMLResponse(_TEMPLATES.get_template(template).render(shared | values), status)


def wants_page(request: Request) -> bool:
    """Whether a person looks, rather than a program."""
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    return not path.startswith("/api/") and "text/html" in request.headers.get("accept", "")


def error_page(request: Request, status: int, fault: Fault, headers: dict[str, str] | None = None) -> Response:
    """A fault for a person."""
    answer = render(request, "error.html.j2", status, fault=fault)
    answer.headers.update(headers or {})
    return answer


@router.get("/")
def index(request: Request, user: CurrentUser) -> HTMLResponse:
    """The first page."""
    dag_id = page_dag_id()
    return render(
        request,
        "index.html.j2",
        user=user.get_name(),
        may_start=may_dag(request, user, "POST", dag_id),
        sees_all=sees_all(user),
        dag_id=dag_id,
    )


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
