"""Configuration, names, spec, polling and the next step: all without Google."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from gca_core.batch.attempts import GiveUp, Reattach, Step, Submit, Take, next_step
from gca_core.batch.ids import attempt_id, job_key, job_labels, request_id, run_label
from gca_core.batch.models import Attempt, BatchConfig, JobEvent, JobView, Machine, explain, failure_kind
from gca_core.batch.poller import Poller
from gca_core.batch.spec import build_job, fingerprint
from gca_core.errors import ConfigurationError

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
PLAN = (Attempt(provisioning="SPOT"), Attempt(provisioning="SPOT", region="us-central1"), Attempt())
PRICES = {"a2-highgpu-1g": {"SPOT": 1.0, "STANDARD": 4.0}}


def config(**more: Any) -> BatchConfig:
    return BatchConfig.model_validate({"project_id": "lab", "image": "reg/lab/stack:1", **more})


def view(state: str = "RUNNING", number: int = 0, *events: str | int, **more: Any) -> JobView:
    told = [JobEvent(exit_code=e) if isinstance(e, int) else JobEvent(description=e) for e in events]
    name = f"projects/lab/locations/us-east1/jobs/gca-0123-r{number}"
    return JobView.model_validate({"name": name, "uid": "u-1", "state": state, "events": told, **more})


@pytest.mark.parametrize(
    ("given", "gpu", "count"),
    [
        ({}, "nvidia-tesla-a100", 1),
        ({"machine_type": "a2-ultragpu-1g"}, "nvidia-a100-80gb", 1),
        ({"machine_type": "a2-highgpu-4g"}, "nvidia-tesla-a100", 4),
        ({"machine_type": "n2-standard-8"}, None, 1),
        ({"machine_type": "n1-standard-8", "gpu_type": "nvidia-tesla-t4"}, "nvidia-tesla-t4", 1),
    ],
)
def test_the_gpu_follows_from_the_machine(given: dict[str, Any], gpu: str | None, count: int) -> None:
    machine = Machine.model_validate(given)
    assert (machine.gpu_type, machine.gpu_count) == (gpu, count)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"plan": []}, "at least 1"),
        ({"plan": [{"region": "us-east1-b"}]}, "pattern"),
        ({"labels": {"Team": "x"}}, "lower-case"),
        ({"labels": {"gca_run": "x"}}, "gca_"),
        ({"environment": {"OPENAI_API_KEY": "x"}}, "sounds like a secret"),
        ({"environment": {"PGPASSWORD": "x"}}, "sounds like a secret"),
        ({"environment": {"ADDRESS": "postgresql://me:pass@host/db"}}, "looks like a key"),
        ({"environment": {"MODE": "sk-abcdefghijklmnopqrst"}}, "looks like a key"),
        ({"max_cost_usd": 5}, "prices="),
        ({"max_cost_usd": 5, "prices": {"a2-highgpu-1g": {"SPOT": 1.0}}}, "STANDARD"),
        ({"retries": 3}, "Extra inputs"),
    ],
)
def test_a_wrong_configuration_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as refused:
        config(**given)
    assert not any(secret in str(refused.value.errors(include_input=False)) for secret in ("sk-abc", "me:pass"))


def test_names_say_what_is_computed() -> None:
    label = run_label("gca_haystack", "manual__2026-11-29T08:00:00+00:00")
    assert re.fullmatch(r"[a-z0-9-]{1,63}", label)
    assert label.startswith("gca-haystack-manual-2026-11-29t08")
    assert (
        len({label, run_label("gca_haystack", "manual__2026-11-29T08:00:01+00:00"), run_label("d" * 200, "ß" * 99)})
        == 3
    )
    key = job_key(label, "gs://lab/job.json", {"a": 1}, "f")
    assert re.fullmatch(r"gca-[0-9a-f]{20}", key)
    assert key != job_key(label, "gs://lab/job.json", {"a": 2}, "f")
    assert attempt_id(key, 3) == f"{key}-r3"
    assert len(attempt_id(key, 99)) <= 63
    assert request_id("a") == request_id("a") != request_id("b")


def test_the_spec_is_one_try_of_one_container() -> None:
    asked = config(plan=PLAN, service_account="gpu@lab.iam", network="n", subnetwork="s", labels={"team": "x"})
    spec = build_job(asked, ["stack", "infer", "gs://lab/job.json"], PLAN[0], job_labels("run", "gca-1"))
    task = spec["taskGroups"][0]["taskSpec"]
    container = task["runnables"][0]["container"]
    assert (container["imageUri"], container["commands"]) == (
        "reg/lab/stack:1",
        ["stack", "infer", "gs://lab/job.json"],
    )
    assert container["volumes"][0] == "/var/lib/nvidia/lib64:/usr/local/nvidia/lib64"
    assert (task["maxRetryCount"], task["maxRunDuration"]) == (0, "1800s")
    assert task["computeResource"] == {"cpuMilli": "4000", "memoryMib": "87040"}
    (instance,) = spec["allocationPolicy"]["instances"]
    assert instance["installGpuDrivers"]
    assert instance["policy"] == {
        "machineType": "a2-highgpu-1g",
        "provisioningModel": "SPOT",
        "bootDisk": {"sizeGb": "200"},
        "accelerators": [{"type": "nvidia-tesla-a100", "count": "1"}],
    }
    assert spec["allocationPolicy"]["location"] == {"allowedLocations": ["regions/us-east1"]}
    assert spec["allocationPolicy"]["serviceAccount"] == {"email": "gpu@lab.iam"}
    assert spec["labels"] == {"team": "x", "gca_run": "run", "gca_job": "gca-1"}
    assert spec["logsPolicy"] == {"destination": "CLOUD_LOGGING"}
    json.dumps(spec)


def test_a_machine_without_gpu_gets_no_drivers_and_no_secret_enters_a_command() -> None:
    asked = config(machine={"machine_type": "n2-standard-8", "memory_mib": 16_000})
    (instance,) = build_job(asked, ["vae"], Attempt(), {})["allocationPolicy"]["instances"]
    assert not instance["installGpuDrivers"]
    assert "accelerators" not in instance["policy"]
    with pytest.raises(ConfigurationError, match="looks like a key"):
        build_job(asked, ["annotate", "--key", "sk-abcdefghijklmnopqrst"], Attempt(), {})


def test_the_fingerprint_is_of_the_outcome_alone() -> None:
    base = fingerprint(config(), ["a"])
    assert config(environment={"TOKENIZERS_PARALLELISM": "false"})
    assert base == fingerprint(config(plan=PLAN, labels={"a": "b"}, max_cost_usd=5, prices=PRICES), ["a"])
    others = {fingerprint(config(image="reg/other"), ["a"]), fingerprint(config(environment={"A": "b"}), ["a"])}
    assert len(others | {base, fingerprint(config(), ["b"])}) == 4


SPOT_LOST = "Job state is set from RUNNING to FAILED. failed task event description is Task state is updated due to Spot VM preemption with exit code 50001."  # noqa: E501


@pytest.mark.parametrize(
    ("state", "events", "kind"),
    [
        ("FAILED", (50001,), "preempted"),
        ("FAILED", (SPOT_LOST,), "preempted"),
        ("FAILED", (50003,), "host"),
        ("FAILED", (50006,), "host"),
        ("FAILED", (50005,), "timeout"),
        ("FAILED", (3, "cleaned up"), "exit_code"),
        ("FAILED", (50000,), "exit_code"),
        ("FAILED", ("CODE_GCE_QUOTA_EXCEEDED: Quota 'NVIDIA_A100_GPUS' exceeded",), "no_capacity"),
        ("FAILED", ("CODE_GCE_ZONE_RESOURCE_POOL_EXHAUSTED",), "no_capacity"),
        ("FAILED", ("the service account does not exist",), "exit_code"),
        # of an earlier try of the task: the job itself went well
        ("SUCCEEDED", (50001,), None),
        ("RUNNING", (), None),
        ("CANCELLED", (), "cancelled"),
        ("CANCELLATION_IN_PROGRESS", (), "cancelled"),
    ],
)
def test_why_a_job_failed(state: str, events: tuple[str | int, ...], kind: str | None) -> None:
    assert failure_kind(view(state, 0, *events)) == kind


def test_a_failure_is_told_with_events_code_and_log() -> None:
    told = explain(view("FAILED", 2, "scheduled", SPOT_LOST))
    assert all(word in told for word in ("gca-0123-r2", "exit code 50001", "Spot VM preemption", "logs/query", "u-1"))


FAILED = view("FAILED", 0, 3)
LOST = view("FAILED", 0, 50001)


@pytest.mark.parametrize(
    ("found", "tried", "step"),
    [
        ([], 0, Submit(0)),
        ([view()], 0, Reattach(view())),
        ([view("QUEUED")], 1, Reattach(view("QUEUED"))),
        ([view("CANCELLATION_IN_PROGRESS")], 0, Reattach(view("CANCELLATION_IN_PROGRESS"), counts=False)),
        ([view("SUCCEEDED")], 0, Take(view("SUCCEEDED"))),
        ([LOST, view("SUCCEEDED", 1)], 0, Take(view("SUCCEEDED", 1))),
        ([view("RUNNING", 1), LOST], 1, Reattach(view("RUNNING", 1))),
        # a new try of the task, whatever the last failed by
        ([FAILED], 0, Submit(1)),
        ([view("CANCELLED")], 0, Submit(1)),
        ([LOST, view("FAILED", 4, 50001)], 0, Submit(5)),
        # the same try goes on only where another machine may help, and as far as the plan goes
        ([LOST], 1, Submit(1)),
        ([LOST, view("FAILED", 1, 50002)], 2, Submit(2)),
        ([LOST, view("FAILED", 2, 50001)], 3, GiveUp),
        ([FAILED], 1, GiveUp),
        ([view("FAILED", 0, 50005)], 1, GiveUp),
        ([view("CANCELLED")], 1, GiveUp),
    ],
)
def test_the_next_step(found: list[JobView], tried: int, step: Step | type[GiveUp]) -> None:
    taken = next_step(found, PLAN, tried)
    if isinstance(step, type):
        assert isinstance(taken, GiveUp)
        assert found[-1].job_id in taken.reason
    else:
        assert taken == step


def test_a_job_that_waited_too_long_moves_on_while_the_plan_has_more() -> None:
    assert next_step([view("CANCELLED")], PLAN, 1, queued_too_long=True) == Submit(1)
    assert isinstance(next_step([view("CANCELLED")], PLAN[:1], 1, queued_too_long=True), GiveUp)


class GoneError(Exception):
    code = 404


@pytest.mark.parametrize(
    ("looks", "kinds"),
    [
        (["RUNNING", "SUCCEEDED"], ["wait", "over"]),
        (["CANCELLATION_IN_PROGRESS", "CANCELLED"], ["wait", "over"]),
        ([OSError("lost")] * 3, ["wait", "wait", "error"]),
        # borne in a row, not in all
        ([OSError("lost"), OSError("lost"), "RUNNING"] * 3, ["wait"] * 9),
        (["RUNNING", GoneError("no such job")], ["wait", "error"]),
        (["QUEUED", 20, "RUNNING", 20, "RUNNING"], ["wait", "wait", "wait"]),
        (["QUEUED", 40, "SCHEDULED"], ["wait", "queued"]),
        (["RUNNING", 61, "RUNNING"], ["wait", "timeout"]),
        (["RUNNING", 61, OSError("lost")], ["wait", "timeout"]),
        # it ended before anybody could look
        (["RUNNING", 61, "FAILED"], ["wait", "over"]),
    ],
)
def test_the_poller(looks: list[str | int | Exception], kinds: list[str]) -> None:
    poller = Poller(NOW + timedelta(seconds=60), tolerated=2, queued_seconds=30)
    now, said = NOW, []
    for look in looks:
        if isinstance(look, int):
            now += timedelta(seconds=look)
        elif isinstance(look, str):
            said.append(poller.seen(view(look, created=NOW), now).kind)
        else:
            said.append(poller.failed(look, now).kind)
    assert said == kinds
