"""The tasks that tell how a run ended, and leave nothing of it behind."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from copy import copy
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier, get_current_context

from airflow_provider_gca.hooks.atlas import AtlasHook
from airflow_provider_gca.notifications.haystack import NOTICE
from airflow_provider_gca.operators.batch import cancel_run_jobs
from airflow_provider_gca.task_groups.loop.around import Json, dump, new_row, own_run_id, step
from airflow_provider_gca.utils.failures import AirflowFailException

if TYPE_CHECKING:
    from gca_core.haystack.notice import Notice

log = logging.getLogger(__name__)

# a candidate may fail without its run; mapped tasks carry their index behind their name
_TOLERATED = re.compile(r"\.(infer|evaluate)(_\d+)?$")
LOOP_LABEL = "loop"
# a mail server may be away for a moment; a notice comes within a minute
TOLD_AGAIN: dict[str, Any] = {"retries": 2, "retry_delay": timedelta(seconds=5)}


def loop_label(group_id: str) -> str:
    """A loop's id as the value of a label."""
    return re.sub(r"[^a-z0-9_-]", "-", group_id.lower())[-63:]


def notifying(notifiers: Sequence[BaseNotifier]) -> Any:
    """The task that tells what came out."""

    @step(**TOLD_AGAIN)
    def notify(outputs: Json, gca_atlas_conn_id: str) -> None:
        for name, value in outputs.items():
            log.info("%s: %s", name, value)
        if not notifiers:
            return
        from gca_core.haystack.models import HaystackOutputs
        from gca_core.haystack.notice import make_notice

        found = HaystackOutputs.model_validate(outputs)
        row = AtlasHook(gca_atlas_conn_id).get_run_store().get(found.run_id)
        if row is not None:
            tell(notifiers, make_notice(row, outputs=found))

    return notify


def tell(notifiers: Sequence[BaseNotifier], notice: Notice) -> None:
    context = get_current_context()
    told = {NOTICE: dump(notice)}
    for notifier in notifiers:
        # its fields are rendered in place
        copy(notifier)({**context, **told})


def cancelling_leftovers(notifiers: Sequence[BaseNotifier]) -> Any:
    """The teardown."""

    @step(**TOLD_AGAIN)
    def cancel_leftovers(
        group_id: str,
        gca_atlas_conn_id: str,
        batch: Json | None = None,
        gcp_conn_id: str | None = None,
        impersonation_chain: str | list[str] | None = None,
        asked: Json | None = None,
    ) -> None:
        """Cancel the loop's jobs on Google Batch that still run, close the run's record where ``finalize`` didn't, and
        tell of a run that failed or was cancelled.

        Fails unless the run is complete: Airflow skips what is left of a run that somebody marks as failed, and would
        call its end a success. Local jobs end with the task that started them, so no process is left to stop here.
        """
        try:
            if batch is not None:
                mine = {LOOP_LABEL: loop_label(group_id)}
                names = cancel_run_jobs(get_current_context(), batch, gcp_conn_id, impersonation_chain, labels=mine)
                log.info("jobs that were cancelled: %s", ", ".join(names) or "none")
        finally:
            notice = _close_record(group_id, gca_atlas_conn_id, asked or {})
            if notice is not None and notifiers:
                tell(notifiers, notice)
        if notice is not None:
            why = f", {notice.error}" if notice.error else ""
            raise AirflowFailException(f"the run {notice.run_id} is {notice.status.value}{why}")

    return cancel_leftovers


def _close_record(group_id: str, gca_atlas_conn_id: str, asked: Json) -> Notice | None:
    """End the run's record where nothing did; what is to be told, unless all went well or nothing was to begin."""
    from gca_core.haystack.notice import make_notice
    from gca_core.runs.models import RunStatus

    hook, states = AtlasHook(gca_atlas_conn_id), _task_states()
    store, row = hook.get_run_store(), hook.get_run_store().get(own_run_id())
    failed = _failed_tasks(group_id, states)
    if row is None and not failed:
        # a loop that was skipped on purpose is no fault
        if "failed" in states.values():
            raise AirflowFailException("the DAG run ended before the loop began")
        log.info("nothing of run %s is left to cancel", own_run_id())
        return None
    row = row or new_row(hook, **asked)
    if not row.status.is_final:
        status, reason = (RunStatus.FAILED, f"failed: {', '.join(failed)}") if failed else (
            RunStatus.CANCELLED, "cancelled"
        )  # fmt: skip
        row = row.model_copy(update={"status": status, "termination_reason": reason})
        store.upsert_run(row)
        log.warning("run %s had not ended; its record now says %s", row.run_id, reason)
    if row.status is RunStatus.COMPLETED:
        return None
    log_says = f"the task {failed[0]} failed; its log says why" if failed else ""
    return make_notice(row, error=(row.error or log_says) if row.status is RunStatus.FAILED else "")


def _task_states() -> dict[str, str]:
    context = get_current_context()
    dag_run = context["dag_run"]
    found = context["ti"].get_task_states(dag_id=dag_run.dag_id, run_ids=[dag_run.run_id])
    return dict(found.get(dag_run.run_id, {}))


def _failed_tasks(group_id: str, states: Mapping[str, str]) -> list[str]:
    """The tasks of the group that failed and must not, or else those before it; none where a person ended the run.

    When a task fails, those behind it can't run; when a run is marked as failed, they are skipped.
    """
    if states.get(f"{group_id}.notify") == "skipped":
        return []
    failed = sorted(task for task, state in states.items() if state == "failed" and not _TOLERATED.search(task))
    return [task for task in failed if task.startswith(f"{group_id}.")] or failed
