"""What may happen to a task while its job runs on Google Batch: no job is lost, doubled or left behind."""

import signal
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.helpers.batch_jobs import make_job  # noqa: F401
from tests.helpers.batch_loopback import BatchServer
from tests.helpers.live_airflow import LiveAirflow, in_time

RESTARTS = [("triggerer", signal.SIGKILL), ("triggerer", signal.SIGTERM), ("scheduler", signal.SIGKILL),
            ("api-server", signal.SIGKILL)]  # fmt: skip


@pytest.fixture
def begin(airflow: LiveAirflow, batch: BatchServer, make_job: Any, request: Any) -> Callable[..., Any]:  # noqa: F811
    """Start a run whose job is held while it is RUNNING; returns the run and its task."""

    def begin(variant: str) -> tuple[str, dict[str, Any]]:
        batch.hold()
        job = make_job("".join(c if c.isalnum() else "-" for c in request.node.name))
        run = airflow.trigger(f"live_batch_{variant}", **job)
        airflow.wait(lambda: states(batch) == ["RUNNING"], "a job to run", run)
        return run, airflow.wait_for_task(run, "running" if variant == "waiting" else "deferred")

    return begin


def states(batch: BatchServer) -> list[str]:
    return [job.state for job in batch.jobs]


def cancelled_in_time(airflow: LiveAirflow, batch: BatchServer, run: str) -> bool:
    begun = time.monotonic()
    airflow.wait(lambda: states(batch) == ["CANCELLED"], "the job to be cancelled", run)
    return time.monotonic() - begun < in_time()


def finish(airflow: LiveAirflow, batch: BatchServer, run: str) -> dict[str, Any]:
    """Let jobs go on; the run's task, once it succeeded with the job's prediction."""
    batch.release()
    airflow.wait_for_run(run, "success")
    (task,) = airflow.tasks(run)
    (row,) = airflow.output(run, "predict")
    assert row["status"] == "succeeded"
    return task


@pytest.mark.parametrize(("component", "number"), RESTARTS)
def test_a_job_outlives_components(airflow: LiveAirflow, batch, begin, component: str, number: int) -> None:
    run, _ = begin("deferred")
    airflow.restart(component, number)
    task = finish(airflow, batch, run)
    # a task that wakes while no API answers is tried again, until one does
    assert task["try_number"] == 1 or component == "api-server"
    assert states(batch) == ["SUCCEEDED"]


def test_a_worker_killed_after_it_submitted_is_followed_by_one_that_finds_the_job(airflow, batch, begin) -> None:
    run, task = begin("waiting")
    airflow.kill_worker(task)
    airflow.wait(lambda: airflow.tasks(run)[0]["id"] != task["id"], "another try", run)
    assert finish(airflow, batch, run)["try_number"] == 2
    assert states(batch) == ["SUCCEEDED"]


def test_a_worker_told_to_end_cancels_the_job_and_the_next_try_submits_another(airflow, batch, begin) -> None:
    run, task = begin("waiting")
    psutil.Process(task["pid"]).terminate()
    airflow.wait(lambda: states(batch) == ["CANCELLED", "RUNNING"], "a second job", run)
    finish(airflow, batch, run)
    assert states(batch) == ["CANCELLED", "SUCCEEDED"]


@pytest.mark.parametrize(("variant", "state"), [("deferred", "failed"), ("deferred", "success"), ("waiting", "failed")])
def test_the_job_of_a_run_that_is_marked_is_cancelled(airflow, batch, begin, monkeypatch, variant, state) -> None:
    run, _ = begin(variant)
    cancel = batch.cancel_job
    # meanwhile the triggerer cancels the trigger again
    monkeypatch.setattr(batch, "cancel_job", lambda asked: time.sleep(3) or cancel(asked))
    if variant == "deferred":
        airflow.wait(lambda: ": RUNNING" in airflow.log(run), "the triggerer to watch it", run)
    airflow.mark_run(run, state)
    assert cancelled_in_time(airflow, batch, run)


def test_a_triggerer_told_to_stop_amid_a_cancel_ends_it_first(airflow, batch, begin) -> None:
    run, _ = begin("deferred")
    airflow.wait(lambda: ": RUNNING" in airflow.log(run), "the triggerer to watch it", run)
    batch.fail_next("CancelJob", 503, times=2)
    airflow.mark_run(run, "failed")
    # one asked for a job of a test before may come late
    airflow.wait(lambda: "the task has ended" in airflow.log(run), "the triggerer to know it", run)
    airflow.wait(lambda: len(batch._faults) < 2, "the service to be asked", run)
    airflow.restart("triggerer", signal.SIGTERM)
    assert states(batch) == ["CANCELLED"], airflow.log(run)


def test_a_teardown_cancels_the_job_of_a_run_marked_while_no_triggerer_is_there(airflow, batch, begin) -> None:
    airflow.end_one("triggerer")
    run, _ = begin("deferred_torn_down")
    airflow.mark_run(run, "failed")
    assert cancelled_in_time(airflow, batch, run)
    airflow.start_one("triggerer")


@pytest.mark.parametrize("variant", ["deferred", "waiting"])
def test_a_cleared_task_leaves_one_job_that_counts(airflow, batch, begin, variant: str) -> None:
    run, task = begin(variant)
    airflow.clear(run, "predict")
    again = "running" if variant == "waiting" else "deferred"
    airflow.wait(lambda: airflow.tasks(run)[0]["id"] != task["id"], "another try", run)
    airflow.wait_for_task(run, again)
    if variant == "waiting":
        airflow.wait(lambda: states(batch) == ["CANCELLED", "RUNNING"], "a second job", run)
    finish(airflow, batch, run)
    # a deferred task's job goes on; a worker's ends with it
    assert states(batch) == (["SUCCEEDED"] if variant == "deferred" else ["CANCELLED", "SUCCEEDED"])


def test_a_job_that_takes_too_long_is_cancelled(airflow: LiveAirflow, batch: BatchServer, make_job: Any) -> None:  # noqa: F811
    batch.hold()
    run = airflow.trigger("live_batch_deferred_once", **make_job("too-long"), timeout_seconds=8)
    airflow.wait_for_run(run, "failed")
    assert states(batch) == ["CANCELLED"]
