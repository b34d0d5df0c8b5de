"""The loop, which hangs in the phase that the run's configuration names."""

import time
from pathlib import Path

from airflow.sdk import Param, dag, get_current_context

from airflow_provider_gca.hooks.atlas import AtlasHook
from airflow_provider_gca.task_groups.haystack import haystack_loop

get_haystack_context = AtlasHook.get_haystack_context


def hanging(self, *args):
    """Every step opens its context first."""
    context = get_current_context()
    phase, own = context["params"]["hang"], context["ti"].task_id.rpartition(".")[2]
    if own == phase:
        Path(context["params"]["sign"]).touch()
        time.sleep(600)
    if own == "propose" and phase == "infer":
        from gca_core.haystack import steps

        steps.propose = with_a_job_of_minutes(steps.propose)
    return get_haystack_context(self, *args)


def with_a_job_of_minutes(propose):
    def longer(*args):
        (job,) = propose(*args)
        requests = [request.model_copy(update={"seeds": tuple(range(2000))}) for request in job.requests]
        return [job.model_copy(update={"requests": tuple(requests)})]

    return longer


AtlasHook.get_haystack_context = hanging


@dag(
    schedule=None,
    params={name: Param("", type="string") for name in ("question", "dataset", "hang", "sign")},
)
def live_haystack():
    haystack_loop(
        question="{{ params.question }}",
        dataset="{{ params.dataset }}",
        iterations=1,
        config={"candidates_per_iteration": 1, "ontology_distance": 4},
    )


live_haystack()
