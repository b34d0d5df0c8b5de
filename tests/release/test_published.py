"""What is published: what it holds, how an index shows it, and what it is once installed."""

import email
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import httpx
import pytest

from gca_core import __version__
from tests.conftest import REPOSITORY
from tests.helpers.live_airflow import free_port, wait_for
from tests.release.conftest import install, run

NAME = "airflow-provider-gca"
EXTRAS = {"scanpy", "vae", "haystack", "embedded", "gcs", "google", "openai", "anthropic", "gemini", "observability"}
EXTRAS |= {"api", "all", "stack", "ui"}


@pytest.fixture(scope="module")
def inside(wheel: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(wheel)


@pytest.fixture(scope="module")
def names(inside: zipfile.ZipFile) -> set[str]:
    return set(inside.namelist())


@pytest.fixture(scope="module")
def shown(inside: zipfile.ZipFile) -> Message:
    """The metadata that an index shows."""
    return email.message_from_bytes(inside.read(f"airflow_provider_gca-{__version__}.dist-info/METADATA"))


@pytest.fixture(scope="module")
def installed(airflow_python: Path, wheel: Path) -> tuple[Path, float]:
    """An interpreter that has Airflow and the wheel without extras, and the MB that the wheel added."""
    before = size(airflow_python)
    install(airflow_python, wheel)
    return airflow_python, (size(airflow_python) - before) / 1e6


def size(python: Path) -> int:
    """Bytes of what is installed beside an interpreter."""
    return sum(path.stat().st_size for path in python.parents[1].rglob("*") if path.is_file())


def test_the_wheel_is_pure_python_and_holds_packages_types_prompts_and_example_dags(
    wheel: Path, names: set[str]
) -> None:
    assert wheel.name == f"airflow_provider_gca-{__version__}-py3-none-any.whl"
    example_dags = {f"airflow_provider_gca/example_dags/{path.name}" for path in (REPOSITORY / "dags").glob("*.py")}
    assert len(example_dags) >= 3 and example_dags <= names
    prompts = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "gca_core").rglob("prompts/*.md")}
    assert len(prompts) == 7 and prompts <= names
    assert {"gca_core/py.typed", "airflow_provider_gca/py.typed", "gca_core/cli/main.py"} <= names
    top = {"airflow_provider_gca", "gca_core", f"airflow_provider_gca-{__version__}.dist-info"}
    assert {name.partition("/")[0] for name in names} == top


def test_the_wheel_holds_every_data_file_of_the_manifests(inside: zipfile.ZipFile, names: set[str]) -> None:
    manifests = [name for name in names if re.fullmatch(r"gca_core/\w+/data/manifest\.json", name)]
    assert len(manifests) >= 3
    for manifest in manifests:
        for entry in json.loads(inside.read(manifest)):
            held = inside.read(manifest.replace("manifest.json", entry["file"]))
            assert hashlib.sha256(held).hexdigest() == entry["sha256"]


def test_the_wheel_declares_its_entry_points(inside: zipfile.ZipFile, names: set[str]) -> None:
    text = inside.read(f"airflow_provider_gca-{__version__}.dist-info/entry_points.txt").decode()
    assert "[apache_airflow_provider]" in text
    assert "gca = gca_core.cli.main:main" in text
    assert "[airflow.plugins]" in text and "GcaPlugin" in text
    plugin = (REPOSITORY / "airflow_provider_gca" / "plugin").rglob("*.*")
    page = {path.relative_to(REPOSITORY).as_posix() for path in plugin}
    assert {path for path in page if not path.endswith(".pyc")} <= names


def test_the_sdist_holds_what_the_wheel_is_built_from_and_nothing_that_git_ignores(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "NOTICE", "README.md", "CHANGELOG.md", "dags/gca_annotate.py"} <= held
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", folder=REPOSITORY)
    tracked = set(listed.splitlines())
    assert held - tracked <= {"PKG-INFO"}


def test_an_index_takes_its_metadata(wheel: Path, sdist: Path) -> None:
    assert run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist).count("PASSED") == 2


