"""The trigger behind a deferred task whose job runs on Google Batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_gca.hooks.batch import StackBatchHook
from gca_core.batch.poller import Poller, Verdict
from gca_core.errors import ConfigurationError

if TYPE_CHECKING:
    from google.cloud.batch_v1 import BatchServiceAsyncClient

    from gca_core.batch.models import JobView

# a loaded triggerer took 27 s for its first question; when Airflow's 30 s for on_kill are over, cleanup waits
LOOK_SECONDS, CANCEL_SECONDS, KILL_SECONDS = 30.0, 20.0, 60.0
# states of a task from which it doesn't come back by itself
ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


class StackBatchTrigger(BaseTrigger):
    """Looks at a job on Google Batch until it is over, or the time is up.

    Its event says ``status`` (``over``, ``timeout``, ``queued`` where it got no machine in time, or ``error`` after
    looks that failed several times in a row), a ``message``, the name of the job, and what was ``carried``.
    The connection is looked up by its id in the triggerer, so no secret is stored with the trigger.

    The job is cancelled when the task has ended without it: marked as failed, as success or as skipped. It is left
    alone when the triggerer stops or hands the trigger on, and when the task is cleared, since its next try goes on
    with the job.

    Args:
        job_name: ``projects/P/locations/R/jobs/ID``.
        gcp_conn_id: connection to Google Cloud.
        impersonation_chain: service accounts to act as.
        poll_interval: seconds between two looks.
        end_time: when to give up, ISO 8601; absolute, so that a trigger that moves keeps it.
        queued_seconds: seconds that the job may be without a machine; None means until ``end_time``.
        cancel_on_kill: whether the job is cancelled with the task.
        instance: ``dag_id``, ``task_id``, ``run_id`` and ``map_index`` of the task.
        carried: what the event hands back.
    """

    def __init__(
        self,
        *,
        job_name: str,
        gcp_conn_id: str,
        impersonation_chain: str | list[str] | None = None,
        poll_interval: float,
        end_time: str,
        queued_seconds: float | None = None,
        cancel_on_kill: bool = True,
        instance: Mapping[str, Any] | None = None,
        carried: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job_name = job_name
        self.gcp_conn_id = gcp_conn_id
        self.impersonation_chain = impersonation_chain
        self.poll_interval = poll_interval
        self.end_time = end_time
        self.queued_seconds = queued_seconds
        self.cancel_on_kill = cancel_on_kill
        self.instance = dict(instance or {})
        self.carried = dict(carried or {})
        self._client: BatchServiceAsyncClient | None = None
        self._ending: asyncio.Task[None] | None = None
        self._over = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Where to import the class from, and its arguments."""
        names = (
            "job_name", "gcp_conn_id", "impersonation_chain", "poll_interval", "end_time", "queued_seconds",
            "cancel_on_kill", "instance", "carried",
        )  # fmt: skip
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event."""
        waiting = asyncio.create_task(self._wait())
        try:
            # a cancel that gRPC itself hears loses its words, by which Airflow knows that on_kill is to be called
            await asyncio.wait([waiting])
        except asyncio.CancelledError:
            waiting.cancel()
            # 3.3 and later call on_kill
            if not hasattr(BaseTrigger, "on_kill"):
                await self.on_kill()
            raise
        verdict = waiting.result()
        event = {"status": verdict.kind, "message": verdict.message, "job": self.job_name, "carried": self.carried}
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Cancel the job when the task has ended without it."""
        if self.cancel_on_kill and self._ending is None:
            self._ending = asyncio.create_task(self._end_job())
        await self._ended()

    async def cleanup(self) -> None:
        """Close the connection to Google."""
        await self._ended()
        if self._client is not None:
            with suppress(Exception):
                await self._client.transport.close()  # type: ignore[no-untyped-call]

    async def _ended(self) -> None:
        # Airflow cancels a trigger that it kills again every second, also amid on_kill
        while self._ending is not None and not self._ending.done():
            with suppress(asyncio.CancelledError):
                await asyncio.shield(self._ending)
            # a triggerer that stops cancels every task once, waits for half a minute, and answers no more
            if self._over and self._ending.cancelled():
                self._ending = asyncio.create_task(self._end_job())

    async def _end_job(self) -> None:
        from google.api_core import exceptions as api
        from google.api_core.retry import AsyncRetry

        try:
            async with asyncio.timeout(KILL_SECONDS):
                self._over = self._over or await self._task_has_ended()
                if not self._over:
                    return
                self.log.info("the task has ended; cancelling %s", self.job_name)
                client = await self._connected()
                await client.cancel_job(
                    name=self.job_name, retry=AsyncRetry(timeout=CANCEL_SECONDS), timeout=CANCEL_SECONDS
                )
        except (api.NotFound, api.BadRequest, api.Conflict) as error:
            self.log.info("it needs no cancelling: %s", error)
        except Exception:
            self.log.exception("%s may still run", self.job_name)

    async def _wait(self) -> Verdict:
        told = ""
        poller = Poller(datetime.fromisoformat(self.end_time), queued_seconds=self.queued_seconds)
        while True:
            try:
                view = await self._look()
            except ConfigurationError as error:
                return Verdict("error", str(error))
            except Exception as error:
                verdict = poller.failed(error, datetime.now(UTC))
            else:
                verdict = poller.seen(view, datetime.now(UTC))
            if verdict.message != told:
                self.log.info("%s: %s", self.job_name.rpartition("/")[2], verdict.message)
                told = verdict.message
            if verdict.kind != "wait":
                return verdict
            await asyncio.sleep(self.poll_interval)

    async def _look(self) -> JobView:
        from gca_core.batch.service import view_of

        client = await self._connected()
        return view_of(await client.get_job(name=self.job_name, retry=None, timeout=LOOK_SECONDS))

    async def _connected(self) -> BatchServiceAsyncClient:
        if self._client is None:
            hook = StackBatchHook(gcp_conn_id=self.gcp_conn_id, impersonation_chain=self.impersonation_chain)
            self._client = await hook.get_async_conn()
        return self._client

    async def _task_has_ended(self) -> bool:
        """Whether Airflow says so. A cancelled trigger alone doesn't: another triggerer may have taken over."""
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
        from asgiref.sync import sync_to_async

        named = self.instance
        states = await sync_to_async(RuntimeTaskInstance.get_task_states)(
            dag_id=named["dag_id"], task_ids=[named["task_id"]], run_ids=[named["run_id"]], map_index=named["map_index"]
        )
        # a mapped task's key has its index behind the name
        found = list(states.get(named["run_id"], {}).values())
        return not found or found[0] in ENDED
