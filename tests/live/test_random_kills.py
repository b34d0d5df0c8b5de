"""Deaths, marks and clears, forty drawn at random: every job is accounted for."""

import contextlib
import random
import sys
import time
from itertools import pairwise
from typing import Any

import psutil
import pytest

from tests.helpers.batch_jobs import QUICK, make_job  # noqa: F401
from tests.helpers.batch_loopback import BatchServer
from tests.helpers.live_airflow import OVER, LiveAirflow

ROUNDS, KILLS, AT_ONCE = 4, 10, 4
WEIGHTS = {"worker": 4, "process": 4, "triggerer": 3, "scheduler": 2, "mark": 3, "clear": 3}
JOB = "import time; time.sleep(4)\n" + QUICK


def strike(airflow: LiveAirflow, victim: str, run: str) -> bool:
    """Do it to a run, or to all; whether there was what to do it to."""
    if victim in ("triggerer", "scheduler"):
        airflow.restart(victim)
    elif victim == "mark":
        airflow.mark_run(run, "failed")
    elif victim == "clear":
        airflow.clear(run, "predict")
    else:
        task = next(
            (t for t in airflow.tasks(run) if t["state"] == "running" and psutil.pid_exists(t["pid"] or -1)), None
        )
        if task is None:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            airflow.kill_worker(task) if victim == "worker" else psutil.Process(task["pid"]).kill()
    return True


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_no_job_is_lost_doubled_or_left(
    airflow: LiveAirflow,
    batch: BatchServer,
    make_job: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    monkeypatch.setattr(batch, "command", [sys.executable, "-IS", "-c", JOB])
    rng = random.Random(seed)  # noqa: S311
    victims = rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=KILLS)
    runs: dict[str, str] = {}
    marked: set[str] = set()

    def struck() -> bool:
        while len(going := [run for run in runs if airflow.get(run)["state"] in ("queued", "running")]) < AT_ONCE:
            variant, job = rng.choice(["torn_down", "waiting_torn_down"]), make_job(f"random-{seed}-{len(runs)}")
            runs[airflow.trigger(f"live_batch_{variant}", **job)] = job["job_uri"]
        run = rng.choice(going)
        if done := strike(airflow, victims[-1], run):
            marked.update([run] if victims.pop() == "mark" else [])
        return done

    while victims:
        airflow.wait(struck, f"a {victims[-1]} to strike")
        time.sleep(rng.uniform(0, 2))
    for run, job_uri in runs.items():
        airflow.wait(lambda run=run: all(t["state"] in OVER for t in airflow.tasks(run)), "its end", run)
        # one that was marked may have been cleared later
        airflow.wait_for_run(run, "success", *(["failed"] if run in marked else []))
        attempts = [record for record in batch.jobs if record.argv[-1] == job_uri]
        told = [record.to_json() for record in attempts]
        # whatever there was before had ended, without results
        for before, after in pairwise(attempts):
            assert before.state != "SUCCEEDED", told
            assert before.job.status.status_events[-1].event_time <= after.job.create_time, told
        assert run in marked or attempts[-1].state == "SUCCEEDED", told
    assert not batch.running()
