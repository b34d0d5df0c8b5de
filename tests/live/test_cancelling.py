"""A DAG run is cancelled in each phase of the loop, and ends within 30 s with its job and its record."""

import time
from pathlib import Path

import psutil
import pytest

from gca_core.config import load_settings
from gca_core.haystack.context import open_context
from gca_core.haystack.demo.kang2018 import prepare_demo
from gca_core.haystack.understand import understand
from gca_core.runs.models import RunStatus
from gca_core.runs.store import RunStore
from gca_core.store.resolve import resolve_dsn
from tests.helpers.live_airflow import LiveAirflow, in_time

QUESTION = "How would CD14+ monocytes respond to interferon beta?"
# by marking the run as Airflow's page does, or by the command, which knows nothing of Airflow
WAYS = [
    *((phase, "mark") for phase in ("understand", "propose", "infer", "evaluate", "finalize")),
    *((phase, "command") for phase in ("propose", "infer")),
]


@pytest.fixture(scope="module")
def dataset(airflow: LiveAirflow, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An atlas in the database of the running Airflow."""
    results = tmp_path_factory.mktemp("results").as_uri()
    settings = load_settings(home=airflow.gca_home).model_copy(update={"results_uri": results})
    context = open_context(settings)
    return prepare_demo(understand(QUESTION, context), context, settings).dataset


def jobs(airflow: LiveAirflow) -> list[psutil.Process]:
    words = {p: p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])}
    return [p for p, w in words.items() if "gca_core.inference.job" in w and any(str(airflow.gca_home) in x for x in w)]


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "how"), WAYS)
def test_a_run_ends_in_time_from_any_phase(
    airflow: LiveAirflow, dataset: str, tmp_path: Path, phase: str, how: str
) -> None:
    store = RunStore(resolve_dsn(load_settings(home=airflow.gca_home)))
    sign = tmp_path / "sign"
    run = airflow.trigger("live_haystack", question=QUESTION, dataset=dataset, hang=phase, sign=str(sign))
    airflow.wait(lambda: jobs(airflow) if phase == "infer" else sign.exists(), f"the phase {phase}", run)
    dag_id, dag_run_id = run.split("/")[2], run.split("/")[4]
    (row,) = store.list_runs(dag_run=(dag_id, dag_run_id))
    began = time.monotonic()
    if how == "mark":
        airflow.mark_run(run, "failed")
    else:
        assert store.close(row.run_id, RunStatus.CANCELLED, "cancelled")
    airflow.wait_for_run(run, "failed", "success")
    assert airflow.get(run)["state"] == "failed", airflow.log(run)
    airflow.wait(lambda: not jobs(airflow), "the job to end", run)
    taken = time.monotonic() - began
    assert store.get(row.run_id).status is RunStatus.CANCELLED, airflow.log(run)
    assert taken < in_time()
