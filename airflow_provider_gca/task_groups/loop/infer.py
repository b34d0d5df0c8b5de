"""The operator of an iteration's job."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_provider_gca.hooks.atlas import AtlasHook
from airflow_provider_gca.operators.inference import StackBatchOperator
from airflow_provider_gca.task_groups.loop.around import named, own_run_id, until_run_cancelled
from airflow_provider_gca.utils.results import RunLink

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_gca.triggers.loop import LoopJobTrigger


class InferOperator(StackBatchOperator):
    """An iteration's job, which ends when its run is cancelled."""

    operator_extra_links = (*StackBatchOperator.operator_extra_links, RunLink())

    def __init__(self, *, gca_atlas_conn_id: str = AtlasHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gca_atlas_conn_id = gca_atlas_conn_id
        self._run_id: str | None = None

    @property
    def haystack_run_id(self) -> str | None:
        """The run, for its link; None before the task runs."""
        return self._run_id

    def _finish(self, context: Context, work: Callable[[Context], Any]) -> Any:
        def until(context: Context) -> Any:
            with until_run_cancelled(self.gca_atlas_conn_id):
                return work(context)

        self._run_id = own_run_id()
        with named():
            return super()._finish(context, until)

    def _trigger(self, **arguments: Any) -> LoopJobTrigger:
        from airflow_provider_gca.triggers.loop import LoopJobTrigger

        return LoopJobTrigger(haystack_run_id=own_run_id(), gca_atlas_conn_id=self.gca_atlas_conn_id, **arguments)