def test_its_page_has_no_links_that_lead_nowhere_and_its_extras_are_for_users(shown: Message) -> None:
    page = shown.get_payload()
    assert isinstance(page, str) and "## Two commands" in page
    assert re.findall(r"\]\((?!https?://)[^)]*\)", page) == []
    assert set(shown.get_all("Provides-Extra", [])) == EXTRAS
    assert set(shown["Requires-Python"].split(",")) == {">=3.11", "<3.14"}


def test_the_base_install_adds_under_40_mb_to_airflow(installed: tuple[Path, float]) -> None:
    python, added = installed
    assert added < 40
    assert "No broken requirements found" in run(python, "-m", "pip", "check")


def test_it_is_imported_within_50_ms_of_the_sdk(installed: tuple[Path, float], tmp_path: Path) -> None:
    script = """
import time, airflow.sdk
begun = time.perf_counter()
import airflow_provider_gca.provider_info
print(time.perf_counter() - begun)
"""
    home = {"AIRFLOW_HOME": str(tmp_path)}
    took = min(float(run(installed[0], "-I", "-c", script, **home).split()[-1]) for _ in range(5))
    assert took < 0.05


def test_the_version_is_the_same_everywhere(installed: tuple[Path, float], tmp_path: Path) -> None:
    python = installed[0]
    home = {"AIRFLOW_HOME": str(tmp_path)}
    script = f"""
from importlib.metadata import version
import airflow_provider_gca, gca_core
from airflow_provider_gca.provider_info import get_provider_info
print(version({NAME!r}), airflow_provider_gca.__version__, gca_core.__version__, *get_provider_info()["versions"])
"""
    assert run(python, "-I", "-c", script).split() == [__version__] * 4
    assert f" {__version__}\n" in run(python.with_name("gca"), "version")
    assert __version__ in run(python.with_name("airflow"), "providers", "get", NAME, **home)


def test_what_is_uploaded_is_what_comes_back_and_the_sdist_installs_the_same(
    installed: tuple[Path, float], wheel: Path, sdist: Path, tmp_path: Path
) -> None:
    python, port = installed[0], free_port()
    index = f"http://127.0.0.1:{port}/"
    (shelf := tmp_path / "shelf").mkdir()
    serve = ["-m", "pypiserver", "run", "-i", "127.0.0.1", "-p", str(port), "-a", ".", "-P", ".", "--disable-fallback"]
    with subprocess.Popen([sys.executable, *serve, shelf], stderr=subprocess.DEVNULL) as server:
        try:
            assert wait_for(lambda: httpx.get(index).is_success)
            upload = ["--repository-url", index, "-u", "nobody", "-p", "nothing", "--disable-progress-bar"]
            run(sys.executable, "-m", "twine", "upload", "--non-interactive", *upload, wheel, sdist)
            only = ["--no-deps", "--index-url", f"{index}simple/", NAME]
            run(python, "-m", "pip", "download", "-q", "-d", tmp_path, *only)
            assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()
            assert (shelf / sdist.name).read_bytes() == sdist.read_bytes()
        finally:
            server.terminate()
    of_the_wheel = files(python)
    run(python, "-m", "pip", "install", "-q", "--force-reinstall", "--no-deps", sdist)
    assert files(python) == of_the_wheel
    # what else is tested here is the wheel
    run(python, "-m", "pip", "install", "-q", "--force-reinstall", "--no-deps", wheel)


def files(python: Path) -> dict[str, str]:
    """The files of the installed package and their checksums, each seen to hold."""
    script = f"""
import base64, hashlib
from importlib.metadata import files
for file in files({NAME!r}):
    if file.hash and not file.match("*.dist-info/*"):
        seen = base64.urlsafe_b64encode(hashlib.sha256(file.locate().read_bytes()).digest()).decode().rstrip("=")
        assert seen == file.hash.value, file
        print(file, file.hash.value)
"""
    return dict(line.split() for line in run(python, "-I", "-c", script).splitlines())
