"""The loop with its jobs on a loopback Batch, and all its files in a loopback bucket."""

import json
from typing import Any

import pytest

from tests.dags.test_gca_haystack import iteration_states
from tests.helpers.batch_jobs import CLOUD, batch
from tests.helpers.batch_loopback import BatchServer
from tests.helpers.dag_runs import output, states
from tests.helpers.gcs_loopback import Bucket

__all__ = ["batch"]


@pytest.mark.slow
def test_one_job_serves_an_iteration_and_answers_as_a_local_one(
    run_dag: Any, batch: BatchServer, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GCA_HAYSTACK_BATCH", json.dumps(CLOUD["batch"]))
    monkeypatch.setenv("GCA_RESULTS_URI", "gs://lab/results")
    monkeypatch.setenv("AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT", batch.connection)
    run = run_dag("gca_haystack", max_iterations=1)
    assert run.state == "success", states(run)
    assert iteration_states(run, 0)["infer"] == ["success"]
    assert batch.n_created == 1
    (rows,) = output(run, "haystack.iteration_0.infer")
    assert len(rows) > 1
    assert all(row["prediction_uri"].startswith("gs://lab/results/") for row in rows)
    (job,) = batch.jobs
    assert dict(job.job.labels)["loop"] == "haystack"
    summary = json.loads(bucket.objects["results/gca_haystack/summary.json"][0])
    assert summary["metrics"]["Pearson of log fold change"] >= 0.85
