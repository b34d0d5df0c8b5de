"""The buttons that lead from a task to its HTML report and its figure."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

REPORT_XCOM_KEY = "gca_report_link"
FIGURE_XCOM_KEY = "gca_figure_link"


class ReportLink(BaseOperatorLink):
    """Links to the HTML report that the task wrote.

    Airflow asks for the link on the worker when the task ends and keeps it in the XCom ``gca_report_link``;
    the operator holds the report's URI in ``report_uri`` by then.
    """

    name = "Report"

    @property
    def xcom_key(self) -> str:
        return REPORT_XCOM_KEY

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """The address a browser can open, or an empty text where there is no report."""
        return browsable(getattr(operator, "report_uri", None))


class FigureLink(BaseOperatorLink):
    """Links to the figure that the task drew, kept in the XCom ``gca_figure_link``.

    The operator holds the figure's URI in ``figure_uri`` when the task ends.
    """

    name = "Figure"

    @property
    def xcom_key(self) -> str:
        return FIGURE_XCOM_KEY

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """The address a browser can open, or an empty text where there is no figure."""
        return browsable(getattr(operator, "figure_uri", None))


def browsable(uri: str | None) -> str:
    """``gs://`` objects open through the Cloud Console's storage page; other URIs stay as they are."""
    if not uri:
        return ""
    if uri.startswith("gs://"):
        return f"https://storage.cloud.google.com/{quote(uri.removeprefix('gs://'))}"
    return uri
