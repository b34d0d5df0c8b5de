"""The notebooks of the documentation run from the first cell to the last."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "docs" / "notebooks"
OPT_IN = "NOTEBOOK_DOWNLOADS"
DOWNLOADS = {"latent_pbmc3k.ipynb"}
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def executed(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A copy of a notebook, run against this working tree."""
    copy = folder / name
    copy.write_bytes((FOLDER / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbmake",
        "--nbmake-timeout=900",
        "-q",
        "-p",
        "no:cacheprovider",
        str(copy),
    ]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        timeout=1000,
        check=False,
    )


def test_there_are_notebooks_and_those_that_download_are_known() -> None:
    listed = (REPOSITORY / "docs" / "guides" / "notebooks.md").read_text(encoding="utf-8")
    assert set(NOTEBOOKS) == set(re.findall(r"\.\./notebooks/(\w+\.ipynb)", listed))
    assert len(NOTEBOOKS) >= 7
    assert set(NOTEBOOKS) >= DOWNLOADS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_names_no_folder_of_a_machine(name: str) -> None:
    content = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    text = json.dumps([cell for cell in content["cells"] if cell["cell_type"] == "code"])
    assert not any(place in text for place in ("/home/", "/tmp/", "/root/", "/Users/", "/work/"))  # noqa: S108
    assert '"output_type": "error"' not in text


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", sorted(set(NOTEBOOKS) - DOWNLOADS))
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    done = executed(name, tmp_path)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "1 passed" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(os.environ.get(OPT_IN) != "1", reason=f"it downloads data; set {OPT_IN}=1 to run it")
@pytest.mark.parametrize("name", sorted(DOWNLOADS))
def test_a_notebook_that_downloads_runs(name: str, tmp_path: Path) -> None:
    done = executed(name, tmp_path)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "1 passed" in done.stdout
