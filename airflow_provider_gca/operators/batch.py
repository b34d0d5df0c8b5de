"""What operators share whose command may run on Google Batch, and the teardown that leaves no job of a run behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseHook, BaseOperator, TriggerRule

from airflow_provider_gca.operators.base import GcaOperator
from airflow_provider_gca.utils.failures import AirflowException, AirflowNotFoundException, as_task_failure
from airflow_provider_gca.utils.fields import (
    NOTHING,
    as_flag,
    as_mapping,
    check_literals,
    given_within,
    make_model,
    require_choice,
    require_positive,
)
from airflow_provider_gca.utils.results import BatchJobLink, BatchLogsLink
from gca_core.errors import BatchError, ConfigurationError, GcaError, RunCancelledError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_gca.hooks.batch import StackBatchHook
    from airflow_provider_gca.triggers.batch import StackBatchTrigger
    from gca_core.batch.models import BatchConfig, JobView
    from gca_core.batch.poller import Verdict
    from gca_core.batch.service import BatchService
    from gca_core.batch.staging import Staging

EXECUTIONS = ("local", "batch")
DEFAULT_CONNECTION = "google_cloud_default"
# seconds to wait for a job, in the queue and over all attempts of a try
DEFAULT_WAIT = 6 * 3600.0
KILL_SECONDS = 10.0
JOB_KEY = "batch_job"


@dataclass(frozen=True)
class BatchCommand:
    """A ``gca`` command whose last argument is the file it reads, and what its job is known by.

    Args:
        argv: what stands before the file.
        uri: the file.
        asked: the JSON of what is asked.
        inputs: URIs of other files and folders that it reads.
        outputs: URIs of files and folders that it writes.
    """

    argv: tuple[str, ...]
    uri: str
    asked: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def on_batch(execution: str | None, batch: Any, gcp_conn_id: str | None) -> bool:
    """Whether work goes to Google Batch: where it is told to, or untold, where a connection and a ``batch`` are."""
    if execution in (None, *NOTHING):
        return gcp_conn_id not in (None, *NOTHING) and bool(batch)
    return execution == "batch"


def batch_config(owner: str, batch: Any, hook: StackBatchHook) -> BatchConfig:
    """The configuration of jobs; the project is the connection's where none is named.

    Raises:
        ConfigurationError: a field is missing or wrong.
    """
    from gca_core.batch.models import BatchConfig

    values = given_within(as_mapping(owner, "batch", batch))
    if "project_id" not in values:
        values["project_id"] = hook.project_id
    return make_model(f"{owner}: batch", BatchConfig, values)


def batch_hook(gcp_conn_id: str | None, impersonation_chain: str | list[str] | None) -> StackBatchHook:
    """The hook of a connection, or of Google's default one."""
    from airflow_provider_gca.hooks.batch import StackBatchHook

    named = gcp_conn_id if gcp_conn_id not in (None, *NOTHING) else DEFAULT_CONNECTION
    chain = None if impersonation_chain in (None, *NOTHING) else impersonation_chain
    return StackBatchHook(gcp_conn_id=named, impersonation_chain=chain)


def run_of(context: Context) -> str:
    """The label of a DAG run's jobs."""
    from gca_core.batch.ids import run_label

    ti = context.get("ti")
    return run_label("no-dag", "no-run") if ti is None else run_label(ti.dag_id, str(ti.run_id))


