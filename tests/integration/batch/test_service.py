"""The real clients against the loopback Batch: over REST and gRPC, with what goes wrong on the real one."""

import asyncio
import time
from collections.abc import Callable

import pytest
from google.api_core.exceptions import GoogleAPICallError

from airflow_provider_gca.hooks.batch import StackBatchHook
from gca_core.batch import Attempt, JobView
from gca_core.batch.attempts import GiveUp, Reattach, Submit, Take, next_step
from gca_core.batch.ids import job_labels
from gca_core.batch.models import explain, failure_kind
from gca_core.batch.service import BatchService, view_of
from gca_core.batch.spec import build_job
from gca_core.errors import BatchError, ConfigurationError
from tests.helpers.batch_loopback import LOST, BatchServer
from tests.integration.batch.conftest import CONFIG, KEY, RUN, Submitter

PARENT = "projects/lab/locations/us-east1"
EAST = ("us-east1", "us-central1")


def wait_for(look: Callable[[], JobView], *states: str, seconds: float = 10.0) -> JobView:
    deadline = time.monotonic() + seconds
    while (view := look()).state not in states:
        assert time.monotonic() < deadline, view
        time.sleep(0.02)
    return view


def ended(service: BatchService, view: JobView) -> JobView:
    return wait_for(lambda: service.get(view.name), "SUCCEEDED", "FAILED", "CANCELLED")


def test_a_job_runs_its_command_and_is_seen_as_it_is(
    server: BatchServer, service: BatchService, submit: Submitter
) -> None:
    server.start_delay = 0.1
    begun = submit("environment", "")
    assert (begun.name, begun.state) == (f"{PARENT}/jobs/{KEY}-r0", "QUEUED")
    assert (begun.region, begun.provisioning, begun.machine_type) == ("us-east1", "SPOT", "a2-highgpu-1g")
    assert begun.labels == job_labels(RUN, KEY)
    assert begun.created is not None
    done = ended(service, begun)
    assert (done.state, failure_kind(done)) == ("SUCCEEDED", None)
    assert 0 < done.run_seconds < 10
    (record,) = server.jobs
    assert record.history == ["QUEUED", "SCHEDULED", "RUNNING", "SUCCEEDED"]
    assert "by the test" in record.output
    assert [view.name for view in service.list_run("lab", EAST, RUN)] == [begun.name]
    assert service.list_run("lab", EAST, "another-run") == []
    assert next_step(service.find_attempts(CONFIG, KEY), CONFIG.plan) == Take(done)


def test_what_failed_says_by_which_code(server: BatchServer, service: BatchService, submit: Submitter) -> None:
    failed = ended(service, submit("exit", "4"))
    assert (failure_kind(failed), failed.exit_code) == ("exit_code", 4)
    step = next_step([failed], CONFIG.plan, 1)
    assert isinstance(step, GiveUp)
    assert "exit code 4" in step.reason
    # another try of the task makes another attempt, where the plan says
    again = submit("exit", "0")
    assert (again.job_id, again.region) == (f"{KEY}-r1", "us-central1")
    assert ended(service, again).state == "SUCCEEDED"
    assert server.n_created == 2


@pytest.mark.parametrize("same_request", [True, False])
def test_what_is_there_is_not_made_again(
    server: BatchServer, service: BatchService, submit: Submitter, same_request: bool
) -> None:
    server.hold()
    server.deduplicates = same_request
    begun = submit("sleep", "30")
    body = build_job(CONFIG, ["sleep", "30"], CONFIG.plan[0], job_labels(RUN, KEY))
    assert service.submit(CONFIG, CONFIG.plan[0], begun.job_id, body).uid == begun.uid
    assert isinstance(next_step(service.find_attempts(CONFIG, KEY), CONFIG.plan), Reattach)
    assert server.n_created == 1
    service.cancel(begun.name)
    assert ended(service, begun).state == "CANCELLED"


@pytest.mark.parametrize(("code", "after"), [(503, False), (429, False), (503, True), (LOST, True), (504, True)])
def test_a_burst_of_failures_makes_one_job(
    server: BatchServer, service: BatchService, submit: Submitter, code: int, after: bool
) -> None:
    server.fail_next("GetJob", 503)
    server.fail_next("CreateJob", code, 2, after)
    # as on the service after an hour
    server.deduplicates = False
    assert ended(service, submit("exit", "0")).state == "SUCCEEDED"
    assert server.n_created == 1


def test_a_lost_look_is_for_the_poller_to_bear(server: BatchServer, service: BatchService, submit: Submitter) -> None:
    begun = submit("exit", "0")
    server.fail_next("GetJob", 503)
    with pytest.raises(BatchError, match="could not look at"):
        service.get(begun.name)
    assert ended(service, begun).state == "SUCCEEDED"


def test_a_preempted_job_moves_on(server: BatchServer, service: BatchService, submit: Submitter) -> None:
    server.preempt_next(1)
    lost = ended(service, submit("sleep", "0.4"))
    assert (failure_kind(lost), lost.exit_code) == ("preempted", 50001)
    assert next_step([lost], CONFIG.plan, 1) == Submit(1)
    moved = submit("sleep", "0", tried=1)
    assert (moved.region, ended(service, moved).state) == ("us-central1", "SUCCEEDED")
    assert server.running() == []


