"""The operator that runs inference jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Event
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_provider_gca.operators.fields import require_choice, require_positive, require_text
from gca_core.errors import ConfigurationError

if TYPE_CHECKING:
    pass

EXECUTIONS = ("local",)
FAIL_MODES = ("all", "any", "never")
DEFAULT_TIMEOUT_SECONDS = 1800.0


class StackBatchOperator(BaseOperator):
    """Run one inference job: a file of requests that one process works through.

    With ``execution="local"`` the job's entrypoint, the same that runs on a GPU machine, is a subprocess of
    the task; its log lines appear in the task's log, and it ends with the task. Returns one result per request,
    as JSON, in the order of the requests; a request that failed is a row with ``status`` and ``error``.

    Args:
        requests: inference requests, as JSON. Templated, like all that follow except ``execution``.
        job_uri: where the job file goes; its results lie beside it.
        job_id: the job's name, by default made by the core from what is asked.
        execution: ``local``.
        timeout_seconds: the job is ended after that time.
        fail_when: the task fails when ``all`` requests failed (the default), when ``any`` did, or ``never``.
    """

    template_fields: Sequence[str] = ("requests", "job_uri", "job_id", "timeout_seconds", "fail_when")
    template_fields_renderers: ClassVar[dict[str, str]] = {"requests": "json"}
    ui_color = "#efe3d0"

    def __init__(
        self,
        *,
        requests: Sequence[Mapping[str, Any]],
        job_uri: str,
        job_id: str | None = None,
        execution: str = "local",
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        fail_when: str = "all",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.requests = requests
        self.job_uri = job_uri
        self.job_id = job_id
        self.execution = execution
        self.timeout_seconds = timeout_seconds
        self.fail_when = fail_when
        self._cancelled = Event()
        name = type(self).__name__
        if execution not in EXECUTIONS:
            raise ConfigurationError(
                f"{name}: execution is {execution!r}; this version runs jobs with {', '.join(EXECUTIONS)} only, "
                "Google Batch comes with a later one"
            )
        require_text(name, job_uri=job_uri)
        require_choice(name, FAIL_MODES, fail_when=fail_when)
        require_positive(name, timeout_seconds=timeout_seconds)
