"""``/runs``: start one, list them, see how one stands, cancel it, and what it came to."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse

from airflow_provider_gca.plugin.access import CurrentUser, require_dag, require_run, sees_all
from airflow_provider_gca.plugin.door import Allowance
from airflow_provider_gca.plugin.files import send_file
from airflow_provider_gca.plugin.host import ask_airflow
from airflow_provider_gca.plugin.models import (
    MAX_ID,
    MAX_NAME,
    MAX_PAGE,
    PAGE,
    TEXT,
    Result,
    Run,
    RunPage,
    RunRequest,
    Score,
)
from airflow_provider_gca.plugin.records import explorer, page_dag_id, run_store
from airflow_provider_gca.task_groups.loop.around import haystack_run_id
from gca_core.config import load_settings
from gca_core.errors import GcaError
from gca_core.haystack.models import EMPTY_ATLAS
from gca_core.haystack.results.digest import read_digest
from gca_core.io import join_uri
from gca_core.runs.models import RunRow, RunStatus, StoredIteration

log = logging.getLogger(__name__)

GROUP = "haystack"
RUNS_PER_MINUTE = 10.0
LOOK_SECONDS, PING_SECONDS, STREAM_SECONDS = 1.0, 15.0, 600.0
MAX_STREAMS = 8
router = APIRouter(tags=["runs"])
RunId = Annotated[str, Path(min_length=1, max_length=MAX_ID, pattern=TEXT)]
Kind = Annotated[str, Path(min_length=1, max_length=MAX_NAME, pattern=TEXT)]
_starts = Allowance(RUNS_PER_MINUTE / 60, RUNS_PER_MINUTE)
_streams: Counter[str] = Counter()


@router.post("/runs", status_code=201)
async def create(request: Request, user: CurrentUser, asked: RunRequest) -> Run:
    """Start a run by Airflow's own API: who may not trigger the DAG gets 403, and its audit log has it."""
    dag_id = page_dag_id()
    await run_in_threadpool(require_dag, user, "POST", dag_id)
    if wait := _starts.wait(str(user.get_id())):
        raise HTTPException(429, "too many runs at once; wait a little", {"Retry-After": str(int(wait) + 1)})
    if not (await run_in_threadpool(explorer().overview)).n_groups:
        raise HTTPException(409, EMPTY_ATLAS)
    try:
        dag = await ask_airflow(request, "GET", "dags", dag_id)
    except HTTPException as error:
        if error.status_code != 404:
            raise
        raise HTTPException(
            409, f"there is no DAG {dag_id!r}; copy it by 'gca examples copy', or set GCA_PAGE_DAG_ID to yours"
        ) from None
    if dag["is_paused"]:
        raise HTTPException(409, f"the DAG {dag_id!r} is paused; unpause it in Airflow, then ask again")
    conf = asked.model_dump(exclude_none=True)
    started = await ask_airflow(request, "POST", "dags", dag_id, "dagRuns", body={"logical_date": None, "conf": conf})
    day = datetime.fromisoformat(started["run_after"]).date()
    run_id = haystack_run_id(day, dag_id, started["dag_run_id"], GROUP)
    row = RunRow(
        run_id=run_id,
        question=asked.question or f"{asked.cell_type}, {asked.perturbation}",
        results_uri=join_uri(load_settings().results_root(), "haystack", run_id),
        config={name: conf[name] for name in ("max_iterations", "score_threshold", "budget_seconds") if name in conf},
        seed=asked.seed,
        user_name=started.get("triggering_user_name") or user.get_name(),
        dag_id=dag_id,
        dag_run_id=started["dag_run_id"],
    )
    await run_in_threadpool(run_store().wait, row)
    return await run_in_threadpool(_one, request, run_id)


