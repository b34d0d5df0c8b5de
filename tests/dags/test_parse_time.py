"""Nothing of the science is loaded when a scheduler or triggerer imports a module of the shell."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

HEAVY = (
    "torch", "scanpy", "anndata", "pandas", "numpy", "scipy", "sklearn", "matplotlib", "psycopg", "umap", "google",
    "fastapi",
)  # fmt: skip
HEAVY_PREFIXES = ("langchain",)
ROOMS = ("hooks", "notifications", "operators", "plugin", "sensors", "triggers", "task_groups", "utils")
PACKAGE = REPOSITORY / "airflow_provider_gca"
MODULES = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__init__"
    and "example_dags" not in path.parts
    # of the plugin, all processes load one module, and the API server the rest
    and ("plugin" not in path.parts or path.stem == "plugin")
)
EXAMPLES = sorted((REPOSITORY / "dags").glob("*.py"))

# each child starts from a process that has done nothing but ``import airflow.sdk``
SCRIPT = """
import importlib.util, json, os, sys, traceback
import airflow.sdk
before = set(sys.modules)
for name, load in json.loads(sys.stdin.read()).items():
    sys.stdout.flush()
    child = os.fork()
    if not child:
        try:
            exec(load, {})
            found = sorted({module.partition(".")[0] for module in set(sys.modules) - before})
        except BaseException:
            found = traceback.format_exc()
        print(json.dumps([name, found]), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def load_of(path: Path) -> str:
    return (
        "import importlib.util; "
        f"spec = importlib.util.spec_from_file_location('example', {str(path)!r}); "
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)"
    )


LOADS = {
    "numpy": "import numpy",
    **{module: f"import {module}" for module in MODULES},
    **{path.stem: load_of(path) for path in EXAMPLES},
}


@pytest.fixture(scope="module")
def loaded(airflow_home: Path) -> dict[str, list[str]]:
    """Top-level modules that each load adds to those of ``import airflow.sdk``."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(LOADS), capture_output=True, text=True, check=True, timeout=120
    )
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith('["'))


def heavy(names: list[str]) -> set[str]:
    return {name for name in names if name in HEAVY or name.startswith(HEAVY_PREFIXES)}


def test_the_check_sees_a_heavy_import(loaded: dict[str, list[str]]) -> None:
    assert "numpy" in heavy(loaded["numpy"])


def test_every_room_and_example_is_checked() -> None:
    assert {module.split(".")[1] for module in MODULES if module.count(".") > 1} == set(ROOMS)
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("name", [name for name in LOADS if name != "numpy"])
def test_importing_it_loads_nothing_heavy(loaded: dict[str, list[str]], name: str) -> None:
    assert isinstance(loaded[name], list), loaded[name]
    assert heavy(loaded[name]) == set()
