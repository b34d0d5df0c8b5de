"""The plugin that Airflow finds by its entry point; it carries no pages yet."""

from __future__ import annotations

try:
    from airflow.sdk.plugins_manager import AirflowPlugin
except ImportError:  # Airflow 3.1
    from airflow.plugins_manager import AirflowPlugin  # type: ignore[assignment,no-redef,unused-ignore]


class GcaPlugin(AirflowPlugin):
    """The provider's plugin."""

    name = "gca"
