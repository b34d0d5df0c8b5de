"""Logs that name the request, and counters: what an operator of a service watches.

A request id is bound to a block of work and stands on every log record of it, in threads of its own too. Logs as
JSON (structlog) and counters (Prometheus) come with the extra ``observability``; without it the log is text and
counting does nothing. Nothing is sent or served unless a function here is called for it.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import TYPE_CHECKING, Any, TextIO

from gca_core.errors import ConfigurationError

if TYPE_CHECKING:
    from gca_core.io import PathInput

EXTRA = "observability"
REQUEST_VARIABLE = "GCA_REQUEST_ID"
# seconds: from a cached run over few clusters to a million cells
BUCKETS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+@=-]{0,199}")

_making = threading.Lock()
# the id, and whether somebody chose it
_request: ContextVar[tuple[str, bool] | None] = ContextVar("gca_request", default=None)


def current_request_id() -> str | None:
    """The id of the request that this block of work is part of."""
    return (_request.get() or (None,))[0]


@contextmanager
def bind_request(request_id: str | None = None) -> Iterator[str]:
    """Name all that happens in the block, and yield the name.

    Without ``request_id`` it is the one already bound, else that of ``GCA_REQUEST_ID``, else a new one.

    Raises:
        ConfigurationError: the id holds other characters than letters, digits and ``._:+@=-``.
    """
    outer = _request.get()
    given = request_id or (outer[0] if outer else os.environ.get(REQUEST_VARIABLE))
    if given is not None and not _NAME.fullmatch(given):
        raise ConfigurationError(
            f"the request id {given[:60]!r} can't be used; expected up to 200 letters, digits and ._:+@=- with a "
            "letter or digit first"
        )
    named = request_id is not None or (outer[1] if outer else given is not None)
    name = given or uuid.uuid4().hex
    token = _request.set((name, named))
    try:
        with _bound_to_structlog(request_id=name):
            yield name
    finally:
        _request.reset(token)


@contextmanager
def bind_run(run_id: str, iteration: int | None = None) -> Iterator[None]:
    """Put a HAYSTACK run's id, and its iteration, on all that structlog writes in the block.

    They are ``haystack_run`` and ``iteration`` in JSON logs and Airflow's task log, whose ``run_id`` is the DAG run's.
    """
    fields = {"haystack_run": run_id} | ({} if iteration is None else {"iteration": iteration})
    with _bound_to_structlog(**fields):
        yield


class RequestIdFilter(logging.Filter):
    """Puts ``request_id`` on every record that passes; ``-`` outside of requests. For handlers of your own."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything pass."""
        record.request_id = current_request_id() or "-"
        return True


def request_text_formatter() -> logging.Formatter:
    """The message, with the request's id before it where somebody named the request."""
    return _TextFormatter("%(message)s")


def json_handler(stream: TextIO | None = None) -> logging.Handler:
    """A handler that writes a JSON object per record: timestamp, level, logger, event, request_id and exception.

    Raises:
        ConfigurationError: structlog is not installed.
    """
    structlog = _require("structlog")
    before = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=before,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    return handler


def require_metrics() -> None:
    """Refuse to go on where counters wouldn't count.

    Raises:
        ConfigurationError: prometheus-client is not installed.
    """
    _require("prometheus_client")
    _metrics()


def count_run(*, seconds: float, input_tokens: int = 0, output_tokens: int = 0, **counts: int) -> None:
    """Count a run that ended well; does nothing without prometheus-client.

    Args:
        seconds: wall time.
        input_tokens: sent to language models.
        output_tokens: answered by them.
        counts: ``clusters``, ``flagged``, ``overrides``, ``llm_calls`` and ``cache_hits``.
    """
    metrics = _metrics()
    if metrics is None:
        return
    metrics["runs"].labels(outcome="ok").inc()
    metrics["seconds"].observe(seconds)
    metrics["tokens"].labels(direction="input").inc(input_tokens)
    metrics["tokens"].labels(direction="output").inc(output_tokens)
    for name, amount in counts.items():
        metrics[name].inc(amount)


@contextmanager
def count_failure() -> Iterator[None]:
    """Count the block as a failed run if it raises."""
    try:
        yield
    except Exception:
        if (metrics := _metrics()) is not None:
            metrics["runs"].labels(outcome="failed").inc()
        raise


def serve_metrics(port: int, address: str = "127.0.0.1") -> Any:
    """Serve the counters on ``/metrics`` from a thread, and return the server and the thread.

    Only this machine can reach it unless ``address`` says otherwise.

    Raises:
        ConfigurationError: prometheus-client is not installed, or the port can't be taken.
    """
    client = _require("prometheus_client")
    _metrics()
    try:
        return client.start_http_server(port, addr=address)
    except OSError as error:
        raise ConfigurationError(f"the counters can't be served on {address}:{port}: {error}") from None


def push_metrics(gateway: str, *, job: str = "gca", timeout_s: float = 10.0) -> None:
    """Send the counters of this process to a Prometheus Pushgateway, as a job does at its end.

    Raises:
        ConfigurationError: prometheus-client is not installed, or the gateway can't be reached.
    """
    client = _require("prometheus_client")
    try:
        client.push_to_gateway(gateway, job=job, registry=client.REGISTRY, timeout=timeout_s)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the counters can't be pushed to the gateway: {error}") from None


def write_metrics(uri: PathInput) -> str:
    """Write the counters of this process as text, for a collector that reads files; the file is replaced at once.

    Raises:
        ConfigurationError: prometheus-client is not installed.
    """
    from gca_core.io import write_text

    client = _require("prometheus_client")
    return write_text(uri, client.generate_latest(client.REGISTRY).decode())


def _require(module: str) -> ModuleType:
    # settings and paths are no part of naming a request
    from gca_core.config import require

    return require(module, EXTRA)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        name, named = _request.get() or ("", False)
        return f"[{name}] {text}" if named else text


@contextmanager
def _bound_to_structlog(**fields: Any) -> Iterator[None]:
    """Airflow's own task log and services with structlog show what is bound there; they have imported it."""
    if sys.modules.get("structlog") is None:
        yield
        return
    from structlog.contextvars import bound_contextvars

    with bound_contextvars(**fields):
        yield


def _metrics() -> dict[str, Any] | None:
    """The counters; None without prometheus-client."""
    # two threads must not make them twice
    with _making:
        return _made_metrics()


@functools.cache
def _made_metrics() -> dict[str, Any] | None:
    """The counters, made once a process; none has a label that comes from data."""
    try:
        from prometheus_client import REGISTRY, Counter, Histogram
    except ImportError:
        return None
    counters = {
        "clusters": ("gca_clusters_annotated", "Clusters that got a label."),
        "flagged": ("gca_clusters_flagged", "Clusters that were flagged for a look."),
        "overrides": ("gca_overrides", "Labels that a reviewer's correction replaced."),
        "llm_calls": ("gca_llm_calls", "Requests sent to language models, retries included."),
        "cache_hits": ("gca_cache_hits", "Answers of language models that came from the cache."),
    }
    made: dict[str, Any] = {key: Counter(name, text, registry=REGISTRY) for key, (name, text) in counters.items()}
    made["tokens"] = Counter("gca_llm_tokens", "Tokens of language models.", ["direction"], registry=REGISTRY)
    made["runs"] = Counter("gca_runs", "Annotation runs.", ["outcome"], registry=REGISTRY)
    made["seconds"] = Histogram(
        "gca_run_seconds", "Wall time of an annotation run.", buckets=BUCKETS, registry=REGISTRY
    )
    return made
