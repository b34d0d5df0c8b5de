"""The core in an environment without Airflow."""

import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def python_without_airflow(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A venv with the wheel and every installed dependency but Airflow, linked so that nothing is fetched."""
    folder = tmp_path_factory.mktemp("without_airflow")
    venv.create(folder, symlinks=True)
    here = Path(sysconfig.get_paths()["purelib"])
    (there,) = folder.glob("lib/python*/site-packages")
    unwanted = re.compile(
        r"airflow($|-|_)|apache_airflow|_?airflow_provider_gca|__editable__|_virtualenv", re.IGNORECASE
    )
    for entry in here.iterdir():
        if not unwanted.match(entry.name):
            (there / entry.name).symlink_to(entry)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, timeout=60)
    return python


def test_the_core_works_where_airflow_is_not_installed(python_without_airflow: Path, tmp_path: Path) -> None:
    script = """
import importlib, pkgutil, sys
try:
    import airflow
except ImportError:
    pass
else:
    raise SystemExit("airflow is there: this environment proves nothing")
import gca_core
for module in pkgutil.walk_packages(gca_core.__path__, "gca_core."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(gca_core.__file__)
"""
    done = subprocess.run(
        [python_without_airflow, "-I", "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(python_without_airflow.parents[1]) in done.stdout

    gca = python_without_airflow.with_name("gca")
    version = subprocess.run([gca, "version"], capture_output=True, text=True, timeout=60, check=True)
    assert "apache-airflow not installed" in version.stdout
    listed = subprocess.run([gca, "datasets", "list", "--json"], capture_output=True, text=True, timeout=60, check=True)
    assert "kang2018_mini.h5ad" in listed.stdout

    copied = subprocess.run([gca, "examples", "copy", tmp_path], capture_output=True, text=True, timeout=60, check=True)
    files = sorted((REPOSITORY / "dags").glob("*.py"))
    assert copied.stdout.split() == [str(tmp_path / file.name) for file in files]
    assert all((tmp_path / file.name).read_bytes() == file.read_bytes() for file in files)

    write = "import sys; from gca_core.datasets import pbmc68k_reduced; pbmc68k_reduced().write_h5ad(sys.argv[1])"
    subprocess.run([python_without_airflow, "-I", "-W", "ignore", "-c", write, tmp_path / "pbmc.h5ad"], check=True)
    annotate = [
        gca,
        "scanpy",
        "annotate",
        tmp_path / "pbmc.h5ad",
        "--cluster-key",
        "louvain",
        "--output",
        tmp_path / "out",
    ]
    done = subprocess.run(annotate, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").exists()
