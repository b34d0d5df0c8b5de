"""The operator that runs inference jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_gca.operators.base import GcaOperator
from airflow_provider_gca.utils.failures import AirflowException
from airflow_provider_gca.utils.fields import (
    check_literals,
    is_literal,
    make_model,
    require_choice,
    require_positive,
    require_text,
)
from gca_core.errors import ConfigurationError, InferenceError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from gca_core.inference.local import LocalJob
    from gca_core.inference.models import InferenceRequest, InferenceResult

EXECUTIONS = ("local",)
FAIL_MODES = ("all", "any", "never")
DEFAULT_TIMEOUT_SECONDS = 1800.0


class StackBatchOperator(GcaOperator):
    """Run one inference job: a file of requests that one process works through.

    With ``execution="local"`` the job's entrypoint, the same that runs on a GPU machine, is a subprocess of
    the task (:mod:`gca_core.inference.local`). Its log lines appear in the task's log, and it ends with the
    task: when the task is cleared, marked or timed out, and also when the task's process is killed. Returns
    one result per request, as JSON, in the order of the requests; a request that failed is a row with
    ``status`` and ``error``.

    ``gcp_conn_id`` opens the job's own file and results; the subprocess opens the cells with the worker's credentials.

    A job that ends without any answer fails the task, whatever ``fail_when`` says.

    Args:
        requests: inference requests, as JSON.
        job_uri: where the job file goes; its results lie beside it.
        job_id: the job's name; by default a hash of what is asked.
        execution: ``local``.
        timeout_seconds: the job is ended after that time.
        fail_when: the task fails when ``all`` requests failed (the default), when ``any`` did, or ``never``.
    """

    output_field = "job_uri"
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
        self.requests = requests
        self.job_uri = job_uri
        self.job_id = job_id
        self.execution = execution
        self.timeout_seconds = timeout_seconds
        self.fail_when = fail_when
        self._job: LocalJob | None = None
        self._killed = False
        super().__init__(**kwargs)

    def _check(self) -> None:
        name = type(self).__name__
        if is_literal(self.execution) and self.execution not in EXECUTIONS:
            raise ConfigurationError(
                f"{name}: execution is {self.execution!r}; this version runs jobs with {', '.join(EXECUTIONS)} only, "
                "Google Batch comes with a later one"
            )
        require_text(name, job_uri=self.job_uri)
        require_choice(name, FAIL_MODES, fail_when=self.fail_when)
        require_positive(name, timeout_seconds=self.timeout_seconds)
        known = isinstance(self.requests, list | tuple) and is_literal(self.requests)
        for position, request in enumerate(self.requests if known else ()):
            from gca_core.inference.models import InferenceRequest

            check_literals(f"{name}: request {position}", InferenceRequest, request)

    def work(self, context: Context) -> Any:  # noqa: ARG002
        """Run the job."""
        results = self._run()
        self._judge(results)
        return results

    def inputs(self) -> list[str]:
        """Cells of prompts, controls and queries."""
        return sorted({entry[name] for entry in self.requests for name in ("prompt_uri", "control_uri", "query_uri")})

    def outputs(self, result: Any) -> dict[str, str]:
        """The predicted cells by candidate."""
        return {row["candidate_id"]: row["prediction_uri"] for row in result if row["prediction_uri"]}

    def metrics(self, result: Any) -> dict[str, Any]:
        """How many requests succeeded."""
        return {"n_requests": len(result), "n_succeeded": len(self.outputs(result))}

    def on_kill(self) -> None:
        """End the job's whole process group."""
        self._killed = True
        if self._job is not None:
            self._job.cancel()

    def _run(self) -> list[InferenceResult]:
        from gca_core.inference.local import LocalJob, write_job

        self._check()
        write_job(self._requests(), self.job_uri, job_id=self.job_id)
        self._job = LocalJob(self.job_uri, on_line=self.log.info)
        if not self._killed:
            self._job.start()
        if self._killed:
            self._job.cancel()
            raise AirflowException("the task was killed; so was its inference job")
        results = self._job.wait(float(self.timeout_seconds))
        if self._killed:
            raise AirflowException("the task was killed; so was its inference job")
        return results

    def _requests(self) -> list[InferenceRequest]:
        from gca_core.inference.models import InferenceRequest

        name = type(self).__name__
        if not isinstance(self.requests, Sequence) or isinstance(self.requests, str) or not self.requests:
            raise ConfigurationError(f"{name}: requests has to be a list with at least one request")
        return [make_model(f"{name}: request {i}", InferenceRequest, entry) for i, entry in enumerate(self.requests)]

    def _judge(self, results: Sequence[InferenceResult]) -> None:
        failed = [result for result in results if result.status != "succeeded"]
        for result in failed:
            self.log.warning("%s %s: %s", result.candidate_id, result.status.value, result.error)
        if (self.fail_when == "any" and failed) or (self.fail_when == "all" and len(failed) == len(results)):
            first = failed[0]
            raise InferenceError(
                f"{len(failed)} of {len(results)} requests failed, the first, {first.candidate_id}, with: {first.error}"
            )
