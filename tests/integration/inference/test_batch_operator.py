"""The operator, its trigger and the teardown against a loopback Batch, and what may go wrong between them."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.execution_time.context import set_current_context
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.triggers.base import BaseTrigger

from airflow_provider_gca.hooks.atlas import AtlasHook
from airflow_provider_gca.operators.batch import CancelRunJobsOperator
from airflow_provider_gca.operators.inference import StackBatchOperator
from airflow_provider_gca.task_groups.loop.around import own_run_id
from airflow_provider_gca.task_groups.loop.infer import InferOperator
from airflow_provider_gca.triggers import loop
from airflow_provider_gca.utils.failures import AirflowException, AirflowFailException
from gca_core.errors import ConfigurationError
from gca_core.runs.models import RunRow, RunStatus
from tests.helpers.batch_jobs import CLOUD, SECRET, Play, batch, make_job, quick, wait_for
from tests.helpers.batch_loopback import LOST, BatchServer
from tests.helpers.gcs_loopback import Bucket, bucket

__all__ = ["batch", "bucket", "make_job", "quick"]
pytestmark = pytest.mark.usefixtures("airflow_home")
Job = dict[str, Any]


@pytest.fixture
def job(make_job: Callable[..., Job]) -> Job:
    return make_job("a")


def task_of(job: Job, **changes: Any) -> Callable[[], StackBatchOperator]:
    asked = {"task_id": "t", "poll_interval_seconds": 0.05, **CLOUD, **job, **changes}
    return lambda: StackBatchOperator(**asked)


def histories(server: BatchServer) -> list[tuple[str, str]]:
    """Region and last state of all jobs, in the order of their creation."""
    return [(record.job.name.split("/")[3], record.state) for record in server.jobs]


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def over(server: BatchServer) -> bool:
    return not server.running()


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_job_is_submitted_told_of_and_read(quick: BatchServer, job: Job, deferrable: bool) -> None:
    play = Play(task_of(job, deferrable=deferrable))
    (row,) = play.run()
    assert (row["candidate_id"], row["status"], row["prediction_uri"]) == (
        "a",
        "succeeded",
        "gs://lab/a/prediction.h5ad",
    )
    assert histories(quick) == [("us-east1", "SUCCEEDED")]
    assert play.xcoms["batch_job"] == quick.jobs[0].job.name
    assert quick.jobs[0].id in play.xcoms["gca_batch_job_link"]
    assert quick.jobs[0].job.uid in play.xcoms["gca_batch_logs_link"]
    assert SECRET not in json.dumps([play.xcoms, quick.described(), str(quick.jobs[0].job)])


def test_without_airflow_around_it_the_operator_waits_itself(quick: BatchServer, job: Job) -> None:
    assert task_of(job)().execute({})[0]["status"] == "succeeded"
    assert quick.n_created == 1


def test_a_try_after_success_takes_the_answer_and_starts_nothing(quick: BatchServer, job: Job) -> None:
    first = Play(task_of(job)).run()
    assert Play(task_of(job), try_number=2).run() == first
    assert quick.n_created == 1
    Play(task_of(job), run_id="another").run()
    assert quick.n_created == 2


def test_a_job_predicts_only_what_is_not_known(quick, bucket, make_job, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GCA_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("GCA_KEEP_PREDICTIONS", "true")
    known, new = make_job("a"), make_job("b", rate=2.0)
    Play(task_of(known)).run()
    rows = Play(task_of({**new, "requests": [*known["requests"], *new["requests"]]})).run()
    assert [(row["candidate_id"], row["cached"]) for row in rows] == [("a", True), ("b", False)]
    asked = json.loads(bucket.objects["b/job.json"][0])["requests"]
    assert [request["candidate_id"] for request in asked] == ["b"]


def test_a_task_that_is_cleared_goes_on_with_its_job(quick: BatchServer, job: Job) -> None:
    quick.hold()
    before = Play(task_of(job)).begin()
    again = Play(task_of(job), try_number=2)
    trigger = again.begin()
    assert trigger.job_name == before.job_name
    quick.release()
    assert again.resume(wait_for(trigger))[0]["status"] == "succeeded"
    assert quick.n_created == 1


def test_candidates_that_change_places_keep_their_jobs(quick: BatchServer, make_job: Callable[..., Job]) -> None:
    quick.hold()
    jobs = {name: make_job(name) for name in ("a", "b")}
    names = {name: Play(task_of(jobs[name]), map_index=i).begin().job_name for i, name in enumerate("ab")}
    swapped = {name: Play(task_of(jobs[name]), map_index=i, try_number=2) for i, name in enumerate("ba")}
    triggers = {name: play.begin() for name, play in swapped.items()}
    assert {name: trigger.job_name for name, trigger in triggers.items()} == names
    quick.release()
    assert [swapped[n].resume(wait_for(triggers[n]))[0]["candidate_id"] for n in "ab"] == ["a", "b"]
    assert quick.n_created == 2


@pytest.mark.parametrize(
    "faults",
    [
        [("CreateJob", 503, 3), ("GetJob", 503, 3)],
        [("CreateJob", 429, 2)],
        # made, but the answer was lost: sent again, it is refused as there already
        [("CreateJob", LOST, 1, True)],
        [("CreateJob", 504, 1, True)],
    ],
)
def test_what_the_service_fails_to_answer_is_asked_again_and_runs_once(quick, job, faults):
    quick.deduplicates = False
    for fault in faults:
        quick.fail_next(*fault)
    assert Play(task_of(job)).run()[0]["status"] == "succeeded"
    assert quick.n_created == 1


def test_a_job_that_is_preempted_moves_to_the_next_region(quick: BatchServer, job: Job) -> None:
    quick.preempt_next(1)
    play = Play(task_of(job))
    assert play.run()[0]["status"] == "succeeded"
    assert histories(quick) == [("us-east1", "FAILED"), ("us-central1", "SUCCEEDED")]
    assert play.xcoms["batch_job"] == quick.jobs[1].job.name


@pytest.mark.parametrize("fails", [True, False])
def test_a_job_without_a_machine_moves_to_the_next_region(quick: BatchServer, job: Job, fails: bool) -> None:
    quick.refuse_quota("us-east1", fails)
    batch = {**CLOUD["batch"], "queued_seconds": 0.3}
    assert Play(task_of(job, batch=batch)).run()[0]["status"] == "succeeded"
    assert histories(quick) == [("us-east1", "FAILED" if fails else "CANCELLED"), ("us-central1", "SUCCEEDED")]


def test_a_plan_that_is_used_up_fails_and_the_next_try_makes_one_more_attempt(quick: BatchServer, job: Job) -> None:
    quick.preempt_next(3)
    with pytest.raises(AirflowException, match=r"exit code 50001.*the plan of 2 is used up"):
        Play(task_of(job), max_tries=1).run()
    assert quick.n_created == 2
    Play(task_of(job), try_number=2, max_tries=1).run()
    assert [region for region, _ in histories(quick)] == ["us-east1", "us-central1"] * 2


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_failed_job_says_its_exit_code_its_events_and_where_its_log_is(quick, job, deferrable):
    batch = {**CLOUD["batch"], "environment": {"EXIT": "3"}}
    with pytest.raises(AirflowException, match=r"FAILED with exit code 3; last events: .*log: https://console.*/logs"):
        Play(task_of(job, batch=batch, deferrable=deferrable, fail_when="never")).run()
    assert quick.n_created == 1


def test_answers_of_a_job_that_failed_later_are_kept(quick: BatchServer, make_job: Callable[..., Job]) -> None:
    jobs = [make_job(name) for name in ("a", "b")]
    job = {"job_uri": "gs://lab/both/job.json", "requests": [request for job in jobs for request in job["requests"]]}
    batch = {**CLOUD["batch"], "environment": {"EXIT": "1"}}
    rows = Play(task_of(job, batch=batch)).run()
    assert [(row["candidate_id"], row["status"]) for row in rows] == [("a", "succeeded"), ("b", "failed")]
    assert "exit code 1" in rows[1]["error"]
    assert quick.n_created == 1


def test_a_job_that_is_cancelled_from_outside_fails_and_runs_again_on_another_try(quick, job):
    quick.hold()
    play = Play(task_of(job), max_tries=1)
    trigger = play.begin()
    quick.cancel_from_outside(trigger.job_name)
    with pytest.raises(AirflowException, match=r"CANCELLED.*somebody cancelled it"):
        play.resume(wait_for(trigger))
    assert quick.n_created == 1
    quick.release()
    assert Play(task_of(job), try_number=2, max_tries=1).run()[0]["status"] == "succeeded"
    assert quick.n_created == 2


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_job_that_takes_too_long_is_cancelled(quick: BatchServer, job: Job, deferrable: bool) -> None:
    quick.hold()
    with pytest.raises(AirflowException, match=r"the deadline .* passed"):
        Play(task_of(job, timeout_seconds=0.5, deferrable=deferrable)).run()
    until(lambda: over(quick))
    assert histories(quick) == [("us-east1", "CANCELLED")]


@pytest.mark.parametrize(("max_tries", "state"), [(0, "CANCELLED"), (1, "RUNNING")])
@pytest.mark.parametrize("how", ["poll", "trigger"])
def test_a_job_that_cant_be_watched_is_left_to_a_further_try_and_never_beyond(quick, job, max_tries, state, how):
    quick.hold()
    play = Play(task_of(job), max_tries=max_tries)
    trigger = play.begin()
    until(lambda: quick.jobs[0].state == "RUNNING")
    if how == "poll":
        quick.fail_next("GetJob", 503, 6)
        event = wait_for(trigger)
        with pytest.raises(AirflowException, match="6 looks at the job failed in a row"):
            play.resume(event)
    else:
        with pytest.raises(Exception, match="Trigger failure"):
            play.operator().resume_execution("__fail__", {"error": "Trigger failure"}, play.context)
    until(lambda: quick.jobs[0].state == state)
    quick.release()
    until(lambda: over(quick))
    assert quick.n_created == 1


def test_a_worker_that_is_killed_cancels_the_job_it_waits_for(quick: BatchServer, job: Job) -> None:
    quick.hold()
    task = task_of(job, deferrable=False)()

    def kill() -> None:
        until(lambda: quick.jobs and quick.jobs[0].state == "RUNNING")
        task.on_kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(AirflowException, match="the task was killed"):
        task.execute(Play(task).context)
    killer.join()
    until(lambda: over(quick))
    assert histories(quick) == [("us-east1", "CANCELLED")]


def test_a_worker_that_is_killed_amid_a_look_at_the_job_says_so(quick: BatchServer, job: Job, monkeypatch: Any) -> None:
    quick.hold()
    task = task_of(job, deferrable=False)()
    look = quick.get_job

    def killed_meanwhile(asked: Any) -> Any:
        if quick.jobs and quick.jobs[0].state == "RUNNING" and not task._killed:
            task._killed = True
            quick.cancel_from_outside(quick.jobs[0].id)
            until(lambda: over(quick))
        return look(asked)

    monkeypatch.setattr(quick, "get_job", killed_meanwhile)
    with pytest.raises(AirflowException, match="the task was killed; its job is over"):
        task.execute(Play(task).context)
    assert histories(quick) == [("us-east1", "CANCELLED")]


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ({"r": {"t_0": "failed"}}, "CANCELLED"),
        ({"r": {"t_0": "success"}}, "CANCELLED"),
        ({}, "CANCELLED"),
        # another triggerer has it, or its next try will
        ({"r": {"t_0": "deferred"}}, "RUNNING"),
        ({"r": {"t_0": None}}, "RUNNING"),
        ({"r": {"t_0": "running"}}, "RUNNING"),
    ],
)
# Airflow 3.1 knows no on_kill of triggers
@pytest.mark.parametrize("hooked", [True, False])
def test_a_killed_trigger_cancels_the_job_only_where_its_task_has_ended(quick, job, told, state, hooked, monkeypatch):
    quick.hold()
    trigger = Play(task_of(job), map_index=0).begin()
    until(lambda: quick.jobs[0].state == "RUNNING")
    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", staticmethod(lambda **_: time.sleep(0.2) or told))

    async def kill() -> None:
        killing = asyncio.create_task(trigger.on_kill())
        while not killing.done():
            await asyncio.sleep(0.05)
            # as Airflow does every second
            killing.cancel()
        await trigger.cleanup()

    if hooked:
        asyncio.run(kill())
    else:
        monkeypatch.delattr(BaseTrigger, "on_kill")
        with pytest.raises(TimeoutError):
            asyncio.run(asyncio.wait_for(anext(trigger.run()), 0.3))
    until(lambda: quick.jobs[0].state == state)
    quick.release()
    until(lambda: over(quick))
    assert quick.n_created == 1


def test_a_trigger_killed_amid_a_look_is_told_so_by_the_words_of_airflow(quick, job, monkeypatch) -> None:
    quick.hold()
    trigger = Play(task_of(job)).begin()
    looked, look = threading.Event(), quick.get_job
    monkeypatch.setattr(quick, "get_job", lambda asked: looked.set() or time.sleep(0.5) or look(asked))

    async def kill() -> None:
        running = asyncio.create_task(anext(trigger.run()))
        await asyncio.to_thread(looked.wait)
        running.cancel("user-action")
        # without these words it calls no on_kill
        with pytest.raises(asyncio.CancelledError, match="user-action"):
            await running
        await trigger.cleanup()

    asyncio.run(kill())
    quick.release()
    until(lambda: over(quick))


def test_a_triggerer_that_stops_amid_a_cancel_ends_it_first(quick, job, monkeypatch) -> None:
    quick.hold()
    trigger = Play(task_of(job), map_index=0).begin()
    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", staticmethod(lambda **_: {}))
    quick.fail_next("CancelJob", 503, times=2)

    async def stop() -> None:
        # whose end cancels every task once
        killing = asyncio.create_task(trigger.on_kill())
        await asyncio.to_thread(until, lambda: len(quick._faults) < 2)
        assert not killing.done()

    asyncio.run(stop())
    until(lambda: quick.jobs[0].state == "CANCELLED")


@pytest.mark.parametrize("deferrable", [True, False])
def test_the_job_of_a_loop_ends_once_its_run_is_cancelled(quick, job, gca_home, monkeypatch, deferrable: bool) -> None:
    monkeypatch.setenv("GCA_HOME", str(gca_home))
    monkeypatch.setattr(loop, "RECORD_SECONDS", 0.1)
    quick.hold()
    asked = {"task_id": "haystack.iteration_0.infer", "deferrable": deferrable, "poll_interval_seconds": 60}
    play = Play(lambda: InferOperator(**{**CLOUD, **job, **asked}), task_id=asked["task_id"], max_tries=5)
    play.context["dag_run"] = SimpleNamespace(
        dag_id="d", run_id=f"r{deferrable}", run_after=datetime(2026, 1, 1, tzinfo=UTC)
    )

    def cancel() -> None:
        until(lambda: quick.jobs and quick.jobs[0].state == "RUNNING")
        store.close(run_id, RunStatus.CANCELLED, "cancelled")

    with set_current_context(play.context):
        run_id, store = own_run_id(), AtlasHook().get_run_store()
        store.upsert_run(RunRow(run_id=run_id, question="?", results_uri="file:///nowhere", status="running"))
        canceller = threading.Thread(target=cancel)
        canceller.start()
        with pytest.raises(AirflowFailException, match="was cancelled"):
            play.run()
        canceller.join()
    until(lambda: over(quick))
    assert histories(quick) == [("us-east1", "CANCELLED")]


def test_the_teardown_cancels_the_jobs_of_its_run_alone(quick: BatchServer, job: Job) -> None:
    quick.hold()
    mine, other = Play(task_of(job)), Play(task_of(job), run_id="another")
    names = [mine.begin().job_name, other.begin().job_name]
    teardown = CancelRunJobsOperator(task_id="cancel", **CLOUD)
    assert teardown.execute(mine.context) == names[:1]
    assert [state for _, state in histories(quick)] == ["CANCELLED", "RUNNING"]
    assert teardown.execute(mine.context) == []
    assert teardown.execute(other.context) == names[1:]


def test_a_task_whose_requests_all_failed_says_why_and_where_the_log_is(quick: BatchServer, job: Job) -> None:
    batch = {**CLOUD["batch"], "environment": {"EXIT": "5", "WORDS": "the bucket is gone"}}
    with pytest.raises(AirflowException, match=r"1 of 1 .*the bucket is gone; .*exit code 5; .*log: https://"):
        Play(task_of(job, batch=batch)).run()
    assert quick.n_created == 1


def test_a_run_stops_before_it_may_cost_more_than_it_should(quick: BatchServer, make_job: Callable[..., Job]) -> None:
    prices = {"a2-highgpu-1g": {"SPOT": 2.0, "STANDARD": 4.0}}
    batch = {**CLOUD["batch"], "prices": prices, "max_cost_usd": 1.5}
    Play(task_of(make_job("a"), batch=batch)).run()
    quick.hold()
    Play(task_of(make_job("b"), batch=batch)).begin()
    with pytest.raises(AirflowFailException, match=r"may cost 1\.00 USD, over max_cost_usd=1\.5"):
        Play(task_of(make_job("c"), batch=batch)).run()
    assert quick.n_created == 2
    quick.release()
    until(lambda: over(quick))


def test_files_of_this_machine_go_to_the_job_and_back(quick: BatchServer, bucket: Bucket, tmp_path: Path) -> None:
    for name in ("prompt", "control", "query"):
        (tmp_path / f"{name}.h5ad").write_text("cells")
    uris = {f"{name}_uri": str(tmp_path / f"{name}.h5ad") for name in ("prompt", "control", "query", "output")}
    job = {"job_uri": str(tmp_path / "job.json"), "requests": [{"candidate_id": "a", **uris}]}
    with pytest.raises(AirflowFailException, match="lies on this machine, where a Batch job can't read it"):
        Play(task_of(job)).run()
    assert quick.n_created == 0
    rows = [Play(task_of(job, staging_uri="gs://lab/staging"), try_number=n).run() for n in (1, 2)]
    assert rows[0] == rows[1]
    assert rows[0][0]["prediction_uri"] == (tmp_path / "output.h5ad").as_uri()
    assert (tmp_path / "output.h5ad").read_text() == "cells"
    assert not [name for name in bucket.objects if name.startswith("staging/batch-io/")]
    assert quick.n_created == 1


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"execution": "cloud"}, "execution is 'cloud'; use one of batch, local"),
        ({"execution": "batch", "batch": None}, "needs batch, at least"),
        ({"batch": {"image": "i", "machine": {"memory_mib": 1}}}, "batch: machine.memory_mib"),
        ({"batch": {"plan": [{"region": "mars"}]}}, "image: Field required"),
        ({"poll_interval_seconds": 0}, "poll_interval_seconds has to be a number above 0"),
    ],
)
def test_wrong_options_are_refused_when_the_dag_is_built(changes: dict[str, Any], complaint: str) -> None:
    request = {f"{name}_uri": f"gs://lab/{name}" for name in ("prompt", "control", "query", "output")}
    job = {"job_uri": "gs://lab/job.json", "requests": [{"candidate_id": "a", **request}]}
    with pytest.raises(ConfigurationError, match=complaint):
        task_of(job, **changes)()
