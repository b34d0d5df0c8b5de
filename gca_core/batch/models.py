"""What is asked of Google Batch, and what it says of a job."""

import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, Field, field_validator, model_validator

Provisioning = Literal["SPOT", "STANDARD"]
State = Literal[
    "QUEUED", "SCHEDULED", "RUNNING", "SUCCEEDED", "FAILED",
    "CANCELLATION_IN_PROGRESS", "CANCELLED", "DELETION_IN_PROGRESS",
]  # fmt: skip
FailureKind = Literal["preempted", "no_capacity", "exit_code", "timeout", "host", "cancelled"]

OVER = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
WAITING = frozenset({"QUEUED", "SCHEDULED"})
ENDING = frozenset({"CANCELLATION_IN_PROGRESS", "DELETION_IN_PROGRESS"})

# machines that bring their GPUs along; the name's number counts them
_ACCELERATORS = {"a2-highgpu": "nvidia-tesla-a100", "a2-ultragpu": "nvidia-a100-80gb"}
# exit codes that Batch reserves: 50001 preempted, 50002 VM silent, 50003 VM rebooted, 50004 task unresponsive,
# 50005 over its run time, 50006 VM recreated
_RESERVED: dict[int, FailureKind] = {
    50001: "preempted", 50002: "host", 50003: "host", 50004: "host", 50005: "timeout", 50006: "host",
}  # fmt: skip
_EXIT_CODE = re.compile(r"exit code (\d+)")
_NO_CAPACITY = re.compile(
    r"quota|resource_pool_exhausted|stockout|enough resources|capacity|unavailable", re.IGNORECASE
)
_LABEL_KEY, _LABEL_VALUE = re.compile(r"[a-z][a-z0-9_-]{0,62}"), re.compile(r"[a-z0-9_-]{0,63}")
_SECRET_NAME = re.compile(r"(?:^|_)(?:key|token|secret|credential|dsn)s?(?:_|$)|passw|apikey", re.IGNORECASE)
_SECRET = re.compile(
    r"\bsk-[\w-]{16,}|\bAIza[\w-]{30,}|\bya29\.|\bgh[pousr]_\w{20,}|PRIVATE KEY-|\beyJ[\w-]{10,}\.|://[^/\s:@]*:[^/\s@]+@"
)


def refuse_secrets(texts: Iterable[str], *, where: str) -> None:
    """Refuse texts that look like keys, tokens or passwords; everybody who may list jobs can read their specs.

    Raises:
        ValueError: says where, not what.
    """
    if any(_SECRET.search(text) for text in texts):
        raise ValueError(f"{where} holds what looks like a key or password; give the job's service account its rights")


class Machine(BaseModel, frozen=True, extra="forbid"):
    """The machine of a job, one task on it.

    Args:
        machine_type: as Compute Engine calls it.
        gpu_type: its accelerators; follows from the machine type for the A2 series, None means no GPU.
        gpu_count: how many; follows from the machine type for the A2 series.
        cpu_milli: thousandths of a vCPU for the task.
        memory_mib: memory for the task, in MiB; has to fit the machine.
        boot_disk_gb: size of the boot disk, which holds the image, too.
    """

    machine_type: str = Field(default="a2-highgpu-1g", pattern=r"^[a-z][a-z0-9-]+$")
    gpu_type: str | None = None
    gpu_count: int = Field(default=1, ge=1)
    cpu_milli: int = Field(default=4000, ge=100)
    memory_mib: int = Field(default=87_040, ge=256)
    boot_disk_gb: int = Field(default=200, ge=10)

    @model_validator(mode="before")
    @classmethod
    def _accelerators(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        series, _, tail = str(data.get("machine_type") or "a2-highgpu-1g").rpartition("-")
        if series not in _ACCELERATORS or not tail.removesuffix("g").isdigit():
            return data
        return {"gpu_type": _ACCELERATORS[series], "gpu_count": int(tail.removesuffix("g")), **data}


class Attempt(BaseModel, frozen=True, extra="forbid"):
    """One way to get a machine: how it is provisioned, and where."""

    provisioning: Provisioning = "STANDARD"
    region: str = Field(default="us-east1", pattern=r"^[a-z]+-[a-z]+\d+$")


class BatchConfig(BaseModel, frozen=True, extra="forbid"):
    """Where and how jobs run.

    Args:
        project_id: the project that pays.
        image: URI of the inference image; its entrypoint is ``gca``.
        plan: attempts in their order; a job that was preempted, or got no machine, moves on to the next.
        machine: the machine.
        service_account: e-mail of the account the job runs as; None means the project's default one.
        network: full or partial URL of the VPC network.
        subnetwork: full or partial URL of the subnetwork.
        labels: labels of one's own, for billing reports.
        max_run_duration_seconds: seconds after which Batch ends the job.
        queued_seconds: seconds without a machine after which the next attempt of the plan is made; None waits.
        environment: variables of the job; no secrets.
        prices: USD per hour by machine type and provisioning model, ``{"a2-highgpu-1g": {"SPOT": 1.0}}``; none come
            with the package, since they differ by region, month and contract.
        prices_date: the day of these prices, for reports.
        max_cost_usd: no further job is started once the estimated cost might exceed this; needs ``prices``.
    """

    project_id: str = Field(min_length=1, pattern=r"^[a-z0-9:.-]+$")
    image: str = Field(min_length=1)
    plan: tuple[Attempt, ...] = Field(default=(Attempt(),), min_length=1)
    machine: Machine = Machine()
    service_account: str | None = None
    network: str | None = None
    subnetwork: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    max_run_duration_seconds: int = Field(default=1800, ge=60)
    queued_seconds: float | None = Field(default=900, gt=0)
    environment: dict[str, str] = Field(default_factory=dict)
    prices: dict[str, dict[Provisioning, float]] = Field(default_factory=dict)
    prices_date: date | None = None
    max_cost_usd: float | None = Field(default=None, gt=0)

    @field_validator("labels")
    @classmethod
    def _labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for key, value in labels.items():
            if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value) or key.startswith(("goog", "gca_")):
                raise ValueError(
                    f"{key!r} is no label; expected up to 63 lower-case letters, digits, - and _, in the value, too, "
                    "and no name that starts with goog or gca_"
                )
        refuse_secrets(labels.values(), where="a label")
        return labels

    @field_validator("environment")
    @classmethod
    def _environment(cls, environment: dict[str, str]) -> dict[str, str]:
        for name, value in environment.items():
            if _SECRET_NAME.search(name):
                raise ValueError(f"{name} sounds like a secret; give the job's service account its rights instead")
            refuse_secrets([value], where=f"the variable {name}")
        return environment

    @model_validator(mode="after")
    def _budget(self) -> "BatchConfig":
        if self.max_cost_usd is not None:
            known = self.prices.get(self.machine.machine_type, {})
            if missing := sorted({attempt.provisioning for attempt in self.plan} - set(known)):
                raise ValueError(
                    f"max_cost_usd needs to know what {self.machine.machine_type} costs as {' and '.join(missing)}; "
                    f'give prices={{"{self.machine.machine_type}": {{"{missing[0]}": USD per hour}}}} from the price '
                    "list of your region"
                )
        return self


