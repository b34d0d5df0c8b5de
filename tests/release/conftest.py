"""A wheel and an sdist of this tree, and environments into which only they are installed."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

BUILD = REPOSITORY / "build" / "release"
# of whoever installs it: nothing of this repository or these tests
CLEAN = {
    name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "GCA_", "PYTEST_", "PYTHON"))
}


def run(*command: str | Path, folder: Path | None = None, timeout: float = 900, **environment: str) -> str:
    """What a command prints; the test fails with its last words where it does."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        cwd=folder,
        env=CLEAN | environment,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def install(python: Path, *what: str | Path) -> None:
    """Install with the tested versions, as the guide says."""
    run(python, "-m", "pip", "install", "-q", "-c", REPOSITORY / "constraints.txt", *what)


@pytest.fixture(scope="session")
def dist() -> Path:
    """``build/release/dist`` with the sdist, and the wheel that was built from it."""
    folder = BUILD / "dist"
    for path in folder.glob("*"):
        path.unlink()
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, REPOSITORY)
    return folder


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def sdist(dist: Path) -> Path:
    (path,) = dist.glob("*.tar.gz")
    return path


@pytest.fixture(scope="session")
def airflow_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that holds Airflow alone."""
    folder = tmp_path_factory.mktemp("airflow")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install(python, "apache-airflow")
    return python


@pytest.fixture(scope="session")
def with_extras(airflow_python: Path, wheel: Path) -> Path:
    """That interpreter, with the wheel and its extras as the image of docker/airflow gets them."""
    run(REPOSITORY / "docker" / "airflow" / "install.sh", airflow_python, "scanpy,vae,haystack,embedded,gcs", wheel)
    return airflow_python
