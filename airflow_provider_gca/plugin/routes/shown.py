"""``/results``: where the links of operators lead."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from airflow_provider_gca.plugin.files import send_file
from airflow_provider_gca.plugin.host import ask_airflow
from airflow_provider_gca.plugin.models import MAX_ID
from airflow_provider_gca.utils.place import is_shown, uri_key

router = APIRouter(tags=["results"])
Id = Annotated[str, Query(min_length=1, max_length=MAX_ID)]


@router.get("/results")
async def shown(
    request: Request,
    dag_id: Id,
    dag_run_id: Id,
    task_id: Id,
    map_index: Annotated[int, Query(ge=-1, lt=2**31)] = -1,
    kind: Literal["report", "figure"] = "report",
) -> Response:
    """The report or figure that a task recorded, for those whom Airflow shows the task's XComs."""
    path = ("dags", dag_id, "dagRuns", dag_run_id, "taskInstances", task_id, "xcomEntries", uri_key(kind))
    entry = await ask_airflow(request, "GET", *path, map_index=map_index, deserialize=True)
    uri = entry["value"]
    if not isinstance(uri, str) or not await run_in_threadpool(is_shown, uri):
        raise HTTPException(
            404, "the task wrote its result to a folder that the page doesn't show; name it in GCA_PAGE_FOLDERS"
        )
    return await run_in_threadpool(send_file, uri)
