"""Who may what: everything is asked of Airflow's auth manager.

To look takes the right to see the DAG's runs, to start the right to trigger it, to cancel the right to change its
runs. People see the runs that they started; those who may edit Airflow's connections (Op and Admin) see all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import bearer_scheme, resolve_user_from_token
from airflow.models.dag import DagModel
from fastapi import Depends, HTTPException, Request

from airflow_provider_gca.plugin.records import page_dag_id, run_store

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod

    from gca_core.runs.models import RunRow


USER = "gca_user"
DOES = {"GET": "see", "POST": "start", "PUT": "change", "DELETE": "delete"}


async def authenticate(request: Request) -> BaseUser:
    """Who asks, by a token or by the cookie of Airflow's pages.

    Raises:
        HTTPException: 401, or 403 for a token that Airflow didn't make.
    """
    bearer = await bearer_scheme(request)
    return await resolve_user_from_token(bearer.credentials if bearer else request.cookies.get(COOKIE_NAME_JWT_TOKEN))


def current_user(request: Request) -> BaseUser:
    """Who asks, as the door found out; it lets nobody else in."""
    user: BaseUser = request.scope[USER]
    return user


CurrentUser = Annotated[BaseUser, Depends(current_user)]


def may_enter(user: CurrentUser) -> None:
    """Refuse who may not see Airflow's plugins."""
    if not get_auth_manager().is_authorized_view(access_view=AccessView.PLUGINS, user=user):
        raise HTTPException(403, "Airflow does not allow you to see its plugins")


def may_dag(user: BaseUser, method: ResourceMethod, dag_id: str, entity: DagAccessEntity = DagAccessEntity.RUN) -> bool:
    """Whether somebody may do that to a DAG's runs, or to another of its parts."""
    details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
    return bool(get_auth_manager().is_authorized_dag(method=method, access_entity=entity, details=details, user=user))


def require_dag(user: BaseUser, method: ResourceMethod, dag_id: str) -> None:
    """Refuse who may not do that to a DAG's runs.

    Raises:
        HTTPException: 403.
    """
    if not may_dag(user, method, dag_id):
        raise HTTPException(403, f"Airflow does not allow you to {DOES[method]} runs of the DAG {dag_id}")


def require_run(user: BaseUser, run_id: str) -> RunRow:
    """A run that the caller may see.

    Raises:
        HTTPException: 403 where the DAG is closed to the caller; 404 where there is no such run, or it is another's.
    """
    row = run_store().get(run_id)
    if row is None or not (sees_all(user) or (row.dag_id and row.user_name == user.get_name())):
        raise HTTPException(404, "there is no such run among those that you may see")
    require_dag(user, "GET", row.dag_id or page_dag_id())
    return row


def sees_all(user: BaseUser) -> bool:
    """Whether the runs of others are shown too."""
    return bool(get_auth_manager().is_authorized_connection(method="PUT", user=user))
