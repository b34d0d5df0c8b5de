"""The FastAPI app behind ``/gca``."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from airflow_provider_gca import __version__
from airflow_provider_gca.plugin import page
from airflow_provider_gca.plugin.access import may_enter
from airflow_provider_gca.plugin.door import Door
from airflow_provider_gca.plugin.host import HOST_APP
from airflow_provider_gca.plugin.models import Fault
from airflow_provider_gca.plugin.routes import cells, health, metadata, runs, shown
from gca_core.errors import CellRetrievalError, ConfigurationError, DataValidationError, GcaError, QueryParsingError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)

FAULTS: dict[int | str, dict[str, Any]] = {"4XX": {"model": Fault}, "5XX": {"model": Fault}}
# the caller's doing; anything else of the core is the server's
_CALLERS = (ConfigurationError, DataValidationError, QueryParsingError, CellRetrievalError)


class GcaApp(FastAPI):
    """An app that knows the one it is mounted in: runs are started and cancelled through Airflow's own API."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[HOST_APP] = scope.get("app")
        await super().__call__(scope, receive, send)


def make_app() -> GcaApp:
    """The app with its routes; nothing of it answers to a caller that Airflow does not know."""
    app = GcaApp(
        title="Genomics cell annotation",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        dependencies=[Depends(may_enter)],
    )
    for module in (runs, cells, metadata, health):
        app.include_router(module.router, prefix="/api", responses=FAULTS)
    app.include_router(shown.router, responses=FAULTS)
    app.include_router(page.router)
    app.add_exception_handler(HTTPException, _http_fault)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(GcaError, _core_fault)
    app.add_exception_handler(Exception, _crash)
    app.add_middleware(Door)
    return app


def _http_fault(request: Request, error: Any) -> Response:
    return _answer(request, error.status_code, "HTTPException", str(error.detail), headers=error.headers)


def _invalid(request: Request, error: Any) -> Response:
    # the input itself is not sent back
    details = [{"place": [str(part) for part in e["loc"]], "message": e["msg"]} for e in error.errors()]
    return _answer(request, 422, "RequestValidationError", "the request does not fit; see details", details)


def _core_fault(request: Request, error: Any) -> Response:
    status = 400 if isinstance(error, _CALLERS) else 503
    if status == 503:
        log.warning("%s %s: %s", request.method, request.url.path, error)
    return _answer(request, status, type(error).__name__, str(error))


def _crash(request: Request, error: Any) -> Response:  # noqa: ARG001 - starlette logs it
    return _answer(request, 500, "InternalError", "an error that nobody expected; see the API server's log")


def _answer(
    request: Request, status: int, kind: str, message: str, details: Any = None, headers: Any = None
) -> Response:
    fault = Fault(
        error=HTTPStatus(status).phrase,
        error_type=kind,
        message=message,
        details=details,
        run_id=request.path_params.get("run_id"),
    )
    if page.wants_page(request):
        return page.error_page(request, status, fault, headers)
    return JSONResponse(fault.model_dump(mode="json"), status, headers)
