"""The operator here, arc-stack there: jobs run in the environment of the image, which knows no Airflow.

Run by make test-stack, which names that environment's interpreter in ``STACK_PYTHON``.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest

from gca_core.inference.local import write_job
from gca_core.inference.models import InferenceRequest
from tests.conftest import REPOSITORY
from tests.helpers.batch_jobs import batch, make_job, run_jobs
from tests.helpers.batch_loopback import BatchServer
from tests.helpers.dag_runs import output, states
from tests.helpers.gcs_loopback import Bucket, bucket

__all__ = ["batch", "bucket", "make_job", "run_jobs"]
PYTHON = os.environ.get("STACK_PYTHON")
GCA = [str(PYTHON), "-P", "-m", "gca_core.cli.main"]
# so small a model takes one thread
SMALL = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
pytestmark = [pytest.mark.skipif(not PYTHON, reason="run by make test-stack"), pytest.mark.timeout(1200)]


def gca(*words: str) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **SMALL}
    done = subprocess.run([*GCA, *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The folder of the checkpoint that the suite before has trained, or of one trained now."""
    kept = sorted((REPOSITORY / ".stack-cache").glob("*/model.ckpt"), key=lambda path: path.stat().st_mtime)
    if not kept:
        gca("stack", "train-tiny", str(tmp_path / "tiny"))
    return kept[-1].parent if kept else tmp_path / "tiny"


def test_four_mapped_candidates_of_stack_equal_what_the_command_predicts_locally(
    run_jobs: Any, make_job: Any, batch: BatchServer, bucket: Bucket, checkpoint: Path, tmp_path: Path
) -> None:
    batch.command, batch.environment = GCA, {**batch.environment, **SMALL}
    genes = json.loads((checkpoint / "genes.json").read_text())
    for name in ("model.ckpt", "genes.json"):
        bucket.put(name, (checkpoint / name).read_bytes(), {})
    model = {"backend": "stack", "checkpoint": "gs://lab/model.ckpt", "gene_list_uri": "gs://lab/genes.json"}
    jobs = [
        make_job(name, rate, genes, **model, diffusion_steps=2) for name, rate in zip("abcd", (2, 3, 4, 5), strict=True)
    ]
    run = run_jobs(*jobs, poll_interval_seconds=1)
    assert states(run) == {"predict": ["success"] * 4, "cancel": ["success"]}, [job.output for job in batch.jobs]
    assert batch.n_created == 4
    rows = {row["candidate_id"]: row for (row,) in output(run, "predict")}
    assert all(row["status"] == "succeeded" and "arc-stack" in row["model"] for row in rows.values())

    requests = []
    for asked in (request for job in jobs for request in job["requests"]):
        uris = {
            key: uri.replace("gs://lab", str(tmp_path / "local")) for key, uri in asked.items() if "gs://" in str(uri)
        }
        for uri in uris.values():
            if (found := bucket.objects.get(uri.removeprefix(f"{tmp_path}/local/"))) and "prediction" not in uri:
                Path(uri).parent.mkdir(parents=True, exist_ok=True)
                Path(uri).write_bytes(found[0])
        requests.append(InferenceRequest.model_validate({**asked, **uris}))
    write_job(requests, str(tmp_path / "job.json"))
    gca("stack", "infer", str(tmp_path / "job.json"))
    for request in requests:
        (tmp_path / "there.h5ad").write_bytes(bucket.objects[f"{request.candidate_id}/prediction.h5ad"][0])
        there, here = ad.read_h5ad(tmp_path / "there.h5ad"), ad.read_h5ad(request.output_uri)
        assert there.obs.equals(here.obs)
        np.testing.assert_array_equal(np.asarray(there.X.todense()), np.asarray(here.X.todense()))
