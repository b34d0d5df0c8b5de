"""``/metadata``: versions, what the caller may do, and limits."""

from airflow import __version__ as airflow_version
from fastapi import APIRouter, HTTPException, Request

from airflow_provider_gca import __version__
from airflow_provider_gca.plugin.access import CurrentUser, may_dag, sees_all
from airflow_provider_gca.plugin.door import BURST, MAX_BODY, REQUESTS_PER_SECOND
from airflow_provider_gca.plugin.host import ask_airflow
from airflow_provider_gca.plugin.models import MAX_PAGE, MAX_QUESTION, Limits, Metadata
from airflow_provider_gca.plugin.records import explorer, page_dag_id
from airflow_provider_gca.plugin.routes.runs import RUNS_PER_MINUTE
from gca_core.inference.predictor import BACKENDS

router = APIRouter(tags=["metadata"])


@router.get("/metadata")
async def metadata(request: Request, user: CurrentUser) -> Metadata:
    """What runs here."""
    from fastapi.concurrency import run_in_threadpool

    dag_id = page_dag_id()
    try:
        found = await ask_airflow(request, "GET", "dags", dag_id)
    except HTTPException as error:
        if error.status_code not in {403, 404}:
            raise
        found = None
    return Metadata(
        version=__version__,
        airflow_version=airflow_version,
        dag_id=dag_id,
        dag_found=found is not None,
        dag_paused=bool(found and found["is_paused"]),
        backends=sorted(BACKENDS),
        user=user.get_name(),
        may_start=await run_in_threadpool(may_dag, user, "POST", dag_id),
        may_cancel=await run_in_threadpool(may_dag, user, "PUT", dag_id),
        sees_all=await run_in_threadpool(sees_all, user),
        atlas=await run_in_threadpool(explorer().overview),
        limits=Limits(
            body_bytes=MAX_BODY,
            requests_per_second=REQUESTS_PER_SECOND,
            burst=BURST,
            runs_per_minute=RUNS_PER_MINUTE,
            page=MAX_PAGE,
            question_characters=(10, MAX_QUESTION),
            iterations=10,
        ),
    )
