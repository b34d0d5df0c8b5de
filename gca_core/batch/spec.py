"""The spec of a job, as the REST API writes it."""

from collections.abc import Mapping, Sequence
from typing import Any

from gca_core.batch.models import Attempt, BatchConfig, refuse_secrets
from gca_core.errors import ConfigurationError
from gca_core.io import content_hash


def fingerprint(config: BatchConfig, argv: Sequence[str]) -> str:
    """A hash of what decides a job's outcome: image, command, machine and variables; neither place nor price."""
    decides = config.model_dump(mode="json", include={"image", "machine", "environment"})
    return content_hash([decides, list(argv)])[:16]


def build_job(config: BatchConfig, argv: Sequence[str], attempt: Attempt, labels: Mapping[str, str]) -> dict[str, Any]:
    """The body of a CreateJob request: one task, one container, tried once.

    Args:
        argv: arguments of ``gca``, the image's entrypoint.
        labels: those of the run and job, beside the configured ones.

    Raises:
        ConfigurationError: an argument looks like a secret.
    """
    try:
        refuse_secrets(argv, where="the command")
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    machine = config.machine
    policy: dict[str, Any] = {
        "machineType": machine.machine_type,
        "provisioningModel": attempt.provisioning,
        "bootDisk": {"sizeGb": str(machine.boot_disk_gb)},
    }
    container: dict[str, Any] = {"imageUri": config.image, "commands": list(argv)}
    if machine.gpu_type:
        # Batch puts the driver there on its container-optimised machines, and leaves it to the job to mount it
        container["volumes"] = [f"/var/lib/nvidia/{part}:/usr/local/nvidia/{part}" for part in ("lib64", "bin")]
        container["options"] = "--privileged"
        policy["accelerators"] = [{"type": machine.gpu_type, "count": str(machine.gpu_count)}]
    allocation: dict[str, Any] = {
        # zones of one region; another region is another job
        "location": {"allowedLocations": [f"regions/{attempt.region}"]},
        "instances": [{"policy": policy, "installGpuDrivers": machine.gpu_type is not None}],
    }
    if config.service_account:
        allocation["serviceAccount"] = {"email": config.service_account}
    if network := {n: v for n in ("network", "subnetwork") if (v := getattr(config, n))}:
        allocation["network"] = {"networkInterfaces": [network]}
    task = {
        "runnables": [{"container": container}],
        "computeResource": {"cpuMilli": str(machine.cpu_milli), "memoryMib": str(machine.memory_mib)},
        "maxRunDuration": f"{config.max_run_duration_seconds}s",
        # an attempt is a job, so that each is seen and counted
        "maxRetryCount": 0,
        "environment": {"variables": dict(config.environment)},
    }
    return {
        "taskGroups": [{"taskCount": "1", "taskSpec": task}],
        "allocationPolicy": allocation,
        "labels": {**config.labels, **labels},
        "logsPolicy": {"destination": "CLOUD_LOGGING"},
    }
