"""The loop, which hangs in the phase that the run's configuration names; in ``live_haystack_cloud`` on Google Batch."""

import time
from datetime import timedelta
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
        sign = Path(context["params"]["sign"])
        sign.touch()
        while not sign.with_suffix(".go").exists():
            time.sleep(0.2)
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


def loop_in(dag_id, default_args, **more):
    @dag(
        dag_id,
        schedule=None,
        default_args=default_args,
        params={name: Param("", type="string") for name in ("question", "dataset", "hang", "sign", "results")},
    )
    def live():
        haystack_loop(
            question="{{ params.question }}",
            dataset="{{ params.dataset }}",
            results_uri="{{ params.results }}",
            iterations=1,
            config={"candidates_per_iteration": 1, "ontology_distance": 4},
            **more,
        )

    live()


CLOUD = {
    "gcp_conn_id": "cloud",
    "batch": {"image": "us-docker.pkg.dev/lab/gca/stack:1", "plan": [{"provisioning": "SPOT", "region": "us-east1"}]},
    "infer_arguments": {"poll_interval_seconds": 0.5},
}
loop_in("live_haystack", {})
loop_in("live_haystack_cloud", {"retries": 20, "retry_delay": timedelta(seconds=1)}, **CLOUD)
