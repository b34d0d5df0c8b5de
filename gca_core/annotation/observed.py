"""What of an annotation is told to logs and counters: the request it is part of, and what came of it."""

import functools
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from gca_core.annotation.models import DatasetReport
from gca_core.observability import bind_request, count_failure, count_run, current_request_id

P = ParamSpec("P")
R = TypeVar("R")

# the reports of the run under way; steps of a run are not runs of their own
_seen: ContextVar[list[DatasetReport] | None] = ContextVar("gca_reports", default=None)


def observed(function: Callable[P, R]) -> Callable[P, R]:
    """The function as a run: its logs name the request, and it is counted once, whatever else it calls.

    The request is named by an argument ``request_id``, or by that attribute of an argument; see
    :func:`gca_core.observability.bind_request` for what holds without. The report is what it returns, or in it.
    """

    @functools.wraps(function)
    def work(*args: P.args, **kwargs: P.kwargs) -> R:
        given = (kwargs.get("request_id"), *(getattr(a, "request_id", None) for a in (*args, *kwargs.values())))
        with _run(next((name for name in given if isinstance(name, str)), None)) as reports:
            result = function(*args, **kwargs)
            report = getattr(result, "report", result)
            if isinstance(report, DatasetReport):
                reports.append(report)
            return result

    return work


def request_id() -> str:
    """The id of the request under way, or a new one."""
    return current_request_id() or uuid.uuid4().hex


@contextmanager
def _run(name: str | None) -> Iterator[list[DatasetReport]]:
    outer = _seen.get()
    with bind_request(name):
        if outer is not None:
            yield outer
            return
        reports: list[DatasetReport] = []
        token = _seen.set(reports)
        started = time.perf_counter()
        try:
            with count_failure():
                yield reports
        finally:
            _seen.reset(token)
        if reports:
            count_run(seconds=time.perf_counter() - started, **_amounts(reports[-1]))


def _amounts(report: DatasetReport) -> dict[str, Any]:
    amounts = {
        "clusters": len(report.annotations),
        "flagged": report.n_flagged,
        "overrides": report.stats.overrides,
        "cache_hits": report.stats.cache_hits,
    }
    if report.model_stats is not None:
        spent = report.model_stats.usage
        amounts |= {
            "llm_calls": spent.calls,
            "input_tokens": spent.input_tokens,
            "output_tokens": spent.output_tokens,
        }
    return amounts
