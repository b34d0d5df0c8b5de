"""Example DAGs run in this process, against SQLite and an embedded PostgreSQL of their own."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.helpers.gcs_loopback import bucket

__all__ = ["bucket"]

RunDag = Callable[..., Any]
MARY = SimpleNamespace(get_id=lambda: "7", get_name=lambda: "mary")


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


@pytest.fixture
def answering(run_dag: RunDag) -> RunDag:
    """Run a DAG while a person answers its questions, one after the other."""

    def run(dag_id: str, *answers: tuple[str, dict[str, str]], **conf: Any) -> Any:
        from airflow.api_fastapi.core_api.datamodels.hitl import UpdateHITLDetailPayload
        from airflow.api_fastapi.core_api.routes.public.hitl import update_hitl_detail
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session
        from sqlalchemy import select

        def person() -> None:
            left = list(answers)
            while left and not over.wait(0.2):
                with create_session() as session:
                    query = select(TaskInstance).where(
                        TaskInstance.dag_id == dag_id, TaskInstance.state == "awaiting_input"
                    )
                    for ti in session.scalars(query).all():
                        option, words = left.pop(0)
                        said = UpdateHITLDetailPayload(chosen_options=[option], params_input=words)
                        update_hitl_detail(ti.dag_id, ti.run_id, ti.task_id, said, MARY, session, ti.map_index)

        over = threading.Event()
        thread = threading.Thread(target=person, daemon=True)
        thread.start()
        try:
            return run_dag(dag_id, **conf)
        finally:
            over.set()
            thread.join()

    return run
