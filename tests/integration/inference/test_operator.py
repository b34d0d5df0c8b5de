import threading
import time
from pathlib import Path
from typing import Any

import anndata as ad
import psutil
import pytest

from airflow_provider_gca.operators.inference import StackBatchOperator
from airflow_provider_gca.utils.failures import AirflowException, AirflowFailException
from gca_core import io
from gca_core.errors import ConfigurationError, InferenceError
from gca_core.inference.models import InferenceResult
from tests.helpers.batch_jobs import cells

pytestmark = pytest.mark.usefixtures("airflow_home")


def written(path: Path, rate: float, **shape: int) -> str:
    cells(rate, **shape).write_h5ad(path)
    return path.as_uri()


@pytest.fixture
def request_for(tmp_path: Path) -> Any:
    uris = {
        "prompt_uri": written(tmp_path / "prompt.h5ad", 4.0),
        "control_uri": written(tmp_path / "control.h5ad", 1.0),
        "query_uri": written(tmp_path / "query.h5ad", 1.0),
    }

    def make(candidate: str, **changes: Any) -> dict[str, Any]:
        output = (tmp_path / f"{candidate}.h5ad").as_uri()
        return {"candidate_id": candidate, "output_uri": output, **uris, **changes}

    return make


def operator(tmp_path: Path, requests: Any, **changes: Any) -> StackBatchOperator:
    job = (tmp_path / "jobs" / "one" / "job.json").as_uri()
    return StackBatchOperator(**{"task_id": "infer", "requests": requests, "job_uri": job, **changes})


def test_runs_the_job_here_where_there_is_no_connection_and_returns_a_row_per_request(tmp_path, request_for) -> None:
    missing = request_for("bad", query_uri=(tmp_path / "nowhere.h5ad").as_uri())
    requests = [request_for("a"), missing, request_for("b", seeds=[0, 1])]
    task = operator(tmp_path, requests, gcp_conn_id="nobody", batch={"image": "stack:1"})
    results = task.execute({})
    found = [(row["candidate_id"], row["status"]) for row in results]
    assert found == [("a", "succeeded"), ("bad", "failed"), ("b", "succeeded")]
    assert "nowhere.h5ad" in results[1]["error"]
    assert ad.read_h5ad(io.as_path(results[2]["prediction_uri"])).n_obs == 30
    task.fail_when = "any"
    with pytest.raises(InferenceError, match="1 of 3 requests failed"):
        task._judged([InferenceResult.model_validate(row) for row in results])


@pytest.mark.parametrize(("mode", "fails"), [("all", True), ("any", True), ("never", False)])
def test_the_mode_says_whether_all_failed_fails_the_task(tmp_path, request_for, mode, fails):
    task = operator(tmp_path, [request_for("bad", backend="no-such-backend")], fail_when=mode)
    if fails:
        with pytest.raises(AirflowException, match=r"1 of 1 requests failed, the first, bad, with: .*no-such-backend"):
            task.execute({})
    else:
        assert task.execute({})[0]["status"] == "failed"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"fail_when": "sometimes"}, "fail_when is 'sometimes'; use one of all, any, never"),
        ({"timeout_seconds": 0}, "timeout_seconds has to be a number above 0"),
        ({"job_uri": ""}, "job_uri has to be a text"),
        ({"requests": [{"candidate_id": "a"}]}, "request 0: prompt_uri: Field required"),
    ],
)
def test_wrong_literals_are_refused_when_the_dag_is_built(tmp_path, request_for, changes, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        operator(tmp_path, **{"requests": [request_for("a")], **changes})


def test_what_a_template_made_is_checked_when_the_task_runs(tmp_path: Path, request_for: Any) -> None:
    task = operator(tmp_path, "{{ params.requests }}")
    task.requests = "[]"
    with pytest.raises(AirflowFailException, match="requests has to be a list"):
        task.execute({})
    task = operator(tmp_path, [request_for("a")], fail_when="{{ params.mode }}")
    task.fail_when = "sometimes"
    with pytest.raises(AirflowFailException, match="use one of all, any, never"):
        task.execute({})


def slow_request(tmp_path: Path, request_for: Any) -> dict[str, Any]:
    """A request that takes many seconds and little memory."""
    large = written(tmp_path / "large.h5ad", 1.0, n_cells=4_000, n_genes=300)
    uris = dict.fromkeys(("prompt_uri", "control_uri", "query_uri"), large)
    return request_for("slow", seeds=list(range(100)), **uris)


def test_on_kill_ends_the_subprocess_and_the_task(tmp_path: Path, request_for: Any) -> None:
    slow = slow_request(tmp_path, request_for)
    task = operator(tmp_path, [slow])
    seen: list[psutil.Process] = []

    def kill_when_it_runs() -> None:
        for _ in range(400):
            seen.extend(
                child for child in psutil.Process().children() if "gca_core.inference.job" in " ".join(child.cmdline())
            )
            if seen:
                task.on_kill()
                return
            time.sleep(0.02)

    killer = threading.Thread(target=kill_when_it_runs)
    killer.start()
    with pytest.raises(AirflowException, match="killed"):
        task.execute({})
    killer.join()
    assert seen
    assert not any(alive(process) for process in seen)


def test_a_task_killed_before_its_job_started_starts_none(tmp_path: Path, request_for: Any) -> None:
    task = operator(tmp_path, [request_for("a")])
    task.on_kill()
    with pytest.raises(AirflowException, match="killed"):
        task.execute({})
    assert not (tmp_path / "a.h5ad").exists()


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
