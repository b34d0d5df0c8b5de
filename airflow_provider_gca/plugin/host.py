"""Airflow's own API, asked in this process with the credentials of who asks: its permissions, checks and audit hold."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
from fastapi import HTTPException, Request

HOST_APP = "gca_host_app"
# who asks; and for the audit log, that a page asks
_PASSED_ON = ("authorization", "cookie", "referer", "user-agent")


async def ask_airflow(request: Request, method: str, *path: str, body: Any = None, **params: Any) -> Any:
    """The answer of ``/api/v2/...``.

    Args:
        request: whose credentials are passed on.
        method: HTTP method.
        path: parts of the path, quoted here.
        body: JSON.
        params: of the query.

    Raises:
        HTTPException: with Airflow's status and words, where it refuses.
    """
    app = request.scope.get(HOST_APP)
    if app is None:
        raise HTTPException(503, "this app is not mounted in Airflow's API server")
    headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
    url = "/".join(["/api/v2", *(quote(part, safe="") for part in path)])
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
        answer = await client.request(method, url, json=body, params=params, headers=headers)
    if answer.is_success:
        return answer.json() if answer.content else None
    raise HTTPException(answer.status_code, _words(answer))


def _words(answer: httpx.Response) -> str:
    try:
        said = answer.json().get("detail")
    except (ValueError, AttributeError):
        said = None
    if isinstance(said, list):
        said = "; ".join(str(part.get("msg", part)) if isinstance(part, dict) else str(part) for part in said)
    return f"Airflow refuses: {said or answer.reason_phrase}"[:2000]
