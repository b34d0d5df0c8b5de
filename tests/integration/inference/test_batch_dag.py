"""The operator in DAG runs, against a loopback Batch and a loopback bucket."""

import io
import json
from pathlib import Path
from typing import Any

import anndata as ad
import pytest

from gca_core.inference.job import main
from gca_core.inference.local import write_job
from gca_core.inference.models import InferenceRequest
from tests.helpers.batch_jobs import SECRET, batch, make_job, run_jobs
from tests.helpers.batch_loopback import BatchServer
from tests.helpers.dag_runs import output, states, stored
from tests.helpers.gcs_loopback import Bucket, bucket

__all__ = ["batch", "bucket", "make_job", "run_jobs"]


def predicted(bucket: Bucket, uri: str) -> ad.AnnData:
    return ad.read_h5ad(io.BytesIO(bucket.objects[uri.removeprefix("gs://lab/")][0]))


@pytest.mark.slow
def test_four_mapped_candidates_are_four_jobs_and_equal_to_local_runs(
    run_jobs: Any, make_job: Any, batch: BatchServer, bucket: Bucket, tmp_path: Path, caplog: Any, capfd: Any
) -> None:
    caplog.set_level("DEBUG")
    jobs = [make_job(name, rate) for name, rate in {"a": 2.0, "b": 3.0, "c": 4.0, "d": 5.0}.items()]
    run = run_jobs(*jobs)
    assert states(run) == {"predict": ["success"] * 4, "cancel": ["success"]}
    assert batch.n_created == 4
    assert {record.state for record in batch.jobs} == {"SUCCEEDED"}

    rows = {row["candidate_id"]: row for (row,) in output(run, "predict")}
    local = [InferenceRequest.model_validate(request) for job in jobs for request in job["requests"]]
    local = [r.model_copy(update={"output_uri": str(tmp_path / f"{r.candidate_id}.h5ad")}) for r in local]
    write_job(local, str(tmp_path / "job.json"))
    assert main([str(tmp_path / "job.json")]) == 0
    for request in local:
        row = rows[request.candidate_id]
        there, here = predicted(bucket, row["prediction_uri"]), ad.read_h5ad(request.output_uri)
        assert row["status"] == "succeeded"
        assert (there.X != here.X).nnz == 0
        assert there.obs.equals(here.obs)
    assert len({predicted(bucket, row["prediction_uri"]).X.sum() for row in rows.values()}) == 4

    links = output(run, "predict", "gca_batch_job_link")
    assert all("console.cloud.google.com/batch" in link for link in links)
    printed = capfd.readouterr()
    sent = json.dumps(batch.described()) + "".join(str(record.job) for record in batch.jobs)
    assert "gs://lab/a/job.json" in sent
    for text in (stored(run), caplog.text, printed.out, printed.err, sent, *links):
        assert SECRET not in text


@pytest.mark.slow
def test_a_mapped_job_that_fails_leaves_the_others(run_jobs: Any, make_job: Any, batch: BatchServer) -> None:
    bad, good = make_job("bad"), make_job("good")
    bad["requests"][0]["query_uri"] = "gs://lab/nowhere.h5ad"
    run = run_jobs(bad, good)
    assert sorted(states(run)["predict"]) == ["failed", "success"]
    assert batch.n_created == 2
