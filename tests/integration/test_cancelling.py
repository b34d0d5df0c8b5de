"""A run in a process of its own is cancelled in each of its phases, and ends within seconds."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gca_core.errors import RunCancelledError
from gca_core.haystack.demo.kang2018 import DemoFiles
from gca_core.runs.cancelling import until_cancelled
from gca_core.runs.models import RunRow, RunStatus
from gca_core.runs.store import RunStore

QUESTION = "How would CD14+ monocytes respond to interferon beta?"
BOUND = 30
# the phase never ends by itself
HANGING = """
import sys, time
from gca_core.haystack import run, steps
from gca_core.cli.main import main
where, name, *words = sys.argv[1:]
module = run if name == "infer" else steps
first, real = [True], getattr(module, name)
def hang(*args, **kwargs):
    if name == "infer":
        for request in args[0].requests:
            object.__setattr__(request, "seeds", tuple(range(100_000)))
    elif first.pop() if first else False:
        print("here", flush=True)
        time.sleep(600)
    return real(*args, **kwargs)
setattr(module, name, hang)
main(words)
"""


def test_a_block_ends_where_it_waits_once_its_run_is_cancelled(embedded_dsn: str) -> None:
    store = RunStore(embedded_dsn)
    store.upsert_run(RunRow(run_id="waits", question="q", results_uri="file:///w", status=RunStatus.RUNNING))
    before = signal.getsignal(signal.SIGUSR1)
    with until_cancelled(store, "waits", seconds=0.05):
        time.sleep(0.2)
    with pytest.raises(RunCancelledError), until_cancelled(store, "waits", seconds=0.05):
        store.close("waits", RunStatus.CANCELLED, "cancelled")
        time.sleep(600)
    with pytest.raises(RunCancelledError), until_cancelled(store, "waits"):
        raise AssertionError
    store.upsert_run(RunRow(run_id="waits", question="q", results_uri="file:///w", status=RunStatus.COMPLETED))
    assert store.get("waits").status is RunStatus.CANCELLED
    assert signal.getsignal(signal.SIGUSR1) is before


@pytest.mark.slow
@pytest.mark.parametrize("how", ["command", "SIGTERM", "SIGINT"])
def test_a_run_ends_in_time_from_any_phase(
    how: str, demo: DemoFiles, gca_home: Path, embedded_dsn: str, tmp_path: Path
) -> None:
    store = RunStore(embedded_dsn)
    environment = {**os.environ, "GCA_HOME": str(gca_home)}
    phases = ("understand", "propose", "infer", "evaluate", "finalize")
    for phase in phases[how == "command" :]:
        uri = tmp_path / phase
        words = ["haystack", "run", QUESTION, "--dataset", demo.dataset, "--output", str(uri), "--max-iterations", "1"]
        known = {row.run_id for row in store.list_runs()}
        process = subprocess.Popen(
            [sys.executable, "-c", HANGING, str(uri), phase, *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        jobs = inference(uri) if phase == "infer" else []
        if phase != "infer":
            assert process.stdout.readline() == "here\n", process.stderr.read()
        run_id = next((row.run_id for row in store.list_runs() if row.run_id not in known), None)
        began = time.monotonic()
        if how == "command":
            gca = [sys.executable, "-m", "gca_core.cli.main", "haystack", "cancel", run_id]
            subprocess.run(gca, env=environment, check=True, timeout=60)
        else:
            process.send_signal(getattr(signal, how))
        _, said = process.communicate(timeout=2 * BOUND)
        taken = time.monotonic() - began
        assert taken < BOUND, said
        assert not any(job.is_running() for job in jobs)
        assert run_id is None or store.get(run_id).status is RunStatus.CANCELLED, said
        assert list(uri.glob("*_report.html")) or how != "command"


def inference(uri: Path) -> list[psutil.Process]:
    """The processes of the inference job, once they are there."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        words = {process: process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])}
        if found := [p for p, w in words.items() if "gca_core.inference.job" in w and any(str(uri) in x for x in w)]:
            return found
        time.sleep(0.1)
    raise AssertionError("no inference job")
