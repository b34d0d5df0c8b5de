"""The steps of docker/airflow in a new environment, with the settings of docker/compose.yaml and local servers."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from gca_core.store import embedded, layout
from gca_core.store.redact import make_dsn, parse_dsn
from tests.conftest import REPOSITORY
from tests.helpers.batch_loopback import storage_of
from tests.helpers.gcs_loopback import Bucket, gcs
from tests.release.conftest import run

DOCKER = REPOSITORY / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with gcs() as served:
        yield served


@pytest.fixture
def environment(bucket: Bucket, process_home: Path, tmp_path: Path) -> dict[str, str]:
    """What compose.yaml sets, with the addresses of this machine."""
    server = parse_dsn(embedded.start(process_home).dsn())
    password = layout.read_credentials(process_home)["postgres"]
    login = server | {"user": layout.SUPERUSER, "password": password, "dbname": "postgres"}
    with psycopg.connect(make_dsn(**login), autocommit=True) as connection:
        for name in ("airflow", "gca"):
            connection.execute(f"create database {name}_image")
    place = f"{layout.SUPERUSER}:{password}@/airflow_image?host={login['host']}&port={login['port']}"
    return {
        **{name: str(value) for name, value in SERVICES["scheduler"]["environment"].items()},
        **storage_of(bucket.url),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg://{place}",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"postgresql+psycopg://{place}",
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "GCA_ATLAS_DSN": make_dsn(**(login | {"dbname": "gca_image"})),
        "GCA_HOME": str(tmp_path / "airflow" / "gca"),
        "GCA_RESULTS_URI": "gs://lab/results",
    }


@pytest.mark.slow
def test_what_the_image_installs_prepares_its_servers_and_runs_a_dag(
    with_extras: Path, environment: dict[str, Any], bucket: Bucket, tmp_path: Path
) -> None:
    environment["PATH"] = f"{with_extras.parent}:/usr/bin:/bin"
    prepare = Path(shutil.copy(DOCKER / "airflow" / "prepare.sh", tmp_path))
    for _ in range(2):
        run(prepare, folder=tmp_path, **environment)
    run(with_extras.with_name("gca"), "examples", "copy", tmp_path / "airflow" / "dags", **environment)
    run(with_extras.with_name("airflow"), "dags", "test", "gca_annotate", folder=tmp_path, **environment)
    assert "results/gca_annotate/summary.json" in bucket.objects


def test_compose_starts_every_part_of_airflow_after_what_it_needs() -> None:
    assert {"api-server", "scheduler", "dag-processor", "triggerer"} <= set(SERVICES)
    needed = {name for service in SERVICES.values() for name in service.get("depends_on", {})}
    assert needed == {"prepare", "database", "storage"} and needed <= set(SERVICES)
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", ["airflow", "stack"])
def test_a_dockerfile_takes_what_there_is_and_hadolint_has_nothing_to_say(name: str) -> None:
    file = DOCKER / name / "Dockerfile"
    copied = [line.split()[1:-1] for line in file.read_text().splitlines() if line.startswith("COPY ")]
    assert [path for paths in copied for path in paths if not (REPOSITORY / path).exists()] == []
    run(Path(sys.executable).with_name("hadolint"), file)
