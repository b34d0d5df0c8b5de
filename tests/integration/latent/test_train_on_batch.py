"""A VAE that trains as a job on a loopback Batch."""

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_gca.operators.latent import TrainVAEOperator
from airflow_provider_gca.utils.failures import AirflowFailException
from tests.helpers.batch_jobs import CLOUD, Play, batch
from tests.helpers.batch_loopback import BatchServer
from tests.helpers.gcs_loopback import Bucket, bucket
from tests.helpers.latent_counts import counts_with_groups

__all__ = ["batch", "bucket"]


@pytest.mark.slow
@pytest.mark.parametrize("staged", [False, True])
def test_the_command_trains_on_a_machine_and_its_result_comes_back(
    batch: BatchServer, bucket: Bucket, tmp_path: Path, staged: bool
) -> None:
    counts_with_groups().write_h5ad(tmp_path / "cells.h5ad")
    bucket.put("cells.h5ad", (tmp_path / "cells.h5ad").read_bytes(), {})
    places: dict[str, Any] = {"input_uri": "gs://lab/cells.h5ad", "output_uri": "gs://lab/vae"}
    if staged:
        places = {
            "input_uri": str(tmp_path / "cells.h5ad"),
            "output_uri": str(tmp_path / "vae"),
            "staging_uri": "gs://lab",
        }
    options = {**places, **CLOUD, "overwrite": False, "epochs": 1, "latent_dim": 2, "poll_interval_seconds": 0.2}
    task = lambda: TrainVAEOperator(task_id="t", execution="batch", **options)  # noqa: E731
    result = Play(task).run()
    assert batch.n_created == 1, batch.jobs[0].output
    assert batch.jobs[0].argv[:3] == ["vae", "train", "--config"]
    folder = (tmp_path / "vae").as_uri() if staged else "gs://lab/vae"
    assert all(uri.startswith(folder) for uri in result["uris"].values())
    if not staged:
        assert Play(task, try_number=2).run() == result
        assert batch.n_created == 1
        with pytest.raises(AirflowFailException, match="holds earlier results"):
            Play(task, run_id="another").run()
        assert batch.n_created == 1
    else:
        assert (tmp_path / "vae" / "report.html").exists()
        assert not [name for name in bucket.objects if name.startswith("batch-io/")]
