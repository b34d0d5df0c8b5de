"""The sensor and its trigger against rows in a real PostgreSQL."""

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowRescheduleException, TaskDeferred
from airflow.sdk.module_loading import import_string

from airflow_provider_gca.hooks.atlas import AtlasHook
from airflow_provider_gca.sensors.grounding import GroundingSensor
from airflow_provider_gca.triggers.grounding import GroundingTrigger
from airflow_provider_gca.utils.failures import AirflowException, AirflowFailException, AirflowSensorTimeout
from gca_core.errors import ConfigurationError
from gca_core.runs.models import Claim, RunRow, RunStatus
from gca_core.runs.store import RunStore

pytestmark = pytest.mark.usefixtures("airflow_home", "gca_home")

RUN = "a-run"


@pytest.fixture
def store(gca_home: Path) -> RunStore:
    """The run records; the run under test has none yet."""
    store = AtlasHook().get_run_store()
    from gca_core.store.connect import connect

    with connect(AtlasHook().get_dsn()) as connection:
        connection.execute("delete from runs where run_id = %s", [RUN])
    return store


def write(store: RunStore, status: RunStatus, score: float | None = None, reason: str | None = None) -> None:
    store.upsert_run(
        RunRow(
            run_id=RUN,
            question="?",
            results_uri="file:///nowhere",
            status=status,
            best_score=score,
            best_iteration=None if score is None else 1,
            termination_reason=reason,
        )
    )


def sensor(**changes: Any) -> GroundingSensor:
    asked = {"task_id": "wait", "run_id": RUN, "min_score": 6, "poke_interval": 0.1, "deferrable": False}
    return GroundingSensor(**{**asked, **changes})


def test_succeeds_once_the_score_is_reached_also_while_the_run_goes_on(store: RunStore) -> None:
    write(store, RunStatus.RUNNING, 6.5)
    kept: dict[str, Any] = {}
    ti = SimpleNamespace(xcom_push=lambda key, value: kept.update({key: value}))
    assert sensor().execute({"ti": ti}) == 6.5
    assert (kept["outcome"]["status"], kept["outcome"]["best_iteration"]) == ("running", 1)


def test_waits_through_a_missing_row_and_low_scores(store: RunStore) -> None:
    def work() -> None:
        time.sleep(0.3)
        write(store, RunStatus.RUNNING)
        time.sleep(0.3)
        write(store, RunStatus.RUNNING, 3.0)
        time.sleep(0.3)
        write(store, RunStatus.COMPLETED, 8.0, "threshold")

    worker = threading.Thread(target=work)
    worker.start()
    assert sensor(timeout=30).execute({}) == 8.0
    worker.join()


def test_fails_with_the_runs_own_reason_when_it_ended_below(store: RunStore) -> None:
    write(store, RunStatus.COMPLETED, 4.25, "plateau")
    with pytest.raises(AirflowFailException, match=r"because of plateau with a best score of 4.25, below 6"):
        sensor().execute({})


def test_a_run_whose_process_is_dead_ends_the_waiting(store: RunStore) -> None:
    row = RunRow(run_id=RUN, question="?", results_uri="file:///nowhere", status=RunStatus.RUNNING)
    store.begin(row, Claim(stale_after_seconds=1))
    with pytest.raises(AirflowFailException, match="ended as stale with no score"):
        sensor(timeout=20).execute({})


def test_a_run_that_ended_below_can_be_taken_as_it_is(store: RunStore) -> None:
    write(store, RunStatus.FAILED, None, "empty_proposal")
    assert sensor(fail_below=False).execute({}) is None


def test_gives_up_after_its_timeout(store: RunStore) -> None:
    write(store, RunStatus.RUNNING, 2.0)
    with pytest.raises(AirflowSensorTimeout):
        sensor(timeout=0.2).execute({})


def test_asks_to_be_called_again_in_reschedule_mode(store: RunStore) -> None:
    class Instance:
        def get_first_reschedule_date(self, context: Any) -> None:
            return None

    write(store, RunStatus.RUNNING, 2.0)
    with pytest.raises(AirflowRescheduleException):
        sensor(mode="reschedule", poke_interval=60).execute({"ti": Instance()})


@pytest.mark.parametrize("score", [0, 11, "high", float("nan")])
def test_a_score_outside_the_scale_is_refused_when_the_dag_is_built(score: Any) -> None:
    with pytest.raises(ConfigurationError, match="grounding scores go from 1 to 10"):
        sensor(min_score=score)