class BatchOperator(GcaOperator):
    """An operator whose work is a ``gca`` command that may run as a job on Google Batch.

    A job is known by its content: the DAG run, its files, what is asked, image and machine; not by the task's place in
    a mapping. So a task that is tried again looks first whether its job is there: it waits for one that runs, takes
    the results of one that succeeded, and submits another only after one that failed or was cancelled. Within a try,
    a job that was preempted, lost its machine or got none moves on to the next attempt of ``batch["plan"]``; one that
    failed by itself fails the task, with its exit code, its last status events and the address of its log.

    While the job runs, the task waits in the triggerer (``deferrable``), and its buttons lead to the job and its log.
    The job's name is in the XCom ``batch_job``. What the job itself needs, such as rights on buckets, comes from its
    service account: nothing secret is in the job.

    Args:
        execution: ``local``; or ``batch``, with Google's default connection where ``gcp_conn_id`` is None. None means
            Batch where both ``gcp_conn_id`` and ``batch`` are given and the connection exists.
        batch: where and how jobs run: the fields of :class:`gca_core.batch.BatchConfig`. ``image`` is needed;
            ``project_id`` is the connection's where it isn't given.
        impersonation_chain: service accounts to act as, towards Google Batch.
        deferrable: wait in the triggerer, not in the worker.
        poll_interval_seconds: seconds between two looks at the job.
        timeout_seconds: how long a job may take; on Batch with waiting for a machine and further attempts, six hours
            where None. It is cancelled then. ``batch["max_run_duration_seconds"]`` bounds its time on the machine.
        staging_uri: a ``gs://`` folder through which files of this machine go to the job and back.
        cancel_on_kill: cancel the job when the task is killed on its worker, or is marked as failed or success. A task
            marked before the triggerer has taken it over leaves its job to :class:`CancelRunJobsOperator`.
    """

    operator_extra_links: Any = (BatchJobLink(), BatchLogsLink())

    def __init__(
        self,
        *,
        execution: str | None = None,
        batch: Mapping[str, Any] | None = None,
        impersonation_chain: str | list[str] | None = None,
        deferrable: bool = True,
        poll_interval_seconds: float = 10.0,
        timeout_seconds: float | None = None,
        staging_uri: str | None = None,
        cancel_on_kill: bool = True,
        **kwargs: Any,
    ) -> None:
        self.execution = execution
        self.batch = batch
        self.impersonation_chain = impersonation_chain
        self.deferrable = deferrable
        self.poll_interval_seconds = poll_interval_seconds
        self.timeout_seconds = timeout_seconds
        self.staging_uri = staging_uri
        self.cancel_on_kill = cancel_on_kill
        self.batch_job_url: str | None = None
        self.batch_logs_url: str | None = None
        self._service: BatchService | None = None
        self._staging: Staging | None = None
        self._job_name: str | None = None
        self._killed = False
        super().__init__(**kwargs)
        if execution == "batch" and self.gcp_conn_id is None:
            # one account for the jobs and their files
            self.gcp_conn_id = DEFAULT_CONNECTION

    def _check(self) -> None:
        from gca_core.batch.models import BatchConfig

        name = type(self).__name__
        if self.execution is not None:
            require_choice(name, EXECUTIONS, execution=self.execution)
        require_positive(name, poll_interval_seconds=self.poll_interval_seconds)
        if self.timeout_seconds is not None:
            require_positive(name, timeout_seconds=self.timeout_seconds)
        if self.execution == "batch" and not self.batch:
            raise ConfigurationError(f"{name}: execution 'batch' needs batch, at least {{'image': ...}}")
        if self.batch is not None:
            values = {"project_id": "{{ of the connection }}", **given_within(as_mapping(name, "batch", self.batch))}
            check_literals(f"{name}: batch", BatchConfig, values)
        super()._check()

    def _finish(self, context: Context, work: Callable[[Context], Any]) -> Any:
        if self.execution in (None, *NOTHING) and on_batch(None, self.batch, self.gcp_conn_id):
            try:
                BaseHook.get_connection(str(self.gcp_conn_id))
            except AirflowNotFoundException:
                self.log.info("there is no connection %s: the work is done here", self.gcp_conn_id)
                self.gcp_conn_id = None
        return super()._finish(context, work)

    def run_local(self, context: Context) -> Any:
        """Do the work on this machine."""
        raise NotImplementedError

    def carried(self) -> dict[str, Any]:
        """What the process that goes on after a wait has to know; JSON."""
        return {}

    def command(self) -> BatchCommand:
        """What the job runs; nothing is written."""
        raise NotImplementedError

    def write_inputs(self) -> None:
        """Write the file the command reads, to its place, and remove what an earlier attempt left of its results."""
        raise NotImplementedError

    def collect(self) -> Any:
        """Read the results of a job that succeeded, once its outputs are where they belong."""
        raise NotImplementedError

    def place(self, uri: str) -> str:
        """Where the job finds what is at ``uri``: there, or in the staging folder."""
        return uri if self._staging is None else self._staging.place(uri)

    def give_up(self, reason: str) -> Any:
        """What to make of a job that failed for good."""
        raise BatchError(reason)

    def work(self, context: Context) -> Any:
        """Run the command where it is to run."""
        if not on_batch(self.execution, self.batch, self.gcp_conn_id):
            return self.run_local(context)
        end = datetime.now(UTC) + timedelta(seconds=float(self.timeout_seconds or DEFAULT_WAIT))
        return self._guarded(context, {"end_time": end.isoformat(), "tried": 0, "stuck": False, **self.carried()}, None)

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Any:
        """Go on after what the trigger saw."""
        return self._finish(context, lambda context: self._guarded(context, event["carried"], event))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """As Airflow's; a trigger that failed leaves no job behind where no further try would go on with it."""
        if next_method == "__fail__" and is_last_try(context):
            try:
                self._cancel_attempts(context)
            except GcaError as failure:
                self.log.error("the job may still run: %s", failure)
        return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        """Cancel the job, and end the wait for it."""
        self._killed = True
        if self._service is None:
            super().on_kill()
        elif self.cancel_on_kill and self._job_name is not None:
            # the signal may have come amid a request of this thread's client
            cancelling = threading.Thread(target=self._service.cancel, args=(self._job_name,), daemon=True)
            cancelling.start()
            cancelling.join(KILL_SECONDS)

    def _guarded(self, context: Context, carried: Mapping[str, Any], event: Mapping[str, Any] | None) -> Any:
        try:
            return self._on_batch(context, carried, event)
        except Exception as error:
            # a further try goes on with a job that still runs; the last one leaves none
            final = is_last_try(context) or isinstance(error, ConfigurationError | RunCancelledError)
            if final and self._service is not None and self._job_name is not None and not self._killed:
                try:
                    self._service.cancel(self._job_name)
                except GcaError as failure:
                    self.log.error("%s may still run: %s", self._job_name, failure)
            raise

    def _on_batch(self, context: Context, carried: Mapping[str, Any], event: Mapping[str, Any] | None) -> Any:
        from gca_core.batch.attempts import GiveUp, Reattach, Submit, Take, next_step

        self._check()
        hook = batch_hook(self.gcp_conn_id, self.impersonation_chain)
        config = batch_config(type(self).__name__, self.batch, hook)
        self._service = service = hook.service()
        tried, stuck = int(carried["tried"]), bool(carried["stuck"])
        command = self.command()
        key = self._key(context, config, command)
        self._stage(command, key)
        if event is not None:
            self._job_name = event["job"]
            stuck = self._settle(service, event["job"], event["status"], event["message"]) or stuck
        while True:
            step = next_step(service.find_attempts(config, key), config.plan, tried, queued_too_long=stuck)
            if isinstance(step, GiveUp | Take):
                self._note(context, step.view)
                self._job_name = None
                self._tell_cost(config, step.view)
                return self._end(command, step.reason if isinstance(step, GiveUp) else None)
            if isinstance(step, Submit):
                view, stuck = self._submit(context, service, config, command, key, step.number), False
            else:
                view = step.view
                self.log.info("the job %s is there already, as %s; waiting for it", view.job_id, view.state)
            tried += not isinstance(step, Reattach) or step.counts
            self._note(context, view)
            queued = config.queued_seconds if tried < len(config.plan) else None
            now = {**carried, "tried": tried, "stuck": stuck}
            verdict = self._wait(context, service, view.name, now, queued)
            stuck = self._settle(service, view.name, verdict.kind, verdict.message) or stuck

    def _key(self, context: Context, config: BatchConfig, command: BatchCommand) -> str:
        from gca_core.batch.ids import job_key
        from gca_core.batch.spec import fingerprint

        return job_key(run_of(context), command.uri, command.asked, fingerprint(config, command.argv))

    def _stage(self, command: BatchCommand, key: str) -> None:
        from gca_core.batch.staging import Staging, require_reachable

        folder = None if self.staging_uri in (None, *NOTHING) else self.staging_uri
        require_reachable(folder, [command.uri, *command.inputs, *command.outputs])
        self._staging = None if folder is None else Staging(folder, key)

    def _submit(
        self,
        context: Context,
        service: BatchService,
        config: BatchConfig,
        command: BatchCommand,
        key: str,
        number: int,
    ) -> JobView:
        from gca_core.batch.costs import check_budget
        from gca_core.batch.ids import attempt_id, job_labels
        from gca_core.batch.spec import build_job

        self._require_alive("no job was submitted")
        attempt, run = config.plan[number % len(config.plan)], run_of(context)
        if config.max_cost_usd is not None:
            regions = [attempt.region for attempt in config.plan]
            check_budget(config, service.list_run(config.project_id, regions, run), attempt)
        if self._staging is not None:
            self._staging.send(command.inputs)
        self.write_inputs()
        job_id = attempt_id(key, number)
        # known before it is there, so that a signal amid the request finds it
        self._job_name = f"projects/{config.project_id}/locations/{attempt.region}/jobs/{job_id}"
        body = build_job(config, [*command.argv, self.place(command.uri)], attempt, job_labels(run, key))
        view = service.submit(config, attempt, job_id, body)
        self.log.info("submitted %s, %s in %s", job_id, attempt.provisioning, attempt.region)
        if self._killed and self.cancel_on_kill:
            service.cancel(view.name)
        self._require_alive("so was its job")
        return view

    def _end(self, command: BatchCommand, reason: str | None) -> Any:
        """What a job that is over comes to; ``reason`` says why it failed."""
        if self._staging is not None:
            self._staging.fetch(command.outputs)
        try:
            result = self.collect() if reason is None else self.give_up(reason)
        except Exception:
            if reason is not None and self._staging is not None:
                self._staging.remove()
            raise
        if self._staging is not None:
            self._staging.remove()
        return result

    def _tell_cost(self, config: BatchConfig, view: JobView) -> None:
        from gca_core.batch.costs import estimate_usd

        if (cost := estimate_usd(view, config.prices)) is not None:
            dated = f", by prices of {config.prices_date}" if config.prices_date else ""
            self.log.info("estimated cost of %s: %.2f USD for %.0f s%s", view.job_id, cost, view.run_seconds, dated)

    def _require_alive(self, words: str) -> None:
        if self._killed:
            raise AirflowException(f"the task was killed; {words}")

    def _note(self, context: Context, view: JobView) -> None:
        """Tell at once, in XCom and by the task's buttons, which job it is."""
        self._job_name = view.name
        self.batch_job_url, self.batch_logs_url = view.console_url, view.logs_url
        if (ti := context.get("ti")) is not None:
            ti.xcom_push(key=JOB_KEY, value=view.name)
            ti.xcom_push(key=BatchJobLink.xcom_key, value=view.console_url)
            ti.xcom_push(key=BatchLogsLink.xcom_key, value=view.logs_url)

    def _wait(
        self, context: Context, service: BatchService, name: str, carried: dict[str, Any], queued_seconds: float | None
    ) -> Verdict:
        """What came of waiting in this process; a deferrable task waits in the triggerer and comes back elsewhere."""
        from gca_core.batch.poller import Poller

        told = ""
        poller = Poller(datetime.fromisoformat(carried["end_time"]), queued_seconds=queued_seconds)
        while True:
            try:
                verdict = poller.seen(service.get(name), datetime.now(UTC))
            except BatchError as error:
                verdict = poller.failed(error, datetime.now(UTC))
            if verdict.kind != "wait":
                self._require_alive("its job is over")
                return verdict
            if "ti" in context and as_flag(type(self).__name__, "deferrable", self.deferrable):
                self._defer(context, name, carried, queued_seconds)
            if verdict.message != told:
                self.log.info("%s", verdict.message)
                told = verdict.message
            end = time.monotonic() + float(self.poll_interval_seconds)
            while (left := end - time.monotonic()) > 0:
                self._require_alive("so was its job")
                time.sleep(min(left, 0.2))

    def _defer(self, context: Context, name: str, carried: dict[str, Any], queued_seconds: float | None) -> NoReturn:
        hook = batch_hook(self.gcp_conn_id, self.impersonation_chain)
        self.defer(
            trigger=self._trigger(
                job_name=name,
                gcp_conn_id=hook.gcp_conn_id,
                impersonation_chain=hook.impersonation_chain,
                poll_interval=float(self.poll_interval_seconds),
                end_time=carried["end_time"],
                queued_seconds=queued_seconds,
                cancel_on_kill=self.cancel_on_kill,
                instance={n: getattr(context["ti"], n) for n in ("dag_id", "task_id", "run_id", "map_index")},
                carried=carried,
            ),
            method_name="execute_complete",
        )

    def _trigger(self, **arguments: Any) -> StackBatchTrigger:
        from airflow_provider_gca.triggers.batch import StackBatchTrigger

        return StackBatchTrigger(**arguments)

    def _settle(self, service: BatchService, name: str, status: str, message: str) -> bool:
        """Whether the job was cancelled for want of a machine; raises where the wait came to nothing.

        Raises:
            BatchError: the time is up, and the job was cancelled; or it can't be watched.
            RunCancelledError: nobody wants the job any more.
        """
        if status == "cancelled":
            raise RunCancelledError(message)
        if status in {"timeout", "queued"}:
            self.log.warning("%s; cancelling it", message)
            service.cancel(name)
        if status in {"timeout", "error"}:
            raise BatchError(message)
        return status == "queued"

    def _cancel_attempts(self, context: Context) -> None:
        hook = batch_hook(self.gcp_conn_id, self.impersonation_chain)
        config = batch_config(type(self).__name__, self.batch, hook)
        service = hook.service()
        for view in service.find_attempts(config, self._key(context, config, self.command())):
            if not view.over:
                service.cancel(view.name)


