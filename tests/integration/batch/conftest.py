"""A loopback Batch whose jobs are a few lines of Python, and the hook's clients for it."""

import json
import sys
from collections.abc import Callable, Iterator

import pytest

from airflow_provider_gca.hooks.batch import StackBatchHook
from gca_core.batch import BatchConfig, JobView
from gca_core.batch import service as service_module
from gca_core.batch.attempts import Submit, next_step
from gca_core.batch.ids import attempt_id, job_labels
from gca_core.batch.service import BatchService
from gca_core.batch.spec import build_job
from tests.helpers.batch_loopback import BatchServer, batch_server

JOB = """
import os, sys, time
what, argument = sys.argv[1:]
if what == "sleep": time.sleep(float(argument))
if what == "environment": print(sorted(os.environ.items()))
if what == "exit": sys.exit(int(argument))
"""
CONFIG = BatchConfig.model_validate(
    {
        "project_id": "lab",
        "image": "reg/lab/stack:1",
        "plan": [{"provisioning": "SPOT"}, {"provisioning": "SPOT", "region": "us-central1"}, {}],
        "queued_seconds": 0.5,
    }
)
KEY, RUN = "gca-0123456789abcdef0123", "a-run"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    monkeypatch.setattr(service_module, "FIRST_WAIT", 0.05)
    with batch_server([sys.executable, "-S", "-c", JOB], {"GIVEN": "by the test"}) as served:
        monkeypatch.setenv("AIRFLOW_CONN_LOOPBACK", served.connection)
        yield served


@pytest.fixture(params=["rest", "grpc"])
def service(server: BatchServer, request: pytest.FixtureRequest) -> BatchService:
    return StackBatchHook("loopback", transport=request.param).service()


Submitter = Callable[..., JobView]


@pytest.fixture
def submit(service: BatchService) -> Submitter:
    """Submit what comes next of the job ``KEY``, with these arguments."""

    def submitted(*argv: str, tried: int = 0, config: BatchConfig = CONFIG) -> JobView:
        step = next_step(service.find_attempts(config, KEY), config.plan, tried)
        assert isinstance(step, Submit), step
        attempt = config.plan[step.number % len(config.plan)]
        body = build_job(config, argv, attempt, job_labels(RUN, KEY))
        json.dumps(body)
        return service.submit(config, attempt, attempt_id(KEY, step.number), body)

    return submitted