def test_a_rendered_score_outside_the_scale_fails_without_a_retry(store: RunStore) -> None:
    task = sensor(min_score="{{ params.score }}")
    task.min_score = "12"
    with pytest.raises(AirflowFailException, match="'12'; grounding scores go from 1 to 10"):
        task.execute({})


def test_a_database_that_is_down_leaves_the_task_to_its_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCA_ATLAS_DSN", "postgresql://u:secret@127.0.0.1:9/gca")
    with pytest.raises(AirflowException, match="can't be reached") as raised:
        sensor().execute({})
    assert not isinstance(raised.value, AirflowFailException)
    assert "secret" not in str(raised.value)


def deferred(**changes: Any) -> tuple[GroundingSensor, GroundingTrigger]:
    task = sensor(deferrable=True, **changes)
    with pytest.raises(TaskDeferred) as raised:
        task.execute({})
    assert raised.value.method_name == "execute_complete"
    trigger = raised.value.trigger
    assert isinstance(trigger, GroundingTrigger)
    return task, rebuilt(trigger)


def rebuilt(trigger: GroundingTrigger) -> GroundingTrigger:
    """The trigger as the triggerer makes it: by path and arguments."""
    path, arguments = trigger.serialize()
    again = import_string(path)(**arguments)
    assert again.serialize() == (path, arguments)
    return again  # type: ignore[no-any-return]


async def first_event(trigger: GroundingTrigger) -> Any:
    async for event in trigger.run():
        return event.payload
    return None


def test_a_settled_run_is_not_deferred(store: RunStore) -> None:
    write(store, RunStatus.RUNNING, 9.0)
    assert sensor(deferrable=True).execute({}) == 9.0


def test_the_trigger_waits_and_the_task_takes_up_its_event(store: RunStore) -> None:
    write(store, RunStatus.RUNNING, 2.0)
    task, trigger = deferred(timeout=60)

    async def scenario() -> Any:
        waiting = asyncio.create_task(first_event(trigger))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        await asyncio.to_thread(write, store, RunStatus.COMPLETED, 7.0, "threshold")
        return await asyncio.wait_for(waiting, 20)

    assert task.execute_complete({}, asyncio.run(scenario())) == 7.0


def test_the_triggers_event_fails_the_task_when_the_run_ended_below(store: RunStore) -> None:
    write(store, RunStatus.RUNNING, 2.0)
    task, trigger = deferred()
    write(store, RunStatus.COMPLETED, 2.0, "max_iterations")
    with pytest.raises(AirflowFailException, match="because of max_iterations"):
        task.execute_complete({}, asyncio.run(first_event(trigger)))


def test_the_trigger_holds_its_time_limit_wherever_it_runs(store: RunStore) -> None:
    write(store, RunStatus.RUNNING, 2.0)
    task, trigger = deferred(timeout=0.2)
    assert datetime.fromisoformat(trigger.end_time) < datetime.now(UTC) + timedelta(seconds=1)
    with pytest.raises(AirflowSensorTimeout, match="did not reach 6"):
        task.execute_complete({}, asyncio.run(first_event(trigger)))


def test_the_trigger_leaves_the_event_loop_free_while_the_database_hangs(store, monkeypatch):
    write(store, RunStatus.RUNNING, 2.0)
    _, trigger = deferred()
    monkeypatch.setattr(RunStore, "get", lambda *_: time.sleep(1.0))

    async def scenario() -> int:
        waiting = asyncio.create_task(first_event(trigger))
        turns = 0
        end = time.monotonic() + 0.8
        while time.monotonic() < end:
            await asyncio.sleep(0.01)
            turns += 1
        waiting.cancel()
        return turns

    assert asyncio.run(scenario()) > 20


def test_the_trigger_gives_up_on_a_database_that_stays_away(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write(store, RunStatus.RUNNING, 2.0)
    task, trigger = deferred(poke_interval=0.01)
    monkeypatch.setenv("GCA_ATLAS_DSN", "postgresql://u:secret@127.0.0.1:9/gca")
    event = asyncio.run(first_event(trigger))
    with pytest.raises(AirflowException, match="can't be reached") as raised:
        task.execute_complete({}, event)
    assert not isinstance(raised.value, AirflowFailException)
    assert "secret" not in str(trigger.serialize()) + str(event)
