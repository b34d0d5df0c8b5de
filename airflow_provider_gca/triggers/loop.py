"""The trigger behind a deferred job of the HAYSTACK loop."""

from __future__ import annotations

import asyncio
from typing import Any

from airflow_provider_gca.hooks.atlas import AtlasHook
from airflow_provider_gca.triggers.batch import StackBatchTrigger
from gca_core.batch.poller import Verdict
from gca_core.runs.models import RunStatus

RECORD_SECONDS = 5.0


class LoopJobTrigger(StackBatchTrigger):
    """Looks at the run's record, too, and cancels the job once the run is cancelled; its event then says ``cancelled``.

    Args:
        haystack_run_id: the run's id in the run records.
        gca_atlas_conn_id: connection of the run records; looked up by its id in the triggerer.
        arguments: those of :class:`StackBatchTrigger`.
    """

    def __init__(self, *, haystack_run_id: str, gca_atlas_conn_id: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.haystack_run_id = haystack_run_id
        self.gca_atlas_conn_id = gca_atlas_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Where to import the class from, and its arguments."""
        path, arguments = super().serialize()
        own = {"haystack_run_id": self.haystack_run_id, "gca_atlas_conn_id": self.gca_atlas_conn_id}
        return path, arguments | own

    async def _wait(self) -> Verdict:
        looking = [asyncio.create_task(super()._wait()), asyncio.create_task(self._cancelled())]
        try:
            first, _ = await asyncio.wait(looking, return_when=asyncio.FIRST_COMPLETED)
            return first.pop().result()
        finally:
            for task in looking:
                task.cancel()

    async def _cancelled(self) -> Verdict:
        hook, store = AtlasHook(self.gca_atlas_conn_id), None
        while True:
            try:
                if store is None:
                    store = await asyncio.to_thread(hook.run_store_of, await hook.find_connection_async())
                row = await asyncio.to_thread(store.get, self.haystack_run_id)
            except Exception as error:
                # the job matters more than its record
                self.log.warning("the record of run %s can't be read: %s", self.haystack_run_id, error)
            else:
                if row is not None and row.status is RunStatus.CANCELLED:
                    # as of a task that has ended: the job goes at once
                    self._over = True
                    await self._end_job()
                    return Verdict("cancelled", f"the run {self.haystack_run_id} was cancelled")
            await asyncio.sleep(RECORD_SECONDS)
