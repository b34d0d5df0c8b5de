"""Machines that lack what a command counts on: disk, a home, a folder for temporary files, UTF-8, plain paths."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gca_core.datasets import pbmc68k_reduced
from tests.helpers.latent_counts import counts_with_groups

pytestmark = pytest.mark.slow
GCA = Path(sys.executable).with_name("gca")
MOUNTS = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
needs_mounts = pytest.mark.skipif(not MOUNTS, reason="only root may mount")
ANNOTATE = "gca scanpy annotate CELLS --cluster-key louvain --output OUT"
TRAIN = "gca vae train CELLS --epochs 1 --output-dir OUT"
ASK = "gca haystack run 'How would B cells respond to IFN-beta?' --demo --output OUT"


@pytest.fixture(scope="module", params=[ANNOTATE, TRAIN], ids=["annotation", "latent"])
def command(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A command, and the cells that it reads at a path with blanks and letters beyond ASCII."""
    cells = tmp_path_factory.mktemp("cells") / "Zellen β 1.h5ad"
    (pbmc68k_reduced() if request.param == ANNOTATE else counts_with_groups()).write_h5ad(cells)
    return str(request.param).replace("CELLS", f"'{cells}'")


def run(command: str, out: Path, before: str = "true", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command, in a file system of its own where something is done before."""
    line = command.replace("gca ", f"{GCA} ", 1).replace("OUT", f"'{out}'")
    apart = [] if before == "true" else ["unshare", "--mount"]
    return subprocess.run(
        [*apart, "bash", "-c", f"{before} && {line}"],
        env={**os.environ, "GCA_CACHE_DIR": str(out.with_name("cache")), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@needs_mounts
def test_a_full_disk_ends_with_a_word_and_leaves_nothing_half_written(command: str, tmp_path: Path) -> None:
    small = tmp_path / "small"
    mount = f"mkdir {small} && mount -t tmpfs -o size=64k none {small}"
    look = f"; code=$?; find {small} -type f -not -empty -printf 'left: %p'; exit $code"
    done = run(command + look, small / "out", mount)
    assert done.returncode in {1, 2}
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "left: " not in done.stdout


@needs_mounts
def test_neither_home_nor_temporary_folder_nor_utf8_nor_a_plain_path_is_needed(command: str, tmp_path: Path) -> None:
    (closed := tmp_path / "closed").mkdir()
    out = tmp_path / "Ergebnis für β"
    mount = f"mount -t tmpfs -o ro none {closed}"
    closed_too = {name: str(closed) for name in ("HOME", "TMPDIR", "TEMP", "TMP", "GCA_CACHE_DIR")}
    done = run(command, out, mount, **closed_too, LC_ALL="C", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert any(out.iterdir())


@needs_mounts
def test_haystack_without_a_home_says_which_setting_names_another(tmp_path: Path) -> None:
    (closed := tmp_path / "closed").mkdir()
    done = run(ASK, tmp_path / "out", f"mount -t tmpfs -o ro none {closed}", GCA_HOME=str(closed / "gca"))
    assert done.returncode != 0
    assert "set GCA_HOME to a folder you can write to" in done.stderr
    assert "Traceback" not in done.stderr
