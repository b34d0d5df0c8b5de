import logging
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gca_core import machine
from gca_core.cli.main import app
from gca_core.errors import ConfigurationError, DataValidationError
from gca_core.latent.config import LatentConfig
from gca_core.machine import MachineProfile, batch_size_for, dump_profile, find_profile, read_profile, training_options
from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "docker" / "generate_config.sh"
KEYS = [
    "os_name",
    "os_version",
    "kernel_version",
    "architecture",
    "cpu_model",
    "physical_cores",
    "logical_cores",
    "cpu_frequency",
    "total_ram_gb",
    "available_ram_gb",
    "total_storage_gb",
    "free_storage_gb",
    "gpu_model",
    "gpu_vram_gb",
    "gpu_compute_capability",
    "gpu_multiprocessors",
    "cuda_version",
    "python_version",
    "pytorch_version",
    "annotation_threads",
    "batch_size",
    "learning_rate",
    "max_epochs",
    "max_ram_usage_gb",
    "gpu_memory_fraction",
    "keep_intermediate_files",
    "keep_temp_files",
    "compression_type",
]
GPU = {"gpu_model": "a card", "gpu_vram_gb": 10.0, "cuda_version": "12.6"}
FAKE_NVIDIA_SMI = """#!/bin/sh
case "$*" in
    *query*) echo 'NVIDIA "A" card, 6144, 8.6' ;;
    *) echo '| NVIDIA-SMI 550.54   Driver Version: 550.54   CUDA Version: 12.4 |' ;;
esac
"""
profiles = st.builds(
    MachineProfile,
    os_name=st.none() | st.text(max_size=20),
    cpu_model=st.none() | st.text(max_size=20),
    python_version=st.none() | st.from_regex(r"\d\.\d{1,2}", fullmatch=True),
    physical_cores=st.none() | st.integers(1, 512),
    total_ram_gb=st.none() | st.floats(0.1, 1e5),
    gpu_model=st.none() | st.text(min_size=1, max_size=20),
    gpu_vram_gb=st.none() | st.floats(0.1, 1000),
    gpu_compute_capability=st.none() | st.sampled_from(["9.0", "8.6", "10.0"]),
    cuda_version=st.none() | st.just("12.6"),
    annotation_threads=st.integers(1, 256),
    batch_size=st.none() | st.integers(2, 4096),
    learning_rate=st.none() | st.floats(1e-6, 1),
    max_epochs=st.none() | st.integers(1, 1000),
    max_ram_usage_gb=st.none() | st.floats(0.1, 1e4),
    gpu_memory_fraction=st.floats(0.01, 1),
    keep_temp_files=st.booleans(),
    compression_type=st.sampled_from(["gzip", "lzf", "none"]),
)


