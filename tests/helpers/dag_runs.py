"""What a run of a DAG left in Airflow's database."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any


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


def stored(dag_run: Any) -> str:
    """All that Airflow keeps of a run's tasks: XComs, rendered fields and asset events."""
    from airflow.models.renderedtifields import RenderedTaskInstanceFields
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        xcoms = session.scalars(XComModel.get_many(run_id=dag_run.run_id, dag_ids=dag_run.dag_id)).all()
        query = select(RenderedTaskInstanceFields).where(RenderedTaskInstanceFields.run_id == dag_run.run_id)
        fields = session.scalars(query).all()
        assert fields
        kept = [*(str(row.value) for row in xcoms), *(json.dumps(row.rendered_fields) for row in fields)]
    return "\n".join([*kept, *(json.dumps(event.extra) for event in asset_events(dag_run))])


def understand(question: str, gca_llm_conn_id: str | None = None) -> Any:
    """What the first step of a HAYSTACK loop says, called as in a task."""
    from airflow.sdk.execution_time.context import set_current_context

    from airflow_provider_gca.task_groups.loop import steps

    dag_run = SimpleNamespace(dag_id="d", run_id="r", run_after=datetime(2026, 1, 1, tzinfo=UTC))
    with set_current_context({"dag_run": dag_run, "ti": SimpleNamespace(task_id="haystack.understand")}):
        return steps.understand.function(question, None, None, "gca_atlas_default", gca_llm_conn_id)
