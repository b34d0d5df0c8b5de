"""The machine profile: what this machine has, and what a training run may take of it.

``gca machine-profile`` writes it to ``config.yml``, where it can be edited; ``docker/generate_config.sh`` writes the
same keys where the package isn't installed. GB are 2**30 bytes.
"""

import difflib
import logging
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml
from pydantic import BaseModel, Field, ValidationError

from gca_core.config import child_environment
from gca_core.errors import ConfigurationError, complaints
from gca_core.io import as_path, read_yaml, write_text

log = logging.getLogger(__name__)

PROFILE_FILE = "config.yml"
PROFILE_VARIABLE = "GCA_MACHINE_PROFILE"
NO_PROFILE = "none"
GIB = 2**30
HEADROOM = 0.8
MAX_LOADER_WORKERS = 8
AUTOCAST_VRAM_GB = 12
AUTOCAST_FRACTION = 0.85
NVIDIA_SMI_SECONDS = 20
# set by users and schedulers; the first may be a list, by level of nesting
THREAD_LIMITS = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT")
_THREAD_LIMIT = re.compile(r"\s*0*([1-9][0-9]*)\s*(,.*)?")
HEADER = """\
# machine profile: what this machine has and what a training run may take of it. GB are 2**30 bytes, MHz for the CPU.
# the values below annotation_threads are yours to change; null means the default of the run.
"""

CompressionType = Literal["gzip", "lzf", "none"]


class MachineProfile(BaseModel, extra="forbid", frozen=True):
    """Content of ``config.yml``.

    Args:
        os_name: operating system.
        os_version: its version.
        kernel_version: of the kernel.
        architecture: of the CPU, e.g. ``x86_64``.
        cpu_model: of the CPU.
        physical_cores: cores.
        logical_cores: cores as the scheduler counts them.
        cpu_frequency: in MHz.
        total_ram_gb: memory, or the container's limit where that is lower.
        available_ram_gb: memory that was free.
        total_storage_gb: size of the file system of the working directory.
        free_storage_gb: what was free of it.
        gpu_model: of the first GPU; this and the other GPU keys are null without one.
        gpu_vram_gb: its memory.
        gpu_compute_capability: e.g. ``9.0``.
        gpu_multiprocessors: its streaming multiprocessors; null where only the driver was asked.
        cuda_version: that torch was built for, or the driver's without torch.
        python_version: of this interpreter.
        pytorch_version: null without torch.
        annotation_threads: CPU threads of a run; found as the cores that may be used, but one where there are more than
            two, and not more than ``OMP_NUM_THREADS`` and ``OMP_THREAD_LIMIT`` allow.
        batch_size: cells per step; null means by the GPU's memory.
        learning_rate: of Adam; null means the default.
        max_epochs: passes over the training cells at most; null means the default.
        max_ram_usage_gb: memory that a run may take; null means no limit.
        gpu_memory_fraction: share of the GPU's memory that a run may take.
        keep_intermediate_files: keep what a step leaves for the next, such as the coordinates of pictures.
        keep_temp_files: keep scratch files, such as the synthetic cells of a dry run.
        compression_type: of the h5ad files that are written.
    """

    os_name: str | None = None
    os_version: str | None = None
    kernel_version: str | None = None
    architecture: str | None = None
    cpu_model: str | None = None
    physical_cores: int | None = Field(default=None, ge=1)
    logical_cores: int | None = Field(default=None, ge=1)
    cpu_frequency: float | None = Field(default=None, gt=0)
    total_ram_gb: float | None = Field(default=None, gt=0)
    available_ram_gb: float | None = Field(default=None, ge=0)
    total_storage_gb: float | None = Field(default=None, ge=0)
    free_storage_gb: float | None = Field(default=None, ge=0)
    gpu_model: str | None = None
    gpu_vram_gb: float | None = Field(default=None, gt=0)
    gpu_compute_capability: str | None = Field(default=None, coerce_numbers_to_str=True)
    gpu_multiprocessors: int | None = Field(default=None, ge=1)
    cuda_version: str | None = Field(default=None, coerce_numbers_to_str=True)
    python_version: str | None = Field(default=None, coerce_numbers_to_str=True)
    pytorch_version: str | None = Field(default=None, coerce_numbers_to_str=True)
    annotation_threads: int = Field(default=1, ge=1, le=256)
    batch_size: int | None = Field(default=None, ge=2)
    learning_rate: float | None = Field(default=0.001, gt=0, le=1)
    max_epochs: int | None = Field(default=200, ge=1)
    max_ram_usage_gb: float | None = Field(default=None, gt=0)
    gpu_memory_fraction: float = Field(default=HEADROOM, gt=0, le=1)
    keep_intermediate_files: bool = False
    keep_temp_files: bool = False
    compression_type: CompressionType = "gzip"

    @property
    def has_gpu(self) -> bool:
        """Whether the profile names a GPU that torch can use."""
        return self.gpu_model is not None and self.cuda_version is not None


