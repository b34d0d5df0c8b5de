"""A throw-away Airflow for every test process, set up before anything imports it."""

import atexit
import gc
import logging
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

# other work on the machine is no fault of a strategy
settings.register_profile("gca", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gca")

REPOSITORY = Path(__file__).resolve().parents[1]
AIRFLOW_HOME = Path(tempfile.mkdtemp(prefix="gca-airflow-"))
atexit.register(shutil.rmtree, AIRFLOW_HOME, ignore_errors=True)

for _name in [name for name in os.environ if name.startswith(("AIRFLOW_", "GCA_")) and name != "GCA_BENCH_DATA"]:
    del os.environ[_name]
# workers that each start a thread per core wait for each other more than they compute
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
THREADS = str(max((os.cpu_count() or 1) // WORKERS, 1))
if WORKERS > 1:
    os.environ |= {"OMP_NUM_THREADS": THREADS, "OPENBLAS_NUM_THREADS": THREADS, "MKL_NUM_THREADS": THREADS}
os.environ |= {
    "AIRFLOW_HOME": str(AIRFLOW_HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{AIRFLOW_HOME / 'airflow.db'}",
    "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(AIRFLOW_HOME / "logs"),
    "GCA_ENV_FILE": str(AIRFLOW_HOME / "no.env"),
    "GCA_ASSETS_HOME": str(AIRFLOW_HOME / "assets"),
    "GCA_CACHE_DIR": str(AIRFLOW_HOME / "cache"),
    "GCA_KEEP_PREDICTIONS": "false",
    "GCA_MACHINE_PROFILE": "none",
    # read when gcsfs is imported, whoever does it first; else it asks Google what kind of bucket the loopback's is
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
}


# with all modules loaded, Python's usual pace of collecting takes a sixth of the tests' time
gc.set_threshold(20_000)


def pytest_collection_finish() -> None:
    """Nothing that was imported by now is ever garbage."""
    gc.freeze()


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AIRFLOW_HOME of this test process whose SQLite database is migrated, by the first worker for all."""
    ours = AIRFLOW_HOME / "airflow.db"
    folder = tmp_path_factory.getbasetemp()
    migrated = (folder.parent if WORKERS > 1 else folder) / "airflow.db"
    with FileLock(migrated.with_suffix(".lock")):
        if not migrated.exists():
            # as the command "airflow db migrate", which would load all of Airflow once more
            from airflow.utils.db import initdb

            initdb()
            copy_database(ours, migrated)
        else:
            copy_database(migrated, ours)
    return AIRFLOW_HOME


def copy_database(source: Path, target: Path) -> None:
    """Copy an SQLite database with what still stands in its log, also onto one that is in use."""
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target)) as written:
        read.backup(written)


@pytest.fixture
def quiet_log(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of the core's log on stdout, where Airflow puts it once a test has imported Airflow."""
    caplog.set_level(logging.WARNING, logger="gca_core")


@pytest.fixture(scope="session")
def process_home() -> Iterator[Path]:
    """A GCA_HOME of this test process, with a path short enough for sockets; its server goes with the session."""
    from gca_core.store import embedded

    home = Path(tempfile.mkdtemp(prefix="gca-"))
    yield home
    embedded.remove(home)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def server_home(process_home: Path) -> Iterator[Path]:
    """The GCA_HOME of this test process; every module finds it without files and its server without a database."""
    yield process_home
    empty_home(process_home)


def empty_home(home: Path) -> None:
    """Delete a GCA_HOME's files and the database of its server, which makes another on its next use."""
    import psycopg

    from gca_core.store import embedded, layout
    from gca_core.store.models import DATABASE
    from gca_core.store.pool import close_pools
    from gca_core.store.redact import make_dsn, parse_dsn

    for path in home.iterdir():
        if path.name != "postgres":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = layout.find_layout(home)
    if found is None or not embedded.status(home)[0].running:
        return
    close_pools()
    superuser = {"dbname": "postgres", "user": layout.SUPERUSER, "password": layout.read_credentials(home)["postgres"]}
    with psycopg.connect(make_dsn(**parse_dsn(embedded.start(home).dsn()) | superuser), autocommit=True) as connection:
        connection.execute(f"drop database if exists {DATABASE} with (force)")
    layout.update_state(found, complete=False)
