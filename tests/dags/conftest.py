"""Example DAGs run in this process, against SQLite and an embedded PostgreSQL of their own."""

from __future__ import annotations

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


def states(dag_run: Any) -> dict[str, list[str]]:
    """The states of a run's task instances by task id, in map order."""
    found: dict[str, list[str]] = {}
    for instance in sorted(dag_run.get_task_instances(), key=lambda instance: (instance.task_id, instance.map_index)):
        found.setdefault(instance.task_id, []).append(str(instance.state))
    return found


def output(dag_run: Any, task_id: str, key: str = "return_value") -> Any:
    """What a task handed on."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        query = XComModel.get_many(key=key, run_id=dag_run.run_id, dag_ids=dag_run.dag_id, task_ids=task_id)
        rows = session.scalars(query.order_by(XComModel.map_index)).all()
        return [XComModel.deserialize_value(row) for row in rows]


def asset_events(dag_run: Any) -> list[Any]:
    """The asset events of a run, with their assets."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select
    from sqlalchemy.orm import joinedload

    with create_session() as session:
        query = (
            select(AssetEvent).options(joinedload(AssetEvent.asset)).where(AssetEvent.source_run_id == dag_run.run_id)
        )
        return list(session.scalars(query).all())