def batch_size_for(gpu_vram_gb: float | None) -> int:
    """Cells per step by the GPU's memory in GB: 128 up to 4 or without a GPU, 256 up to 8, 512 above."""
    if gpu_vram_gb is None or gpu_vram_gb <= 4:
        return 128
    return 256 if gpu_vram_gb <= 8 else 512


def training_options(profile: MachineProfile) -> dict[str, Any]:
    """Options of :class:`gca_core.latent.LatentConfig` that fit the machine; what the profile leaves open is absent."""
    options = {
        "device": "cuda" if profile.has_gpu else "cpu",
        # mixed precision where a GPU is large, or nearly all of it is the run's
        "autocast": profile.has_gpu
        and ((profile.gpu_vram_gb or 0) >= AUTOCAST_VRAM_GB or profile.gpu_memory_fraction >= AUTOCAST_FRACTION),
        "threads": profile.annotation_threads,
        "loader_workers": min(profile.annotation_threads, MAX_LOADER_WORKERS),
        "batch_size": profile.batch_size or batch_size_for(profile.gpu_vram_gb if profile.has_gpu else None),
        "lr": profile.learning_rate,
        "epochs": profile.max_epochs,
        "max_ram_usage_gb": profile.max_ram_usage_gb,
        "gpu_memory_fraction": profile.gpu_memory_fraction,
        "compression": profile.compression_type,
    }
    return {name: value for name, value in options.items() if value is not None}


def profile_uri(environ: Mapping[str, str] | None = None) -> str | None:
    """Where the profile is: the file named by ``GCA_MACHINE_PROFILE``, else ``config.yml`` in the working directory.

    Returns:
        None without such a file, and where the variable is ``none``.
    """
    named = (os.environ if environ is None else environ).get(PROFILE_VARIABLE, "").strip()
    if named:
        return None if named.lower() == NO_PROFILE else named
    return PROFILE_FILE if Path(PROFILE_FILE).is_file() else None


def find_profile(environ: Mapping[str, str] | None = None) -> MachineProfile | None:
    """The profile of this machine, or None with one line in the log that says how to make one.

    Raises:
        ConfigurationError: the file isn't a profile.
        DataValidationError: the file that ``GCA_MACHINE_PROFILE`` names does not exist.
    """
    uri = profile_uri(environ)
    if uri is None:
        log.info("no machine profile: one CPU thread and no GPU are used; make one with 'gca machine-profile'")
        return None
    return read_profile(uri)


def read_profile(uri: str | os.PathLike[str]) -> MachineProfile:
    """Read a machine profile.

    Raises:
        ConfigurationError: not YAML, not a mapping, an unknown key or a value that doesn't fit.
        DataValidationError: there is no such file.
    """
    shown = repr(os.fspath(uri))
    values = read_yaml(uri, what="machine profile")
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"the machine profile {shown} holds a {type(values).__name__}; expected 'key: value' lines, "
            "as 'gca machine-profile' writes them"
        )
    if unknown := [str(key) for key in values if key not in MachineProfile.model_fields]:
        near = {
            name: None for key in unknown for name in difflib.get_close_matches(key, MachineProfile.model_fields, 1)
        }
        advice = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
        raise ConfigurationError(
            f"the machine profile {shown} has unknown keys {', '.join(map(repr, unknown))}{advice}. If the file "
            f"belongs to something else, name the profile in {PROFILE_VARIABLE}, or set that to '{NO_PROFILE}'"
        )
    try:
        return MachineProfile.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError(f"the machine profile {shown} is not valid: {complaints(error)}") from None


