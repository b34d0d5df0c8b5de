"""The wheel, the sdist, the pins, and the core in an environment without Airflow."""

import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections import Counter
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


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


def test_the_wheel_holds_both_packages_their_types_and_the_example_dags(wheel_names: set[str]) -> None:
    example_dags = {f"airflow_provider_gca/example_dags/{path.name}" for path in (REPOSITORY / "dags").glob("*.py")}
    assert len(example_dags) >= 3
    assert example_dags <= wheel_names
    assert {"gca_core/py.typed", "airflow_provider_gca/py.typed", "gca_core/cli/main.py"} <= wheel_names
    prompts = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "gca_core").rglob("prompts/*.md")}
    assert len(prompts) == 7 and prompts <= wheel_names
    assert not [name for name in wheel_names if name.startswith(("tests/", "scripts/", "dags/"))]


def test_the_wheel_holds_every_data_file_of_the_manifests(wheel: Path, wheel_names: set[str]) -> None:
    manifests = [name for name in wheel_names if re.fullmatch(r"gca_core/\w+/data/manifest\.json", name)]
    assert len(manifests) >= 3
    for manifest in manifests:
        for entry in json.loads(zipfile.ZipFile(wheel).read(manifest)):
            assert manifest.replace("manifest.json", entry["file"]) in wheel_names


def test_the_wheel_declares_its_entry_points(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
    text = archive.read(name).decode()
    assert "[apache_airflow_provider]" in text
    assert "gca = gca_core.cli.main:main" in text
    assert "[airflow.plugins]" in text and "GcaPlugin" in text
    plugin = (REPOSITORY / "airflow_provider_gca" / "plugin").rglob("*.*")
    page = {path.relative_to(REPOSITORY).as_posix() for path in plugin}
    assert {path for path in page if not path.endswith(".pyc")} <= set(archive.namelist())


def test_the_sdist_builds_what_the_wheel_needs(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "NOTICE", "README.md", "dags/gca_annotate.py"} <= names


@pytest.mark.slow
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


def test_every_requirement_is_pinned_and_no_host_is_named() -> None:
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = [Requirement(line) for line in lines]
    assert all(len(pin.specifier) == 1 and str(pin.specifier).startswith("==") and pin.url is None for pin in pins)
    assert "torch==2.13.0" in lines
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    names = {pin.name for pin in pins} | {project["name"]}
    assert [text for text in wanted if Requirement(text).name not in names] == []


def test_the_installed_environment_is_the_pinned_one() -> None:
    pins = {}
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines():
        if not line.startswith("#") and ((pin := Requirement(line)).marker is None or pin.marker.evaluate()):
            pins[pin.name.replace("-", "_").lower()] = str(pin.specifier).removeprefix("==")
    installed = {
        name.replace("-", "_").lower(): metadata.version(name)
        for name in ("apache-airflow", "anndata", "scanpy", "torch")
    }
    assert {name: version.split("+")[0] for name, version in installed.items()} == {
        name: pins[name] for name in installed
    }


def test_no_tracked_file_names_a_registry_host() -> None:
    hosts = ["pypi" + ".org", "pythonhosted" + ".org", "npmjs" + ".org"]
    patterns = [argument for host in hosts for argument in ("-e", host)]
    found = subprocess.run(
        ["git", "grep", "-lF", *patterns], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if found.returncode not in {0, 1}:
        pytest.skip("not a git checkout")
    assert found.stdout == ""


def test_the_rooms_know_only_whom_they_may() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_a_folder_holds_at_most_fifteen_modules() -> None:
    modules = [
        path for package in ("gca_core", "airflow_provider_gca") for path in (REPOSITORY / package).rglob("*.py")
    ]
    sizes = Counter(path.parent for path in modules if path.name != "__init__.py")
    assert [(folder, size) for folder, size in sizes.most_common() if size > 15] == []