def is_last_try(context: Context) -> bool:
    """Whether no further try of the task follows a failure."""
    ti = context.get("ti")
    return ti is None or ti.try_number > getattr(ti, "max_tries", 0)


def cancel_run_jobs(
    context: Context,
    batch: Any,
    gcp_conn_id: str | None,
    impersonation_chain: str | list[str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> list[str]:
    """Cancel the jobs of the context's DAG run that aren't over; returns their names once none is left.

    Args:
        labels: that the jobs have to have, too.

    Raises:
        ConfigurationError: a field of ``batch`` is missing or wrong, or jobs may not be listed or cancelled.
        BatchError: Google Batch can't be reached, or jobs go on.
    """
    hook = batch_hook(gcp_conn_id, impersonation_chain)
    config = batch_config("cancelling", batch, hook)
    regions = [attempt.region for attempt in config.plan]
    return hook.service().cancel_run(config.project_id, regions, run_of(context), labels=labels)


class CancelRunJobsOperator(BaseOperator):
    """Cancel the jobs on Google Batch that a DAG run leaves behind: a teardown, to be put at a DAG's end.

    ``CancelRunJobsOperator(...).as_teardown()`` also runs when the run is marked as failed, and then within seconds.
    It finds the run's jobs by their label, whatever task submitted them. Returns their names.

    Args:
        batch: as of the operators whose jobs these are; ``project_id`` and the regions of ``plan`` matter.
        gcp_conn_id: connection to Google Cloud; Google's default one where None.
        impersonation_chain: service accounts to act as.
    """

    template_fields = ("batch", "gcp_conn_id", "impersonation_chain")
    ui_color = "#efe3d0"

    def __init__(
        self,
        *,
        batch: Mapping[str, Any],
        gcp_conn_id: str | None = None,
        impersonation_chain: str | list[str] | None = None,
        trigger_rule: str = TriggerRule.ALL_DONE,
        **kwargs: Any,
    ) -> None:
        super().__init__(trigger_rule=trigger_rule, **kwargs)
        self.batch = batch
        self.gcp_conn_id = gcp_conn_id
        self.impersonation_chain = impersonation_chain

    def execute(self, context: Context) -> list[str]:
        """Cancel them."""
        with as_task_failure():
            names = cancel_run_jobs(context, self.batch, self.gcp_conn_id, self.impersonation_chain)
        self.log.info("cancelled %s", ", ".join(names) if names else "nothing: no job of this run is left")
        return names