def dump_profile(profile: MachineProfile) -> str:
    """The profile as YAML with a line on what it is; :func:`read_profile` reads it back exactly."""
    return HEADER + yaml.safe_dump(profile.model_dump(mode="json"), sort_keys=False, allow_unicode=False)


def write_profile(uri: str | os.PathLike[str], profile: MachineProfile, *, replace: bool = False) -> str:
    """Write a profile and return its URI.

    Raises:
        ConfigurationError: the file exists, and ``replace`` is off.
    """
    if not replace and as_path(uri).exists():
        raise ConfigurationError(f"{os.fspath(uri)!r} exists; edit it, name another file, or replace it with --force")
    return write_text(uri, dump_profile(profile))


def detect_machine(folder: str | os.PathLike[str] = ".") -> MachineProfile:
    """Look at this machine: CPU, memory, the file system of ``folder``, GPU and versions."""
    total_ram, available_ram = _memory()
    disk = shutil.disk_usage(folder)
    gpu = _gpu()
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {"NAME": platform.system(), "VERSION_ID": platform.version()}
    frequency = None
    with suppress(OSError, RuntimeError, NotImplementedError):
        frequency = psutil.cpu_freq()
    return MachineProfile(
        os_name=release.get("NAME") or None,
        os_version=release.get("VERSION_ID") or None,
        kernel_version=platform.release() or None,
        architecture=platform.machine() or None,
        cpu_model=_cpu_model(),
        physical_cores=cores,
        logical_cores=psutil.cpu_count(),
        cpu_frequency=round(frequency.current, 1) if frequency and frequency.current else None,
        total_ram_gb=_gb(total_ram),
        available_ram_gb=_gb(available_ram),
        total_storage_gb=_gb(disk.total),
        free_storage_gb=_gb(disk.free),
        python_version=platform.python_version(),
        annotation_threads=_threads(cores),
        batch_size=batch_size_for(gpu.get("gpu_vram_gb") if gpu.get("cuda_version") else None),
        max_ram_usage_gb=max(0.5, _gb(HEADROOM * available_ram)),
        **gpu,
    )


def _gb(size: float) -> float:
    return round(size / GIB, 1)


def _threads(cores: int) -> int:
    # a core stays free on machines with more than two
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    usable = min(cores, affinity)
    free = usable - 1 if usable > 2 else max(1, usable)
    limits = (_THREAD_LIMIT.fullmatch(os.environ.get(name, "")) for name in THREAD_LIMITS)
    return min([free, *(int(limit[1]) for limit in limits if limit)])


def _cpu_model() -> str | None:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip() or None
    return platform.processor() or None


def _memory() -> tuple[int, int]:
    memory = psutil.virtual_memory()
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):
        # no control groups, or no limit of the container
        return memory.total, memory.available
    return min(memory.total, limit), min(memory.available, limit)


def _gpu() -> dict[str, Any]:
    from_torch = _gpu_of_torch()
    if "gpu_model" in from_torch:
        return from_torch
    # a torch that can't use the GPU has the last word on CUDA
    return _gpu_of_driver() | ({"cuda_version": None} | from_torch if from_torch else {})


def _gpu_of_torch() -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        return {}
    versions: dict[str, Any] = {"pytorch_version": str(torch.__version__)}
    if not torch.cuda.is_available():
        return versions
    properties = torch.cuda.get_device_properties(0)
    return versions | {
        "gpu_model": properties.name,
        "gpu_vram_gb": _gb(properties.total_memory),
        "gpu_compute_capability": f"{properties.major}.{properties.minor}",
        "gpu_multiprocessors": properties.multi_processor_count,
        "cuda_version": torch.version.cuda,
    }


def _gpu_of_driver() -> dict[str, Any]:
    ask = partial(
        subprocess.check_output, text=True, timeout=NVIDIA_SMI_SECONDS, stderr=subprocess.PIPE, env=child_environment()
    )
    try:
        query = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
        name, mebibytes, capability = (part.strip() for part in ask(query).splitlines()[0].split(","))
        version = re.search(r"CUDA Version:\s*([0-9.]+)", ask(["nvidia-smi"]))
        return {
            "gpu_model": name,
            "gpu_vram_gb": _gb(float(mebibytes) * 2**20),
            "gpu_compute_capability": capability,
            "cuda_version": version[1] if version else None,
        }
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return {}
