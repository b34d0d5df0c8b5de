"""A prediction that was made before costs nothing again."""

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_gca.operators.inference import StackBatchOperator
from gca_core.inference.cache import kept_predictions, request_key
from gca_core.inference.local import LocalJob, run_local_job

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("airflow_home")]


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GCA_KEEP_PREDICTIONS", "true")
    monkeypatch.setenv("GCA_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_same_cells_model_and_seeds_are_predicted_once(
    make_request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, **changes: Any) -> Any:
        request = make_request(candidate_id=name, output_uri=str(tmp_path / name / "p.h5ad"), **changes)
        return request, run_local_job([request], str(tmp_path / name / "job.json"))[0]

    request, first = run("first")
    assert (first.status, first.cached) == ("succeeded", False)
    # no process is needed, wherever the files lie and whatever the candidate is called
    with monkeypatch.context() as patch:
        patch.setattr(LocalJob, "start", None)
        _, again = run("again")
        assert (again.status, again.cached, again.duration_seconds) == ("succeeded", True, 0.0)
        assert (again.candidate_id, again.metrics, again.model) == ("again", first.metrics, first.model)
        assert (tmp_path / "again" / "p.h5ad").read_bytes() == (tmp_path / "first" / "p.h5ad").read_bytes()
        task = StackBatchOperator(
            task_id="infer", requests=[request.model_dump(mode="json")], job_uri=str(tmp_path / "dag" / "job.json")
        )
        (row,) = task.execute({})
        assert (row["status"], row["cached"]) == ("succeeded", True)
    other, fresh = run("other", seeds=[1])
    assert not fresh.cached and request_key(other) != request_key(request)
    # a damaged entry counts as absent
    for path in kept_predictions().files():
        path.write_bytes(path.read_bytes()[:-5])
    assert not run("damaged")[1].cached


@pytest.mark.slow
def test_what_fails_is_not_kept_and_says_why_each_time(make_request: Any, tmp_path: Path) -> None:
    request = make_request(query_uri=str(tmp_path / "nowhere.h5ad"))
    for _ in range(2):
        (result,) = run_local_job([request], str(tmp_path / "job.json"))
        assert result.status == "failed" and "nowhere.h5ad" in (result.error or "")
    assert not list(kept_predictions().files())
