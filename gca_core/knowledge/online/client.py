"""One way to call a service: limited, repeated with patience, cached, and left alone when it fails."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gca_core.cache import FileCache
from gca_core.config import require
from gca_core.errors import ExternalAPIError
from gca_core.http import parse_retry_after
from gca_core.io import content_hash, parse_json
from gca_core.knowledge.online.limits import CircuitBreaker, RateLimit
from gca_core.knowledge.online.settings import SERVICES, OnlineSettings, Source

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

T = TypeVar("T")

USER_AGENT = "airflow-provider-gca"
MAX_BYTES = 20_000_000
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
DAY_S = 86_400.0


class RefusedError(ExternalAPIError):
    """The service is well and refuses this call; another attempt would not help."""


@dataclass(frozen=True)
class _Request:
    """One call: where to, and with what; ``secret`` fields are sent and nothing else is done with them."""

    method: str
    url: str
    fields: Mapping[str, str]
    secret: Mapping[str, str]
    missing: frozenset[int]

    @property
    def key(self) -> str:
        """The hash of what decides the answer; neither keys nor e-mail addresses are in it."""
        return content_hash({"method": self.method, "url": self.url, **self.fields})


@dataclass(frozen=True)
class _Attempt(Generic[T]):
    """What became of one attempt: a body with its value, nothing of the kind, or trouble and the pause asked for."""

    body: str | None = None
    value: T | None = None
    trouble: str = ""
    pause_s: float = 0.0


class ServiceClient:
    """Calls one service.

    The state (limit, circuit breaker) lives as long as the object; the connections only as long as a call, so that
    it can be used from one event loop after another. ``n_answers`` and ``n_from_cache`` count what it gave so far.

    Args:
        source: the service.
        settings: addresses, patience and the place of the cache.
        breaker: when to leave the service alone.
        limit: how often it is called; the service's own limit by default.
        cache: where answers are kept; the service's own terms say whether any is.
        sleep: waits some seconds.
    """

    def __init__(
        self,
        source: Source,
        settings: OnlineSettings,
        *,
        breaker: CircuitBreaker | None = None,
        limit: RateLimit | None = None,
        cache: FileCache | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        service = SERVICES[source]
        self.source, self.settings = source, settings
        self._breaker = breaker or CircuitBreaker()
        self._limit = limit or RateLimit(settings.requests(source), service.window_s)
        self._max_age_s = settings.online_cache_days * DAY_S
        kept = cache or FileCache(settings.cache_folder() / source.value)
        self._cache = kept if service.stored and self._max_age_s > 0 else None
        self._sleep = sleep
        self.n_answers = self.n_from_cache = 0
        self._jitter = random.Random()  # noqa: S311

    async def get_json(
        self, path: str, params: Mapping[str, str], read: Callable[[Any], T], missing: Iterable[int] = ()
    ) -> T | None:
        """What ``read`` makes of the JSON answer to a GET; None where the service says that there is no such thing.

        Args:
            path: below the service's address.
            params: of the query.
            read: raises ValueError where the answer has another form than expected; such an answer is not kept.
            missing: further statuses beside 404 by which the service says that there is no such thing.

        Raises:
            ExternalAPIError: the service gave no usable answer after all attempts, or is being left alone.
        """
        return await self._call(
            self._request("GET", path, params, missing=missing), lambda text: read(parse_json(text))
        )

    async def get_text(self, path: str, read: Callable[[str], T]) -> T | None:
        """The same for a GET that is answered with plain text.

        Raises:
            ExternalAPIError: as for :meth:`get_json`.
        """
        return await self._call(self._request("GET", path, {}), read)

    async def post_json(
        self, path: str, form: Mapping[str, str], secret: Mapping[str, str], read: Callable[[Any], T]
    ) -> T | None:
        """The same for the POST of a form.

        Args:
            path: below the service's address.
            form: fields that decide the answer.
            secret: fields that don't, such as a key; they are in no address, no log and no cache.
            read: as for :meth:`get_json`.

        Raises:
            ExternalAPIError: as for :meth:`get_json`.
        """
        return await self._call(self._request("POST", path, form, secret), lambda text: read(parse_json(text)))

    def _request(
        self,
        method: str,
        path: str,
        fields: Mapping[str, str],
        secret: Mapping[str, str] | None = None,
        missing: Iterable[int] = (),
    ) -> _Request:
        url = f"{self.settings.base_url(self.source)}/{path}"
        return _Request(method, url, dict(fields), dict(secret or {}), frozenset({404, *missing}))

    async def _call(self, request: _Request, read: Callable[[str], T]) -> T | None:
        kept = self._cache and self._cache.get(request.key, max_age_s=self._max_age_s)
        if kept:
            try:
                value = read(kept.content.decode())
            except ValueError:
                log.debug("a cached answer of %s can't be read; it is asked again", self.source)
            else:
                self.n_answers, self.n_from_cache = self.n_answers + 1, self.n_from_cache + 1
                return value
        if not self._breaker.allows():
            raise ExternalAPIError(f"{self.source} failed several times in a row and is left alone for a while")
        try:
            found = await self._attempts(request, read)
        except RefusedError:
            self._breaker.succeeded()
            raise
        except ExternalAPIError:
            self._breaker.failed()
            raise
        self._breaker.succeeded()
        self.n_answers += 1
        if self._cache is not None and found.body is not None:
            self._cache.put(request.key, found.body.encode())
        return found.value

    async def _attempts(self, request: _Request, read: Callable[[str], T]) -> _Attempt[T]:
        httpx = require("httpx", "api")
        attempt: _Attempt[T] = _Attempt()
        headers = {"User-Agent": USER_AGENT, "Accept": "application/json, text/plain;q=0.5"}
        async with httpx.AsyncClient(timeout=self.settings.online_timeout_s, headers=headers) as client:
            for number in range(self.settings.online_retries + 1):
                if number:
                    await self._pause(number, attempt)
                await self._wait(self._limit.reserve())
                attempt = await self._once(client, request, read)
                if not attempt.trouble:
                    return attempt
        raise ExternalAPIError(f"{self.source} {attempt.trouble}, {self.settings.online_retries + 1} times in all")

    async def _once(self, client: httpx.AsyncClient, request: _Request, read: Callable[[str], T]) -> _Attempt[T]:
        httpx = require("httpx", "api")
        try:
            response = await _send(client, request)
        except httpx.TimeoutException:
            return _Attempt(trouble=f"timed out after {self.settings.online_timeout_s:g} s")
        except httpx.HTTPError as error:
            return _Attempt(trouble=f"can't be reached ({type(error).__name__})")
        status = response.status_code
        if status in request.missing:
            return _Attempt()
        if status in RETRIED:
            return _Attempt(trouble=f"answered {status}", pause_s=parse_retry_after(response.headers) or 0.0)
        if status >= 300:
            raise RefusedError(f"{self.source} refused the call with status {status}")
        if len(response.content) > MAX_BYTES:
            raise RefusedError(f"{self.source} answered with {len(response.content):,} bytes, more than {MAX_BYTES:,}")
        try:
            return _Attempt(response.text, read(response.text))
        except ValueError:
            return _Attempt(trouble="answered in another form than expected")

    async def _pause(self, number: int, attempt: _Attempt[T]) -> None:
        """Exponential back-off with jitter, and never shorter than the service asks for."""
        longest = self.settings.online_max_wait_s
        if attempt.pause_s > longest:
            asked = f"asks for a pause of {attempt.pause_s:.0f} s; {longest:g} s is the most that is waited"
            raise ExternalAPIError(f"{self.source} {attempt.trouble} and {asked}")
        backoff = min(longest, self.settings.online_wait_s * 2 ** (number - 1))
        seconds = max(attempt.pause_s, backoff * (0.5 + 0.5 * self._jitter.random()))
        log.info("%s %s; attempt %d follows in %.1f s", self.source, attempt.trouble, number + 1, seconds)
        await self._wait(seconds)

    async def _wait(self, seconds: float) -> None:
        if seconds > 0:
            await self._sleep(seconds)


async def _send(client: httpx.AsyncClient, request: _Request) -> httpx.Response:
    if request.method == "POST":
        return await client.post(request.url, data={**request.fields, **request.secret})
    return await client.get(request.url, params=dict(request.fields))