def test_a_job_over_its_time_is_ended(server: BatchServer, service: BatchService, submit: Submitter) -> None:
    short = CONFIG.model_copy(update={"max_run_duration_seconds": 1})
    late = ended(service, submit("sleep", "30", config=short))
    assert (failure_kind(late), late.exit_code) == ("timeout", 50005)
    assert server.running() == []


def test_without_quota_it_waits_and_is_told_why(server: BatchServer, service: BatchService, submit: Submitter) -> None:
    server.refuse_quota("us-east1")
    begun = submit("exit", "0")
    waiting = wait_for(lambda: service.get(begun.name), "SCHEDULED")
    time.sleep(0.1)
    assert "CODE_GCE_QUOTA_EXCEEDED" in explain(service.get(begun.name))
    service.cancel(waiting.name)
    cancelled = ended(service, begun)
    assert next_step([cancelled], CONFIG.plan, 1, queued_too_long=True) == Submit(1)
    server.refuse_quota("us-central1", fails=True)
    assert failure_kind(ended(service, submit("exit", "0", tried=0))) == "no_capacity"


def test_cancelling_is_done_once_and_borne_twice(server: BatchServer, service: BatchService, submit: Submitter) -> None:
    server.cancel_delay = 0.3
    begun = submit("sleep", "30")
    wait_for(lambda: service.get(begun.name), "RUNNING")
    server.cancel_from_outside(begun.job_id)
    assert service.get(begun.name).state == "CANCELLATION_IN_PROGRESS"
    service.cancel(begun.name)
    assert isinstance(next_step(service.find_attempts(CONFIG, KEY), CONFIG.plan), Reattach)
    cancelled = ended(service, begun)
    assert (cancelled.state, failure_kind(cancelled)) == ("CANCELLED", "cancelled")
    service.cancel(begun.name)
    service.cancel(f"{PARENT}/jobs/never-was")
    assert server.running() == []


def test_a_run_is_cancelled_as_a_whole(server: BatchServer, service: BatchService) -> None:
    server.hold()
    for number, region in enumerate(("us-east1", "us-east1", "us-central1")):
        body = build_job(CONFIG, ["sleep", "30"], Attempt(region=region), job_labels(RUN, f"k{number}"))
        service.submit(CONFIG, Attempt(region=region), f"k{number}-r0", body)
    other = build_job(CONFIG, ["sleep", "30"], Attempt(), job_labels("another", "k3"))
    service.submit(CONFIG, Attempt(), "k3-r0", other)
    server.fail_next("CancelJob", 503)
    # a server that takes no filter
    server.fail_next("ListJobs", 400)
    cancelled = service.cancel_run("lab", EAST, RUN, poll_seconds=0.05)
    assert sorted(name.rpartition("/")[2] for name in cancelled) == ["k0-r0", "k1-r0", "k2-r0"]
    assert server.running() == ["k3-r0"]
    assert service.cancel_run("lab", EAST, RUN, poll_seconds=0.05) == []


def test_an_attempt_that_was_deleted_hides_no_other(
    server: BatchServer, service: BatchService, submit: Submitter
) -> None:
    first = ended(service, submit("exit", "1"))
    server.hold()
    second = submit("sleep", "30")
    service.client.delete_job(name=first.name)
    deadline = time.monotonic() + 5
    while len(found := service.find_attempts(CONFIG, KEY)) > 1:
        assert time.monotonic() < deadline
    assert [view.name for view in found] == [second.name]
    service.cancel(second.name)


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        (403, ConfigurationError, "roles/batch.jobsEditor"),
        (400, ConfigurationError, "as ordered"),
        (404, ConfigurationError, "regions"),
    ],
)
def test_what_is_refused_says_what_to_do(
    server: BatchServer, service: BatchService, submit: Submitter, code: int, error: type[Exception], words: str
) -> None:
    server.fail_next("CreateJob", code)
    with pytest.raises(error, match=words):
        submit("exit", "0")
    assert server.n_created == 0


def test_what_stays_down_is_given_up(server: BatchServer, service: BatchService, submit: Submitter) -> None:
    service.retry_seconds = 0.5
    server.fail_next("CreateJob", 503, 50)
    with pytest.raises(BatchError, match="could not create"):
        submit("exit", "0")


def test_nothing_of_this_process_reaches_a_job(
    server: BatchServer, service: BatchService, submit: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "a-secret-of-the-worker"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", secret)
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    ended(service, submit("environment", ""))
    (record,) = server.jobs
    spec = type(record.job).to_json(record.job)
    assert secret not in spec + record.output + str(record.environment)
    assert "loopback" not in spec.lower()
    assert "GIVEN" in record.output


def test_the_asynchronous_client_sees_the_same(server: BatchServer, submit: Submitter, service: BatchService) -> None:
    begun = submit("sleep", "0.2")

    async def watch() -> tuple[JobView, list[int]]:
        client = await StackBatchHook("loopback").get_async_conn()
        server.fail_next("GetJob", 503)
        codes = []
        while True:
            try:
                view = view_of(await client.get_job(name=begun.name, retry=None))
            except GoogleAPICallError as error:
                codes.append(int(error.code or 0))
                continue
            if view.over:
                await client.transport.close()
                return view, codes
            await asyncio.sleep(0.02)

    view, codes = asyncio.run(watch())
    assert view == service.get(begun.name)
    assert (view.state, codes) == ("SUCCEEDED", [503])
