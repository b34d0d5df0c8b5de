"""Parts of Airflow, and the database, are killed amid a HAYSTACK run: nothing is lost, and it ends right."""

import json
from pathlib import Path
from typing import Any

import pytest

from gca_core.config import load_settings
from gca_core.haystack.models import IterationConfig
from gca_core.haystack.run import run_haystack
from gca_core.io import read_json
from gca_core.runs.models import RunStatus
from gca_core.runs.store import RunStore
from gca_core.store.resolve import resolve_dsn
from tests.helpers.batch_loopback import BatchServer
from tests.helpers.gcs_loopback import Bucket
from tests.helpers.live_airflow import LiveAirflow
from tests.live.test_cancelling import QUESTION, dataset

__all__ = ["dataset"]


@pytest.fixture(scope="module")
def undisturbed(airflow: LiveAirflow, dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the log says of a run that nothing befell."""
    found = run_haystack(
        QUESTION,
        config=IterationConfig(max_iterations=1, candidates_per_iteration=1, ontology_distance=4),
        settings=load_settings(home=airflow.gca_home),
        results_uri=str(tmp_path_factory.mktemp("undisturbed")),
        dataset=dataset,
    )
    return read_json(found.json_uri)["canonical"]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["api-server", "scheduler", "triggerer", "database"])
def test_a_run_loses_nothing(
    airflow: LiveAirflow, batch: BatchServer, bucket: Bucket, dataset: str, undisturbed: Any, tmp_path: Path, part: str
) -> None:
    batch.hold()
    sign, results = tmp_path / "sign", f"gs://lab/restarts/{part}"
    asked = {"question": QUESTION, "dataset": dataset, "results": results, "hang": "propose", "sign": str(sign)}
    run = airflow.trigger("live_haystack_cloud", **asked)
    # once while a worker works, once while a job does
    airflow.wait(sign.exists, "a worker to propose", run)
    airflow.restart(part)
    sign.with_suffix(".go").touch()

    def deferred() -> bool:
        airflow.revive()
        return [job.state for job in batch.jobs] == ["RUNNING"] and any(
            task["state"] == "deferred" for task in airflow.tasks(run)
        )

    airflow.wait(deferred, "a job to run", run)
    airflow.restart(part)
    batch.release()

    def ended() -> bool:
        airflow.revive()
        return airflow.get(run)["state"] in ("success", "failed")

    airflow.wait(ended, "its end", run)
    assert airflow.get(run)["state"] == "success", airflow.log(run)
    (row,) = RunStore(resolve_dsn(load_settings(home=airflow.gca_home))).list_runs(dag_run=tuple(run.split("/")[2::2]))
    assert row.status is RunStatus.COMPLETED and row.error is None
    assert [job.state for job in batch.jobs] == ["SUCCEEDED"]
    log = json.loads(bucket.objects[row.outputs["json"].removeprefix("gs://lab/")][0])["canonical"]
    assert log == undisturbed