def run_script(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    # these limit the threads
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")} | variables
    return subprocess.run(
        ["sh", str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=120,
        check=False,
    )


@pytest.fixture
def machine_with_a_gpu(tmp_path: Path) -> str:
    """A PATH whose nvidia-smi knows a card of 6 GB, and whose python3 has no torch."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("nvidia-smi", FAKE_NVIDIA_SMI), ("python3", "#!/bin/sh\nexit 1\n")):
        (tools / name).write_text(text, encoding="utf-8")
        (tools / name).chmod(0o755)
    return f"{tools}{os.pathsep}{os.environ['PATH']}"


def test_the_keys_are_the_agreed_ones() -> None:
    assert list(MachineProfile.model_fields) == KEYS


@given(profiles)
@settings(deadline=None, max_examples=60)
def test_a_profile_survives_yaml(profile: MachineProfile) -> None:
    assert MachineProfile.model_validate(yaml.safe_load(dump_profile(profile))) == profile


@given(profiles)
@settings(deadline=None, max_examples=60)
def test_every_profile_gives_options_that_a_run_accepts(profile: MachineProfile) -> None:
    options = training_options(profile)
    config = LatentConfig(input_uri="in", output_uri="out", **options)
    assert config.threads == profile.annotation_threads
    assert config.loader_workers == max(1, min(profile.annotation_threads, 8))
    assert config.batch_size == options["batch_size"]
    assert not (config.autocast and config.device == "cpu")


@pytest.mark.parametrize(
    ("vram", "size"), [(None, 128), (2, 128), (4, 128), (4.1, 256), (8, 256), (8.1, 512), (80, 512)]
)
def test_the_batch_grows_with_the_memory_of_the_gpu(vram: float | None, size: int) -> None:
    assert batch_size_for(vram) == size


@pytest.mark.parametrize(
    ("changes", "device", "autocast"),
    [
        ({}, "cuda", False),
        ({"gpu_vram_gb": 12.0}, "cuda", True),
        ({"gpu_memory_fraction": 0.85}, "cuda", True),
        ({"gpu_memory_fraction": 0.84}, "cuda", False),
        ({"cuda_version": None, "gpu_vram_gb": 80.0}, "cpu", False),
        ({"gpu_model": None, "gpu_memory_fraction": 1.0}, "cpu", False),
    ],
)
def test_device_and_mixed_precision_follow_the_gpu(changes: dict[str, object], device: str, autocast: bool) -> None:
    options = training_options(MachineProfile.model_validate({**GPU, **changes}))
    assert (options["device"], options["autocast"]) == (device, autocast)


def test_what_a_profile_leaves_open_comes_from_the_defaults_of_a_run() -> None:
    options = training_options(MachineProfile(learning_rate=None, max_epochs=None))
    assert {"lr", "epochs", "max_ram_usage_gb"}.isdisjoint(options)
    new = MachineProfile()
    assert (new.learning_rate, new.max_epochs) == (
        LatentConfig.model_fields["lr"].default,
        LatentConfig.model_fields["epochs"].default,
    )


def test_the_command_writes_a_profile_that_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    done = CliRunner().invoke(app, ["machine-profile", "--output", str(path)])
    assert done.exit_code == 0, done.output
    assert path.as_uri() in done.output
    profile = read_profile(path)
    assert list(yaml.safe_load(path.read_text(encoding="utf-8"))) == KEYS
    assert profile.logical_cores == os.cpu_count()
    assert profile.max_ram_usage_gb <= profile.available_ram_gb


def test_an_existing_profile_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text("annotation_threads: 3\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="--force"):
        machine.write_profile(path, MachineProfile())
    assert read_profile(path).annotation_threads == 3
    machine.write_profile(path, MachineProfile(annotation_threads=4), replace=True)
    assert read_profile(path).annotation_threads == 4


@pytest.fixture
def without_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in machine.THREAD_LIMITS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("without_limits")
def test_the_script_and_the_command_agree(tmp_path: Path) -> None:
    done = run_script("config.yml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "config.yml"
    assert list(yaml.safe_load(path.read_text(encoding="utf-8"))) == KEYS
    ours, theirs = machine.detect_machine(tmp_path).model_dump(), read_profile(path).model_dump()
    same = {"os_name", "os_version", "kernel_version", "architecture", "cpu_model", "physical_cores", "logical_cores"}
    same |= {"total_ram_gb", "total_storage_gb", "annotation_threads", "learning_rate", "max_epochs"}
    same |= {"gpu_memory_fraction", "keep_intermediate_files", "keep_temp_files", "compression_type"}
    assert {key: theirs[key] for key in same} == {key: ours[key] for key in same}


@pytest.mark.usefixtures("without_limits")
@pytest.mark.parametrize(
    ("limits", "allowed"),
    [
        ({}, None),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": " 01 , 4"}, 1),
        ({"OMP_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "4", "OMP_THREAD_LIMIT": "1"}, 1),
        ({"OMP_THREAD_LIMIT": "1"}, 1),
        # as many threads as the machine has cores are no reason to take more than there are
        ({"OMP_NUM_THREADS": "99999999999999999999"}, None),
        ({"OMP_NUM_THREADS": "0"}, None),
        ({"OMP_NUM_THREADS": "-1"}, None),
        ({"OMP_NUM_THREADS": "many", "OMP_THREAD_LIMIT": ""}, None),
    ],
)
def test_script_and_command_keep_to_a_limit_on_threads(tmp_path, monkeypatch, machine_with_a_gpu, limits, allowed):
    unlimited = machine.detect_machine(tmp_path).annotation_threads
    expected = unlimited if allowed is None else min(allowed, unlimited)
    for name, value in limits.items():
        monkeypatch.setenv(name, value)
    assert machine.detect_machine(tmp_path).annotation_threads == expected
    # without torch, which the script would load
    done = run_script("-", folder=tmp_path, PATH=machine_with_a_gpu, **limits)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["annotation_threads"] == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
@pytest.mark.usefixtures("without_limits")
def test_a_limit_on_threads_above_the_cores_that_may_be_used_adds_none(tmp_path, monkeypatch, machine_with_a_gpu):
    before = os.sched_getaffinity(0)
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    os.sched_setaffinity(0, {min(before)})
    try:
        command = machine.detect_machine(tmp_path)
        done = run_script("-", folder=tmp_path, PATH=machine_with_a_gpu, OMP_NUM_THREADS="64")
    finally:
        os.sched_setaffinity(0, before)
    assert command.annotation_threads == yaml.safe_load(done.stdout)["annotation_threads"] == 1


def test_the_script_asks_the_driver_where_there_is_no_torch(tmp_path: Path, machine_with_a_gpu: str) -> None:
    done = run_script("-", folder=tmp_path, PATH=machine_with_a_gpu)
    assert done.returncode == 0, done.stderr
    profile = MachineProfile.model_validate(yaml.safe_load(done.stdout))
    assert (profile.gpu_model, profile.gpu_vram_gb, profile.gpu_compute_capability) == ('NVIDIA "A" card', 6.0, "8.6")
    assert (profile.cuda_version, profile.batch_size, profile.pytorch_version) == ("12.4", 256, None)


def test_the_command_asks_the_driver_where_torch_is_missing(machine_with_a_gpu, monkeypatch):
    monkeypatch.setenv("PATH", machine_with_a_gpu)
    monkeypatch.setattr(machine, "_gpu_of_torch", dict)
    profile = machine.detect_machine()
    assert (profile.gpu_model, profile.gpu_vram_gb, profile.cuda_version) == ('NVIDIA "A" card', 6.0, "12.4")
    assert training_options(profile)["batch_size"] == 256
    monkeypatch.setattr(machine, "_gpu_of_torch", lambda: {"pytorch_version": "2.13.0+cpu"})
    profile = machine.detect_machine()
    assert (profile.gpu_model, profile.cuda_version, profile.batch_size) == ('NVIDIA "A" card', None, 128)


def test_the_script_keeps_an_existing_file(tmp_path: Path, machine_with_a_gpu: str) -> None:
    path = tmp_path / "config.yml"
    path.write_text("mine: 1\n", encoding="utf-8")
    done = run_script(folder=tmp_path, PATH=machine_with_a_gpu)
    assert done.returncode == 2
    assert "FORCE=1" in done.stderr
    assert path.read_text(encoding="utf-8") == "mine: 1\n"
    assert run_script(folder=tmp_path, PATH=machine_with_a_gpu, FORCE="1").returncode == 0
    assert read_profile(path).annotation_threads >= 1


def test_the_committed_example_is_a_profile() -> None:
    path = REPOSITORY / "config.yml.example"
    assert list(yaml.safe_load(path.read_text(encoding="utf-8"))) == KEYS
    assert training_options(read_profile(path))["device"] in {"cpu", "cuda"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("anotation_threads: 2\n", "did you mean 'annotation_threads'"),
        ("services: {db: 1}\n", "GCA_MACHINE_PROFILE"),
        ("- a\n", "holds a list"),
        ("a: [1\n", "not valid YAML"),
        ("annotation_threads: many\n", "annotation_threads: "),
        ("gpu_memory_fraction: 1.5\n", "gpu_memory_fraction: "),
    ],
)
def test_a_file_that_is_no_profile_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message) as refused:
        read_profile(path)
    assert "config.yml" in str(refused.value)


def test_a_profile_is_looked_for_in_the_variable_then_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yml").write_text("annotation_threads: 3\n", encoding="utf-8")
    (tmp_path / "other.yml").write_text("annotation_threads: 5\n", encoding="utf-8")
    here, there = find_profile({}), find_profile({"GCA_MACHINE_PROFILE": "other.yml"})
    assert (here.annotation_threads, there.annotation_threads) == (3, 5)
    assert find_profile({"GCA_MACHINE_PROFILE": "none"}) is None
    with pytest.raises(DataValidationError, match=r"gone\.yml"):
        find_profile({"GCA_MACHINE_PROFILE": "gone.yml"})


def test_without_a_profile_one_line_says_how_to_make_one(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO, logger="gca_core"):
        assert find_profile({}) is None
    assert [record.message for record in caplog.records if "gca machine-profile" in record.message] == caplog.messages
    assert len(caplog.messages) == 1
