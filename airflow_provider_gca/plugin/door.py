"""What every request passes before anything else of it is read: who asks, how much, how often."""

from __future__ import annotations

import time
from collections import OrderedDict
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from airflow_provider_gca.plugin.access import USER, authenticate
from airflow_provider_gca.plugin.models import Fault

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 64 * 1024
REQUESTS_PER_SECOND = 20.0
BURST = 100.0
SAFE = ("GET", "HEAD", "OPTIONS")
_KNOWN = 10_000
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Cache-Control": "no-store"}
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)


class Allowance:
    """A bucket of requests a caller, in this process; those who were longest away are forgotten."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, caller: str) -> float:
        """Take one; the seconds until there is one where there is none."""
        now = time.monotonic()
        left, then = self._left.pop(caller, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._rate)
        self._left[caller] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > _KNOWN:
            self._left.popitem(last=False)
        return 0.0 if left >= 1 else (1 - left) / self._rate


class Door:
    """ASGI middleware; also an unknown path says nothing to a stranger."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._allowance = Allowance(REQUESTS_PER_SECOND, BURST)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let in, or answer 401, 403, 413 or 429."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            if request.method not in SAFE and request.headers.get("sec-fetch-site") in {"cross-site", "same-site"}:
                raise HTTPException(403, "another site asks in your name")
            user = await authenticate(request)
            if wait := self._allowance.wait(str(user.get_id())):
                headers = {"Retry-After": str(int(wait) + 1)}
                raise HTTPException(429, "too many requests; wait a second and go on more slowly", headers)
            body = await _read(request)
        except HTTPException as error:
            fault = Fault(
                error=HTTPStatus(error.status_code).phrase, error_type="HTTPException", message=str(error.detail)
            )
            answer = JSONResponse(fault.model_dump(), error.status_code, error.headers)
            await answer(scope, receive, _with_headers(send))
            return
        scope[USER] = user
        await self._app(scope, _replay(body, receive), _with_headers(send))


async def _read(request: Request) -> bytes:
    """The body, which must be small."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"the body is larger than {MAX_BODY // 1024} KiB")
    return body


def _replay(body: bytes, receive: Receive) -> Receive:
    first = True

    async def again() -> Message:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name.lower() for name, _ in message["headers"]}
            more = {**HEADERS, "Content-Security-Policy": CSP}
            wanted = [(name.lower().encode(), value.encode()) for name, value in more.items()]
            message["headers"] = [*message["headers"], *(pair for pair in wanted if pair[0] not in own)]
        await send(message)

    return sent
