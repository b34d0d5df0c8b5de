"""The sensor that waits for a HAYSTACK run to be grounded well enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from airflow_provider_gca.hooks.atlas import AtlasHook
from airflow_provider_gca.utils.failures import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    as_task_failure,
)
from airflow_provider_gca.utils.fields import is_literal, require_text
from airflow_provider_gca.utils.results import RunLink
from gca_core.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_gca.triggers.grounding import RunOutcome

LOWEST_SCORE, HIGHEST_SCORE = 1.0, 10.0


class GroundingSensor(BaseSensorOperator):
    """Wait until a HAYSTACK run has reached a grounding score, or has ended.

    Succeeds as soon as the run's best score is at least ``min_score``, also while the run goes on. Where the
    run ended below, it fails with the reason the run gives for its end, or succeeds when ``fail_below`` is off. A run
    whose process is dead has ended as ``stale``.
    A run that has no record yet is waited for. Returns the best score, None where a run that ended below has none; the
    XCom ``outcome`` has ``run_id``, ``status``, ``best_score``, ``best_iteration``, ``termination_reason`` and
    ``reached``.

    Args:
        run_id: the run's id in the run records, for instance ``haystack_loop(...).run_id``. Templated.
        min_score: the score to wait for, 1 to 10. Templated.
        fail_below: fail when the run ends below ``min_score``.
        gca_atlas_conn_id: connection of the database with the run records. Templated.
        deferrable: wait in the triggerer, without a worker slot; otherwise in the ``mode`` of the sensor.
    """

    template_fields: Sequence[str] = ("run_id", "min_score", "gca_atlas_conn_id")
    operator_extra_links = (RunLink(),)
    ui_color = "#e8e1f0"

    def __init__(
        self,
        *,
        run_id: str,
        min_score: float | str = 7.0,
        fail_below: bool = True,
        gca_atlas_conn_id: str = AtlasHook.default_conn_name,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.run_id = run_id
        self.min_score = min_score
        self.fail_below = fail_below
        self.gca_atlas_conn_id = gca_atlas_conn_id
        self.deferrable = deferrable
        require_text(type(self).__name__, run_id=run_id, gca_atlas_conn_id=gca_atlas_conn_id)
        if is_literal(min_score):
            self._threshold()

    @property
    def haystack_run_id(self) -> str:
        """The run, for its link."""
        return self.run_id

    def _threshold(self) -> float:
        try:
            threshold = float(self.min_score)
        except (TypeError, ValueError):
            threshold = float("nan")
        if not LOWEST_SCORE <= threshold <= HIGHEST_SCORE:
            raise ConfigurationError(
                f"GroundingSensor: min_score is {self.min_score!r}; grounding scores go from 1 to 10"
            )
        return threshold

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once."""
        from airflow_provider_gca.triggers.grounding import look_up

        with as_task_failure():
            outcome = look_up(AtlasHook(self.gca_atlas_conn_id).get_run_store(), self.run_id, self._threshold())
        self.log.info("run %s: %s", self.run_id, outcome.describe())
        if not outcome.done:
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self._settle(context, outcome))

    def execute(self, context: Context) -> Any:
        """Wait here, or in the triggerer where it isn't settled already."""
        if not self.deferrable:
            return super().execute(context)
        first = self.poke(context)
        if first.is_done:
            return first.xcom_value
        from airflow_provider_gca.triggers.grounding import GroundingTrigger

        self.defer(
            trigger=GroundingTrigger(
                run_id=self.run_id,
                min_score=self._threshold(),
                gca_atlas_conn_id=self.gca_atlas_conn_id,
                poll_interval=self.poke_interval,
                end_time=(datetime.now(UTC) + timedelta(seconds=self.timeout)).isoformat(),
            ),
            method_name="execute_complete",
        )
        return None

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> float | None:
        """Settle what the trigger saw."""
        from airflow_provider_gca.triggers.grounding import RunOutcome

        if event["status"] == "timeout":
            raise AirflowSensorTimeout(event["message"])
        if event["status"] != "success":
            raise AirflowException(event["message"])
        return self._settle(context, RunOutcome.model_validate(event["outcome"]))

    def _settle(self, context: Context, outcome: RunOutcome) -> float | None:
        if (ti := context.get("ti")) is not None:
            ti.xcom_push(key="outcome", value=outcome.model_dump(mode="json"))
        if not outcome.reached and self.fail_below:
            raise AirflowFailException(f"run {self.run_id} {outcome.describe()}")
        return outcome.best_score
