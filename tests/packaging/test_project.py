"""Pins, versions, links, and who may know whom."""

import re
import subprocess
import sys
import tomllib
from collections import Counter
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]


def test_every_requirement_is_pinned_and_no_host_is_named() -> None:
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = [Requirement(line) for line in lines]
    assert all(len(pin.specifier) == 1 and str(pin.specifier).startswith("==") and pin.url is None for pin in pins)
    assert "torch==2.13.0" in lines
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    project = settings["project"]
    groups = [*project["optional-dependencies"].values(), *settings["dependency-groups"].values()]
    wanted = [*project["dependencies"], *chain.from_iterable(groups)]
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


def test_the_threat_model_names_tests_that_are_there() -> None:
    table = (REPOSITORY / "docs" / "guides" / "threats.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| ") and "stands against it" not in line]
    assert [row for row in rows if "`test_" not in row] == []
    tests = "\n".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", table))
    assert named - set(re.findall(r"^def (test_\w+)", tests, re.M)) == set()


def test_links_of_the_pages_outside_the_site_lead_somewhere() -> None:
    for page in REPOSITORY.glob("*.md"):
        links = re.findall(r"\]\((?!https?://|#)([^)#]*)", page.read_text())
        assert [link for link in links if not (page.parent / link).exists()] == [], page