class JobEvent(BaseModel, frozen=True):
    """A status event of a job."""

    type: str = ""
    description: str = ""
    time: datetime | None = None
    exit_code: int | None = None


class JobView(BaseModel, frozen=True):
    """What Batch says of a job at one moment.

    Args:
        name: ``projects/P/locations/R/jobs/ID``.
        uid: Batch's own id, by which logs are filtered.
        run_seconds: seconds in the state RUNNING.
    """

    name: str
    uid: str = ""
    state: State
    events: tuple[JobEvent, ...] = ()
    run_seconds: float = 0.0
    created: datetime | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    region: str = ""
    provisioning: Provisioning = "STANDARD"
    machine_type: str = ""

    @property
    def over(self) -> bool:
        """Whether it has ended, one way or another; being cancelled or deleted is not yet an end."""
        return self.state in OVER

    @property
    def job_id(self) -> str:
        """The last part of the name."""
        return self.name.rpartition("/")[2]

    @property
    def number(self) -> int:
        """N of an attempt ``KEY-rN``; -1 for other jobs."""
        tail = self.job_id.rpartition("-r")[2]
        return int(tail) if tail.isdigit() else -1

    @property
    def exit_code(self) -> int | None:
        """The exit code of the task that failed, of a field where Batch fills it and of its words else."""
        for event in reversed(self.events):
            if event.exit_code:
                return event.exit_code
            if found := _EXIT_CODE.findall(event.description):
                return int(found[-1])
        return None

    @property
    def console_url(self) -> str:
        """The job's page in the Google Cloud console."""
        project, region = self.name.split("/")[1], self.name.split("/")[3]
        return f"https://console.cloud.google.com/batch/jobsDetail/regions/{region}/jobs/{self.job_id}/details?project={project}"

    @property
    def logs_url(self) -> str:
        """The job's log in the Logs Explorer."""
        project = self.name.split("/")[1]
        query = f'logName="projects/{project}/logs/batch_task_logs"\nlabels.job_uid="{self.uid}"'
        return f"https://console.cloud.google.com/logs/query;query={quote(query, safe='')}?project={project}"


def failure_kind(view: JobView) -> FailureKind | None:
    """Why a job did not succeed; None while it runs and when it did."""
    if view.state in {"CANCELLED", *ENDING}:
        return "cancelled"
    if view.state != "FAILED":
        return None
    if (code := view.exit_code) is not None:
        return _RESERVED.get(code, "exit_code")
    return "no_capacity" if any(_NO_CAPACITY.search(event.description) for event in view.events) else "exit_code"


def explain(view: JobView, *, last: int = 3) -> str:
    """A job's end for users: state, exit code, its last status events, and where its log is."""
    code = "" if view.exit_code is None else f" with exit code {view.exit_code}"
    events = " | ".join(event.description for event in view.events[-last:] if event.description)
    return f"the Batch job {view.job_id} ({view.provisioning}, {view.region}) is {view.state}{code}; " + (
        f"last events: {events}; log: {view.logs_url}" if events else f"log: {view.logs_url}"
    )
