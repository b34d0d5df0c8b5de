"""The demonstration as a user runs it: interrupted, again, and once more."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gca_core.store import embedded
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
DAGS = ("gca_annotate", "gca_latent", "gca_haystack")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "demo"
    embedded.remove(tmp_path / "demo" / "home")


def start_demo(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "scripts" / "demo.py")],
        env=os.environ | {"GCA_DEMO_DIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def summaries(folder: Path) -> dict[str, Any]:
    return {dag: json.loads((folder / "home" / "results" / dag / "summary.json").read_text()) for dag in DAGS}


def left_running(folder: Path) -> list[str]:
    """Command lines of processes that mention the folder."""
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            if str(folder) in command or process.environ().get("GCA_HOME", "").startswith(str(folder)):
                found.append(command)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def test_the_demo_survives_an_interruption_and_repeats_its_figures(folder: Path) -> None:
    interrupted = start_demo(folder)
    assert interrupted.stdout is not None
    for line in interrupted.stdout:
        if "gca_latent" in line:
            os.killpg(interrupted.pid, signal.SIGINT)
    assert interrupted.wait(60) != 0
    assert left_running(folder) == []

    first = start_demo(folder)
    printed, _ = first.communicate()
    assert first.returncode == 0, printed[-3000:]
    assert left_running(folder) == []
    metrics = {dag: summary["metrics"] for dag, summary in summaries(folder).items()}
    assert metrics["gca_haystack"]["Pearson of log fold change"] >= 0.85
    assert metrics["gca_haystack"]["overlap of the 50 largest changes"] >= 0.60
    assert min(metrics["gca_latent"][f"macro-F1 latent {name}"] for name in ("knn", "logistic regression")) >= 0.85
    for summary in summaries(folder).values():
        assert summary["system"] in printed
        for uri in summary["files"].values():
            assert Path(uri.removeprefix("file://")).exists()

    again = start_demo(folder)
    printed, _ = again.communicate()
    assert again.returncode == 0, printed[-3000:]
    assert {dag: summary["metrics"] for dag, summary in summaries(folder).items()} == metrics
