"""Wait in the triggerer for the run that the run's configuration names."""

from airflow.sdk import Param, dag

from airflow_provider_gca.sensors.grounding import GroundingSensor


@dag(schedule=None, params={"run_id": Param("", type="string")})
def live_grounding():
    GroundingSensor(task_id="wait", run_id="{{ params.run_id }}", min_score=6, poke_interval=0.5)


live_grounding()
