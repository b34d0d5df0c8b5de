"""Inference jobs in the loopback bucket, and a DAG that sends them to the loopback Batch."""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.module_loading import import_string

from tests.helpers.batch_loopback import BatchServer, batch_server, storage_of
from tests.helpers.gcs_loopback import Bucket

SECRET = "hidden-5f21c9e0"
DAG = """
import json
from pathlib import Path
from airflow.sdk import DAG
from airflow_provider_gca.operators.batch import CancelRunJobsOperator
from airflow_provider_gca.operators.inference import StackBatchOperator

asked = json.loads(Path(__file__).with_suffix(".json").read_text())
with DAG("batch_jobs", schedule=None):
    predict = StackBatchOperator.partial(task_id="predict", **asked["common"]).expand_kwargs(asked["jobs"])
    cloud = {name: asked["common"][name] for name in ("batch", "gcp_conn_id")}
    predict >> CancelRunJobsOperator(task_id="cancel", **cloud).as_teardown()
"""
# answers a job's requests in a moment, for tests of what is around it; the exit code is in its environment
QUICK = """
import json, os, sys, urllib.request
from urllib.parse import quote

server, job_name = os.environ["STORAGE_EMULATOR_HOST"], sys.argv[3].removeprefix("gs://lab/")
code = int(os.environ.get("EXIT", "0"))
job = json.load(urllib.request.urlopen(f"{server}/b/lab/o/{quote(job_name, safe='')}?alt=media"))
rows = [
    {"candidate_id": r["candidate_id"], "status": "succeeded", "prediction_uri": r["output_uri"], "backend": "shift"}
    for r in job["requests"][: None if code == 0 else 1 if code == 1 else 0]
]
if "WORDS" in os.environ:
    rows = [{"candidate_id": r["candidate_id"], "status": "failed", "error": os.environ["WORDS"], "backend": "shift"}
            for r in job["requests"]]
written = {job_name.replace("job.json", "results.json"): json.dumps({"job_id": job["job_id"], "results": rows})}
written |= {row["prediction_uri"].removeprefix("gs://lab/"): "cells" for row in rows if "prediction_uri" in row}
for name, text in written.items():
    urllib.request.urlopen(urllib.request.Request(f"{server}/resumed/{quote(name)}", text.encode()))
sys.exit(code)
"""
PLAN = [{"provisioning": "SPOT", "region": "us-east1"}, {"provisioning": "STANDARD", "region": "us-central1"}]
CLOUD = {"gcp_conn_id": "cloud", "batch": {"image": "us-docker.pkg.dev/lab/gca/stack:1", "plan": PLAN}}


@cache
def cell_file(rate: float, genes: tuple[str, ...]) -> bytes:
    """An h5ad of such cells."""
    with tempfile.NamedTemporaryFile(suffix=".h5ad") as file:
        cells(rate, genes=genes).write_h5ad(file.name)
        return Path(file.name).read_bytes()


def cells(rate: float, n_cells: int = 30, n_genes: int = 40, genes: Sequence[str] = ()) -> ad.AnnData:
    """Counts whose first five genes are ``rate`` times as high."""
    genes = genes or [f"G{i}" for i in range(n_genes)]
    rates = np.full(len(genes), 2.0)
    rates[:5] *= rate
    counts = np.random.default_rng(1).poisson(rates, size=(n_cells, len(genes))).astype(np.float32)
    obs = pd.DataFrame({"pair": pd.Categorical(["p"] * n_cells)}, index=[f"c{i}" for i in range(n_cells)])
    return ad.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=list(genes)))


