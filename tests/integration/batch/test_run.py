"""A command sent to the loopback Batch and waited for; its files by the loopback storage; what it may cost."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gca_core.batch import Attempt, BatchConfig, JobView, Machine
from gca_core.batch.costs import check_budget, estimate_usd
from gca_core.batch.run import run_gca_on_batch
from gca_core.batch.service import BatchService
from gca_core.batch.staging import Staging, require_reachable
from gca_core.errors import BatchError, ConfigurationError
from gca_core.io import as_path, write_text
from tests.helpers.batch_loopback import BatchServer, batch_server, storage_of
from tests.helpers.gcs_loopback import Bucket, bucket
from tests.integration.batch.conftest import CONFIG

__all__ = ["bucket"]
PRICES = {"a2-highgpu-1g": {"SPOT": 1.0, "STANDARD": 4.0}}


def run(service: BatchService, *argv: str, config: BatchConfig = CONFIG, **more: Any) -> JobView:
    return run_gca_on_batch(argv, config=config, service=service, poll_seconds=0.02, **more)


def test_the_same_command_of_the_same_run_is_one_job(server: BatchServer, service: BatchService) -> None:
    first = run(service, "exit", "0")
    assert run(service, "exit", "0") == first
    assert server.n_created == 1
    assert run(service, "exit", "0", run="again").job_id != first.job_id
    cpu = Machine(machine_type="n2-standard-8", memory_mib=16_000)
    assert run(service, "exit", "0", machine=cpu).machine_type == "n2-standard-8"
    assert server.n_created == 3


@pytest.mark.parametrize(
    ("fault", "regions"),
    [
        ("preempted", ["us-east1", "us-central1", "us-east1"]),
        ("no quota", ["us-east1", "us-central1"]),
        ("refused", ["us-east1", "us-central1"]),
        ("none", ["us-east1"]),
    ],
)
def test_it_moves_on_by_the_plan(server: BatchServer, service: BatchService, fault: str, regions: list[str]) -> None:
    if fault == "preempted":
        server.preempt_next(2)
    elif fault != "none":
        server.refuse_quota("us-east1", fails=fault == "refused")
    # lost looks are borne
    server.fail_next("GetJob", 503, 3)
    done = run(service, "sleep", "0.1")
    assert (done.state, done.region) == ("SUCCEEDED", regions[-1])
    assert [record.job.name.split("/")[3] for record in server.jobs] == regions
    assert server.running() == []


def test_a_failure_names_code_events_and_log_and_a_further_call_tries_again(
    server: BatchServer, service: BatchService
) -> None:
    for number in range(2):
        with pytest.raises(BatchError, match=r"exit code 3.*log: https://console.cloud.google.com/logs"):
            run(service, "exit", "3")
        assert server.n_created == number + 1


def test_cancelled_from_outside_it_ends(server: BatchServer, service: BatchService) -> None:
    cancelled = []

    def cancel(view: JobView) -> None:
        if view.state == "RUNNING" and not cancelled:
            cancelled.append(view.job_id)
            server.cancel_from_outside(view.job_id)

    with pytest.raises(BatchError, match=r"CANCELLED.*somebody cancelled it"):
        run(service, "sleep", "30", on_view=cancel)
    assert server.n_created == 1
    assert server.running() == []


@pytest.mark.parametrize("how", ["deadline", "interrupt"])
def test_what_is_given_up_here_is_cancelled_there(server: BatchServer, service: BatchService, how: str) -> None:
    def interrupt(view: JobView) -> None:
        if how == "interrupt" and view.state == "RUNNING":
            raise KeyboardInterrupt

    with pytest.raises(BatchError if how == "deadline" else KeyboardInterrupt):
        run(service, "sleep", "30", on_view=interrupt, timeout_seconds=0.5 if how == "deadline" else 60)
    deadline = time.monotonic() + 5
    while server.running():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert [record.state for record in server.jobs] == ["CANCELLED"]


def test_what_interrupts_a_request_whose_answer_was_lost_leaves_no_job(
    server: BatchServer, service: BatchService, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fail_next("CreateJob", 503, 1, True)
    waits = iter([KeyboardInterrupt()])
    sleep = time.sleep

    def interrupted(seconds: float) -> None:
        if server.n_created and (found := next(waits, None)) is not None:
            raise found
        sleep(seconds)

    monkeypatch.setattr("google.api_core.retry.retry_unary.time.sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(service, "sleep", "30")
    monkeypatch.undo()
    assert server.n_created == 1
    deadline = time.monotonic() + 5
    while server.running():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_who_ask_at_once_share_a_job(server: BatchServer, service: BatchService) -> None:
    done: list[JobView] = []
    threads = [threading.Thread(target=lambda: done.append(run(service, "sleep", "0.3"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({view.name for view in done}) == server.n_created == 1
    assert len(done) == 4


def view(state: str, seconds: float, provisioning: str = "SPOT") -> JobView:
    told = {"name": "projects/p/locations/r/jobs/j-r0", "state": state, "run_seconds": seconds}
    return JobView.model_validate({**told, "provisioning": provisioning, "machine_type": "a2-highgpu-1g"})


def test_costs_are_estimated_by_given_prices_and_bounded() -> None:
    assert estimate_usd(view("SUCCEEDED", 1800), PRICES) == pytest.approx(0.5)
    assert estimate_usd(view("SUCCEEDED", 6, "STANDARD"), PRICES) == pytest.approx(4 / 60)
    assert estimate_usd(view("FAILED", 0), PRICES) == 0
    assert estimate_usd(view("SUCCEEDED", 1800), {}) is None
    config = CONFIG.model_copy(update={"prices": PRICES, "max_cost_usd": 3.0})
    # what still runs may take its whole time
    assert check_budget(config, [view("FAILED", 900), view("RUNNING", 0)], Attempt()) == pytest.approx(2.75)
    with pytest.raises(ConfigurationError, match=r"2 jobs are estimated at 4.25 USD.*max_cost_usd=3"):
        check_budget(config, [view("FAILED", 900), view("SUCCEEDED", 3600, "STANDARD")], Attempt(provisioning="SPOT"))


def test_a_spent_budget_starts_no_job(server: BatchServer, service: BatchService) -> None:
    little = CONFIG.model_copy(update={"prices": PRICES, "max_cost_usd": 0.4})
    with pytest.raises(ConfigurationError, match=r"max_cost_usd=0\.4"):
        run(service, "exit", "0", config=little)
    assert server.n_created == 0


def test_files_of_this_machine_go_to_the_job_and_come_back(bucket: Bucket, tmp_path: Path) -> None:
    local, folder, away = tmp_path / "cells ü.txt", tmp_path / "x.zarr", "gs://lab/in/there.txt"
    write_text(local, "cells")
    write_text(folder / "a" / "b", "chunk")
    write_text(away, "there")
    staging = Staging("gs://lab/jobs", "gca-1")
    places = staging.send([str(local), str(folder), away])
    assert places[away] == away
    assert as_path(places[str(local)]).read_text() == "cells"
    assert as_path(f"{places[str(folder)]}/a/b").read_text() == "chunk"
    assert all(place.startswith("gs://lab/jobs/batch-io/gca-1/") for uri, place in places.items() if uri != away)
    # side by side here, side by side there; as another process works it out
    out = tmp_path / "results.json"
    place = Staging("gs://lab/jobs", "gca-1").place(out)
    assert place.rpartition("/")[0] == places[str(local)].rpartition("/")[0]
    staging.fetch([str(out)])
    assert not out.exists()
    write_text(place, "done")
    staging.fetch([str(out), away])
    assert out.read_text() == "done"
    staging.remove()
    staging.remove()
    assert list(bucket.objects) == ["in/there.txt"]
    with pytest.raises(ConfigurationError, match="staging_uri"):
        require_reachable(None, [away, str(local)])


@pytest.mark.slow
def test_the_gca_command_of_a_job_reaches_the_storage(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from airflow_provider_gca.hooks.batch import StackBatchHook

    staging = Staging("gs://lab/jobs", "gca-2")
    markers = tmp_path / "markers.csv"
    markers.write_text('cluster,markers\n0,"CD3D,CD3E,CD2,IL7R,TRAC"\n')
    result = tmp_path / "labels.json"
    (place,) = staging.send([str(markers)]).values()
    with batch_server(environment=storage_of(bucket.url)) as server:
        monkeypatch.setenv("AIRFLOW_CONN_LOOPBACK", server.connection)
        argv = ("annotate", place, "--offline", "--out-json", staging.place(result))
        done = run(StackBatchHook("loopback").service(), *argv, config=CONFIG)
        assert done.state == "SUCCEEDED"
    staging.fetch([str(result)])
    assert "T cell" in result.read_text()
    staging.remove()
    assert not bucket.objects
    assert set(bucket.authorisations) == {None}
