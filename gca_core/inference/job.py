"""The job entrypoint: ``python -m gca_core.inference.job JOB.json``.

Reads a job file, checks every request and its files, works through the requests one by one, and
writes ``results.json`` beside the job file after each. One failed request doesn't stop the others.

Exit status: 0 when all requests succeeded, 1 when some failed (``results.json`` says which and why). When all failed,
and for one kind of reason: 2 bad input (or no job file), 3 out of memory, 4 a missing model, 5 storage. 6 when the
process that started the job is gone.
"""

import argparse
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence

from pydantic import ValidationError

from gca_core import io
from gca_core.errors import (
    ConfigurationError,
    DataValidationError,
    GcaError,
    MemoryExhaustedError,
    MissingModelError,
    complaints,
)
from gca_core.inference.models import (
    FailureKind,
    InferenceRequest,
    InferenceResult,
    InferenceStatus,
    JobFile,
    JobResults,
)
from gca_core.inference.predictor import Predictor, load_predictor

log = logging.getLogger("gca_core.inference.job")

RESULTS = "results.json"
PARENT_POLL_SECONDS = 1.0
EXIT_CODES = {
    FailureKind.BAD_INPUT: 2,
    FailureKind.OUT_OF_MEMORY: 3,
    FailureKind.MISSING_MODEL: 4,
    FailureKind.STORAGE: 5,
    FailureKind.OTHER: 1,
}
EXIT_PARENT_GONE = 6


def results_uri(job_uri: str) -> str:
    """Where the results of a job file go."""
    return io.as_uri(io.as_path(job_uri).parent / RESULTS)


def read_job(job_uri: str) -> JobFile:
    """A job file.

    Raises:
        DataValidationError: the file is missing or no job.
    """
    data = io.read_json(job_uri, what="job file")
    try:
        return JobFile.model_validate(data)
    except ValidationError as error:
        raise DataValidationError(f"the job file {job_uri!r} is not valid: {complaints(error, at_most=1)}") from None


def run_job(job_uri: str) -> JobResults:
    """Work through a job in this process and return what came of it.

    Raises:
        DataValidationError: the file is missing or no job.
    """
    job = read_job(job_uri)
    log.info("job %s: %d requests", job.job_id, len(job.requests))
    # one per backend, so that a model stays loaded from request to request
    predictors: dict[str, Predictor] = {}
    checked = [_check(request, predictors) for request in job.requests]
    answers: list[InferenceResult] = []
    for place, (request, found) in enumerate(zip(job.requests, checked, strict=True), start=1):
        answer = found if isinstance(found, InferenceResult) else _answer(request, found)
        answers.append(answer)
        io.write_json(results_uri(job_uri), JobResults(job_id=job.job_id, results=tuple(answers)))
        log.info(
            "%d/%d %s %s in %.1f s%s",
            place,
            len(job.requests),
            request.candidate_id,
            answer.status.value,
            answer.duration_seconds,
            f": {answer.error}" if answer.error else "",
        )
    return JobResults(job_id=job.job_id, results=tuple(answers))


def _check(request: InferenceRequest, predictors: dict[str, Predictor]) -> Predictor | InferenceResult:
    """The predictor of a valid request, or the failure of one that isn't."""
    try:
        predictor = predictors.get(request.backend) or load_predictor(request.backend)
        predictors[request.backend] = predictor
        predictor.validate(request)
    except (GcaError, OSError, MemoryError) as error:
        return _failure(request, error)
    return predictor


def _answer(request: InferenceRequest, predictor: Predictor) -> InferenceResult:
    begun = time.monotonic()
    try:
        metrics = predictor.predict(request)
    except Exception as error:
        log.debug("request %s failed", request.candidate_id, exc_info=True)
        return _failure(request, error, time.monotonic() - begun, predictor.model)
    return InferenceResult(
        candidate_id=request.candidate_id,
        status=InferenceStatus.SUCCEEDED,
        prediction_uri=io.as_uri(request.output_uri),
        duration_seconds=round(time.monotonic() - begun, 3),
        metrics=metrics,
        backend=request.backend,
        model=predictor.model,
    )


def _failure(request: InferenceRequest, error: Exception, seconds: float = 0.0, model: str = "") -> InferenceResult:
    text = str(error) if isinstance(error, GcaError) else f"{type(error).__name__}: {error}"
    return InferenceResult(
        candidate_id=request.candidate_id,
        status=InferenceStatus.FAILED,
        duration_seconds=round(seconds, 3),
        error=text,
        failure=failure_kind(error),
        backend=request.backend,
        model=model,
    )


def failure_kind(error: Exception) -> FailureKind:
    """What a failure is of."""
    if isinstance(error, MissingModelError):
        return FailureKind.MISSING_MODEL
    if isinstance(error, DataValidationError | ConfigurationError):
        return FailureKind.BAD_INPUT
    if isinstance(error, MemoryExhaustedError | MemoryError):
        return FailureKind.OUT_OF_MEMORY
    return FailureKind.STORAGE if isinstance(error, OSError) else FailureKind.OTHER


def exit_code(results: JobResults) -> int:
    """The exit status that says how a job ended; see the module."""
    failures = {answer.failure or FailureKind.OTHER for answer in results.results if answer.error is not None}
    succeeded = any(answer.status is InferenceStatus.SUCCEEDED for answer in results.results)
    if not failures:
        return 0
    return EXIT_CODES[failures.pop()] if len(failures) == 1 and not succeeded else 1


def run_to_exit(job_uri: str) -> int:
    """Work through a job; a failure of the job itself is logged. Returns the exit status."""
    try:
        return exit_code(run_job(job_uri))
    except (GcaError, OSError) as error:
        log.error("%s", error)
        return EXIT_CODES[failure_kind(error)]


def exit_with_parent(parent: int) -> None:
    """End this process soon after the one that started it is gone, so that none is left behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        os._exit(EXIT_PARENT_GONE)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the entrypoint and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m gca_core.inference.job", description="run an inference job")
    parser.add_argument("job", help="path or URI of the job file")
    parser.add_argument("--exit-with-parent", type=int, metavar="PID", help="end when this parent process has ended")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    if given.exit_with_parent is not None:
        exit_with_parent(given.exit_with_parent)
    return run_to_exit(given.job)


if __name__ == "__main__":
    sys.exit(main())
