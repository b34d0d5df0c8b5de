"""Nothing of the science is loaded when a scheduler or triggerer imports a module of the shell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

HEAVY = ("torch", "scanpy", "anndata", "pandas", "numpy", "scipy", "sklearn", "matplotlib", "psycopg", "umap", "google")
HEAVY_PREFIXES = ("langchain",)
ROOMS = ("hooks", "operators", "sensors", "triggers", "task_groups")
PACKAGE = REPOSITORY / "airflow_provider_gca"
MODULES = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for room in ROOMS
    for path in (PACKAGE / room).rglob("*.py")
    if path.stem != "__init__"
)
EXAMPLES = sorted((REPOSITORY / "dags").glob("*.py"))

SCRIPT = """
import importlib.util, json, sys
import airflow.sdk
before = set(sys.modules)
{load}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def loaded_by(load: str) -> set[str]:
    """Top-level modules that ``load`` adds to those of ``import airflow.sdk``, in a fresh process."""
    script = SCRIPT.format(load=load)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def heavy(names: set[str]) -> set[str]:
    return {name for name in names if name in HEAVY or name.startswith(HEAVY_PREFIXES)}


def test_the_check_sees_a_heavy_import() -> None:
    assert "numpy" in heavy(loaded_by("import numpy"))


def test_there_are_modules_and_examples_to_check() -> None:
    assert {module.split(".")[1] for module in MODULES} == set(ROOMS)
    assert len(EXAMPLES) >= 3


@pytest.mark.usefixtures("airflow_home")
@pytest.mark.parametrize("module", [*MODULES, "airflow_provider_gca.plugin"])
def test_importing_a_module_of_the_shell_loads_nothing_heavy(module: str) -> None:
    assert heavy(loaded_by(f"import {module}")) == set()


@pytest.mark.usefixtures("airflow_home")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_parsing_an_example_dag_loads_nothing_heavy(path: Path) -> None:
    load = (
        f"spec = importlib.util.spec_from_file_location('example', {str(path)!r}); "
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)"
    )
    assert heavy(loaded_by(load)) == set()
