"""``/metadata``: versions and limits."""

from airflow import __version__ as airflow_version
from fastapi import APIRouter

from airflow_provider_gca import __version__
from airflow_provider_gca.plugin.records import page_dag_id
from airflow_provider_gca.plugin.routes.models import Metadata

router = APIRouter(tags=["metadata"])


@router.get("/metadata")
def metadata() -> Metadata:
    """What runs here."""
    return Metadata(version=__version__, airflow_version=airflow_version, dag_id=page_dag_id())
