"""The running Airflow itself, on operators that need nobody else."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gca_core.config import load_settings
from gca_core.runs.models import RunRow, RunStatus
from gca_core.runs.store import RunStore
from gca_core.store.resolve import resolve_dsn
from tests.helpers.inference_requests import make_cells, make_request, with_pairs  # noqa: F401
from tests.helpers.live_airflow import REPOSITORY, LiveAirflow, alive, wait_for


def test_a_deferred_sensor_outlives_its_triggerer(airflow: LiveAirflow) -> None:
    runs = RunStore(resolve_dsn(load_settings(home=airflow.gca_home)))
    row = RunRow(run_id="waited-for", question="?", results_uri="file:///nowhere", status=RunStatus.RUNNING)
    runs.upsert_run(row)
    run = airflow.trigger("live_grounding", run_id=row.run_id)
    airflow.wait_for_task(run, "deferred")
    airflow.restart("triggerer")
    runs.upsert_run(row.model_copy(update={"best_score": 7.5, "best_iteration": 2}))
    assert airflow.wait_for_task(run, "success", "failed")["try_number"] == 1
    assert airflow.output(run, "wait") == 7.5


@pytest.fixture
def local_run(airflow: LiveAirflow, tmp_path: Path, make_request) -> str:  # noqa: F811
    """A run whose local job works for an hour."""
    slow = make_request(seeds=list(range(10_000)))
    for name in ("prompt", "control", "query"):
        with_pairs(make_cells(4000, 1), ["a", "b"]).write_h5ad(tmp_path / f"{name}.h5ad")
    return airflow.trigger("live_local", requests=[slow.model_dump(mode="json")], job_uri=str(tmp_path / "job.json"))


def jobs(airflow: LiveAirflow, run: str) -> list[psutil.Process]:
    """The processes of the run's inference job, once they are there."""
    job_uri = airflow.get(run)["conf"]["job_uri"]

    def found() -> list[psutil.Process]:
        return [p for p in psutil.process_iter(["cmdline"]) if job_uri in (p.info["cmdline"] or [])]

    return airflow.wait(found, "an inference job", run)


@pytest.mark.parametrize("end", ["mark failed", "clear", "terminate", "kill"])
def test_a_local_job_ends_with_its_task(airflow: LiveAirflow, local_run: str, end: str) -> None:
    ended = jobs(airflow, local_run)
    task = airflow.wait_for_task(local_run, "running")
    if end == "mark failed":
        airflow.mark_run(local_run, "failed")
    elif end == "clear":
        airflow.clear(local_run, "infer")
    elif end == "terminate":
        psutil.Process(task["pid"]).terminate()
    else:
        airflow.kill_worker(task)
    airflow.wait(lambda: not any(alive(job) for job in ended), "the job to end", local_run)
    if end == "mark failed":
        return
    # tried once more, with one job of its own
    airflow.wait(lambda: airflow.tasks(local_run)[0]["id"] != task["id"], "another try", local_run)
    again = jobs(airflow, local_run)
    assert len(again) == 1
    airflow.mark_run(local_run, "failed")
    airflow.wait(lambda: not alive(again[0]), "the second job to end", local_run)


OF_THE_TESTS = """
import subprocess, sys, time
from pathlib import Path
from gca_core.store import embedded
from tests.helpers.live_airflow import LiveAirflow

airflow = LiveAirflow(Path("dags"), {})
command = [sys.executable, "-c", "import time; time.sleep(600)"]
process = subprocess.Popen(command, env=airflow.environment, start_new_session=True)
print(airflow.home, process.pid, embedded.status(airflow.gca_home)[0].pid, flush=True)
time.sleep(600)
"""


def test_nothing_outlives_killed_tests() -> None:
    tests = subprocess.Popen([sys.executable, "-c", OF_THE_TESTS], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    home, *pids = tests.stdout.readline().split()
    left = [psutil.Process(int(pid)) for pid in pids]
    assert all(alive(process) for process in left)
    tests.kill()
    assert wait_for(lambda: not any(alive(process) for process in left) and not Path(home).exists())
