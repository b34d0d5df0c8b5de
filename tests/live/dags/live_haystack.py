"""The loop, which hangs in the phase that the run's configuration names."""

import time
from pathlib import Path

from airflow.sdk import Param, dag, get_current_context

from airflow_provider_gca.task_groups.haystack import haystack_loop
from gca_core.haystack import steps


def hangs(name):
    real = getattr(steps, name)

    def wrapped(*args, **kwargs):
        params = get_current_context()["params"]
        if params["hang"] == name:
            Path(params["sign"]).touch()
            time.sleep(600)
        found = real(*args, **kwargs)
        if name == "propose" and params["hang"] == "infer":
            # a job of many minutes
            longer = [r.model_copy(update={"seeds": tuple(range(2000))}) for r in found[0].requests]
            found = [found[0].model_copy(update={"requests": tuple(longer)})]
        return found

    return wrapped


for phase in ("understand", "propose", "evaluate", "finalize"):
    setattr(steps, phase, hangs(phase))


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
