"""Who may what: everything is asked of Airflow's auth manager.

To look takes the right to see the DAG's runs, to start the right to trigger it, to cancel the right to change its
runs. People see the runs that they started; those who may edit Airflow's connections (Op and Admin) see all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity
from airflow.api_fastapi.core_api.security import bearer_scheme, get_user, requires_access_dag, requires_access_view
from fastapi import Depends, HTTPException, Request

from airflow_provider_gca.plugin.records import page_dag_id, run_store

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod

    from gca_core.runs.models import RunRow


USER = "gca_user"


async def authenticate(request: Request) -> BaseUser:
    """Who asks.

    Raises:
        HTTPException: 401, or 403 for a token that Airflow didn't make.
    """
    return await get_user(request, None, await bearer_scheme(request))


def current_user(request: Request) -> BaseUser:
    """Who asks, as the door found out; it lets nobody else in."""
    user: BaseUser = request.scope[USER]
    return user


CurrentUser = Annotated[BaseUser, Depends(current_user)]


def may_enter(request: Request, user: CurrentUser) -> None:
    """Refuse who may not see Airflow's plugins."""
    requires_access_view(AccessView.PLUGINS)(request, user)


def require_dag(
    request: Request, user: BaseUser, method: ResourceMethod, dag_id: str, entity: DagAccessEntity = DagAccessEntity.RUN
) -> None:
    """Refuse who may not do that to a DAG's runs, or to another of its parts.

    Raises:
        HTTPException: 403.
    """
    requires_access_dag(method, entity, dag_id)(request, user)


def may_dag(request: Request, user: BaseUser, method: ResourceMethod, dag_id: str) -> bool:
    """Whether :func:`require_dag` lets pass."""
    try:
        require_dag(request, user, method, dag_id)
    except HTTPException:
        return False
    return True


def require_run(request: Request, user: BaseUser, run_id: str) -> RunRow:
    """A run that the caller may see.

    Raises:
        HTTPException: 403 where the DAG is closed to the caller; 404 where there is no such run, or it is another's.
    """
    row = run_store().get(run_id)
    if row is None or not (sees_all(user) or (row.dag_id and row.user_name == user.get_name())):
        raise HTTPException(404, "there is no such run among those that you may see")
    require_dag(request, user, "GET", row.dag_id or page_dag_id())
    return row


def sees_all(user: BaseUser) -> bool:
    """Whether the runs of others are shown too."""
    return bool(get_auth_manager().is_authorized_connection(method="PUT", user=user))