@router.get("/runs")
def runs(
    request: Request,
    user: CurrentUser,
    status: RunStatus | None = None,
    text: Annotated[
        str | None, Query(max_length=MAX_NAME, pattern=TEXT, description="In the question or the id.")
    ] = None,
    by: Annotated[str | None, Query(max_length=MAX_NAME, pattern=TEXT, description="Who asked.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = PAGE,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> RunPage:
    """The runs that the caller may see, newest first."""
    require_dag(user, "GET", page_dag_id())
    wanted: dict[str, Any] = {"status": status, "text": text, "user_name": by if sees_all(user) else user.get_name()}
    store = run_store()
    rows = store.list_runs(limit, offset, **wanted)
    return RunPage(
        runs=[_run(request, row) for row in rows], total=store.count_runs(**wanted), limit=limit, offset=offset
    )


@router.get("/runs/{run_id}")
def run(request: Request, user: CurrentUser, run_id: RunId) -> Run:
    """How a run stands."""
    return _run(request, require_run(user, run_id), run_store().iterations(run_id))


@router.get("/runs/{run_id}/result")
def result(request: Request, user: CurrentUser, run_id: RunId) -> Result:
    """What a run came to; 409 while it goes on, or where it ended without a result."""
    row = require_run(user, run_id)
    if "json" not in row.outputs:
        why = f", {row.error}" if row.error else ""
        raise HTTPException(409, f"the run {run_id} has no result: it is {row.status.value}{why}")
    try:
        digest = read_digest(row.outputs["json"])
    except GcaError as error:
        raise HTTPException(404, str(error)) from None
    files = f"{_root(request)}/api/runs/{run_id}/files"
    downloads = {kind: f"{files}/{kind}" for kind in row.outputs}
    return Result(**digest.model_dump(), run_id=run_id, status=row.status, downloads=downloads)


@router.get("/runs/{run_id}/files/{kind}")
def file(user: CurrentUser, run_id: RunId, kind: Kind) -> Response:
    """A file of the result: ``html`` to look at, ``markdown``, ``json`` and ``h5ad`` to keep."""
    uri = require_run(user, run_id).outputs.get(kind)
    if uri is None:
        raise HTTPException(404, f"the run {run_id} recorded no file of the kind {kind!r}")
    return send_file(uri)


@router.post("/runs/{run_id}/cancel")
async def cancel(request: Request, user: CurrentUser, run_id: RunId) -> Run:
    """End a run by Airflow's own API: its DAG run is marked as failed, which ends its tasks and jobs."""
    row = await run_in_threadpool(require_run, user, run_id)
    await run_in_threadpool(require_dag, user, "PUT", row.dag_id or page_dag_id())
    if row.status.is_final:
        raise HTTPException(409, f"the run {run_id} has ended as {row.status.value}")
    if row.dag_id and row.dag_run_id:
        await ask_airflow(request, "PATCH", "dags", row.dag_id, "dagRuns", row.dag_run_id, body={"state": "failed"})
    await run_in_threadpool(run_store().close, run_id, RunStatus.CANCELLED, "cancelled")
    return await run_in_threadpool(_one, request, run_id)


@router.get("/runs/{run_id}/events", response_class=StreamingResponse)
async def events(request: Request, user: CurrentUser, run_id: RunId) -> StreamingResponse:
    """The run as server-sent events: ``run`` whenever something changed, ``end`` when nothing more will."""
    await run_in_threadpool(require_run, user, run_id)
    name = str(user.get_id())
    if _streams[name] >= MAX_STREAMS:
        raise HTTPException(429, f"{MAX_STREAMS} pages are watching already; close one", {"Retry-After": "15"})
    return StreamingResponse(_watched(request, name, run_id), media_type="text/event-stream")


async def _watched(request: Request, name: str, run_id: str) -> AsyncIterator[str]:
    """Looks at the records every second, for ten minutes at most; a browser then connects again."""
    _streams[name] += 1
    shown, silent, loop = "", 0.0, asyncio.get_running_loop()
    end = loop.time() + STREAM_SECONDS
    try:
        while loop.time() < end and not await request.is_disconnected():
            found = await run_in_threadpool(_one, request, run_id)
            text = found.model_dump_json(exclude={"updated_at"})
            if text != shown:
                yield f"event: run\ndata: {text}\n\n"
                shown, silent = text, 0.0
            if found.status.is_over:
                yield f"event: end\ndata: {json.dumps({'status': found.status})}\n\n"
                return
            if silent >= PING_SECONDS:
                yield ": still here\n\n"
                silent = 0.0
            await asyncio.sleep(LOOK_SECONDS)
            silent += LOOK_SECONDS
    finally:
        _streams[name] -= 1


def _one(request: Request, run_id: str) -> Run:
    row = run_store().get(run_id)
    if row is None:
        raise HTTPException(404, f"there is no run {run_id}")
    return _run(request, row, run_store().iterations(run_id))


def _run(request: Request, row: RunRow, iterations: list[StoredIteration] | None = None) -> Run:
    root = _root(request)
    links = {"page": f"{root}/runs/{row.run_id}", "events": f"{root}/api/runs/{row.run_id}/events"}
    if row.outputs:
        links["result"] = f"{root}/api/runs/{row.run_id}/result"
    scores = [
        Score(
            iteration=found.iteration,
            score=found.score,
            expected=found.expected,
            n_candidates=len(found.record.get("candidates") or ()),
        )
        for found in iterations or ()
    ]
    known = row.model_dump(include=set(Run.model_fields))
    return Run(**known, scores=scores, links=links)


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")
