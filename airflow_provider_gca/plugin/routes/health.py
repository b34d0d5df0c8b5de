"""``/health``: does the database of atlas and runs answer?"""

from fastapi import APIRouter, Response

from airflow_provider_gca.plugin.models import Health
from airflow_provider_gca.plugin.records import run_store
from gca_core.errors import GcaError

router = APIRouter(tags=["health"])


@router.get("/health")
def health(response: Response) -> Health:
    """200 when all is well, 503 with the reason when the database does not answer."""
    try:
        run_store().list_runs(1)
    except GcaError as error:
        response.status_code = 503
        return Health(status="unhealthy", database=str(error))
    return Health(status="healthy", database="healthy")