@pytest.fixture
def make_job(bucket: Bucket) -> Callable[..., dict[str, Any]]:
    """Arguments of a task with one candidate, whose cells are in the bucket; a candidate's rate is its own."""

    def make(candidate: str, rate: float = 4.0, genes: Sequence[str] = (), **changes: Any) -> dict[str, Any]:
        folder = f"gs://lab/{candidate}"
        for name, height in {"prompt": rate, "control": 1.0, "query": 1.0}.items():
            bucket.put(f"{candidate}/{name}.h5ad", cell_file(height, tuple(genes)), {})
        uris = {f"{name}_uri": f"{folder}/{name}.h5ad" for name in ("prompt", "control", "query")}
        request = {"candidate_id": candidate, "output_uri": f"{folder}/prediction.h5ad", "seeds": [3], **uris}
        return {"job_uri": f"{folder}/job.json", "requests": [{**request, **changes}]}

    return make


@pytest.fixture
def batch(bucket: Bucket, airflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    """The loopback Batch, behind the connection ``cloud``, whose key is a secret; its jobs see the loopback bucket."""
    with batch_server(environment=storage_of(bucket.url)) as server:
        connection = json.loads(server.connection)
        connection |= {"password": SECRET, "extra": {**connection["extra"], "private_key": SECRET}}
        monkeypatch.setenv("AIRFLOW_CONN_CLOUD", json.dumps(connection))
        yield server
        assert not server.running()


@pytest.fixture
def quick(batch: BatchServer, monkeypatch: pytest.MonkeyPatch) -> BatchServer:
    """The same, with jobs that take a moment, and without long pauses between requests that are sent again."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.05)))
    batch.command = [sys.executable, "-IS", "-c", QUICK]
    batch.preempt_after = 0.0
    return batch


class Play:
    """A task as Airflow runs it: after each deferral as another object, from what is left in JSON."""

    def __init__(self, operator: Callable[[], Any], **ti: Any) -> None:
        self.operator = operator
        self.xcoms: dict[str, Any] = {}
        known = {"dag_id": "d", "task_id": "t", "run_id": "r", "map_index": -1, "try_number": 1, "max_tries": 0, **ti}
        push = {"xcom_push": lambda key, value: self.xcoms.update({key: value})}
        self.context: Any = {"ti": SimpleNamespace(**known, **push)}

    def begin(self) -> Any:
        """Until the task defers; the trigger, as the triggerer would make it."""
        with pytest.raises(TaskDeferred) as deferred:
            self.operator().execute(self.context)
        return trigger_of(deferred.value)

    def resume(self, event: Any) -> Any:
        return self._through(lambda task: task.execute_complete(self.context, event=event))

    def run(self) -> Any:
        """Until the task has ended."""
        return self._through(lambda task: task.execute(self.context))

    def _through(self, step: Callable[[Any], Any]) -> Any:
        while True:
            try:
                return step(self.operator())
            except TaskDeferred as deferred:
                event = wait_for(trigger_of(deferred))
                step = lambda task, event=event: task.execute_complete(self.context, event=event)  # noqa: E731


def trigger_of(deferred: TaskDeferred) -> Any:
    path, arguments = deferred.trigger.serialize()
    return import_string(path)(**json.loads(json.dumps(arguments)))


def wait_for(trigger: Any) -> Any:
    """The event of a trigger."""

    async def first() -> Any:
        event = await anext(trigger.run())
        await trigger.cleanup()
        return json.loads(json.dumps(event.payload))

    return asyncio.run(first())


@pytest.fixture
def run_jobs(batch: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a DAG that maps the operator over jobs; returns the DAG run."""
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "batch_jobs.py").write_text(DAG)
    bundle = {"name": "jobs", "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle"}
    bundle["kwargs"] = {"path": str(folder)}
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps([bundle]))

    def run(*jobs: dict[str, Any], **common: Any) -> Any:
        from airflow.dag_processing.dagbag import DagBag

        asked = {"jobs": jobs, "common": {**CLOUD, "poll_interval_seconds": 0.1, **common}}
        (folder / "batch_jobs.json").write_text(json.dumps(asked))
        return DagBag(dag_folder=folder).dags["batch_jobs"].test()

    return run
