"""How a HAYSTACK run stands against a wanted score, and the trigger behind a deferred ``GroundingSensor``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent
from pydantic import BaseModel

from airflow_provider_gca.hooks.atlas import AtlasHook
from gca_core.errors import GcaError, StoreError

if TYPE_CHECKING:
    from gca_core.runs.store import RunStore

TOLERATED_FAILURES = 5


class RunOutcome(BaseModel, frozen=True):
    """What the run records say at one moment.

    ``done`` means that waiting is over: the score is reached, the run has ended, or its process is dead (``stale``).
    """

    run_id: str
    min_score: float
    status: str | None = None
    best_score: float | None = None
    best_iteration: int | None = None
    termination_reason: str | None = None
    reached: bool = False
    done: bool = False

    def describe(self) -> str:
        """A sentence about it, to follow the run's id."""
        if self.status is None:
            return "has no record yet"
        score = "no score" if self.best_score is None else f"a best score of {self.best_score:g}"
        if self.reached:
            return f"has {score}, at least the {self.min_score:g} waited for"
        if not self.done:
            return f"is {self.status} with {score}; waiting for {self.min_score:g}"
        reason = f" because of {self.termination_reason}" if self.termination_reason else ""
        return f"ended as {self.status}{reason} with {score}, below {self.min_score:g}"


def look_up(store: RunStore, run_id: str, min_score: float) -> RunOutcome:
    """Read the run's row and judge it. Blocks on the database.

    Raises:
        StoreError: the database can't be reached.
    """
    row = store.get(run_id)
    if row is None:
        return RunOutcome(run_id=run_id, min_score=min_score)
    reached = row.best_score is not None and row.best_score >= min_score
    return RunOutcome(
        run_id=run_id,
        min_score=min_score,
        status=row.status.value,
        best_score=row.best_score,
        best_iteration=row.best_iteration,
        termination_reason=row.termination_reason,
        reached=reached,
        done=reached or row.status.is_over,
    )


class GroundingTrigger(BaseTrigger):
    """Looks at a run's row every few seconds, in a thread, until it is settled or the time is up.

    A database that can't be reached is tried again; the event says ``error`` after five failures in a row. The
    connection is looked up by its id in the triggerer, so no secret is stored with the trigger.

    Args:
        run_id: the run's id in the run records.
        min_score: the score to wait for.
        gca_atlas_conn_id: connection of the database.
        poll_interval: seconds between two looks.
        end_time: when to give up, ISO 8601; absolute, so that a trigger that moves keeps it.
    """

    def __init__(
        self, *, run_id: str, min_score: float, gca_atlas_conn_id: str, poll_interval: float, end_time: str
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.run_id = run_id
        self.min_score = min_score
        self.gca_atlas_conn_id = gca_atlas_conn_id
        self.poll_interval = poll_interval
        self.end_time = end_time

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Where to import the class from, and its arguments."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "run_id": self.run_id,
                "min_score": self.min_score,
                "gca_atlas_conn_id": self.gca_atlas_conn_id,
                "poll_interval": self.poll_interval,
                "end_time": self.end_time,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event: ``success`` with the outcome, ``timeout`` or ``error`` with a message."""
        yield TriggerEvent(await self._wait())  # type: ignore[no-untyped-call]

    async def _wait(self) -> dict[str, Any]:
        failures, store = 0, None
        while True:
            try:
                store = store or await self._open()
                outcome = await asyncio.to_thread(look_up, store, self.run_id, self.min_score)
                failures = 0
            except StoreError as error:
                failures += 1
                self.log.warning("look %d at run %s failed: %s", failures, self.run_id, error)
                if failures >= TOLERATED_FAILURES:
                    return {"status": "error", "message": str(error)}
            except GcaError as error:
                return {"status": "error", "message": str(error)}
            else:
                self.log.info("run %s: %s", self.run_id, outcome.describe())
                if outcome.done:
                    return {"status": "success", "outcome": outcome.model_dump(mode="json")}
            if datetime.now(UTC) >= datetime.fromisoformat(self.end_time):
                late = f"run {self.run_id} did not reach {self.min_score:g} nor end before {self.end_time}"
                return {"status": "timeout", "message": late}
            await asyncio.sleep(self.poll_interval)

    async def _open(self) -> RunStore:
        hook = AtlasHook(self.gca_atlas_conn_id)
        connection = await hook.find_connection_async()
        return await asyncio.to_thread(hook.run_store_of, connection)
