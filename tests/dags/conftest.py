"""Example DAGs run in this process, against SQLite and an embedded PostgreSQL of their own."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.helpers.gcs_loopback import bucket

__all__ = ["bucket"]

RunDag = Callable[..., Any]


@pytest.fixture
def gca_home(server_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The GCA_HOME that tasks of this test see."""
    monkeypatch.setenv("GCA_HOME", str(server_home))
    return server_home


@pytest.fixture(scope="session")
def dag_bag(airflow_home: Path) -> Any:
    """The example DAGs, parsed once."""
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(dag_folder=REPOSITORY / "dags")


@pytest.fixture
def run_dag(airflow_home: Path, gca_home: Path, monkeypatch: pytest.MonkeyPatch) -> RunDag:
    """Run an example DAG by ``dag.test()``; returns the DAG run."""
    from airflow.dag_processing.dagbag import DagBag

    # dag.test() sleeps a second for each level of tasks that a skip or a failure passes through
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.05)))

    def run(dag_id: str, **conf: Any) -> Any:
        # parsed anew, since a test run leaves its conf in the params of the DAG object
        bag = DagBag(dag_folder=REPOSITORY / "dags" / f"{dag_id}.py")
        return bag.dags[dag_id].test(run_conf=conf or None)

    return run
