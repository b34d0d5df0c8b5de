"""Running the job entrypoint as a subprocess of this machine."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import gca_core
from gca_core import io
from gca_core.config import child_environment
from gca_core.errors import DataValidationError, InferenceError
from gca_core.inference.cache import keep, take
from gca_core.inference.job import read_job, results_uri
from gca_core.inference.models import InferenceRequest, InferenceResult, InferenceStatus, JobFile, JobResults

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT = 1800.0
GRACE_SECONDS = 5.0
_LAST_LINES = 5
FOR_GCS = ("GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", "GOOGLE_CLOUD_PROJECT")


def write_job(requests: Sequence[InferenceRequest], job_uri: str, *, job_id: str | None = None) -> JobFile:
    """Write a job file and return its content; without ``job_id`` the job is named by its content."""
    job = JobFile(job_id=job_id or job_hash(requests), requests=tuple(requests))
    io.write_json(job_uri, job)
    return job


def job_hash(requests: Sequence[InferenceRequest]) -> str:
    """The identity of a job: a hash of what its requests ask, whatever their order or output place."""
    asked = sorted(io.content_hash(request.model_dump(mode="json", exclude={"output_uri"})) for request in requests)
    return f"j-{io.content_hash(asked)[:12]}"


def read_answers(job_uri: str, job_id: str) -> dict[str, InferenceResult]:
    """What was answered of a job so far, by candidate; nothing where its results aren't there, or are another job's."""
    try:
        found = JobResults.model_validate(io.read_json(results_uri(job_uri), what="results file"))
    except DataValidationError:
        return {}
    return {answer.candidate_id: answer for answer in found.results} if found.job_id == job_id else {}


class LocalJob:
    """A job in a subprocess of its own process group.

    Args:
        job_uri: the job file.
        on_line: called with each line of the job's log, from a thread.
    """

    def __init__(self, job_uri: str, *, on_line: Callable[[str], None] | None = None) -> None:
        self.job_uri = job_uri
        self.job = read_job(job_uri)
        self._on_line = on_line or (lambda line: log.info("%s", line))
        self._lines: list[str] = []
        self._cancelled = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        """Start the subprocess; results of an earlier run of this job file are removed first."""
        io.as_path(results_uri(self.job_uri)).unlink(missing_ok=True)
        command = [sys.executable, "-P", "-m", "gca_core.inference.job", self.job_uri]
        command += ["--exit-with-parent", str(os.getpid())]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_environment(self.job.requests),
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True, name="job-log")
        self._reader.start()

    def wait(self, timeout: float = DEFAULT_TIMEOUT) -> list[InferenceResult]:
        """Wait for the end and return one result per request, in their order.

        A job that takes longer than ``timeout`` seconds is killed; requests without an answer then
        count as failed, after :meth:`cancel` as cancelled.

        Raises:
            InferenceError: the job ended without an answer to any request, on its own account.
        """
        process = self._running()
        try:
            process.wait(timeout)
            stopped = "cancelled" if self._cancelled.is_set() else ""
        except subprocess.TimeoutExpired:
            stopped = f"killed after {timeout:g} s; raise the timeout or ask for fewer cells"
        finally:
            # also on KeyboardInterrupt or a signal handler's exception
            self._kill()
        if self._reader is not None:
            self._reader.join(GRACE_SECONDS)
        return self._collect(process.returncode, stopped)

    def cancel(self) -> None:
        """End the job's whole process group; safe to call from a signal handler or another thread."""
        self._cancelled.set()
        self._kill()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise InferenceError("the job was not started; call start() first")
        return self._process

    def _read(self) -> None:
        stream = self._running().stdout
        if stream is None:
            return
        for line in stream:
            text = line.rstrip("\n")
            self._lines = [*self._lines[-_LAST_LINES:], text]
            self._on_line(text)

    def _kill(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            # the second signal also ends what the first left of the group
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            deadline = time.monotonic() + GRACE_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)

    def _collect(self, status: int | None, stopped: str) -> list[InferenceResult]:
        answers = read_answers(self.job_uri, self.job.job_id)
        if not answers and not stopped:
            tail = " | ".join(self._lines[-_LAST_LINES:]) or "no output"
            raise InferenceError(f"the inference job {self.job.job_id} ended with status {status}: {tail}")
        return [answers.get(r.candidate_id) or self._unanswered(r, status, stopped) for r in self.job.requests]

    def _unanswered(self, request: InferenceRequest, status: int | None, stopped: str) -> InferenceResult:
        return InferenceResult(
            candidate_id=request.candidate_id,
            status=InferenceStatus.CANCELLED if stopped == "cancelled" else InferenceStatus.FAILED,
            error=stopped or f"the job ended with status {status} before this request was answered",
            backend=request.backend,
        )


def run_local_job(
    requests: Sequence[InferenceRequest],
    job_uri: str,
    *,
    timeout: float = DEFAULT_TIMEOUT,
    on_line: Callable[[str], None] | None = None,
    job_id: str | None = None,
) -> list[InferenceResult]:
    """Write the job file, run the entrypoint in a subprocess, and return a result per request.

    Predictions that were made before are taken from the cache.

    Args:
        requests: what to predict.
        job_uri: where the job file goes; ``results.json`` is written beside it.
        timeout: seconds after which the whole process group is killed.
        on_line: called with each line of the job's log; by default it goes to this module's logger.
        job_id: the job's identity; by default a hash of what is asked.

    Raises:
        InferenceError: the job ended on its own without any answer.
    """
    known = take(requests)
    left = [request for request in requests if request.candidate_id not in known]
    if left:
        write_job(left, job_uri, job_id=job_id)
        job = LocalJob(job_uri, on_line=on_line)
        job.start()
        made = job.wait(timeout)
        keep(left, made)
        known |= {result.candidate_id: result for result in made}
    return [known[request.candidate_id] for request in requests]


def _environment(requests: Sequence[InferenceRequest]) -> dict[str, str]:
    uris = [uri for r in requests for uri in (r.prompt_uri, r.query_uri, r.control_uri, r.output_uri)]
    environment = child_environment(*(FOR_GCS if any(uri.startswith("gs://") for uri in uris) else ()))
    package_parent = str(Path(gca_core.__file__).resolve().parent.parent)
    paths = [package_parent, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    return environment | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONUNBUFFERED": "1"}
