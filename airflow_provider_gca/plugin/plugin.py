"""What Airflow's plugin manager loads, in every process; the app itself is made where it is asked for."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

try:
    from airflow.sdk.plugins_manager import AirflowPlugin
except ImportError:  # Airflow 3.1
    from airflow.plugins_manager import AirflowPlugin  # type: ignore[assignment,unused-ignore]

if TYPE_CHECKING:
    from airflow_provider_gca.plugin.app import GcaApp

NAME = "gca"
PREFIX = "/gca"
ICON = "static/icon.svg"


class GcaPlugin(AirflowPlugin):
    """The app at ``/gca``, its entry in the navigation and the tab of a DAG run."""

    name = NAME

    @cached_property
    def app(self) -> GcaApp:
        """The app, made once."""
        from airflow_provider_gca.plugin.app import make_app

        return make_app()

    @property
    def fastapi_apps(self) -> list[Any]:  # type: ignore[override]
        """Read by the API server alone, so that no worker imports FastAPI."""
        return [{"app": self.app, "url_prefix": PREFIX, "name": "Genomics cell annotation"}]

    @cached_property
    def external_views(self) -> list[Any]:  # type: ignore[override]
        """Links within the path that the API server is reached under."""
        from airflow_provider_gca.utils.place import page_url

        icon = page_url(ICON)
        return [
            {
                "name": "HAYSTACK",
                "href": page_url(),
                "destination": "nav",
                "url_route": "gca",
                "category": "browse",
                "icon": icon,
            },
            {
                "name": "HAYSTACK",
                "href": page_url("dag-run?dag_id={DAG_ID}&dag_run_id={RUN_ID}"),
                "destination": "dag_run",
                "url_route": "gca-run",
                "icon": icon,
            },
        ]
