"""Loops whose jobs run on the loopback Batch, with faults drawn from a seed: nothing is lost, doubled or left.

``make soak`` makes it 100 loops.
"""

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_gca.utils.failures import AirflowException
from gca_core import io
from gca_core.batch import service as service_module
from gca_core.config import Settings
from gca_core.errors import GcaError
from gca_core.haystack import run as plain_loop
from gca_core.haystack.context import HaystackContext
from gca_core.haystack.demo.kang2018 import DemoFiles
from gca_core.haystack.models import HaystackOutputs, IterationConfig
from gca_core.inference.models import InferenceJob, InferenceResult
from gca_core.llm.models import parse_model
from gca_core.runs.models import RunStatus
from tests.helpers.batch_jobs import CLOUD, batch
from tests.helpers.batch_loopback import LOST, BatchServer
from tests.helpers.gcs_loopback import Bucket, bucket
from tests.helpers.knowledge_loopback import Call, Reply, serve, usual
from tests.helpers.llm_loopback import Answer, LoopbackServer, Request
from tests.integration.conftest import MONOCYTES

__all__ = ["batch", "bucket"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
LOOPS = int(os.environ.get("SOAK_LOOPS", "3"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
TRIES = 5
# the slower suites have a minute for it
CONFIG = IterationConfig(
    score_threshold=9.9, candidates_per_iteration=2, candidates_per_job=2, max_iterations=2 if LOOPS > 3 else 1,
    prompt_cells=100, query_cells=50,
)  # fmt: skip


class Faults:
    """Orders faults of the servers, by chance."""

    def __init__(self, batch: BatchServer, bucket: Bucket) -> None:
        self.random = random.Random(SEED)  # noqa: S311
        self.batch, self.bucket = batch, bucket
        self.ordered: Counter[str] = Counter()

    def order(self) -> None:
        """Up to three faults for what comes next."""
        faults = {
            "no answer to a job's creation": lambda: self.batch.fail_next("CreateJob", LOST, 1, True),
            "no creation": lambda: self.batch.fail_next("CreateJob", 503),
            "no list": lambda: self.batch.fail_next("ListJobs", 503, 2),
            "no looks": lambda: self.batch.fail_next("GetJob", 503, 3),
            "too few looks": lambda: self.batch.fail_next("GetJob", 500, 7),
            "preempted": lambda: self.batch.preempt_next(1),
            "preempted at each attempt": lambda: self.batch.preempt_next(2),
            "storage busy": lambda: setattr(self.bucket, "busy", 2),
        }
        for name in self.random.sample(sorted(faults), self.random.randint(0, 3)):
            self.ordered[name] += 1
            faults[name]()

    def answer(self, _request: Request, _number: int) -> Answer:
        """What a model says, at best nothing of use."""
        kind = self.random.choice(["busy", "broken", "cut", "words", "{}", "deep"])
        self.ordered[f"model: {kind}"] += 1
        if kind in ("busy", "broken"):
            return Answer("no", status=429 if kind == "busy" else 500, headers={"retry-after": "0"})
        text = {"words": "I can't.", "{}": "{}", "deep": "[" * 5000, "cut": '{"prompts": []}'}[kind]
        return Answer(text, cut=kind == "cut")

    def reply(self, call: Call, number: int) -> Reply:
        """What a public service says."""
        kind = self.random.choice(["usual", "usual", "broken", "text"])
        self.ordered[f"service: {kind}"] += kind != "usual"
        return {"broken": Reply("", 500), "text": Reply("<html>")}.get(kind) or usual(call, number)


@pytest.fixture
def faults(batch: BatchServer, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    from airflow_provider_gca.operators.inference import StackBatchOperator

    monkeypatch.setattr(service_module, "FIRST_WAIT", 0.05)
    batch.preempt_after = 0.1
    found = Faults(batch, bucket)

    def on_batch(job: InferenceJob, _timeout: float) -> list[InferenceResult]:
        found.order()
        requests = [request.model_dump(mode="json") for request in job.requests]
        asked = {"task_id": "infer", "poll_interval_seconds": 0.05, **CLOUD}
        rows = StackBatchOperator(job_uri=job.job_uri, requests=requests, **asked).execute({})
        return [InferenceResult.model_validate(row) for row in rows]

    monkeypatch.setattr(plain_loop, "infer", on_batch)
    yield found


def until_done(run_id: str, **asked: Any) -> tuple[HaystackOutputs, int]:
    """A run that is begun anew after each failure, as Airflow tries tasks again; and how often it failed."""
    for failed in range(TRIES):
        try:
            return plain_loop.run_haystack(MONOCYTES, run_id=run_id, **asked), failed
        except (GcaError, AirflowException) as error:
            last = error
    raise AssertionError(f"{run_id} failed {TRIES} times, the last by: {last}")


def test_loops_through_random_faults_lose_and_double_nothing_and_leave_no_job(
    context: HaystackContext,
    own_settings: Settings,
    demo: DemoFiles,
    faults: Faults,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("GCA_LLM_API_KEY", "k")
    asked: dict[str, Any] = {"settings": own_settings, "dataset": demo.dataset}
    canonical: dict[int, set[str]] = {}
    failures = 0
    with LoopbackServer(faults.answer).running() as model, serve(faults.reply) as services:
        named = parse_model(f"openai-compatible:some-model@{model.url}")
        for number in range(LOOPS):
            helped = number % 2 == 1
            monkeypatch.setenv("GCA_ONLINE_SOURCES", "pubmed" if helped else "")
            monkeypatch.setenv("GCA_ONLINE_URLS", json.dumps({"pubmed": services.url}))
            monkeypatch.setenv("GCA_ONLINE_RETRIES", "0")
            seed = number // 4 % 2
            outputs, failed = until_done(
                f"soak-{number}",
                config=CONFIG.model_copy(update={"seed": seed, "max_model_calls": 2}),
                context=replace(context, language_model=named) if helped else context,
                results_uri=f"gs://lab/soak/{number}",
                **asked,
            )
            failures += failed
            assert outputs.status == "completed" and outputs.h5ad_uri is not None
            told = io.read_json(outputs.json_uri)
            assert io.content_hash(told["canonical"]) == told["canonical_sha256"]
            if not helped:
                canonical.setdefault(seed, set()).add(told["canonical_sha256"])
            row, steps = context.require_runs().get(outputs.run_id), context.require_runs().iterations(outputs.run_id)
            assert row is not None and row.status is RunStatus.COMPLETED
            assert [step.iteration for step in steps] == list(range(outputs.n_iterations))
            files = [name for name in faults.bucket.objects if name.startswith(f"soak/{number}/")]
            assert not [name for name in files if "/." in name or name.endswith((".part", ".tmp"))], files
    # whatever happened on the way, the answer is the one answer
    assert {seed: len(found) for seed, found in canonical.items()} == dict.fromkeys(canonical, 1)
    # one job at most succeeded for each file of what to predict, and none is there any more
    succeeded = Counter(job.argv[-1] for job in faults.batch.jobs if job.state == "SUCCEEDED")
    assert succeeded and set(succeeded.values()) == {1}
    assert faults.batch.running() == []
    assert {job.state for job in faults.batch.jobs} <= {"SUCCEEDED", "FAILED", "CANCELLED"}
    print(f"{LOOPS} loops, {failures} begun anew, {faults.batch.n_created} jobs; {dict(faults.ordered)}")  # noqa: T201
