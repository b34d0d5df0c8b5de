import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from gca_core.errors import DataValidationError, InferenceError
from gca_core.inference.job import main, read_job, results_uri, run_job
from gca_core.inference.local import LocalJob, _environment, job_hash, run_local_job, write_job
from gca_core.inference.models import InferenceRequest, InferenceStatus

MakeRequest = Callable[..., InferenceRequest]


def test_one_failed_request_does_not_stop_the_others(make_request: MakeRequest, tmp_path: Path) -> None:
    good = make_request(candidate_id="good")
    bad = good.model_copy(update={"candidate_id": "bad", "query_uri": str(tmp_path / "none.h5ad")})
    job = str(tmp_path / "job.json")
    write_job([bad, good], job)
    results = run_job(job).results
    assert [(r.candidate_id, r.status) for r in results] == [
        ("bad", InferenceStatus.FAILED),
        ("good", InferenceStatus.SUCCEEDED),
    ]
    assert "none.h5ad" in (results[0].error or "")
    assert json.loads((tmp_path / "results.json").read_text())["job_id"] == read_job(job).job_id


def test_an_unknown_backend_fails_its_request_alone(make_request: MakeRequest, tmp_path: Path) -> None:
    job = str(tmp_path / "job.json")
    write_job([make_request(backend="nonsense")], job)
    assert main([job]) == 2
    assert "nonsense" in (tmp_path / "results.json").read_text()


@pytest.mark.parametrize("text", ["{", "{}", '{"job_id": "j", "requests": []}'])
def test_a_file_that_is_no_job_writes_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.json").write_text(text)
    assert main([str(tmp_path / "job.json")]) == 2
    assert not (tmp_path / "results.json").exists()


def test_a_missing_job_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataValidationError, match=r"job file .*gone\.json"):
        read_job(str(tmp_path / "gone.json"))


def test_a_job_is_named_by_what_it_asks_and_not_by_order_or_place(make_request: MakeRequest) -> None:
    one, two = make_request(candidate_id="one"), make_request(candidate_id="two")
    moved = one.model_copy(update={"output_uri": "file:///elsewhere.h5ad"})
    assert job_hash([one, two]) == job_hash([two, moved])
    assert job_hash([one]) != job_hash([one.model_copy(update={"seeds": (1,)})])


def test_the_subprocess_answers_and_its_log_is_streamed(make_request: MakeRequest, tmp_path: Path) -> None:
    lines: list[str] = []
    request = make_request()
    (result,) = run_local_job([request], str(tmp_path / "job" / "job.json"), on_line=lines.append)
    assert result.status is InferenceStatus.SUCCEEDED
    assert Path((result.prediction_uri or "").removeprefix("file://")).exists()
    assert any("1/1 c-1 succeeded" in line for line in lines)


def slow_job(make_request: MakeRequest, tmp_path: Path) -> str:
    """A job that waits for its first file: a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "pipe.h5ad")
    job = str(tmp_path / "job.json")
    write_job([make_request(prompt_uri=str(tmp_path / "pipe.h5ad"))], job)
    return job


def test_secrets_are_not_handed_to_the_subprocess(make_request, tmp_path, monkeypatch):
    for name in ("OPENAI_API_KEY", "GCA_ATLAS_DSN", "PGPASSWORD", "GOOGLE_APPLICATION_CREDENTIALS", "AIRFLOW_CONN_X"):
        monkeypatch.setenv(name, "secret")
    job = LocalJob(slow_job(make_request, tmp_path))
    job.start()
    process = job._process
    assert b"secret" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    job.cancel()
    remote = make_request(prompt_uri="gs://bucket/prompt.h5ad")
    assert [n for n, v in _environment([remote]).items() if v == "secret"] == ["GOOGLE_APPLICATION_CREDENTIALS"]


def wait_for(condition: Callable[[], object], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_job_that_takes_too_long_is_killed(make_request: MakeRequest, tmp_path: Path) -> None:
    job = LocalJob(slow_job(make_request, tmp_path))
    job.start()
    process = job._process
    (result,) = job.wait(timeout=0.5)
    assert result.status is InferenceStatus.FAILED
    assert "killed after 0.5 s" in (result.error or "")
    assert not psutil.pid_exists(process.pid)


def test_a_cancelled_job_ends_and_says_so(make_request: MakeRequest, tmp_path: Path) -> None:
    job = LocalJob(slow_job(make_request, tmp_path))
    job.start()
    threading.Timer(0.3, job.cancel).start()
    (result,) = job.wait(timeout=20)
    assert result.status is InferenceStatus.CANCELLED


def test_a_job_that_dies_without_an_answer_is_an_error(make_request: MakeRequest, tmp_path: Path) -> None:
    job_uri = slow_job(make_request, tmp_path)
    job = LocalJob(job_uri)
    job.start()
    process = job._process
    process.kill()
    with pytest.raises(InferenceError, match="ended with status -9"):
        job.wait(timeout=20)
    assert not Path(results_uri(job_uri).removeprefix("file://")).exists()


def test_no_job_outlives_the_process_that_started_it(make_request: MakeRequest, tmp_path: Path) -> None:
    code = (
        "import sys, time; from gca_core.inference.local import LocalJob; "
        "job = LocalJob(sys.argv[1], on_line=lambda line: print(line, flush=True)); job.start(); "
        "print(job._process.pid, flush=True); time.sleep(60)"
    )
    # long enough to be met at work; a wait inside the file library would also hold up the watch
    request = make_request()
    job_uri = str(tmp_path / "job.json")
    write_job([request.model_copy(update={"candidate_id": f"c-{i}"}) for i in range(1000)], job_uri)
    parent = subprocess.Popen([sys.executable, "-c", code, job_uri], stdout=subprocess.PIPE, text=True)
    lines = [parent.stdout.readline() for _ in range(2)]
    child = next(int(line) for line in lines if line.strip().isdigit())
    assert psutil.pid_exists(child)
    parent.kill()
    parent.wait()
    wait_for(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)
